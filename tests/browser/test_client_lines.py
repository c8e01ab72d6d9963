"""The browser client in a real Chromium, on lines that break: its text is the log's, the backend saw one question."""

import asyncio
import signal
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser

from subak.core.facts import ReaderAttached, ReaderLeft, StreamEnded, StreamOpened
from subak.core.principal import ANONYMOUS
from subak.testing import Cut, End, FakeClock, Gate, Head, How, Line, ScriptedUpstream, Step
from tests.browser.client_page import PATIENCE_MS, QUICK, ClientPage, client_page, new_context, open_tab
from tests.integration.clients import proxy_before
from tests.integration.gateway import DONE, SOURCES, Running, process, running
from tests.transcripts.scenes import HOSTILE, token

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

WORDS: Final = tuple(f"parola-{number} " for number in range(40))
EVENTS: Final = len(WORDS) + 3
"""Metadata, the words, sources, done."""
STANDING_STILL: Final = FakeClock().time_ms()


def in_two_parts(gate: asyncio.Event) -> list[Step]:
    """Give an answer whose second half waits for the gate."""
    return [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), SOURCES, DONE, End()]


async def assert_told_the_log(here: ClientPage, gateway: Running) -> None:
    """The page was told the whole answer, each token of the log once and in order."""
    outcome = await here.outcome()
    state = await gateway.gateway.hub.state(outcome.stream_id, ANONYMOUS)
    assert outcome.text == state.text == "".join(WORDS)
    assert outcome.done["finish_reason"] == state.finish_reason == "stop"
    assert len((await here.told()).sources) == 1


async def test_a_whole_answer_comes_over_one_line_whatever_is_in_it(chromium: Browser) -> None:
    script = [Head(), *map(token, HOSTILE), SOURCES, DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream) as gateway,
        client_page(chromium, gateway.url) as here,
    ):
        await here.ask()
        outcome = await here.outcome()
        assert outcome.text == "".join(HOSTILE)
        assert outcome.done["finish_reason"] == "stop"
        metrics = outcome.metrics
        assert (metrics.tokens, metrics.reconnects, metrics.duplicates, metrics.gaps) == (len(HOSTILE), 0, 0, 0)
        assert metrics.first_token_ms is not None
        assert len(gateway.observer.of(ReaderAttached)) == 1
        assert upstream.questions == 1


@pytest.mark.parametrize("is_mid_event", [True, False], ids=["in mid-event", "between events"])
@pytest.mark.parametrize("how", [How.RESET, How.CLOSE])
async def test_a_line_cut_at_every_event_brings_the_whole_text_once(
    chromium: Browser, how: How, *, is_mid_event: bool
) -> None:
    script = [Head(), *map(token, WORDS), SOURCES, DONE, End()]

    def next_line(_number: int) -> Line:
        """Cut each line at the event after the one at which the line before it was cut."""
        seq = 1 + sum(connection.was_cut is not None for connection in proxy.connections)
        mid, end = f".{seq}\nevent: mess", f'"sequence":{seq},"timestamp":{STANDING_STILL}}}\n\n'
        return Line(cut=Cut((mid if is_mid_event else end).encode(), how))

    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), **QUICK) as gateway,
        proxy_before(gateway.url, next_line) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.ask()
        await assert_told_the_log(here, gateway)
        cuts = sum(connection.was_cut is not None for connection in proxy.connections)
        assert cuts == EVENTS
        assert upstream.questions == 1


async def test_a_question_whose_line_is_cut_before_any_answer_is_asked_once(chromium: Browser) -> None:
    """Its first two lines take the question to the gateway, and bring nothing back."""
    script = [Head(), *map(token, WORDS), SOURCES, DONE, End()]

    def next_line(_number: int) -> Line:
        has_opened = len(gateway.observer.of(StreamOpened)) > 0
        is_third = sum(connection.was_cut is not None for connection in proxy.connections) >= 2
        return (
            Line() if has_opened and is_third else Line(cut=Cut(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"))
        )

    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK) as gateway,
        proxy_before(gateway.url, next_line) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.ask()
        await assert_told_the_log(here, gateway)
        assert len(gateway.observer.of(StreamOpened)) == 1
        assert upstream.questions == 1


async def test_a_line_that_went_dead_without_a_word_is_given_up_by_the_watchdog(chromium: Browser) -> None:
    script = [Head(), *map(token, WORDS), SOURCES, DONE, End()]
    dead = Line(cut=Cut(b".9\n", How.BLACK_HOLE))
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK) as gateway,
        proxy_before(gateway.url, lambda number: dead if number < 2 else Line()) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.ask(heartbeat=500)
        await assert_told_the_log(here, gateway)
        assert (await here.outcome()).metrics.reconnects >= 1
        assert upstream.questions == 1


async def test_a_browser_that_goes_offline_reads_on_as_soon_as_it_is_online_again(chromium: Browser) -> None:
    """Chromium's switch refuses new requests and lets the old ones be: the proxy ends those."""
    gate = asyncio.Event()
    async with (
        ScriptedUpstream(in_two_parts(gate)) as upstream,
        running(upstream, **QUICK) as gateway,
        proxy_before(gateway.url) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.ask(maxReconnectDelay=10 * PATIENCE_MS)
        await here.saw_tokens(20)
        await here.page.context.set_offline(True)
        proxy.cut()
        gate.set()
        await here.until("told.changes.at(-1).state === 'waiting'")
        assert (await here.told()).outcome is None
        await here.page.context.set_offline(False)
        await assert_told_the_log(here, gateway)
        assert upstream.questions == 1


async def test_two_tabs_read_one_answer(chromium: Browser) -> None:
    gate = asyncio.Event()
    async with (
        ScriptedUpstream(in_two_parts(gate)) as upstream,
        running(upstream, **QUICK) as gateway,
        new_context(chromium) as context,
    ):
        first, second = await open_tab(context, gateway.url), await open_tab(context, gateway.url)
        await first.ask()
        await second.follow(await first.stream_id())
        await second.saw_tokens(20)
        gate.set()
        await assert_told_the_log(first, gateway)
        await assert_told_the_log(second, gateway)
        assert upstream.questions == 1


async def test_a_page_that_is_reloaded_reads_its_answer_from_the_beginning(chromium: Browser) -> None:
    gate = asyncio.Event()
    async with (
        ScriptedUpstream(in_two_parts(gate)) as upstream,
        running(upstream, **QUICK) as gateway,
        client_page(chromium, gateway.url) as here,
    ):
        assert not await here.resume("chat")
        await here.ask(rememberAs="chat")
        await here.saw_tokens(10)
        await here.page.reload()
        assert await here.resume("chat")
        await here.saw_tokens(20)
        gate.set()
        await assert_told_the_log(here, gateway)
        assert upstream.questions == 1
        await here.page.reload()
        assert not await here.resume("chat")


async def test_an_answer_that_is_no_longer_kept_event_by_event_comes_as_a_snapshot(chromium: Browser) -> None:
    gate = asyncio.Event()
    async with (
        ScriptedUpstream(in_two_parts(gate)) as upstream,
        running(upstream, clock=FakeClock(), **QUICK) as gateway,
        proxy_before(gateway.url) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.ask()
        await here.saw_tokens(20)
        await here.page.context.set_offline(True)
        proxy.cut()
        await gateway.observer.wait_for(ReaderLeft)
        gate.set()
        await gateway.observer.wait_for(StreamEnded)
        gateway.pass_time(301)
        await here.page.context.set_offline(False)
        outcome = await here.outcome()
        assert (outcome.text, outcome.done["finish_reason"]) == ("".join(WORDS), "stop")
        assert len(gateway.observer.of(ReaderAttached)) == 1
        assert upstream.questions == 1


async def test_a_gateway_that_was_restarted_is_a_clean_error_and_never_a_wrong_text(chromium: Browser) -> None:
    settings: dict[str, Any] = {"ENABLE_SSE_STREAMING": "true", **QUICK}
    async with ScriptedUpstream(in_two_parts(asyncio.Event())) as upstream:
        settings["RAG_BACKEND_URL"] = upstream.url
        async with process("serve", **settings) as first:
            url = await first.url()
            async with client_page(chromium, url) as here:
                await here.ask()
                await here.saw_tokens(20)
                first.signal(signal.SIGKILL)
                await first.ended()
                settings["SUBAK_SERVER__PORT"] = str(urlsplit(url).port)
                async with process("serve", **settings) as second:
                    assert await second.url() == url
                    failure = await here.failure()
                    assert (failure.code, failure.status) == ("cursor_expired", 410)
                    assert (await here.told()).text == "".join(WORDS[:20])
        assert upstream.questions == 1


async def test_stop_keeps_what_has_come_and_closes_the_upstreams_socket(chromium: Browser) -> None:
    async with (
        ScriptedUpstream(in_two_parts(asyncio.Event())) as upstream,
        running(upstream, **QUICK) as gateway,
        client_page(chromium, gateway.url) as here,
    ):
        await here.ask()
        await here.saw_tokens(20)
        await here.page.evaluate("() => { stream.stop(); }")
        await upstream.connections[-1].wait_closed()
        outcome = await here.outcome()
        assert (outcome.text, outcome.done["finish_reason"]) == ("".join(WORDS[:20]), "cancelled")
        state = await gateway.gateway.hub.state(outcome.stream_id, ANONYMOUS)
        assert (state.text, state.finish_reason) == (outcome.text, "cancelled")
        assert upstream.questions == 1

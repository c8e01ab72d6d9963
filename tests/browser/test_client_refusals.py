"""The browser client in a real Chromium, where the gateway says no, or a page isn't looked at for a while."""

import asyncio
from typing import Any, Final

import pytest
from playwright.async_api import Browser, expect

from subak.core.facts import StreamEnded, StreamOpened
from subak.testing import Body, Cut, End, FakeClock, Gate, Head, How, Line, ScriptedUpstream, Step
from tests.browser.client_page import QUICK, client_page, new_context
from tests.integration.clients import proxy_before
from tests.integration.gateway import CHAT, CHAT_STREAM, DONE, running
from tests.integration.nginx import bare, nginx
from tests.transcripts.scenes import token

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

WORDS: Final = tuple(f"parola-{number} " for number in range(40))
ANSWER: Final = (Head(), *map(token, WORDS), DONE, End())
EXAMPLE: Final = "/static/bali-zero-stream-example.html"
WHOLE: Final = b'{"success":true,"response":"A permit.","model_used":"none","ai_used":"none","sources":[]}'
A_WHILE_S: Final = 600
SHOW: Final = """
shown => {
    Object.defineProperty(document, 'visibilityState', { configurable: true, value: shown ? 'visible' : 'hidden' });
    document.dispatchEvent(new Event('visibilitychange'));
}
"""
"""What a page hears of its tab. A Chromium without a screen shows all tabs at all times."""


async def test_a_tab_that_was_hidden_while_its_line_died_reads_on_at_once(chromium: Browser) -> None:
    """Its timers stand still, as on a phone that sleeps: only the page's own waking can bring it back."""
    gate = asyncio.Event()
    script: list[Step] = [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), DONE, End()]

    def line(_number: int) -> Line:
        """The line that brings the 20th event goes dead with it, and no other."""
        is_dead = any(connection.was_cut for connection in proxy.connections)
        return Line() if is_dead else Line(cut=Cut(b'"sequence":20,', How.BLACK_HOLE))

    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK) as gateway,
        proxy_before(gateway.url, line) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        clock = here.page.clock
        await clock.install()
        await here.page.reload()
        await here.ask()
        await here.saw_tokens(18)
        await here.page.evaluate(SHOW, False)
        slept_at = float(await here.page.evaluate("Date.now() / 1000")) + 1
        await clock.pause_at(slept_at)
        gate.set()
        await gateway.observer.wait_for(StreamEnded)
        await clock.set_system_time(slept_at + A_WHILE_S)
        assert (await here.told()).outcome is None
        await here.page.evaluate(SHOW, True)
        assert (await here.outcome()).text == "".join(WORDS)
        assert upstream.questions == 1


async def test_over_the_limit_it_counts_down_and_then_asks(chromium: Browser) -> None:
    limits: dict[str, Any] = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "1"}
    async with (
        ScriptedUpstream(ANSWER) as upstream,
        running(upstream, clock=FakeClock(), **limits, **QUICK) as gateway,
        client_page(chromium, gateway.url) as here,
    ):
        clock = here.page.clock
        await clock.install()
        await here.page.reload()
        await here.ask()
        await here.outcome()
        await here.ask("And an ITAS?")
        await here.until("told.changes.at(-1).state === 'waiting'")
        pause = (await here.told()).changes[-1]
        assert (pause.status, pause.reason) == (429, "RATE_LIMIT_EXCEEDED")
        assert pause.delay_ms is not None
        assert 0 < pause.delay_ms <= 60_000
        assert upstream.questions == 1
        gateway.pass_time(pause.delay_ms / 1000)
        await here.page.evaluate("told.outcome = null; told.text = ''")
        await clock.run_for(int(pause.delay_ms))
        assert (await here.outcome()).text == "".join(WORDS)
        assert upstream.questions == 2


async def test_where_streaming_is_off_the_example_page_gets_its_answer_by_chat(chromium: Browser) -> None:
    whole = {"Content-Type": "application/json", "Content-Length": str(len(WHOLE))}
    async with (
        ScriptedUpstream([Head(headers=whole, framing="given"), Body(WHOLE), End()]) as upstream,
        running(upstream, is_on=False) as gateway,
        new_context(chromium) as context,
    ):
        page = await context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(gateway.url)))
        await page.goto(f"{gateway.url}{EXAMPLE}")
        for number in (1, 2):
            await page.get_by_role("button", name="Ask").click()
            await expect(page.get_by_role("status")).to_have_text("Complete (stop).")
            await expect(page.get_by_role("region", name="Answer")).to_have_text("A permit.")
            assert [request.target for request in upstream.requests] == ["/bali-zero/chat"] * number
        assert [path for path in asked if not path.startswith("/static/")] == [CHAT_STREAM, CHAT, CHAT]
        assert not gateway.observer.of(StreamOpened)


async def test_the_example_page_streams_and_stops_under_its_own_security_policy(chromium: Browser) -> None:
    script: list[Step] = [Head(), *map(token, WORDS[:20]), Gate(asyncio.Event())]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream) as gateway,
        new_context(chromium) as context,
    ):
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{gateway.url}{EXAMPLE}")
        await page.get_by_role("button", name="Ask").click()
        answer = page.get_by_role("region", name="Answer")
        await expect(answer).to_have_text("".join(WORDS[:20]).rstrip())
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("status")).to_have_text("Stopped. What had come is kept.")
        await upstream.connections[-1].wait_closed()
        await expect(answer).to_have_text("".join(WORDS[:20]).rstrip())
        await expect(page.get_by_label("Metrics")).to_contain_text('"tokensReceived": 20')
        assert complaints == []
        assert upstream.questions == 1


@pytest.mark.real
async def test_behind_a_proxy_that_holds_the_stream_back_it_polls(chromium: Browser) -> None:
    """A response is collected first, by nginx with its defaults: it ignores our header that asks it not to."""
    gate = asyncio.Event()
    script: list[Step] = [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, SUBAK_STREAM__GRACE_S="10", **QUICK) as gateway,
        nginx(bare(gateway.url, "proxy_ignore_headers X-Accel-Buffering;")) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.ask(firstByte=500, pollInterval=50)
        await here.saw_tokens(1)
        assert (await here.told()).text == "".join(WORDS[:20])
        gate.set()
        outcome = await here.outcome()
        assert (outcome.text, outcome.done["finish_reason"]) == ("".join(WORDS), "stop")
        assert outcome.metrics.transport == "polling"
        assert upstream.questions == 1

"""Chromium's own EventSource, as a page uses it: cut in mid-answer it comes back by itself, and stops at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page

from subak.core.facts import ReaderAttached
from subak.testing import End, FakeClock, Gate, Head, ScriptedUpstream
from subak.testing_toxic import Cut, How, Line
from tests.integration.clients import Followed, Seen, assert_saw_all_once, proxy_before
from tests.integration.gateway import DONE, question_url, running
from tests.transcripts.scenes import HOSTILE, token

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

WORDS: Final = tuple(f"parola-{number} " for number in range(60))
QUICK_RETRY: Final[dict[str, Any]] = {"SUBAK_STREAM__RETRY_MIN_MS": "10", "SUBAK_STREAM__RETRY_MAX_MS": "30"}
FOLLOW: Final = """
url => new Promise(resolve => {
  const events = []
  const source = new EventSource(url)
  const keep = ({ lastEventId, type, data }) => events.push({ id: lastEventId, event: type, data })
  source.onmessage = keep
  source.addEventListener('heartbeat', keep)
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(events) }
})
"""
"""Gives all events when the EventSource has closed by itself; nothing here closes it."""


@asynccontextmanager
async def page_at(chromium: Browser, url: str) -> AsyncIterator[Page]:
    """Open a page of this origin in a tab without history."""
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        await page.goto(f"{url}/livez")
        yield page
    finally:
        await context.close()


async def follow(page: Page) -> Followed:
    async with asyncio.timeout(20):
        events = await page.evaluate(FOLLOW, question_url())
    return Followed([Seen(**event) for event in events])


async def test_an_event_source_reads_a_whole_answer_and_stops(chromium: Browser) -> None:
    script = [Head(), *map(token, HOSTILE), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK_RETRY) as gateway,
        page_at(chromium, gateway.url) as page,
    ):
        assert_saw_all_once(await follow(page), "".join(HOSTILE))
        assert upstream.questions == 1


async def test_an_event_source_that_is_cut_in_mid_event_ends_with_the_whole_text_once(chromium: Browser) -> None:
    script = [Head(), *map(token, WORDS), DONE, End()]
    cuts = [
        Line(cut=Cut(b".9\n")),
        Line(cut=Cut(b'"sequence":20,')),
        Line(cut=Cut(b".31\nevent: mes", How.CLOSE)),
        Line(),
    ]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK_RETRY) as gateway,
        proxy_before(gateway.url, *cuts) as proxy,
        page_at(chromium, proxy.url) as page,
    ):
        assert_saw_all_once(await follow(page), "".join(WORDS))
        assert sum(connection.was_cut is not None for connection in proxy.connections) == 3
        assert [fact.cursor for fact in gateway.observer.of(ReaderAttached)] == [0, 8, 19, 30]
        assert upstream.questions == 1


async def test_an_event_source_whose_connection_grew_too_old_ends_with_the_whole_text_once(chromium: Browser) -> None:
    gate = asyncio.Event()
    script = [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="10", **QUICK_RETRY) as gateway,
        page_at(chromium, gateway.url) as page,
        asyncio.TaskGroup() as tasks,
    ):
        following = tasks.create_task(follow(page))
        for attached in (1, 2):
            await gateway.observer.wait_for(ReaderAttached, attached)
            gateway.pass_time(10)
        await gateway.observer.wait_for(ReaderAttached, 3)
        gate.set()
        assert_saw_all_once(await following, "".join(WORDS))
        assert upstream.questions == 1

"""Chromium's own EventSource, as a page uses it: cut in mid-answer it comes back by itself, and stops at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page

from subak.core.facts import ReaderAttached
from subak.testing import Cut, End, FakeClock, Gate, Head, How, Line, ScriptedUpstream
from tests.browser.client_page import PATIENCE_MS
from tests.integration.clients import Followed, Seen, assert_saw_all_once, proxy_before
from tests.integration.gateway import DONE, question_url, running
from tests.transcripts.scenes import HOSTILE, token

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

WORDS: Final = tuple(f"parola-{number} " for number in range(60))
QUICK_RETRY: Final[dict[str, Any]] = {"SUBAK_STREAM__RETRY_MIN_MS": "10", "SUBAK_STREAM__RETRY_MAX_MS": "30"}
FOLLOW: Final = """
url => {
  window.seen = []
  window.isOver = false
  const source = new EventSource(url)
  const keep = ({ lastEventId, type, data }) => window.seen.push({ id: lastEventId, event: type, data })
  source.onmessage = keep
  source.addEventListener('heartbeat', keep)
  source.onerror = () => { window.isOver = source.readyState === EventSource.CLOSED }
}
"""
"""Keeps all events until the EventSource has closed by itself; nothing here closes it."""


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


async def saw(page: Page, count: int) -> None:
    """Return once the page has so many events: only then it holds a cursor whatever happens to the line."""
    await page.wait_for_function("count => window.seen.length >= count", arg=count, timeout=PATIENCE_MS)


async def followed(page: Page) -> Followed:
    """Give all that the page saw, when its EventSource has given up."""
    await page.wait_for_function("window.isOver", timeout=PATIENCE_MS)
    return Followed([Seen(**event) for event in await page.evaluate("window.seen")])


async def test_an_event_source_reads_a_whole_answer_and_stops(chromium: Browser) -> None:
    script = [Head(), *map(token, HOSTILE), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK_RETRY) as gateway,
        page_at(chromium, gateway.url) as page,
    ):
        await page.evaluate(FOLLOW, question_url())
        assert_saw_all_once(await followed(page), "".join(HOSTILE))
        assert upstream.questions == 1


async def test_an_event_source_that_is_cut_in_mid_event_ends_with_the_whole_text_once(chromium: Browser) -> None:
    """A reset may cost it events that had come but weren't dispatched; it asks for them again, by its own cursor."""
    gate = asyncio.Event()
    script = [Head(), *map(token, WORDS[:5]), Gate(gate), *map(token, WORDS[5:]), DONE, End()]
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
        await page.evaluate(FOLLOW, question_url())
        await saw(page, 6)
        gate.set()
        assert_saw_all_once(await followed(page), "".join(WORDS))
        assert any(connection.was_cut for connection in proxy.connections)
        first, *resumed = gateway.observer.of(ReaderAttached)
        assert (first.cursor, all(fact.cursor >= 6 for fact in resumed)) == (0, True)
        assert upstream.questions == 1


async def test_an_event_source_whose_connection_grew_too_old_ends_with_the_whole_text_once(chromium: Browser) -> None:
    gate = asyncio.Event()
    script = [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="10", **QUICK_RETRY) as gateway,
        page_at(chromium, gateway.url) as page,
    ):
        await page.evaluate(FOLLOW, question_url())
        await saw(page, 21)
        gateway.pass_time(10)
        await gateway.observer.wait_for(ReaderAttached, 2)
        gateway.pass_time(10)
        await gateway.observer.wait_for(ReaderAttached, 3)
        gate.set()
        assert_saw_all_once(await followed(page), "".join(WORDS))
        assert upstream.questions == 1

"""The browser client through seeded faults: not one token lost, doubled or reordered, and the backend asked once.

The plans are those of tests/faults.py. The page stands at one gateway and asks another one, through the plan's lines:
so preflights go over them too.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest
from playwright.async_api import Browser

from subak.testing import ScriptedUpstream
from tests.browser.client_page import client_page
from tests.faults import FaultPlan, faulty_line, say_planned
from tests.integration.gateway import CHAT_STREAM, Running, running
from tests.settings import runs

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

RUNS: Final = runs(fast=5, default=50, soak=1_000)
AT_ONCE: Final = 6
RUN_S: Final = 120.0
QUICK: Final = {
    "reconnectDelay": 5,
    "maxReconnectDelay": 50,
    "maxReconnectAttempts": 200,
    "heartbeat": 500,
    "firstByte": 1_000,
    "pollInterval": 50,
}
PLAY: Final = """
async ([options, leavesAfter]) => {
    const { SubakStream } = await import('/static/subak-client.js');
    const told = [];
    let text = '';
    const listen = (stream) => {
        for (const type of ['metadata', 'token', 'sources', 'replace', 'done'])
            stream.on(type, ({ data, sequence }) => {
                told.push([type, sequence]);
                if (type === 'token') text += data;
                if (type === 'replace') text = data;
            });
        return stream;
    };
    const first = listen(new SubakStream(options));
    if (leavesAfter !== null)
        first.on('token', () => { if (told.length >= leavesAfter) first.close(); });
    let outcome = await first.start().catch((error) => {
        if (error.code !== 'closed') throw new Error(`${error.code} at ${first.cursor}: ${error.data}`);
        return null;
    });
    if (outcome === null) { // It left, and comes back as another page would.
        const { streamId } = first;
        text = '';
        told.length = 0;
        outcome = await listen(new SubakStream({ ...options, question: undefined, streamId })).start();
    }
    return { told, text, whole: outcome.text, done: outcome.done, sources: outcome.sources };
}
"""


class Played(msgspec.Struct):
    """What a reader was told, and what it has: events as (type, seq), the tokens joined, the stream's own text."""

    told: list[tuple[str, int]]
    text: str
    whole: str
    done: dict[str, Any]
    sources: list[dict[str, Any]]


class Stage:
    """A page that can play any number of plans at once."""

    def __init__(self, page: Any, gateway: Running) -> None:  # noqa: ANN401 - playwright's
        self._page = page
        self._gateway = gateway
        self._free = asyncio.Semaphore(AT_ONCE)
        self.cuts = 0
        """How many lines were cut so far."""

    async def play(self, number: int) -> None:
        """Read a plan's answer, and compare it with what the backend said."""
        plan = FaultPlan(number)
        async with self._free, asyncio.timeout(RUN_S), faulty_line(self._gateway.url, plan) as proxy:
            options = {
                **QUICK,
                "url": f"{proxy.url}{CHAT_STREAM}",
                "method": "GET" if number % 5 == 0 else "POST",
                "question": {"query": plan.question},
            }
            try:
                played = msgspec.convert(await self._page.evaluate(PLAY, [options, plan.leaves_after]), Played)
            except BaseException as error:
                error.add_note(f"plan {number}")
                raise
            self.cuts += sum(connection.was_cut is not None for connection in proxy.connections)
        check(plan, played)


def check(plan: FaultPlan, played: Played) -> None:
    """Compare what a reader has with what the backend said."""
    assert played.whole == plan.text, f"plan {plan.number}"
    assert played.text == plan.text, f"plan {plan.number}"
    assert len(set(played.told)) == len(played.told), f"plan {plan.number}: each event once"
    assert len(played.sources) == plan.has_sources, f"plan {plan.number}"
    assert [kind for kind, _ in played.told].count("done") == 1, f"plan {plan.number}"
    assert played.told[-1][0] == "done", f"plan {plan.number}"
    assert played.done["finish_reason"] == "stop", f"plan {plan.number}"


@asynccontextmanager
async def stage(chromium: Browser, upstream: ScriptedUpstream) -> AsyncIterator[Stage]:
    """Set one up."""
    quick = {"SUBAK_STREAM__RETRY_MIN_MS": "5", "SUBAK_STREAM__RETRY_MAX_MS": "10"}
    async with (
        running() as home,
        running(upstream, quick, SUBAK_HTTP__CORS_ORIGINS=home.url) as gateway,
        client_page(chromium, home.url) as here,
    ):
        yield Stage(here.page, gateway)


@pytest.mark.timeout(1_800)
async def test_answers_come_whole_once_and_in_order_through_everything_a_line_can_do(chromium: Browser) -> None:
    async with ScriptedUpstream(say_planned) as upstream, stage(chromium, upstream) as here:
        async with asyncio.TaskGroup() as tasks:
            for number in range(RUNS):
                tasks.create_task(here.play(number))
        assert upstream.questions == RUNS
        assert here.cuts > RUNS

"""The Python client through seeded faults: not one token lost, doubled or reordered, and the backend asked once."""

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from subak.client import Content, Done, Options, Patience, Replaced, Sources, Token, stream
from subak.testing import ScriptedUpstream
from tests.faults import FaultPlan, faulty_line, say_planned
from tests.integration.gateway import Running, running
from tests.settings import runs

RUNS: Final = runs(fast=10, default=50, soak=1_000)
AT_ONCE: Final = 12
RUN_S: Final = 120.0
QUICK: Final = Patience(heartbeat_s=0.5, first_wait_s=0.005, longest_wait_s=0.05, attempts=200)


def text_told(told: Sequence[Content]) -> str:
    """Give the text as somebody has it who was told only the events."""
    text = ""
    for content in told:
        if isinstance(content, Token):
            text += content.text
        elif isinstance(content, Replaced):
            text = content.text
    return text


async def play(number: int, gateway: Running, free: asyncio.Semaphore) -> int:
    """Read a plan's answer; give how often its reader came back."""
    plan = FaultPlan(number)
    options = Options(method="GET" if number % 5 == 0 else "POST", patience=QUICK)
    told: list[Content] = []
    async with free, asyncio.timeout(RUN_S), faulty_line(gateway.url, plan) as proxy:
        answer = stream(proxy.url, query=plan.question, options=options)
        try:
            async for content in answer:
                told.append(content)
                if len(told) == plan.leaves_after:
                    break
            told += [content async for content in answer]
        except BaseException as error:
            error.add_note(f"plan {number} at {answer.cursor}: {answer.metrics}")
            raise
    check(plan, told, answer.text)
    return answer.metrics.reconnects


def check(plan: FaultPlan, told: Sequence[Content], text: str) -> None:
    """Compare what a reader has with what the backend said."""
    assert text == plan.text, f"plan {plan.number}"
    assert text_told(told) == plan.text, f"plan {plan.number}"
    places = [(type(content), content.seq) for content in told]
    assert len(set(places)) == len(places), f"plan {plan.number}: each event once"
    assert sum(isinstance(content, Sources) for content in told) == plan.has_sources, f"plan {plan.number}"
    assert [isinstance(content, Done) for content in told] == [False] * (len(told) - 1) + [True]
    assert isinstance(told[-1], Done)
    assert told[-1].finish_reason == "stop"


@pytest.mark.timeout(900)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_answers_come_whole_once_and_in_order_through_everything_a_line_can_do() -> None:
    settings = {"SUBAK_STREAM__RETRY_MIN_MS": "5", "SUBAK_STREAM__RETRY_MAX_MS": "10"}
    async with ScriptedUpstream(say_planned) as upstream, running(upstream, settings) as gateway:
        free = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            playing = [tasks.create_task(play(number, gateway, free)) for number in range(RUNS)]
        assert upstream.questions == RUNS
        assert sum(task.result() for task in playing) > RUNS, "lines were cut"

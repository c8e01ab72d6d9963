"""A gradual rollout of a running gateway, from the first step to the last or back, as its figures say."""

from collections.abc import Mapping
from typing import Final

import msgspec

from subak.core.facts import FlagChanged
from subak.testing import Body, End, FakeClock, Head, ScriptedUpstream
from tests.integration.gateway import (
    ANSWER,
    ONE_LOOP,
    Running,
    ask,
    get,
    parse_frames,
    question_url,
    running,
    terminal_of,
)

pytestmark = ONE_LOOP

HOLD_S: Final = 60
REQUESTS: Final = 30
PLAN: Final = {"steps": [5, 25, 50, 100], "hold_s": HOLD_S, "min_requests": 20, "allow": ["127.0.0.1"]}
BROKEN: Final = (Head(500), Body(b"no"), End())


async def operate(gateway: Running, method: str, target: str, fields: Mapping[str, object] | None = None) -> bytes:
    """Do something as an operator; give the body of the answer."""
    operator = gateway.gateway.admin_token
    assert operator is not None
    headers = [("Authorization", f"Bearer {operator.text}"), ("Content-Type", "application/json")]
    answer = await ask(gateway.gateway.admin_url, method, target, headers, msgspec.json.encode(fields or {}))
    assert answer.status == 200, answer.body
    return answer.body


def percentage(gateway: Running) -> float | None:
    """Give how far the rollout is."""
    return gateway.gateway.flags.view("ENABLE_SSE_STREAMING").overrides.percentage


def phase(gateway: Running) -> str:
    """Give the rollout's phase."""
    rollout = gateway.gateway.flags.view("ENABLE_SSE_STREAMING").rollout
    assert rollout is not None
    return rollout.phase


async def serve_some(gateway: Running) -> None:
    """Let allowed callers ask, and the step's time pass."""
    gateway.pass_time(5)
    for _ in range(REQUESTS):
        assert (await get(gateway, question_url())).status == 200
    gateway.pass_time(HOLD_S + 5)


async def test_with_a_good_upstream_it_finishes() -> None:
    clock = FakeClock()
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream, clock=clock) as gateway:
        await operate(gateway, "POST", "/-/rollout/start", PLAN)
        seen = [percentage(gateway)]
        for _ in range(4):
            await serve_some(gateway)
            seen.append(percentage(gateway))
        assert seen[:4] == [5, 25, 50, 100]
        assert phase(gateway) == "finished"
        assert (await get(gateway, question_url(), X_Forwarded_For="203.0.113.9")).status == 200
        assert len(gateway.observer.of(FlagChanged)) >= 4


async def test_a_broken_upstream_takes_it_back_within_one_evaluation() -> None:
    clock = FakeClock()
    good = [ANSWER] * (REQUESTS + 1)
    async with ScriptedUpstream(*good, BROKEN) as upstream, running(upstream, clock=clock) as gateway:
        await operate(gateway, "POST", "/-/rollout/start", PLAN)
        await serve_some(gateway)
        assert percentage(gateway) == 25
        gateway.pass_time(5)
        for _ in range(REQUESTS):
            await get(gateway, question_url())
        gateway.pass_time(5)
        assert percentage(gateway) == 5
        changes = msgspec.json.decode(await operate(gateway, "GET", "/-/flags/ENABLE_SSE_STREAMING/history"))["changes"]
        assert "error" in changes[0]["why"]
        assert changes[0]["actor"] == "rollout"


async def test_it_is_paused_resumed_and_aborted_by_operators() -> None:
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream, clock=FakeClock()) as gateway:
        await operate(gateway, "POST", "/-/rollout/start", PLAN)
        await operate(gateway, "POST", "/-/rollout/pause")
        await serve_some(gateway)
        assert (percentage(gateway), phase(gateway)) == (5, "paused")
        await operate(gateway, "POST", "/-/rollout/resume")
        await serve_some(gateway)
        assert percentage(gateway) == 25
        await operate(gateway, "POST", "/-/rollout/abort")
        assert (percentage(gateway), phase(gateway)) == (0, "aborted")


async def test_callers_can_not_take_it_back_by_what_they_ask_or_by_leaving() -> None:
    unanswerable = (Head(422), Body(b"no"), End())
    async with ScriptedUpstream(unanswerable) as upstream, running(upstream, clock=FakeClock()) as gateway:
        await operate(gateway, "POST", "/-/rollout/start", PLAN)
        gateway.pass_time(5)
        for _ in range(REQUESTS):
            assert terminal_of(parse_frames((await get(gateway, question_url())).body)) is not None
        gateway.pass_time(10)
        assert (percentage(gateway), phase(gateway)) == (5, "running")
        assert len(upstream.requests) == REQUESTS  # no breaker has opened, nothing was asked twice

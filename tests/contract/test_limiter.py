"""What every limiter must do (`subak.admission.limiter`)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias

import pytest

from subak.admission.limiter import Charge, Charges, Decision, Limiter, Slot
from subak.admission.limiter_memory import MemoryLimiter
from subak.core.quota import ConcurrencyPolicy, QuotaPolicy
from subak.testing import FakeClock

CHAT = QuotaPolicy("chat", 20, 60.0)
NETWORK = QuotaPolicy("chat_network", 30, 60.0)
RESUME = QuotaPolicy("resume", 240, 60.0)
STREAMS = ConcurrencyPolicy("streams", 5)
TOTAL = ConcurrencyPolicy("streams_total", 7, is_shared=True)

ANN = Charges((Charge(CHAT, "user:ann"),))
BEN = Charges((Charge(CHAT, "user:ben"),))


class LimiterUnderTest(Protocol):
    """A limiter and its surroundings."""

    @property
    def limiter(self) -> Limiter:
        """The limiter."""

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for it."""


class MemoryUnderTest:
    """The limiter in this process' memory."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self.limiter = MemoryLimiter(self._clock, max_keys=1_000)

    async def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)


@asynccontextmanager
async def open_memory() -> AsyncIterator[LimiterUnderTest]:
    yield MemoryUnderTest()


Adapter: TypeAlias = Callable[[], AbstractAsyncContextManager[LimiterUnderTest]]

ADAPTERS: dict[str, Adapter] = {"memory": open_memory}


@pytest.fixture(params=ADAPTERS)
async def under_test(request: pytest.FixtureRequest) -> AsyncIterator[LimiterUnderTest]:
    async with ADAPTERS[request.param]() as opened:
        yield opened


@pytest.fixture
def limiter(under_test: LimiterUnderTest) -> Limiter:
    return under_test.limiter


def streams(*keys: str) -> Charges:
    return Charges(slots=(*(Slot(STREAMS, key) for key in keys), Slot(TOTAL, "process")))


async def take(limiter: Limiter, charges: Charges, times: int) -> list[Decision]:
    return [await limiter.take(charges) for _ in range(times)]


async def test_a52_of_21_requests_in_a_minute_exactly_20_are_admitted(limiter: Limiter) -> None:
    decisions = await take(limiter, ANN, 21)
    assert [decision.is_admitted for decision in decisions] == [True] * 20 + [False]
    assert [decision.verdicts[0].remaining for decision in decisions] == [*range(19, -1, -1), 0]
    assert decisions[-1].refusal is not None
    assert decisions[-1].refusal.policy == CHAT


async def test_a52_of_50_parallel_requests_exactly_20_are_admitted(limiter: Limiter) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(limiter.take(ANN)) for _ in range(50)]
    assert sum(task.result().is_admitted for task in asked) == 20


async def test_a52_no_window_across_an_edge_admits_more(under_test: LimiterUnderTest) -> None:
    await take(under_test.limiter, ANN, 10)
    await under_test.pass_time(59)
    assert sum(decision.is_admitted for decision in await take(under_test.limiter, ANN, 20)) == 10
    await under_test.pass_time(1)
    assert sum(decision.is_admitted for decision in await take(under_test.limiter, ANN, 20)) == 10


async def test_a52_whoever_waits_as_long_as_it_was_told_is_admitted(under_test: LimiterUnderTest) -> None:
    for _ in range(20):
        await under_test.limiter.take(ANN)
        await under_test.pass_time(1.3)
    for _ in range(30):
        refused = await under_test.limiter.take(ANN)
        assert refused.refusal is not None
        await under_test.pass_time(refused.refusal.retry_after_s - 1)
        assert (await under_test.limiter.peek(ANN)).is_admitted is (refused.refusal.wait_us <= 0)
        await under_test.pass_time(1)
        assert (await under_test.limiter.take(ANN)).is_admitted


async def test_the_last_admitted_request_tells_when_the_next_one_is(under_test: LimiterUnderTest) -> None:
    await under_test.limiter.take(ANN)
    await under_test.pass_time(26)
    decision = (await take(under_test.limiter, ANN, 19))[-1]
    assert decision.is_admitted
    assert decision.verdicts[0].remaining == 0
    assert decision.verdicts[0].retry_after_s == 34


async def test_each_key_and_each_policy_counts_by_itself(limiter: Limiter) -> None:
    await take(limiter, ANN, 20)
    assert not (await limiter.take(ANN)).is_admitted
    assert (await limiter.take(BEN)).is_admitted
    assert (await limiter.take(Charges((Charge(RESUME, "user:ann"),)))).is_admitted


async def test_a_refusal_is_charged_to_no_policy(limiter: Limiter) -> None:
    both = Charges((Charge(CHAT, "ip:a"), Charge(NETWORK, "net")), (Slot(STREAMS, "ip:a"),))
    neighbour = Charges((Charge(CHAT, "ip:b"), Charge(NETWORK, "net")))
    await take(limiter, Charges((Charge(CHAT, "ip:a"),)), 20)
    await take(limiter, both, 10)
    decisions = await take(limiter, neighbour, 20)
    assert all(decision.is_admitted for decision in decisions)
    assert decisions[-1].verdicts[1].remaining == 10
    assert limiter.figures().leases == 0


async def test_of_several_refusals_the_longest_wait_is_told(under_test: LimiterUnderTest) -> None:
    limiter = under_test.limiter
    await take(limiter, Charges((Charge(CHAT, "ip:a"),)), 20)
    await under_test.pass_time(10)
    await take(limiter, Charges((Charge(NETWORK, "net"),)), 30)
    charges = Charge(CHAT, "ip:a"), Charge(NETWORK, "net")
    for requests in (charges, charges[::-1]):
        refused = await limiter.take(Charges(requests))
        assert refused.refusal is not None
        assert (refused.refusal.policy, refused.refusal.retry_after_s) == (NETWORK, 60)
        assert [verdict.policy for verdict in refused.verdicts] == [charge.policy for charge in requests]
        assert {verdict.retry_after_s for verdict in refused.verdicts} == {50, 60}


async def test_a_look_is_charged_to_nobody(limiter: Limiter) -> None:
    for _ in range(30):
        looked = await limiter.peek(ANN)
        assert looked.is_admitted
        assert looked.lease is None
        assert looked.verdicts[0].remaining == 20
    await take(limiter, ANN, 20)
    assert not (await limiter.peek(ANN)).is_admitted
    assert not limiter.figures().denials


async def test_a54_the_sixth_stream_at_the_same_time_is_refused_until_one_ends(limiter: Limiter) -> None:
    decisions = await take(limiter, streams("user:ann"), 6)
    assert [decision.is_admitted for decision in decisions] == [True] * 5 + [False]
    assert decisions[-1].refusal is not None
    assert decisions[-1].refusal.policy == STREAMS
    assert decisions[-1].lease is None
    assert decisions[0].lease is not None
    limiter.release(decisions[0].lease)
    await limiter.renew()
    assert (await limiter.take(streams("user:ann"))).is_admitted
    assert not (await limiter.take(streams("user:ann"))).is_admitted


async def test_a_lease_can_be_given_back_once_only(limiter: Limiter) -> None:
    decisions = await take(limiter, streams("user:ann"), 5)
    assert decisions[0].lease is not None
    for _ in range(3):
        limiter.release(decisions[0].lease)
    await limiter.renew()
    assert [decision.is_admitted for decision in await take(limiter, streams("user:ann"), 2)] == [True, False]


async def test_a_lease_lasts_as_long_as_its_stream_while_the_process_renews(under_test: LimiterUnderTest) -> None:
    await take(under_test.limiter, streams("user:ann"), 5)
    for _ in range(12):
        await under_test.pass_time(10)
        await under_test.limiter.renew()
    assert not (await under_test.limiter.take(streams("user:ann"))).is_admitted
    assert under_test.limiter.figures().leases == 5


async def test_a_shared_policy_refuses_whoever_comes_next(limiter: Limiter) -> None:
    await take(limiter, streams("user:ann"), 4)
    await take(limiter, streams("user:ben"), 3)
    refused = await limiter.take(streams("user:eve"))
    assert refused.refusal is not None
    assert refused.refusal.policy == TOTAL


async def test_no_charges_are_always_admitted(limiter: Limiter) -> None:
    assert await limiter.take(Charges()) == Decision()


async def test_figures_count_keys_denials_and_leases(limiter: Limiter) -> None:
    await take(limiter, ANN, 23)
    await take(limiter, BEN, 1)
    await take(limiter, streams("user:ann"), 6)
    figures = limiter.figures()
    assert figures.keys["chat"] == 2
    assert figures.denials == {"chat": 3, "streams": 1}
    assert figures.leases == 5

"""Several upstreams as one (`subak.upstream.failover`), with upstreams that a test plays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from subak.core.breaker import BreakerPolicy, BreakerState
from subak.core.errors import ErrorCode, UpstreamError, UpstreamUnavailable
from subak.core.events import Failed, Finished
from subak.core.question import Question
from subak.testing import PATIENCE_S, FakeClock, RecordingSink
from subak.upstream.base import Exchange
from subak.upstream.failover import FailoverUpstream
from tests.stage import PuppetExchange, PuppetUpstream, refused

QUESTION = Question("What is a KITAS?")


@dataclass
class Pair:
    """Two puppet backends behind one fail-over."""

    failover: FailoverUpstream
    first: PuppetUpstream
    second: PuppetUpstream
    clock: FakeClock

    async def ask(self) -> tuple[RecordingSink, Exchange]:
        sink = RecordingSink()
        return sink, await self.failover.open(QUESTION, sink)

    def save_retries(self) -> None:
        """Ask so much without trouble that retries are saved up."""
        for _ in range(100):
            self.failover._budget.asked()  # noqa: SLF001 - the quick way to a full stock


@asynccontextmanager
async def pair(*, is_alone: bool = False) -> AsyncIterator[Pair]:
    clock = FakeClock()
    first, second = PuppetUpstream(clock), PuppetUpstream(clock)
    async with asyncio.TaskGroup() as tasks:
        failover = FailoverUpstream(
            [("one:80", first)] if is_alone else [("one:80", first), ("two:80", second)],
            policy=BreakerPolicy(failures=2, rest_s=5.0),
            clock=clock,
            tasks=tasks,
            chance=lambda: 0.0,
        )
        found = Pair(failover, first, second, clock)
        found.save_retries()
        yield found


def only(upstream: PuppetUpstream) -> PuppetExchange:
    assert len(upstream.exchanges) == 1
    return upstream.exchanges[0]


async def asked(upstream: PuppetUpstream, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(upstream.exchanges) < count:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)


async def test_the_first_upstream_answers_and_the_second_hears_nothing() -> None:
    async with pair() as both:
        sink, _ = await both.ask()
        only(both.first).token("Ciao ")
        only(both.first).done()
        assert await sink.wait_ended() == Finished()
        assert sink.text == "Ciao "
        assert not both.second.exchanges


async def test_one_that_cannot_be_reached_is_replaced_by_the_next() -> None:
    async with pair() as both:
        both.first.manners[QUESTION.query] = refused()
        sink, _ = await both.ask()
        only(both.second).token("Ciao")
        only(both.second).done()
        assert await sink.wait_ended() == Finished()
        assert both.failover.retries == 1


async def test_a_failure_before_the_first_token_is_asked_elsewhere_and_the_reader_sees_one_stream() -> None:
    async with pair() as both:
        sink, _ = await both.ask()
        only(both.first).fails(ErrorCode.UPSTREAM_ERROR)
        await asked(both.second, 1)
        only(both.second).token("Ciao")
        only(both.second).done()
        assert await sink.wait_ended() == Finished()
        assert sink.text == "Ciao"


async def test_nothing_is_asked_again_after_the_first_token() -> None:
    async with pair() as both:
        sink, _ = await both.ask()
        only(both.first).token("Ciao")
        only(both.first).fails(ErrorCode.UPSTREAM_TRUNCATED)
        assert await sink.wait_ended() == Failed(ErrorCode.UPSTREAM_TRUNCATED, "puppet")
        assert not both.second.exchanges


@pytest.mark.parametrize("code", [ErrorCode.UPSTREAM_RATE_LIMITED, ErrorCode.EVENT_TOO_LARGE])
async def test_a_refusal_that_asking_makes_worse_is_passed_on(code: ErrorCode) -> None:
    async with pair() as both:
        sink, _ = await both.ask()
        only(both.first).fails(code)
        assert await sink.wait_ended() == Failed(code, "puppet")
        assert not both.second.exchanges


async def test_one_question_is_asked_twice_at_most() -> None:
    async with pair() as both:
        sink, _ = await both.ask()
        only(both.first).fails(ErrorCode.UPSTREAM_ERROR)
        await asked(both.second, 1)
        only(both.second).fails(ErrorCode.UPSTREAM_TIMEOUT)
        assert await sink.wait_ended() == Failed(ErrorCode.UPSTREAM_TIMEOUT, "puppet")
        assert len(both.first.exchanges) + len(both.second.exchanges) == 2


async def test_alone_it_is_asked_again_only_when_it_cannot_have_begun() -> None:
    async with pair(is_alone=True) as one:
        sink, _ = await one.ask()
        only(one.first).fails(ErrorCode.UPSTREAM_ERROR)
        assert await sink.wait_ended() == Failed(ErrorCode.UPSTREAM_ERROR, "puppet")
        assert len(one.first.exchanges) == 1
        one.first.manners[QUESTION.query] = refused()
        with pytest.raises(UpstreamError):
            await one.ask()
        assert len(one.first.exchanges) == 2, "a breaker that has just opened lets no second try through"


async def test_without_retry_budget_the_first_failure_is_the_last() -> None:
    async with pair() as both:
        while both.failover.take_retry():
            pass
        sink, _ = await both.ask()
        only(both.first).fails(ErrorCode.UPSTREAM_ERROR)
        assert isinstance(await sink.wait_ended(), Failed)
        assert not both.second.exchanges


async def test_with_every_breaker_open_a_question_is_refused_beforehand_until_the_rest_is_over() -> None:
    async with pair(is_alone=True) as one:
        for _ in range(2):
            sink, _ = await one.ask()
            one.first.exchanges[-1].fails(ErrorCode.UPSTREAM_TIMEOUT)
            await sink.wait_ended()
        assert one.failover.states() == {"one:80": BreakerState.OPEN}
        with pytest.raises(UpstreamUnavailable) as refusal:
            one.failover.check(QUESTION)
        assert refusal.value.retry_after_s == 5
        one.clock.advance(5)
        one.failover.check(QUESTION)
        sink, _ = await one.ask()
        one.first.exchanges[-1].token("Ciao")
        assert one.failover.states() == {"one:80": BreakerState.CLOSED}
        one.first.exchanges[-1].done()


async def test_an_upstream_that_rests_is_passed_over() -> None:
    async with pair() as both:
        both.first.manners[QUESTION.query] = refused()
        for _ in range(2):
            await both.ask()
        both.first.manners.clear()
        await both.ask()
        assert len(both.first.exchanges) == 2
        assert len(both.second.exchanges) == 3
        for exchange in both.second.exchanges:
            exchange.done()


async def test_abort_while_asking_again_leaves_nothing_behind() -> None:
    async with pair() as both:
        sink, exchange = await both.ask()
        only(both.first).fails(ErrorCode.UPSTREAM_ERROR)
        exchange.abort()
        await asyncio.sleep(0)
        assert not both.second.exchanges
        assert not sink.reads


async def test_a_pause_reaches_whoever_answers_in_the_end() -> None:
    async with pair() as both:
        _, exchange = await both.ask()
        exchange.pause()
        only(both.first).waits()
        only(both.first).fails(ErrorCode.UPSTREAM_ERROR)
        await asked(both.second, 1)
        await asyncio.sleep(0)
        only(both.second).waits()
        exchange.resume()
        only(both.second).runs()
        exchange.abort()
        only(both.second).was_cut()

"""Several upstreams as one: fail-over before the first token, a breaker for each, and few retries.

    what has come      what a failure does
    -----------------  --------------------------------------------------------------------------------
    nothing            ask once more, elsewhere if there is another one, while the retry budget lasts
    a first event      end the stream: asking again could only give another text

The reader sees one stream. A refusal that more asking would make worse (429), and an answer that was too large, are
passed on at once. It is a sink between the upstream and the publisher, one call deep; it knows no socket.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import msgspec

from subak.core.breaker import Breaker, BreakerPolicy, BreakerState, RetryBudget
from subak.core.clock import Clock
from subak.core.errors import QUESTION_REFUSED, ErrorCode, UpstreamError, UpstreamUnavailable
from subak.core.events import Ending, Event, Failed, UpstreamSink
from subak.core.question import Question
from subak.upstream.base import Exchange, Upstream

MAX_ASKED: Final = 2
"""How often one question is asked in all: twice, and the second time only when no token had come (PROTOCOL §7, I6)."""
RETRY_DELAY_S: Final = 0.05
"""The mean wait before asking again, in seconds; the wait itself is drawn between nothing and twice that."""

_BEFORE_THE_FIRST_BYTE: Final = frozenset({"connect_failed", "connect_refused", "connect_timeout", "no_response"})
"""Reasons after which even the same upstream may be asked again: it can't have begun to answer."""
_SPEAKS_AGAINST: Final = frozenset({ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.UPSTREAM_TRUNCATED})


class Candidate(msgspec.Struct):
    """One upstream and its breaker. `name` is for operators: its host and port."""

    name: str
    upstream: Upstream
    breaker: Breaker


class FailoverUpstream:
    """Asks the first upstream whose breaker lets it; see the table above."""

    def __init__(
        self,
        upstreams: Sequence[tuple[str, Upstream]],
        *,
        policy: BreakerPolicy,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        chance: Callable[[], float],
    ) -> None:
        """`upstreams` in order of preference, with their names; `chance` gives numbers in [0, 1)."""
        self.retries = 0
        self._candidates = [Candidate(name, upstream, Breaker(policy)) for name, upstream in upstreams]
        self._budget = RetryBudget()
        self._clock = clock
        self._tasks = tasks
        self._chance = chance

    def states(self) -> dict[str, BreakerState]:
        """Give each upstream's breaker, by name."""
        now = self._clock.monotonic()
        return {candidate.name: candidate.breaker.state(now) for candidate in self._candidates}

    def check(self, question: Question) -> None:
        """Tell, before a stream is opened, whether it makes sense (see `Upstream.check`).

        Raises:
            QuestionTooLong: no upstream could be asked this.
            UpstreamUnavailable: every breaker is open.
        """
        self._candidates[0].upstream.check(question)
        if self.choose(()) is None:
            now = self._clock.monotonic()
            wait_s = min(candidate.breaker.wait_s(now) for candidate in self._candidates)
            raise UpstreamUnavailable(
                "The answering service is not available. Please try again soon.", retry_after_s=max(1, round(wait_s))
            )

    async def open(self, question: Question, sink: UpstreamSink) -> Exchange:
        """Send the question to the first upstream that takes it (see `Upstream.open`).

        Raises:
            UpstreamError: none did.
        """
        self._budget.asked()
        attempt = _Attempt(self, question, sink)
        await attempt.ask()
        return attempt

    async def close(self) -> None:
        """Close all of them."""
        for candidate in self._candidates:
            await candidate.upstream.close()

    # What follows is for this module's attempts.

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()

    def choose(self, tried: Sequence[Candidate]) -> Candidate | None:
        """Give the first upstream that may be asked, one that wasn't tried before one that was."""
        now = self.now()
        open_ones = [candidate for candidate in self._candidates if candidate.breaker.allows(now)]
        fresh = [candidate for candidate in open_ones if candidate not in tried]
        return next(iter(fresh or open_ones), None)

    def take_retry(self) -> bool:
        """Spend one retry of the budget, if there is one."""
        has_credit = self._budget.take()
        self.retries += has_credit
        return has_credit

    async def wait_a_moment(self) -> None:
        """Wait before asking again: nobody's retries come all at once."""
        await asyncio.sleep(2 * RETRY_DELAY_S * self._chance())

    def spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Run a retry."""
        return self._tasks.create_task(work)


class _Attempt:
    """One question's way through the upstreams: the exchange its asker holds, and the sink of whoever answers."""

    __slots__ = (
        "_candidate",
        "_exchange",
        "_has_begun",
        "_is_over",
        "_is_paused",
        "_owner",
        "_question",
        "_retry",
        "_sink",
        "_tried",
    )

    def __init__(self, owner: FailoverUpstream, question: Question, sink: UpstreamSink) -> None:
        self._owner = owner
        self._question: Question | None = question  # None once an answer has begun: it may be long
        self._sink = sink
        self._tried: list[Candidate] = []
        self._candidate: Candidate | None = None
        self._exchange: Exchange | None = None
        self._retry: asyncio.Task[None] | None = None
        self._has_begun = False
        self._is_paused = False
        self._is_over = False

    async def ask(self) -> None:
        """Ask, and once more where that is right; return when the question is on its way.

        Raises:
            UpstreamError: nobody took it.
        """
        while True:
            try:
                await self._ask_once()
            except UpstreamError as error:
                if not self._may_ask_again(error.error_code, error.reason):
                    raise
                await self._owner.wait_a_moment()
            else:
                return

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Pass on what came; swallow a failure before the first event when somebody else may be asked."""
        if self._is_over:
            return
        if not self._has_begun and events:
            self._has_begun = True
            self._question = None
            self._breaker.succeeded()
        if ending is None:
            self._sink.on_read(events, None, size_bytes)
        elif self._should_ask_again(ending):
            self._exchange = None
            self._retry = self._owner.spawn(self._ask_again())
        else:
            self._is_over = True
            self._sink.on_read(events, ending, size_bytes)

    def abort(self) -> None:
        """Close whatever is under way; the sink is not called any more. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        if not self._has_begun and self._candidate is not None:
            self._breaker.gave_up()
        if self._retry is not None:
            self._retry.cancel()
        if self._exchange is not None:
            self._exchange.abort()

    def pause(self) -> None:
        """Stop reading. Idempotent."""
        self._is_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        """Read on. Idempotent."""
        self._is_paused = False
        if self._exchange is not None:
            self._exchange.resume()

    @property
    def _breaker(self) -> Breaker:
        assert self._candidate is not None, "somebody was asked"
        return self._candidate.breaker

    async def _ask_once(self) -> None:
        question = self._question
        assert question is not None, "nobody is asked once an answer has begun"
        candidate = self._owner.choose(self._tried)
        if candidate is None:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "breaker_open")
        self._candidate = candidate
        self._tried.append(candidate)
        candidate.breaker.asked(self._owner.now())
        try:
            exchange = await candidate.upstream.open(question, self)
        except UpstreamError as error:
            self._judge(error.error_code, error.reason)
            raise
        except BaseException:
            candidate.breaker.gave_up()
            raise
        self._adopt(exchange)

    def _adopt(self, exchange: Exchange) -> None:
        if self._is_over:
            exchange.abort()
            return
        self._exchange = exchange
        if self._is_paused:
            exchange.pause()

    def _should_ask_again(self, ending: Ending) -> bool:
        """Whether an ending before the first event is followed by another question; the breaker hears of it."""
        if not isinstance(ending, Failed):
            self._breaker.succeeded()
            return False
        self._judge(ending.code, ending.reason)
        return not self._has_begun and self._may_ask_again(ending.code, ending.reason)

    def _judge(self, code: ErrorCode, reason: str) -> None:
        if code in _SPEAKS_AGAINST and reason not in QUESTION_REFUSED:
            self._breaker.failed(self._owner.now())
        else:
            self._breaker.gave_up()

    def _may_ask_again(self, code: ErrorCode, reason: str) -> bool:
        if code not in _SPEAKS_AGAINST or reason in QUESTION_REFUSED or len(self._tried) >= MAX_ASKED:
            return False
        following = self._owner.choose(self._tried)
        if following is None or (following in self._tried and reason not in _BEFORE_THE_FIRST_BYTE):
            return False
        return self._owner.take_retry()

    async def _ask_again(self) -> None:
        await self._owner.wait_a_moment()
        try:
            await self.ask()
        except UpstreamError as error:
            self._give_up(Failed(error.error_code, error.reason, error.retry_after_s))
        except Exception:  # noqa: BLE001 - a task's root: a defect here ends this answer, not the others
            self._give_up(Failed(ErrorCode.INTERNAL_ERROR, "retry_crashed"))

    def _give_up(self, ending: Failed) -> None:
        if not self._is_over:
            self._is_over = True
            self._sink.on_read((), ending, 0)

"""The load: when each question is asked, how many answers are open, and when it is over.

    load                    a question is asked                              its latency counts from
    ----------------------  -----------------------------------------------  -----------------------
    open (`rate`)           at its time, whatever became of the others       its time
    closed (no `rate`)      when the answer before it, in its place, ended   the moment it is asked

An open load keeps its times when the target falls behind, as the world does. A question that finds all places taken
waits for one, and its wait is in its latency: what a target makes callers wait for is never left out ("coordinated
omission").
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import count
from time import monotonic, process_time
from typing import Final

import msgspec

from subak.bench.reading import Reading, Wanted
from subak.bench.tally import Tally
from subak.bench.target import Fields, Target
from subak.clocks import SystemClock
from subak.core.deadlines import Deadlines
from subak.core.errors import UpstreamError
from subak.core.events import Failed
from subak.upstream.http1 import Http1Client, Http1Limits

UNFINISHED: Final = "unfinished"
NEVER_ASKED: Final = "never_asked"
NOT_STOPPED: Final = "not_stopped"
FIRST_BYTE_S: Final = 60.0
SILENCE_S: Final = 75.0
"""How long an answer may say nothing: 2.5 heartbeats (PROTOCOL §6)."""
TIMER_S: Final = 0.002
"""Timers of both event loops keep whole milliseconds. What is later than this has another cause."""
REST_S: Final = 1.0
"""How long a place of a closed load rests after a question that failed: a refusal is no reason to ask all the more."""

_TICK_S: Final = 0.05
_STOP_S: Final = 5.0
_STOPS_AT_ONCE: Final = 64
_US: Final = 1_000_000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is asked, and for how long.

    `rate` in questions a second. `streams`: answers open at the same time, at most; with neither rate nor `is_closed`
    as many as are meant to be open, from which the rate follows (see `is_settled`). It is over
    after `questions` or after `duration_s`, whichever comes first. `finish_s`: how long the last answers may take.
    """

    rate: float | None = None
    is_closed: bool = False
    streams: int = 1
    questions: int | None = None
    duration_s: float | None = None
    finish_s: float = 30.0
    wanted: Wanted = Wanted()
    keep_alive: bool = False

    def has_room(self, number: int, at_s: float) -> bool:
        """Whether question `number`, from 0, at second `at_s` still belongs to it."""
        has_time = self.duration_s is None or at_s < self.duration_s
        return has_time and (self.questions is None or number < self.questions)

    @property
    def is_settled(self) -> bool:
        """Whether it says when questions are asked."""
        return self.is_closed or self.rate is not None

    @property
    def expected(self) -> int | None:
        """How many questions it is, None where that depends on the answers."""
        if self.rate is None or self.duration_s is None:
            return self.questions
        by_time = math.ceil(self.duration_s * self.rate)
        return by_time if self.questions is None else min(by_time, self.questions)

    @property
    def limit_s(self) -> float | None:
        """When it is over, whatever is still open; None where only the answers can tell."""
        if self.rate is not None and self.expected is not None:
            return self.expected / self.rate + self.finish_s
        return None if self.duration_s is None else self.duration_s + self.finish_s


class Load:
    """Asks one target by one plan, once, and counts into one tally."""

    def __init__(self, target: Target, questions: Sequence[Fields], plan: Plan, tally: Tally) -> None:
        self._target = target
        self._questions = questions
        self._plan = plan
        self._tally = tally
        self._is_ended = False
        self._limit: asyncio.Timeout | None = None
        self._around: asyncio.TaskGroup | None = None
        self._readings: set[Reading] = set()
        self._deadlines = Deadlines()
        limits = Http1Limits(
            first_byte_timeout_s=FIRST_BYTE_S,
            idle_timeout_s=SILENCE_S,
            max_idle_connections=plan.streams if plan.keep_alive else 0,
        )
        self._client = Http1Client(
            target.origin, limits=limits, ssl_context=None, clock=SystemClock(), deadlines=self._deadlines
        )

    def end(self) -> None:
        """Ask no more, and stop what is open. Idempotent."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0.0)

    async def run(self, on_tick: Callable[[], None]) -> None:
        """Ask all questions; return when the last answer is over. `on_tick` is called some times a second."""
        tally = self._tally
        tally.begin(monotonic(), process_time())
        async with asyncio.TaskGroup() as self._around:
            ticking = self._around.create_task(self._tick(on_tick))
            try:
                async with asyncio.timeout(self._plan.limit_s) as self._limit:
                    await self._ask_all()
            except TimeoutError:
                self._count_unasked()
            self._limit = None
            await self._stop_open()
            ticking.cancel()
        tally.finish(monotonic(), process_time())
        await self._client.close()

    async def _ask_all(self) -> None:
        if self._is_ended:
            return
        begin = monotonic()
        async with asyncio.TaskGroup() as answers:
            if self._plan.rate is not None:
                await self._ask_on_time(begin, self._plan.rate, answers)
                return
            numbers = count()
            for _ in range(self._plan.streams):
                answers.create_task(self._keep_asking(begin, numbers))

    async def _ask_on_time(self, begin: float, rate: float, answers: asyncio.TaskGroup) -> None:
        """Ask each question at its time."""
        places = asyncio.Semaphore(self._plan.streams)
        for number in count():
            if not self._plan.has_room(number, number / rate):
                return
            due_at = await self._until(begin + number / rate)
            self._tally.waited += places.locked()
            await places.acquire()
            answering = answers.create_task(self._answer(due_at, number))
            answering.add_done_callback(lambda _: places.release())

    async def _until(self, due_at: float) -> float:
        """Wait for a moment; give it as it was. A loop's timers are a millisecond or so off: that is no latency."""
        delay_s = due_at - monotonic()
        if delay_s <= 0:
            return due_at
        await asyncio.sleep(delay_s)
        now = monotonic()
        self._tally.lateness.record(max(0, int((now - due_at) * _US)))
        return now if now - due_at < TIMER_S else due_at

    async def _keep_asking(self, begin: float, numbers: Iterator[int]) -> None:
        """Ask one question after the other."""
        for number in numbers:
            now = monotonic()
            if not self._plan.has_room(number, now - begin):
                return
            failed_before = self._tally.failed
            await self._answer(now, number)
            if self._tally.failed > failed_before and self._plan.has_room(number + 1, now - begin):
                await asyncio.sleep(REST_S)

    async def _answer(self, due_at: float, number: int) -> None:
        """Ask one question, and read its answer."""
        reading = Reading(self._tally, due_at, self._plan.wanted, self._on_enough)
        self._readings.add(reading)
        request = self._target.ask(self._questions[number % len(self._questions)])
        try:
            reading.exchange = await self._client.send(request, reading)
        except UpstreamError as error:
            reading.fail(error.reason)
        await reading.ended.wait()
        self._readings.discard(reading)

    def _on_enough(self, reading: Reading) -> None:
        if not reading.stream_id:
            reading.finish()
            return
        assert self._around is not None, "answers come while it runs"
        self._around.create_task(self._stop_soon(reading))

    async def _stop_soon(self, reading: Reading) -> None:
        """Stop an answer, which then ends by itself."""
        if not await self._stop(reading.stream_id):
            reading.fail(NOT_STOPPED)

    async def _stop_open(self) -> None:
        """Stop what is still open: nobody reads it any more, and it would go on costing something."""
        left = iter([reading for reading in self._readings if not reading.ended.is_set()])
        async with asyncio.TaskGroup() as stopping:
            for _ in range(_STOPS_AT_ONCE):
                stopping.create_task(self._stop_all(left))

    async def _stop_all(self, left: Iterator[Reading]) -> None:
        for reading in left:
            if reading.exchange is not None:
                await self._until_headed(reading)
            if self._is_ended:
                reading.leave()
            else:
                reading.fail(UNFINISHED)
            if reading.stream_id:
                await self._stop(reading.stream_id)

    async def _until_headed(self, reading: Reading) -> None:
        """Wait for the head of an answer that is on its way: without its id it can't be stopped."""
        try:
            async with asyncio.timeout(_STOP_S):
                await reading.headed.wait()
        except TimeoutError:
            return

    async def _stop(self, stream_id: str) -> bool:
        """Ask the target to end an answer; tell whether it says that it did."""
        stopped = _Stopped()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._client.send(self._target.stop(stream_id), stopped)
                await stopped.ended.wait()
        except (UpstreamError, TimeoutError):
            return False
        return stopped.status == HTTPStatus.OK

    def _count_unasked(self) -> None:
        """Count the questions of an open load that found no place before the time was up."""
        expected = self._plan.expected
        if self._is_ended or expected is None:
            return
        unasked = max(0, expected - self._tally.asked)
        if unasked:
            self._tally.asked += unasked
            self._tally.errors[NEVER_ASKED] = unasked

    async def _tick(self, on_tick: Callable[[], None]) -> None:
        while True:
            self._deadlines.run(monotonic())
            on_tick()
            await asyncio.sleep(_TICK_S)


class _Stopped:
    """Hears the answer to a stop."""

    def __init__(self) -> None:
        self.status = 0
        self.ended = asyncio.Event()

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:  # noqa: ARG002 - the receiver's signature
        """Take the head."""
        self.status = status

    def on_body(self, chunk: bytes) -> None:
        """The head has said it all."""

    def on_complete(self) -> None:
        """It has come whole."""
        self.ended.set()

    def on_failure(self, failed: Failed) -> None:  # noqa: ARG002 - the receiver's signature
        """It broke, or never came."""
        self.status = 0
        self.ended.set()

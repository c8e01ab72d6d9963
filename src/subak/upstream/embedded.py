"""The upstream that lives in this process: no socket, the same events.

It takes an answer as batches of pieces and hands them to the sink at the set pace, so that a reader can't tell it
from a backend over HTTP: the same tokens, the same sources, one end. One task an exchange reads the batches; the
words themselves come off a timer, so no task wakes up for a token. It knows nothing of what answers: that is handed
in.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final, Protocol

import msgspec

from subak.core.clock import Clock
from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import DONE, TOKEN, Ending, Event, Failed, Finished, FinishReason, UpstreamSink
from subak.core.question import Question

MAX_BACKLOG_PIECES: Final = 1_024
"""An answer that comes faster than it is passed on is read no further while this much waits, give or take a batch."""
MAX_BATCH_PIECES: Final = 64
"""What one turn of the event loop passes on at most when no pace is set."""


class Piece(Protocol):
    """One item of an answer. `data` is its JSON; of the last one, `done`, the finish reason."""

    @property
    def type(self) -> str:
        """`token`, `sources` or `done`."""

    @property
    def data(self) -> bytes:
        """JSON, UTF-8."""

    @property
    def size_bytes(self) -> int:
        """What the piece would take on a wire."""


class Answerer(Protocol):
    """What answers."""

    def answer(self, question: Question) -> AsyncGenerator[Sequence[Piece], None]:
        """Give batches of pieces; nothing after `done`.

        Raises:
            UpstreamError: while iterating: it can't answer, or broke off.
        """


class Timer(Protocol):
    """A call-back to come."""

    def cancel(self) -> None:
        """Let it not come."""


Schedule = Callable[[float, Callable[[], None]], Timer]
"""`asyncio.AbstractEventLoop.call_later`, or a test's own."""


class EmbeddedUpstream:
    """Answers from within. `pace_ms` is the pause between two tokens; 0 passes on whatever is there.

    `tasks` is where exchanges run; `close` ends them all. An answer that has a pace of its own (a model's) wants 0.
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        pace_ms: float,
        schedule: Schedule | None = None,
    ) -> None:
        self._answerer = answerer
        self._tasks = tasks
        self._clock = clock
        self._pace_s = pace_ms / 1000
        self._schedule = schedule
        self._exchanges: set[EmbeddedExchange] = set()

    def check(self, question: Question) -> None:
        """Take any question."""

    async def open(self, question: Question, sink: UpstreamSink) -> "EmbeddedExchange":
        """Begin to answer; everything else reaches the sink, later. Never raises."""
        schedule = self._schedule or asyncio.get_running_loop().call_later
        exchange = EmbeddedExchange(sink, self._clock, self._pace_s, schedule, self._exchanges.discard)
        self._exchanges.add(exchange)
        exchange.task = self._tasks.create_task(exchange.read(self._answerer.answer(question)))
        return exchange

    async def close(self) -> None:
        """Abort what is under way."""
        for exchange in tuple(self._exchanges):
            exchange.abort()


class EmbeddedExchange:
    """One answer under way. `on_end` is called once, when it is over, by whatever end."""

    __slots__ = (
        "_backlog",
        "_clock",
        "_ending",
        "_has_begun",
        "_is_over",
        "_is_paused",
        "_on_end",
        "_pace_s",
        "_room",
        "_schedule",
        "_sink",
        "_timer",
        "task",
    )

    def __init__(
        self,
        sink: UpstreamSink,
        clock: Clock,
        pace_s: float,
        schedule: Schedule,
        on_end: Callable[["EmbeddedExchange"], None],
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        self._sink = sink
        self._clock = clock
        self._pace_s = pace_s
        self._schedule = schedule
        self._on_end = on_end
        self._backlog: deque[Piece] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._ending: Failed | None = None
        self._timer: Timer | None = None
        self._has_begun = False
        self._is_paused = False
        self._is_over = False

    def abort(self) -> None:
        """Stop answering at once; the sink is not called any more. Idempotent."""
        if self._is_over:
            return
        self._finish()
        if self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        """Pass nothing on until `resume`; what answers is held back once the backlog is full. Idempotent."""
        self._is_paused = True
        self._stop_timer()

    def resume(self) -> None:
        """Go on. Idempotent."""
        if not self._is_paused:
            return
        self._is_paused = False
        self._wake(0)

    async def read(self, batches: AsyncGenerator[Sequence[Piece], None]) -> None:
        """Take the answer as it comes. The root of a task: it raises nothing but its own cancellation."""
        try:
            await self._take(batches)
        except UpstreamError as error:
            self._fail(Failed(error.error_code, error.reason, error.retry_after_s))
        except Exception as error:  # noqa: BLE001 - a task's root: the reader gets a typed end, the operator the kind
            self._fail(Failed(ErrorCode.INTERNAL_ERROR, "answerer_crash"))
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the embedded answerer raised {type(error).__name__} (its text may hold content)"}
            )
        else:
            self._fail(Failed(ErrorCode.UPSTREAM_TRUNCATED, "no_done"))

    async def _take(self, batches: AsyncGenerator[Sequence[Piece], None]) -> None:
        async with aclosing(batches) as answer:
            async for batch in answer:
                await self._room.wait()
                if self._is_over:
                    return
                self._backlog += batch
                if len(self._backlog) >= MAX_BACKLOG_PIECES:
                    self._room.clear()
                self._wake(self._pace_s if self._has_begun else 0)

    def _fail(self, ending: Failed) -> None:
        """Keep the end until what came before it has been passed on. After a `done` it says nothing."""
        if self._is_over:
            return
        self._ending = ending
        self._wake(0)

    def _wake(self, delay_s: float) -> None:
        if self._timer is None and not self._is_paused and not self._is_over:
            self._timer = self._schedule(delay_s, self._pass_on)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pass_on(self) -> None:
        """Hand the sink what is due: one token, or without a pace a bounded batch; what isn't a token comes along."""
        self._timer = None
        events: list[Event] = []
        size_bytes = 0
        ending: Ending | None = None
        most = 1 if self._pace_s else MAX_BATCH_PIECES
        now_ms = self._clock.time_ms()
        while self._backlog and ending is None:
            piece = self._backlog[0]
            if piece.type == TOKEN and len(events) >= most:
                break
            self._backlog.popleft()
            size_bytes += piece.size_bytes
            if piece.type == DONE:
                ending = Finished(msgspec.json.decode(piece.data, type=FinishReason))
            else:
                events.append(Event(piece.type, piece.data, now_ms))
        if not self._backlog and ending is None:
            ending = self._ending
        self._deliver(events, ending, size_bytes)

    def _deliver(self, events: list[Event], ending: Ending | None, size_bytes: int) -> None:
        if ending is not None:
            self._finish()
        if len(self._backlog) < MAX_BACKLOG_PIECES:
            self._room.set()
        if events or ending is not None:
            self._has_begun = True
            self._sink.on_read(events, ending, size_bytes)
        if self._backlog or self._ending is not None:
            self._wake(self._pace_s)

    def _finish(self) -> None:
        self._is_over = True
        self._stop_timer()
        self._backlog.clear()
        self._room.set()
        self._on_end(self)

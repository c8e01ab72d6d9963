"""The publisher: reads the upstream once and writes the log.

It is the upstream's sink, so a token goes from the upstream's socket to the log, and from there to the readers, in
one synchronous call: no task wakes up for it. It alone appends, and it ends its stream exactly once (PROTOCOL §3). It
knows no reader: whether anybody listens is its stream's business.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from subak.core.clock import Clock
from subak.core.envelope import StreamMetrics, done_event, error_event, metadata_event
from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import TOKEN, Ending, Event, Failed, Finished, FinishReason
from subak.core.facts import Crashed, Observer, StreamEnded
from subak.core.lifecycle import TRANSITIONS, Signal, Status, signal_of
from subak.core.question import Question
from subak.relay.crash import crash_site
from subak.replay.base import StreamLog
from subak.upstream.base import Exchange, Upstream


class StreamBounds(msgspec.Struct, frozen=True):
    """What one stream may grow to: events, bytes of memory, seconds. Past any of them it ends with `too_long`."""

    max_events: int
    max_bytes: int
    max_age_s: float


class Origin(msgspec.Struct, frozen=True):
    """Where a stream came from: labels for facts and for the metadata event."""

    connection_id: str
    route: str


class Publisher:
    """Writes one stream. `on_end` is called once, after the terminal event was appended."""

    __slots__ = (
        "_admitted_at",
        "_asking",
        "_bounds",
        "_clock",
        "_exchange",
        "_first_token_ms",
        "_is_paused",
        "_log",
        "_observer",
        "_on_end",
        "_origin",
        "_size_bytes",
        "_tokens",
        "status",
    )

    def __init__(
        self,
        log: StreamLog,
        origin: Origin,
        bounds: StreamBounds,
        *,
        clock: Clock,
        observer: Observer,
        on_end: Callable[[], None],
    ) -> None:
        """Append the metadata event, so that a cursor exists before the upstream is asked."""
        self.status = Status.CONNECTING
        self._log = log
        self._origin = origin
        self._bounds = bounds
        self._clock = clock
        self._observer = observer
        self._on_end = on_end
        self._asking: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._is_paused = False
        self._admitted_at = clock.monotonic()
        self._first_token_ms: float | None = None
        self._tokens = 0
        self._size_bytes = 0
        log.append((metadata_event(log.meta.stream_id, origin.connection_id, clock.time_ms()),))

    @property
    def is_live(self) -> bool:
        """Whether the terminal event is still to come."""
        return self.status.is_open

    @property
    def expires_at(self) -> float:
        """When the stream is over at the latest, in monotonic seconds."""
        return self._admitted_at + self._bounds.max_age_s

    def start(self, tasks: asyncio.TaskGroup, upstream: Upstream, question: Question) -> None:
        """Put the question to the upstream, in a task that lives until it is on its way."""
        self._asking = tasks.create_task(self._ask(upstream, question))

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Take what one read of the upstream brought (see `UpstreamSink`)."""
        if not self.status.is_open:
            return
        self._size_bytes += size_bytes
        if events and self.status is Status.CONNECTING:
            self.status = TRANSITIONS[self.status, Signal.ANSWERED]
        for event in events:
            if event.type == TOKEN:
                self._count_token()
        if ending is not None:
            self._end(ending, events)
        elif events:
            self._log.append(events)
            if self._is_too_long():
                self.fail(ErrorCode.TOO_LONG, "stream_bounds")

    def pause(self) -> None:
        """Let TCP hold the upstream back. Idempotent."""
        if self._is_paused:
            return
        self._is_paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume(self) -> None:
        """Read on. Idempotent."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._exchange is not None:
            self._exchange.resume()

    def stop(self, reason: FinishReason) -> None:
        """End the stream on purpose: abort the upstream at once, keep what came. Without effect once it has ended."""
        self._cut(Finished(reason))

    def fail(self, code: ErrorCode, reason: str) -> None:
        """End the stream as broken, from our side. Without effect once it has ended."""
        self._cut(Failed(code, reason))

    def crash(self, error: Exception) -> None:
        """End the stream because of a defect of ours, and report its place."""
        self._observer.notify(Crashed(type(error).__name__, crash_site(error)))
        self.fail(ErrorCode.INTERNAL_ERROR, "crash")

    async def _ask(self, upstream: Upstream, question: Question) -> None:
        try:
            exchange = await upstream.open(question, self)
        except UpstreamError as error:
            self._end(Failed(error.error_code, error.reason, error.retry_after_s))
        except Exception as error:  # noqa: BLE001 - a task's root: the reader gets a typed end, the operator the place
            self._asking = None
            self.crash(error)
        else:
            self._asking = None
            self._adopt(exchange)

    def _adopt(self, exchange: Exchange) -> None:
        if not self.status.is_open:
            exchange.abort()
            return
        self._exchange = exchange
        if self._is_paused:
            exchange.pause()

    def _count_token(self) -> None:
        self._tokens += 1
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()

    def _is_too_long(self) -> bool:
        return self._log.last_seq >= self._bounds.max_events or self._log.size_bytes >= self._bounds.max_bytes

    def _elapsed_ms(self) -> float:
        return round((self._clock.monotonic() - self._admitted_at) * 1000, 1)

    def _cut(self, ending: Ending) -> None:
        if not self.status.is_open:
            return
        if self._asking is not None:
            self._asking.cancel()
        if self._exchange is not None:
            self._exchange.abort()
        self._end(ending)

    def _end(self, ending: Ending, last_events: Sequence[Event] = ()) -> None:
        if not self.status.is_open:
            return
        signal = Signal.FAILED if isinstance(ending, Failed) else signal_of(ending.reason)
        self.status = TRANSITIONS[self.status, signal]
        self._asking = self._exchange = None
        self._log.append([*last_events, self._terminal_event(ending)])
        self._observer.notify(self._account(ending))
        self._on_end()

    def _terminal_event(self, ending: Ending) -> Event:
        now_ms = self._clock.time_ms()
        if isinstance(ending, Failed):
            return error_event(ending, self._origin.connection_id, now_ms)
        metrics = StreamMetrics(self._first_token_ms, self._tokens, self._size_bytes, self._elapsed_ms())
        return done_event(ending.reason, metrics, ending.usage, now_ms)

    def _account(self, ending: Ending) -> StreamEnded:
        return StreamEnded(
            stream_id=self._log.meta.stream_id,
            connection_id=self._origin.connection_id,
            route=self._origin.route,
            outcome=ending.code if isinstance(ending, Failed) else ending.reason,
            reason=ending.reason if isinstance(ending, Failed) else "",
            tokens=self._tokens,
            size_bytes=self._size_bytes,
            first_token_ms=self._first_token_ms,
            duration_ms=self._elapsed_ms(),
        )

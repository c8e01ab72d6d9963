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
from subak.core.events import Ending, Event, Failed, Finished, FinishReason
from subak.core.facts import NOBODY, Crashed, Observer, Person, StreamEnded, TokensTimed
from subak.core.ledger import Commitment
from subak.core.lifecycle import TRANSITIONS, Signal, Status, signal_of
from subak.core.live import LiveStream
from subak.core.question import Question
from subak.core.trace import TraceContext
from subak.relay.crash import crash_site
from subak.relay.progress import Progress
from subak.replay.base import StreamLog
from subak.upstream.base import Exchange, Upstream


class StreamBounds(msgspec.Struct, frozen=True):
    """What one stream may grow to: events, bytes of memory, seconds. Past any of them it ends with `too_long`."""

    max_events: int
    max_bytes: int
    max_age_s: float


class Origin(msgspec.Struct, frozen=True):
    """Where a stream came from: labels for facts and for the metadata event. `arm` is the rollout's.

    `requested_at`: when its request came, in monotonic seconds; None for "now".
    """

    connection_id: str
    route: str
    arm: str = "on"
    who: Person = NOBODY
    requested_at: float | None = None
    trace: TraceContext | None = None


class Publisher:
    """Writes one stream. `on_end` is called once, after the terminal event was appended.

    `read_upto`: while nobody reads, how far somebody has read (a seq); None while somebody does.
    """

    __slots__ = (
        "_admitted_at",
        "_asking",
        "_bounds",
        "_clock",
        "_exchange",
        "_held",
        "_is_flowing",
        "_is_paused",
        "_log",
        "_observer",
        "_on_end",
        "_origin",
        "_progress",
        "_recorded",
        "read_upto",
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
        self.read_upto: int | None = 0
        self._log = log
        self._origin = origin
        self._bounds = bounds
        self._clock = clock
        self._observer = observer
        self._on_end = on_end
        self._asking: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._is_flowing = False
        self._is_paused = False
        self._held: list[tuple[Sequence[Event], Ending | None, int]] | None = None
        self._recorded: Commitment | None = None
        self._admitted_at = clock.monotonic()
        self._progress = Progress(self._admitted_at if origin.requested_at is None else origin.requested_at)
        log.append((metadata_event(log.meta.stream_id, origin.connection_id, clock.time_ms()),))

    @property
    def is_live(self) -> bool:
        """Whether the terminal event is still to come."""
        return self.status.is_open

    @property
    def expires_at(self) -> float:
        """When the stream is over at the latest, in monotonic seconds."""
        return self._admitted_at + self._bounds.max_age_s

    def look(self, now: float, *, readers: int) -> LiveStream:
        """Tell how the stream stands at `now` (monotonic seconds), which so many read."""
        return LiveStream(
            stream_id=self._log.meta.stream_id,
            route=self._origin.route,
            arm=self._origin.arm,
            status=self.status,
            age_s=round(self._progress.elapsed_ms(now) / 1000, 3),
            tokens=self._progress.tokens,
            size_bytes=self._progress.size_bytes,
            first_token_ms=self._progress.first_token_ms,
            readers=readers,
        )

    def start(
        self, tasks: asyncio.TaskGroup, upstream: Upstream, question: Question, recorded: Commitment | None = None
    ) -> None:
        """Put the question to the upstream, in a task that lives until it is on its way.

        Nothing of the answer is released before `recorded` is done; if it fails, there is none.
        """
        if recorded is not None:
            self._held = []
            self._recorded = recorded
            recorded.when_done(self._on_recorded)
        self._asking = tasks.create_task(self._ask(upstream, question))

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Take what one read of the upstream brought (see `UpstreamSink`): the hot path."""
        if not self._is_flowing:
            self._take_early(events, ending, size_bytes)
            return
        progress, log, bounds = self._progress, self._log, self._bounds
        progress.size_bytes += size_bytes
        if events and progress.count(events, self._clock.monotonic()):
            self._tell_gaps()
        if ending is not None:
            self._end(ending, events)
        elif events:
            log.append(events)
            if log.last_seq >= bounds.max_events or log.size_bytes >= bounds.max_bytes:
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

    def _take_early(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Take what comes before the answer flows: hold it until the start is on record. After the end take nothing."""
        if not self.status.is_open:
            return
        if self._held is not None:
            self._held.append((events, ending, size_bytes))
            self._note_arrival()
            self._wait_for_record(ending)
        elif events:
            self._on_first_read(events, ending, size_bytes)
        else:
            self._progress.size_bytes += size_bytes
            if ending is not None:
                self._end(ending)

    def _wait_for_record(self, ending: Ending | None) -> None:
        """Take no more of the answer than has come; one that has ended has nothing left to pause."""
        if ending is None:
            self.pause()
        else:
            self._exchange = None

    def _on_recorded(self, is_recorded: bool) -> None:  # noqa: FBT001 - a call-back's one argument
        held, self._held = self._held, None
        if not is_recorded:
            self.fail(ErrorCode.AUDIT_UNAVAILABLE, "start_not_recorded")
            return
        for events, ending, size_bytes in held or ():
            self.on_read(events, ending, size_bytes)
        self.resume()

    async def _ask(self, upstream: Upstream, question: Question) -> None:
        self._progress.asked_at = self._clock.monotonic()
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

    def _note_arrival(self) -> None:
        if self._progress.arrived_at is None:
            self._progress.arrived_at = self._clock.monotonic()

    def _on_first_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Take the first events as any others, and note when they had been passed on."""
        self.status = TRANSITIONS[self.status, Signal.ANSWERED]
        self._is_flowing = True
        self._note_arrival()
        self.on_read(events, ending, size_bytes)
        self._progress.written_at = self._clock.monotonic()

    def _tell_gaps(self) -> None:
        gaps_us = self._progress.take_gaps_us()
        if gaps_us:
            self._observer.notify(TokensTimed(self._origin.route, self._origin.arm, gaps_us))

    @property
    def _tokens_unread(self) -> int:
        """How many tokens of an answer that was given up nobody has got, and nobody is about to get."""
        if self.read_upto is None or self.status not in {Status.ABANDONED, Status.CANCELLED}:
            return 0
        return self._progress.tokens_after(self.read_upto)

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
        self._is_flowing = False
        self._asking = self._exchange = None
        self._log.append([*last_events, self._terminal_event(ending)])
        self._tell_gaps()
        self._observer.notify(self._account(ending))
        self._on_end()

    def _terminal_event(self, ending: Ending) -> Event:
        now_ms = self._clock.time_ms()
        if isinstance(ending, Failed):
            return error_event(ending, self._origin.connection_id, now_ms)
        progress = self._progress
        elapsed_ms = progress.elapsed_ms(self._clock.monotonic())
        metrics = StreamMetrics(progress.first_token_ms, progress.tokens, progress.size_bytes, elapsed_ms)
        receipt = None if self._recorded is None else self._recorded.receipt()
        return done_event(ending.reason, metrics, ending.usage, now_ms, receipt)

    def _account(self, ending: Ending) -> StreamEnded:
        progress, now = self._progress, self._clock.monotonic()
        return StreamEnded(
            stream_id=self._log.meta.stream_id,
            connection_id=self._origin.connection_id,
            route=self._origin.route,
            outcome=ending.code if isinstance(ending, Failed) else ending.reason,
            reason=ending.reason if isinstance(ending, Failed) else "",
            tokens=progress.tokens,
            size_bytes=progress.size_bytes,
            first_token_ms=progress.first_token_ms,
            duration_ms=progress.elapsed_ms(now),
            arm=self._origin.arm,
            inter_token_ms=progress.inter_token_ms,
            gateway_ms=progress.gateway_ms(now),
            tokens_unread=self._tokens_unread,
            who=self._origin.who,
            trace=self._origin.trace,
        )

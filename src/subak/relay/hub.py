"""The hub: joins publishers and subscribers, and knows every live stream.

It opens streams, attaches readers to them by cursor, stops them for those who may, and drains. Publisher and
subscriber never meet: between them stands the log (PROTOCOL, law 1).
"""

import asyncio
import secrets
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import msgspec

from subak.core.backoff import jittered_retry_ms
from subak.core.clock import Clock
from subak.core.cursor import ENTROPY_BYTES, Cursor, make_stream_id, make_tag, tag_of
from subak.core.deadlines import Deadlines
from subak.core.envelope import encode_frames, encode_heartbeat, frame_head, snapshot_frame, text_of
from subak.core.errors import CursorAhead, CursorExpired, Draining, ErrorCode, StreamNotFound
from subak.core.events import DONE, ERROR, Event, FinishReason
from subak.core.facts import (
    DrainEnded,
    DrainStarted,
    Observer,
    Person,
    ReaderAttached,
    ReaderLeft,
    StopRequested,
    StreamOpened,
)
from subak.core.ledger import Ledger, NoLedger
from subak.core.lifecycle import OnDisconnect, Status, status_of
from subak.core.live import LiveReader, LiveStream, Load
from subak.core.principal import Principal
from subak.core.question import Question
from subak.core.randomness import Randomness
from subak.relay.publisher import Origin, Publisher, StreamBounds
from subak.relay.stream import Stream
from subak.relay.subscriber import Departure, Outlet, ReaderTimes, Subscriber
from subak.replay.base import IdempotencyKey, Known, ReplayStore, StreamLog, StreamMeta, Tombstone
from subak.upstream.base import Upstream


class HubTimes(msgspec.Struct, frozen=True):
    """What streams and responses are held to. Seconds, bytes and milliseconds as the names say."""

    bounds: StreamBounds
    reader: ReaderTimes
    grace_s: float
    max_lag_bytes: int
    retry_min_ms: int
    retry_max_ms: int


class Opened(NamedTuple):
    """A question's stream. `is_replay` when its key was known and nothing new was asked."""

    stream_id: str
    is_replay: bool


class AlreadyRead(NamedTuple):
    """The cursor is the stream's end: there is nothing to send, and never will be."""


class Recap(NamedTuple):
    """All that is left of a stream whose log has gone, as frames: a snapshot and the terminal event."""

    frames: bytes


class StreamState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of `GET /v1/streams/{id}`. `text` is the answer so far."""

    id: str
    status: Status
    last_seq: int
    text: str
    finish_reason: FinishReason | None = None
    error: msgspec.Raw | None = None


class StopResult(msgspec.Struct, frozen=True):
    """The body of a stop's answer."""

    status: Status
    last_seq: int


class _DoneData(msgspec.Struct):
    finish_reason: FinishReason


_decode_done = msgspec.json.Decoder(_DoneData).decode


class _Terms(NamedTuple):
    """What one stream is opened with (see `Hub.open`)."""

    on_disconnect: OnDisconnect
    likeness: bytes | None
    on_end: Callable[[], None] | None


class _Labels(NamedTuple):
    """What facts tell of a response beside its stream."""

    connection_id: str
    is_resume: bool
    who: Person


class Reading:
    """One response's reading of a log, from attach to departure."""

    __slots__ = ("_cursor", "_hub", "_labels", "_opening", "_stream", "_subscriber", "retry_ms")

    def __init__(
        self,
        hub: "Hub",
        subscriber: Subscriber,
        stream: Stream | None,
        labels: _Labels,
        *,
        opening: bytes,
        retry_ms: int,
    ) -> None:
        """`stream` is None for an ended log; `opening` goes before the log's own frames."""
        self.retry_ms = retry_ms
        self._hub = hub
        self._subscriber = subscriber
        self._stream = stream
        self._opening = opening
        self._labels = labels
        self._cursor = subscriber.cursor

    @property
    def subscriber(self) -> Subscriber:
        """Who is to hear of the outlet's state."""
        return self._subscriber

    async def first_frames(self) -> bytes:
        """Give what goes out with the headers: never empty, so that no proxy sees a silent response."""
        frames = self._opening + await self._subscriber.first_batch()
        return frames or encode_heartbeat(self._cursor, self._hub.clock.time_ms())

    async def run(self, outlet: Outlet) -> Departure:
        """Read until the stream's end or the reader's."""
        subscriber = self._subscriber
        self._enter()
        try:
            await subscriber.run(outlet)
        finally:
            departure = subscriber.departure or Departure.LOST
            self._leave(departure)
        return departure

    def miss(self) -> None:
        """Take note of a client that went before its first byte: it has come and left, and nobody waits for it."""
        self._enter()
        self._leave(Departure.LOST)

    def _enter(self) -> None:
        connection_id, is_resume, who = self._labels
        self._hub.enter(self._subscriber, self._stream)
        self._hub.observer.notify(ReaderAttached(self._stream_id, connection_id, self._cursor, is_resume, who))

    def _leave(self, departure: Departure) -> None:
        self._hub.leave(self._subscriber, self._stream, departure)
        connection_id = self._labels.connection_id
        self._hub.observer.notify(ReaderLeft(self._stream_id, connection_id, departure, self._subscriber.cursor))

    @property
    def _stream_id(self) -> str:
        return self._subscriber.log.meta.stream_id


Attachment = Reading | Recap | AlreadyRead


class Hub:
    """All streams of this process. Everything here runs in one event loop."""

    def __init__(  # noqa: PLR0913 - it joins all of them, that is its work
        self,
        *,
        store: ReplayStore,
        upstream: Upstream,
        times: HubTimes,
        clock: Clock,
        deadlines: Deadlines,
        observer: Observer,
        tasks: asyncio.TaskGroup,
        chance: Callable[[], float],
        ledger: Ledger | None = None,
    ) -> None:
        """`chance` gives numbers in [0, 1) for jitter; `tasks` outlives the hub; starts are recorded in `ledger`."""
        self.observer = observer
        self.is_draining = False
        self._store = store
        self._upstream = upstream
        self._times = times
        self.clock = clock
        self._deadlines = deadlines
        self._tasks = tasks
        self._chance = chance
        self._ledger = ledger or NoLedger()
        self._randomness = Randomness(secrets.token_bytes)
        self._tag = make_tag(self._randomness.take(6))
        self._streams: dict[str, Stream] = {}
        self._readers: dict[Subscriber, None] = {}
        self._orphans: dict[bytes, tuple[str, float]] = {}
        self._owed: set[str] = set()
        self._changed = asyncio.Event()

    @property
    def live_count(self) -> int:
        """How many streams are under way."""
        return len(self._streams)

    @property
    def reader_count(self) -> int:
        """How many responses are being written."""
        return len(self._readers)

    @property
    def orphan_count(self) -> int:
        """How many streams that lost their last reader are remembered for `lookup_orphan`."""
        return len(self._orphans)

    def load(self) -> Load:
        """Tell how much is under way."""
        lags = [reader.lag_bytes for reader in self._readers]
        buffered_bytes = sum([reader.buffered_bytes for reader in self._readers])
        return Load(len(self._streams), len(lags), sum(lags), max(lags, default=0), buffered_bytes)

    def live_streams(self, limit: int) -> list[LiveStream]:
        """Tell how streams under way stand, the oldest first."""
        now = self.clock.monotonic()
        return [stream.look(now) for stream in islice(self._streams.values(), limit)]

    def live_readers(self, limit: int) -> list[LiveReader]:
        """Tell how responses under way stand, the oldest first."""
        now = self.clock.monotonic()
        return [self._look_at(reader, now) for reader in islice(self._readers, limit)]

    def configure(self, upstream: Upstream, times: HubTimes) -> None:
        """Take these for streams and readers to come; those under way keep what they began with."""
        self._upstream = upstream
        self._times = times

    async def open(
        self,
        question: Question,
        principal: Principal,
        origin: Origin,
        *,
        on_disconnect: OnDisconnect,
        key: IdempotencyKey | None = None,
        likeness: bytes | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Opened:
        """Begin a stream and ask its question, or find the one that the key stands for.

        `likeness`: see `lookup_orphan`. `on_end` is called once, after the stream's end, unless it isn't begun.

        Raises:
            Draining, BudgetExhausted: no new streams for now.
            KeyReused: the key was used for another question.
            CursorExpired: the key's stream is gone altogether.
            QuestionTooLong: the upstream can't be asked this.
            AuditUnavailable: its start couldn't be recorded.
        """
        if self.is_draining:
            raise Draining("This server is being restarted. Please try again.", retry_after_s=1)
        self._ledger.check()
        self._upstream.check(question)
        stream_id = make_stream_id(self._tag, self._randomness.take(ENTROPY_BYTES))
        meta = StreamMeta(stream_id, principal.id, self.clock.time_ms())
        creation = await self._store.create(meta, key)
        if isinstance(creation, Known):
            return Opened(creation.stream_id, is_replay=True)
        self._begin(creation.log, question, origin, _Terms(on_disconnect, likeness, on_end))
        return Opened(stream_id, is_replay=False)

    async def lookup_key(self, key: IdempotencyKey) -> str | None:
        """Give the stream that a key stands for, if asking again would be wrong.

        Raises:
            KeyReused: the key was used for another question.
            CursorExpired: the key's stream is gone altogether.
        """
        return await self._store.lookup_key(key)

    def lookup_orphan(self, likeness: bytes) -> str | None:
        """Give the stream of this likeness that lost its last reader less than the grace time ago, once.

        A browser that was cut before it saw a cursor asks its question again, in the same words: it gets its answer,
        not a second one.
        """
        stream_id, left_at = self._orphans.pop(likeness, ("", 0.0))
        return stream_id if stream_id and self.clock.monotonic() < left_at + self._times.grace_s else None

    async def attach(
        self,
        stream_id: str,
        cursor: Cursor | None,
        principal: Principal,
        *,
        connection_id: str,
        takes_snapshot: bool = False,
        expires_at: float | None = None,
    ) -> Attachment:
        """Read a stream after `cursor`, from its beginning without one.

        With `takes_snapshot` a gap is bridged by a snapshot of the text instead of refused. `expires_at` (monotonic
        seconds) is when the reader's credentials no longer hold.

        Raises:
            StreamNotFound: it never existed, or isn't the principal's.
            CursorAhead: the cursor is past the log's end.
            CursorExpired: it is no longer kept, or was an earlier process'.
        """
        found = await self._find(stream_id, principal)
        after = 0 if cursor is None else cursor.seq
        if isinstance(found, Tombstone):
            return self._attach_to_tombstone(found, after, takes_snapshot=takes_snapshot)
        if after == found.last_seq and found.is_ended:
            return self._already_read(stream_id)
        opening = b""
        if after > found.last_seq:
            if not takes_snapshot:
                raise CursorAhead("The cursor is past the newest event of this stream.")
            after, opening = await self._snapshot(found)
        labels = _Labels(connection_id, is_resume=cursor is not None, who=_person(principal))
        return self._reading(found, after, opening, labels, expires_at)

    async def state(self, stream_id: str, principal: Principal) -> StreamState:
        """Give a stream's state and text so far.

        Raises:
            StreamNotFound, CursorExpired: as in `attach`; the latter also when the text had to make room.
        """
        found = await self._find(stream_id, principal)
        if isinstance(found, Tombstone):
            if found.text is None:
                raise _expired(stream_id)
            return _state(found.meta, Status.COMPLETED, found.last_seq, found.text.decode(), found.ending)
        events = await found.events()
        live = self._streams.get(stream_id)
        status = live.publisher.status if live is not None else Status.STREAMING
        return _state(found.meta, status, len(events), text_of(events), events[-1])

    async def check_use(self, stream_id: str, principal: Principal) -> None:
        """Return if the principal may read and stop the stream.

        Raises:
            StreamNotFound, CursorExpired: as in `attach`.
        """
        await self._find(stream_id, principal)

    async def stop(self, stream_id: str, principal: Principal) -> StopResult:
        """End a stream for somebody who may; idempotent.

        Raises:
            StreamNotFound, CursorExpired: as in `attach`.
        """
        found = await self._find(stream_id, principal)
        live = self._streams.get(stream_id)
        self.observer.notify(StopRequested(stream_id, was_live=live is not None, who=_person(principal)))
        if live is not None:
            live.publisher.stop(FinishReason.CANCELLED)
        if isinstance(found, Tombstone):
            return StopResult(_ended_status(found.ending), found.last_seq)
        events = await found.events()
        return StopResult(_ended_status(events[-1]), len(events))

    async def drain(self, limit_s: float) -> None:
        """Take no new streams, send readers away with a `retry:`, let answers finish within `limit_s` seconds.

        Readers that come back meanwhile are served. What is still live at the limit ends as `producer_lost`.
        """
        self.is_draining = True
        self.observer.notify(DrainStarted(len(self._streams), len(self._readers)))
        self._owed = {reader.log.meta.stream_id for reader in self._readers}
        for reader in tuple(self._readers):
            reader.dismiss(Departure.DRAIN)
        try:
            async with asyncio.timeout(limit_s):
                while self._streams or self._owed:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        self.observer.notify(DrainEnded(self.close()))

    def close(self) -> int:
        """End what is still live as `producer_lost`, now, and take nothing new; give how many there were."""
        self.is_draining = True
        lost = tuple(self._streams.values())
        for stream in lost:
            stream.publisher.fail(ErrorCode.PRODUCER_LOST, "drain_limit")
        return len(lost)

    def enter(self, reader: Subscriber, stream: Stream | None) -> None:
        """A response begins to read."""
        self._readers[reader] = None
        self._deadlines.watch(reader, reader.next_deadline(self.clock.monotonic()))
        if stream is not None:
            stream.join(reader)
            if stream.likeness is not None:
                self._orphans.pop(stream.likeness, None)

    def leave(self, reader: Subscriber, stream: Stream | None, departure: Departure) -> None:
        """A response is over."""
        self._readers.pop(reader, None)
        self._deadlines.forget(reader)
        if departure is Departure.COMPLETED:
            self._owed.discard(reader.log.meta.stream_id)
        if stream is not None:
            stream.leave(reader)
            self._note_orphan(stream)
        self._changed.set()

    def _note_orphan(self, stream: Stream) -> None:
        """Remember a live stream without readers; forget those whose grace time is over, the oldest first."""
        if stream.likeness is None or not stream.is_abandoned_for_now:
            return
        now = self.clock.monotonic()
        over: list[bytes] = []
        self._orphans[stream.likeness] = (stream.log.meta.stream_id, now)
        for likeness, (_, left_at) in self._orphans.items():
            if now < left_at + self._times.grace_s:
                break
            over.append(likeness)
        for likeness in over:
            del self._orphans[likeness]

    def _look_at(self, reader: Subscriber, now: float) -> LiveReader:
        stream = self._streams.get(reader.log.meta.stream_id)
        return reader.look(now, None if stream is None else stream.look(now))

    def _begin(self, log: StreamLog, question: Question, origin: Origin, terms: _Terms) -> None:
        stream_id = log.meta.stream_id
        publisher = Publisher(
            log,
            origin,
            self._times.bounds,
            clock=self.clock,
            observer=self.observer,
            on_end=_End(self, stream_id, terms.on_end),
        )
        stream = Stream(
            log,
            publisher,
            on_disconnect=terms.on_disconnect,
            grace_s=self._times.grace_s,
            max_lag_bytes=self._times.max_lag_bytes,
            clock=self.clock,
            deadlines=self._deadlines,
        )
        stream.likeness = terms.likeness
        self._streams[stream_id] = stream
        opened = StreamOpened(stream_id, origin.connection_id, origin.route, origin.who, origin.arm)
        self.observer.notify(opened)
        publisher.start(self._tasks, self._upstream, question, self._ledger.begin(opened))

    def forget(self, stream_id: str) -> None:
        """A stream has ended."""
        self._streams.pop(stream_id).close()
        self._changed.set()

    async def _find(self, stream_id: str, principal: Principal) -> StreamLog | Tombstone:
        found = await self._store.find(stream_id)
        if found is None:
            if tag_of(stream_id) != self._tag:
                raise _expired(stream_id)
            raise StreamNotFound("There is no such stream.")
        if not principal.may_use(found.meta.owner):
            raise StreamNotFound("There is no such stream.", foreign_stream_id=stream_id)
        return found

    def _attach_to_tombstone(self, tombstone: Tombstone, after: int, *, takes_snapshot: bool) -> Attachment:
        if after == tombstone.last_seq:
            return self._already_read(tombstone.meta.stream_id)
        if not takes_snapshot or tombstone.text is None:
            raise _expired(tombstone.meta.stream_id)
        head = frame_head(tombstone.meta.stream_id)
        upto = tombstone.last_seq - 1
        snapshot = snapshot_frame(head, tombstone.text.decode(), upto, tombstone.ending.at_ms)
        return Recap(snapshot + encode_frames(head, tombstone.last_seq, (tombstone.ending,)))

    def _already_read(self, stream_id: str) -> AlreadyRead:
        """A reader that was sent away and comes back with the end in hand is owed nothing any more."""
        self._owed.discard(stream_id)
        self._changed.set()
        return AlreadyRead()

    async def _snapshot(self, log: StreamLog) -> tuple[int, bytes]:
        events = await log.events()
        upto = len(events) - 1 if events[-1].is_terminal else len(events)
        return upto, snapshot_frame(log.head, text_of(events), upto, self.clock.time_ms())

    def _reading(
        self, log: StreamLog, after: int, opening: bytes, labels: _Labels, expires_at: float | None
    ) -> Reading:
        stream = self._streams.get(log.meta.stream_id)
        retry_ms = jittered_retry_ms(self._times.retry_min_ms, self._times.retry_max_ms, self._chance())
        subscriber = Subscriber(
            log,
            after,
            times=self._times.reader,
            retry_ms=retry_ms,
            clock=self.clock,
            audience=stream,
            expires_at=expires_at,
        )
        return Reading(self, subscriber, stream, labels, opening=opening, retry_ms=retry_ms)


class _End:
    """What follows a stream's end. As a function with these three in it, it would take 0.3 KB more of each stream."""

    __slots__ = ("_hub", "_on_end", "_stream_id")

    def __init__(self, hub: Hub, stream_id: str, on_end: Callable[[], None] | None) -> None:
        self._hub = hub
        self._stream_id = stream_id
        self._on_end = on_end

    def __call__(self) -> None:
        self._hub.forget(self._stream_id)
        if self._on_end is not None:
            self._on_end()


def _person(principal: Principal) -> Person:
    return Person(principal.id, principal.claims.tenant)


def _expired(stream_id: str) -> CursorExpired:
    return CursorExpired("This part of the stream is no longer kept.", stream_id=stream_id)


def _ended_status(ending: Event) -> Status:
    return Status.FAILED if ending.type == ERROR else status_of(_decode_done(ending.data).finish_reason)


def _state(meta: StreamMeta, status: Status, last_seq: int, text: str, last: Event) -> StreamState:
    if last.type == ERROR:
        return StreamState(meta.stream_id, Status.FAILED, last_seq, text, error=msgspec.Raw(last.data))
    if last.type == DONE:
        reason = _decode_done(last.data).finish_reason
        return StreamState(meta.stream_id, status_of(reason), last_seq, text, finish_reason=reason)
    return StreamState(meta.stream_id, status, last_seq, text)

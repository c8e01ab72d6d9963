"""The replay log in this process' memory: complete, bounded, gone with the process.

A live log is kept whole (the publisher bounds it), an ended one for the replay window, then its text alone as a
tombstone. All logs share one budget in bytes: when it is used up the oldest ended logs go first, then the tombstones'
texts, and then new streams are refused; a live answer is never cut for memory's sake (PROTOCOL §4).
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from subak.core.clock import Clock
from subak.core.envelope import encode_frames, frame_head, text_of
from subak.core.errors import BudgetExhausted, CursorExpired, KeyReused
from subak.core.events import DONE, EVENT_OVERHEAD_BYTES, TERMINAL_TYPES, TOKEN, Event
from subak.replay.base import (
    Batch,
    Created,
    Creation,
    IdempotencyKey,
    Known,
    LogClosed,
    LogReader,
    StreamLog,
    StreamMeta,
    Tombstone,
)

SWEEP_EVERY_S: Final = 1.0
MAX_TOMBSTONES: Final = 100_000
"""The oldest go first: their streams are then unknown (404) instead of expired (410)."""


class MemoryLog:
    """One stream's events in a list; an event's seq is its index plus one."""

    __slots__ = ("_events", "_on_change", "_readers", "head", "is_ended", "last_seq", "meta", "size_bytes")

    def __init__(self, meta: StreamMeta, on_change: Callable[["MemoryLog", int], None]) -> None:
        """`on_change(log, grown_bytes)` is called after each append."""
        self.meta = meta
        self.head = frame_head(meta.stream_id)
        self.size_bytes = 0
        self.last_seq = 0
        """The newest event's seq; 0 when there is none. Kept beside the list: it is asked for with every event."""
        self.is_ended = False
        self._events: list[Event] = []
        self._readers: tuple[LogReader, ...] = ()
        self._on_change = on_change

    def append(self, events: Sequence[Event]) -> int:
        """Add events and hand them to the readers, inside the call; nothing stays unsafe."""
        if self.is_ended:
            raise LogClosed(f"append after the terminal event, at seq {self.last_seq}")
        first_seq = self.last_seq + 1
        self._events += events
        self.last_seq += len(events)
        grown_bytes = size_of(events)
        self.size_bytes += grown_bytes
        self.is_ended = events[-1].type in TERMINAL_TYPES
        if self._readers:
            frames = encode_frames(self.head, first_seq, events)
            batch = Batch(self.last_seq, frames, grown_bytes, self.is_ended)
            for reader in self._readers:
                reader.on_batch(first_seq, batch)
        self._on_change(self, grown_bytes)
        return 0

    def size_after(self, seq: int) -> int:
        """Give the size in bytes of the events after `seq`."""
        return self.size_bytes if seq == 0 else size_of(self._events[seq:])

    async def read(self, after: int, max_bytes: int) -> Batch:
        """Give the next events after seq `after`, at least one, at most about `max_bytes`."""
        size_bytes = 0
        stop = after
        for event in self._events[after:]:
            size_bytes += len(event.data) + EVENT_OVERHEAD_BYTES
            if size_bytes > max_bytes and stop > after:
                break
            stop += 1
        chosen = self._events[after:stop]
        return Batch(
            stop, encode_frames(self.head, after + 1, chosen), size_of(chosen), self.is_ended and stop == self.last_seq
        )

    async def events(self) -> Sequence[Event]:
        """Give all events."""
        return tuple(self._events)

    @property
    def ending(self) -> Event | None:
        """The terminal event, once there is one."""
        return self._events[-1] if self.is_ended else None

    @property
    def may_be_asked_again(self) -> bool:
        """Whether the answer failed in a way that may pass, before its first token (PROTOCOL §4)."""
        ending = self.ending
        if ending is None or ending.type == DONE or any(event.type == TOKEN for event in self._events):
            return False
        return _decode_retryable(ending.data).retryable

    def entomb(self, expires_at: float) -> Tombstone:
        """Give what stays of an ended log."""
        assert self.ending is not None, "only an ended log is entombed"
        return Tombstone(self.meta, self.last_seq, self.ending, text_of(self._events).encode(), expires_at)

    def subscribe(self, reader: LogReader) -> None:
        """Call `reader` for every later append."""
        self._readers = (*self._readers, reader)

    def unsubscribe(self, reader: LogReader) -> None:
        """Call it no more. Idempotent."""
        self._readers = tuple([other for other in self._readers if other is not reader])


class _Retryable(msgspec.Struct):
    retryable: bool


_decode_retryable = msgspec.json.Decoder(_Retryable).decode


def size_of(events: Sequence[Event]) -> int:
    """Give what events take in memory, in bytes."""
    size_bytes = EVENT_OVERHEAD_BYTES * len(events)
    for event in events:
        size_bytes += len(event.data)
    return size_bytes


class _KeyRecord(msgspec.Struct):
    fingerprint: bytes
    stream_id: str
    expires_at: float


class MemoryStore:
    """All logs of one process. Sweeping happens by `on_deadline`, once a second, in order of age: O(1) a stream."""

    def __init__(
        self,
        clock: Clock,
        *,
        budget_bytes: int,
        replay_s: float,
        tombstone_s: float,
        key_ttl_s: float,
        max_keys: int,
    ) -> None:
        """Times in seconds; `max_keys` bounds the idempotency keys, the oldest go first."""
        self._clock = clock
        self._budget_bytes = budget_bytes
        self._replay_s = replay_s
        self._tombstone_s = tombstone_s
        self._key_ttl_s = key_ttl_s
        self._max_keys = max_keys
        self._logs: dict[str, MemoryLog] = {}
        self._ended: deque[tuple[float, MemoryLog]] = deque()
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()
        self._texts: deque[str] = deque()
        self._keys: OrderedDict[bytes, _KeyRecord] = OrderedDict()
        self.size_bytes = 0

    async def create(self, meta: StreamMeta, key: IdempotencyKey | None) -> Creation:
        """Make a log, unless the key's stream stands. Nothing is awaited between look and leap."""
        if key is not None and (known := self._known_stream(key)) is not None:
            return Known(known)
        if self.size_bytes > self._budget_bytes:
            raise BudgetExhausted("Too many answers are under way. Please try again soon.", retry_after_s=5)
        log = MemoryLog(meta, self._on_change)
        self._logs[meta.stream_id] = log
        if key is not None:
            self._remember(key, meta.stream_id)
        return Created(log)

    async def lookup_key(self, key: IdempotencyKey) -> str | None:
        """Give the stream to attach to for this key, or None when asking anew is right."""
        return self._known_stream(key)

    async def find(self, stream_id: str) -> StreamLog | Tombstone | None:
        """Give a stream's log, what stays of it, or None."""
        return self._logs.get(stream_id) or self._tombstones.get(stream_id)

    def on_deadline(self, now: float) -> float:
        """Let go of what is past its window; give the time of the next look."""
        while self._ended and self._ended[0][0] + self._replay_s <= now:
            self._entomb_oldest()
        while self._tombstones and next(iter(self._tombstones.values())).expires_at <= now:
            _, tombstone = self._tombstones.popitem(last=False)
            self._forget_text(tombstone)
        while self._keys and next(iter(self._keys.values())).expires_at <= now:
            self._keys.popitem(last=False)
        while self._texts and self._texts[0] not in self._tombstones:
            self._texts.popleft()
        return now + SWEEP_EVERY_S

    def _known_stream(self, key: IdempotencyKey) -> str | None:
        record = self._keys.get(key.digest)
        if record is None:
            return None
        if record.fingerprint != key.fingerprint:
            raise KeyReused("This Idempotency-Key was used for another question. Take a new key for a new question.")
        log = self._logs.get(record.stream_id)
        if log is not None and log.may_be_asked_again:
            return None
        if log is None and record.stream_id not in self._tombstones:
            raise CursorExpired("The answer to this key is no longer kept.", stream_id=record.stream_id)
        return record.stream_id

    def _remember(self, key: IdempotencyKey, stream_id: str) -> None:
        self._keys.pop(key.digest, None)
        self._keys[key.digest] = _KeyRecord(key.fingerprint, stream_id, self._clock.monotonic() + self._key_ttl_s)
        if len(self._keys) > self._max_keys:
            self._keys.popitem(last=False)

    def _on_change(self, log: MemoryLog, grown_bytes: int) -> None:
        self.size_bytes += grown_bytes
        if log.is_ended:
            self._ended.append((self._clock.monotonic(), log))
        if self.size_bytes > self._budget_bytes:
            self._make_room()

    def _make_room(self) -> None:
        while self.size_bytes > self._budget_bytes and self._ended:
            self._entomb_oldest()
        while self.size_bytes > self._budget_bytes and self._texts:
            self._drop_oldest_text()

    def _entomb_oldest(self) -> None:
        _, log = self._ended.popleft()
        stream_id = log.meta.stream_id
        tombstone = log.entomb(self._clock.monotonic() + self._tombstone_s)
        del self._logs[stream_id]
        self._tombstones[stream_id] = tombstone
        self._texts.append(stream_id)
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._forget_text(self._tombstones.popitem(last=False)[1])
        self.size_bytes += len(tombstone.text or b"") - log.size_bytes

    def _drop_oldest_text(self) -> None:
        stream_id = self._texts.popleft()
        tombstone = self._tombstones.get(stream_id)
        if tombstone is None:
            return
        self._forget_text(tombstone)
        self._tombstones[stream_id] = msgspec.structs.replace(tombstone, text=None)

    def _forget_text(self, tombstone: Tombstone) -> None:
        self.size_bytes -= len(tombstone.text or b"")

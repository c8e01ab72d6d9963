"""Where events live: what the relay may expect of a replay log, in memory or elsewhere.

Publisher and subscribers meet only here. `append` is synchronous and never awaited; the log calls its readers when
the events are *safe* — a memory log inside the call, a remote one when its reply arrives — so no reader ever holds an
id that a crash could take back (PROTOCOL §7, I15). Only create, find and read are awaited.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from subak.core.events import Event


class StreamMeta(msgspec.Struct, frozen=True):
    """What is known of a stream from its birth. `owner` is a principal's id, "" for an anonymous caller."""

    stream_id: str
    owner: str
    created_at_ms: int


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A caller's key and what was asked with it, both as keyed digests: neither can be read back."""

    digest: bytes
    fingerprint: bytes


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive events as frames. `last_seq` is the last one's seq; `is_end`: that one is the terminal event."""

    last_seq: int
    frames: bytes
    size_bytes: int
    is_end: bool


class LogReader(Protocol):
    """Who reads a log at its tail."""

    def on_batch(self, first_seq: int, batch: Batch) -> None:
        """Take events that have just become safe. Must not raise, block or append."""


class StreamLog(Protocol):
    """One stream's events. Sizes in bytes of memory (`core.events.EVENT_OVERHEAD_BYTES`)."""

    @property
    def meta(self) -> StreamMeta:
        """What is known of the stream from its birth."""

    @property
    def head(self) -> bytes:
        """The start of each of its frames (`core.envelope.frame_head`)."""

    @property
    def last_seq(self) -> int:
        """The newest safe event's seq; 0 when there is none."""

    @property
    def is_ended(self) -> bool:
        """Whether the terminal event is safe: nothing follows any more."""

    @property
    def size_bytes(self) -> int:
        """What its events take."""

    def append(self, events: Sequence[Event]) -> int:
        """Add events in order; give how many bytes of this log aren't safe yet.

        Raises:
            LogClosed: a terminal event was appended before.
        """

    def size_after(self, seq: int) -> int:
        """Give the size in bytes of the safe events after `seq`."""

    async def read(self, after: int, max_bytes: int) -> Batch:
        """Give the next safe events after seq `after`: at least one, more while they fit in `max_bytes`.

        `after` is below `last_seq`.
        """

    async def events(self) -> Sequence[Event]:
        """Give all safe events, for a status or a snapshot."""

    def subscribe(self, reader: LogReader) -> None:
        """Call `reader` for all that becomes safe from now on."""

    def unsubscribe(self, reader: LogReader) -> None:
        """Call it no more. Idempotent."""


class LogClosed(RuntimeError):
    """Something was appended after the terminal event: a defect of the publisher."""


class Tombstone(msgspec.Struct, frozen=True):
    """What stays of a stream after its replay window: how it ended and, while memory lasts, its text."""

    meta: StreamMeta
    last_seq: int
    ending: Event
    text: bytes | None
    expires_at: float


class Created(NamedTuple):
    """A new log was made."""

    log: StreamLog


class Known(NamedTuple):
    """The key was used before, for the same question: attach to that stream."""

    stream_id: str


Creation = Created | Known


class ReplayStore(Protocol):
    """All streams of this process or, on a shared store, of all processes."""

    async def create(self, meta: StreamMeta, key: IdempotencyKey | None) -> Creation:
        """Make a log, unless the key's stream stands: of N simultaneous calls with one key exactly one creates.

        A key whose stream failed retryably with no token may be used for a new stream, which then replaces it.

        Raises:
            KeyReused: the key was used for another question.
            CursorExpired: the key's stream is gone, and so is its tombstone.
            BudgetExhausted: live logs take all the memory there is.
        """

    async def lookup_key(self, key: IdempotencyKey) -> str | None:
        """Give the stream to attach to for this key, or None when asking anew is right.

        Raises:
            KeyReused: the key was used for another question.
            CursorExpired: the key's stream is gone, and so is its tombstone.
        """

    async def find(self, stream_id: str) -> StreamLog | Tombstone | None:
        """Give a stream's log, what stays of it, or None for an id that was never given out or is long gone."""

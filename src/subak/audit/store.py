"""Where a log is kept: what SQLite and PostgreSQL both do. Everything here blocks; only the writer's thread waits.

A reader sees one moment of the log for as long as it is open, beside a live writer. A store is written by one process,
which its lock sees to, and by one thread.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from subak.audit.records import Row
from subak.core.merkle import CompactRange, Span


class StoredCheckpoint(NamedTuple):
    """A signed note and the compact range that it speaks of."""

    size: int
    note: str
    hashes: bytes


class StoredRotation(NamedTuple):
    """A certificate: from row `seq` on, which is `key.rotate`, the key `vkey` seals."""

    seq: int
    vkey: str
    signature: bytes


class StoredBase(NamedTuple):
    """What stands for the rows that were pruned: how many, and their compact range."""

    size: int
    hashes: bytes


class Batch(NamedTuple):
    """What is committed at once: rows in order, and what is sealed or certified with them."""

    rows: Sequence[Row] = ()
    checkpoint: StoredCheckpoint | None = None
    rotation: StoredRotation | None = None


class Query(msgspec.Struct, frozen=True):
    """What to search for; every part that is given must hold. Times in ms since the epoch, `until_ms` not counted.

    `subjects` and `addresses` are numbers (`audit.rows.Finder`). `after_seq` is where a former page ended.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    operations: tuple[str, ...] = ()
    outcome: str | None = None
    stream: str | None = None
    subjects: tuple[bytes, ...] | None = None
    addresses: tuple[bytes, ...] | None = None
    after_seq: int | None = None
    is_newest_first: bool = False
    limit: int = 2**62


class LogReader(Protocol):
    """A log as it was at one moment.

    Every method raises StoreUnavailable when the store can't be reached or read, StoreDamaged when its content is
    wrong for what is asked.
    """

    @property
    def origin(self) -> str:
        """The log's name."""

    def base(self) -> StoredBase:
        """Give what stands for pruned rows: size 0 when there are none."""

    def end(self) -> int:
        """Give the seq that the next row has: the tree's size."""

    def rows(self, start: int) -> Iterator[Row]:
        """Give the rows from seq `start` on, in order, without holding more than some in memory."""

    def checkpoints(self, after: int = 0) -> Iterator[StoredCheckpoint]:
        """Give the checkpoints over sizes above `after`, by size."""

    def checkpoint_at_most(self, size: int) -> StoredCheckpoint | None:
        """Give the newest checkpoint over at most `size` rows."""

    def rotations(self) -> list[StoredRotation]:
        """Give all certificates, oldest first; they are never pruned."""

    def first_since(self, time_ms: int) -> int:
        """Give the lowest seq whose time isn't before `time_ms`; the end when there is none."""

    def search(self, query: Query) -> Iterator[Row]:
        """Give the rows that the query asks for."""

    def faults(self) -> Iterator[str]:
        """Give what the store finds wrong with its own files, a line each."""

    def close(self) -> None:
        """Let go of it."""


class LogStore(LogReader, Protocol):
    """A log that this process writes. It sees its own writes at once."""

    def append(self, batch: Batch) -> None:
        """Commit a batch durably, whole or not at all."""

    def redact(self, spans: Iterable[Span]) -> None:
        """Null the personal columns of the rows in these spans, in one transaction. Idempotent."""

    def prune(self, base: CompactRange) -> None:
        """Delete rows below `base.size` and checkpoints below it; keep `base`. One transaction."""

    def scrub(self) -> bool:
        """Overwrite what was redacted or pruned where files still hold it; False if a reader keeps that from being."""

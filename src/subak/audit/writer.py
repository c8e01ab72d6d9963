"""One log being written: rows into the tree and the store, and the seals. Synchronous; one thread at a time.

Everything that changes a log goes through here, so that the tree in memory is always the one whose rows are stored.
When a write fails it may be tried again with the same records: a commit that broke off may have come through, and then
they have their places already.
"""

import secrets
from collections.abc import Callable, Sequence
from operator import is_
from typing import Final

import msgspec

from subak.audit.checkpoints import BadSignature, SealingKey, check_rotation, open_checkpoint
from subak.audit.errors import StoreDamaged
from subak.audit.keys import AuditKeys
from subak.audit.operations import Operation
from subak.audit.records import LeafHasher, Record, Row, Stamped, check_record
from subak.audit.rows import Finder, PersonalReader, Pseudonyms, RowMaker
from subak.audit.store import Batch, LogReader, LogStore, StoredCheckpoint, StoredRotation
from subak.audit.subjects import SubjectKeys
from subak.core.clock import Clock
from subak.core.merkle import CompactRange, MalformedRange
from subak.core.notes import Checkpoint, MalformedNote, VerifierKey

SEAL_EVERY_ROWS: Final = 1000
"""There are never more rows between two checkpoints."""
MAX_BATCH_ROWS: Final = 256
MAX_SILENCE_MS: Final = 150_000
"""Two rows of one boot further apart have a row `log.gap` after them; a live log is never silent that long."""
MAX_UNSEALED_MS: Final = 5000
"""Rows that aren't sealed yet are no further apart, whatever happens to the process."""
_BOOT_BYTES: Final = 8


class Committed(msgspec.Struct, frozen=True):
    """A row that is on disk, with its leaf hash."""

    seq: int
    leaf: bytes


class _Prepared(msgspec.Struct, frozen=True):
    """A batch and what the log is once it is stored."""

    records: Sequence[Stamped]
    batch: Batch
    tree: CompactRange
    committed: list[Committed]


class LogWriter:
    """Appends to a log and seals it."""

    def __init__(
        self,
        store: LogStore,
        keys: AuditKeys,
        subjects: SubjectKeys,
        clock: Clock,
        *,
        digest_secret: bytes,
        publish: Callable[[str], None],
    ) -> None:
        """`publish` is given every checkpoint, as a signed note, after it was stored; it must not raise.

        Raises:
            StoreDamaged: the rows, checkpoints and keys don't fit: the log must not go on.
        """
        self.store = store
        self.keys = keys
        self.subjects = subjects
        self.clock = clock
        self.boot = secrets.token_hex(_BOOT_BYTES)
        self.pseudonyms = Pseudonyms(keys, digest_secret)
        self.finder = Finder(self.pseudonyms, subjects)
        self.personal = PersonalReader(keys.origin, subjects)
        self.sealed_size = 0
        self._publish = publish
        self._hasher = LeafHasher(keys.origin)
        self._maker = RowMaker(keys, subjects, self.pseudonyms, boot=self.boot)
        self._in_doubt: _Prepared | None = None
        self._newest_mono_ms: int | None = None
        self._unsealed_since_ms: int | None = None
        keys.settle_successor(certified_key(store, keys.first_vkey))
        self._tree = self._recover()
        if self.size == 0:
            self.write(Record(Operation.LOG_OPEN, {"vkey": str(keys.sealing.vkey)}))
        self.seal()

    @property
    def size(self) -> int:
        """How many rows the log has, pruned ones among them."""
        return self._tree.size

    def stamp(self, record: Record) -> Stamped:
        """Give the record with the time. Raises: NotPermitted."""
        check_record(record)
        return Stamped(record, self.clock.time_ms(), int(self.clock.monotonic() * 1000))

    def write(self, record: Record) -> Committed:
        """Append one record now."""
        return self.append([self.stamp(record)])[0]

    def append(self, records: Sequence[Stamped]) -> list[Committed]:
        """Append records, at most `MAX_BATCH_ROWS` at once, and seal them when many rows aren't sealed.

        Gives the place of each record, in order.

        Raises:
            StoreUnavailable: try again with the same records.
        """
        return self._append(records, None, self.keys.sealing)

    def rotate(self, successor: SealingKey) -> Committed:
        """Append the row by which the present key names its successor, which seals from there on."""
        self._settle_doubt(())
        self._speak_of_silence()
        seq = self.size
        signature = self.keys.sealing.sign_rotation(seq, successor.vkey)
        record = Record(Operation.KEY_ROTATE, {"vkey": str(successor.vkey), "signature": signature.hex()})
        rotation = StoredRotation(seq, str(successor.vkey), signature)
        return self._append([self.stamp(record)], rotation, successor)[0]

    def seal(self) -> str | None:
        """Sign what is written, and publish it; None when all is sealed.

        Raises:
            StoreUnavailable: it isn't sealed, it may be tried again.
        """
        self._settle_doubt(())
        if self.sealed_size == self.size:
            return None
        checkpoint = self._checkpoint(self._tree, self.keys.sealing)
        self.store.append(Batch(checkpoint=checkpoint))
        self._published(checkpoint)
        return checkpoint.note

    def close(self) -> None:
        """Let go of the store and of the subjects' keys."""
        self.store.close()
        self.subjects.close()

    def _append(
        self, records: Sequence[Stamped], rotation: StoredRotation | None, sealing: SealingKey
    ) -> list[Committed]:
        done = self._settle_doubt(records)
        rest = records[len(done) :]
        if not rest:
            return done
        prepared = self._prepare(rest, rotation, sealing)
        self._in_doubt = prepared
        self.store.append(prepared.batch)
        self._in_doubt = None
        self._adopt(prepared)
        return [*done, *prepared.committed]

    def _prepare(self, records: Sequence[Stamped], rotation: StoredRotation | None, sealing: SealingKey) -> _Prepared:
        """Make rows, tree and checkpoint, and store the subjects' keys that they need."""
        tree = self._tree.copy()
        rows: list[Row] = []
        committed: list[Committed] = []
        newest_mono_ms = self._newest_mono_ms
        try:
            for stamped in records:
                if newest_mono_ms is not None and _is_silent(newest_mono_ms, stamped):
                    self._add(tree, rows, _gap(newest_mono_ms, stamped))
                committed.append(self._add(tree, rows, stamped))
                newest_mono_ms = stamped.mono_ms
            self.subjects.commit()
        except BaseException:
            self.subjects.roll_back()
            raise
        must_seal = rotation is not None or self._must_seal(tree.size, records)
        checkpoint = self._checkpoint(tree, sealing) if must_seal else None
        return _Prepared(records, Batch(rows, checkpoint, rotation), tree, committed)

    def _adopt(self, prepared: _Prepared) -> None:
        """Go on from what is stored now."""
        self._tree = prepared.tree
        self._newest_mono_ms = prepared.records[-1].mono_ms
        if self._unsealed_since_ms is None:
            self._unsealed_since_ms = prepared.records[0].mono_ms
        _, checkpoint, rotation = prepared.batch
        if rotation is not None:
            self.keys.settle_successor(VerifierKey.parse(rotation.vkey))
        if checkpoint is not None:
            self._published(checkpoint)

    def _settle_doubt(self, records: Sequence[Stamped]) -> list[Committed]:
        """Find out whether the batch whose commit broke off is stored; give the places of these records in it."""
        doubtful = self._in_doubt
        if doubtful is None:
            return []
        is_stored = self.store.end() == doubtful.tree.size
        self._in_doubt = None
        if not is_stored:
            return []
        self._adopt(doubtful)
        is_same = len(records) >= len(doubtful.records) and all(map(is_, records, doubtful.records))
        return doubtful.committed if is_same else []

    def _add(self, tree: CompactRange, rows: list[Row], stamped: Stamped) -> Committed:
        row = self._maker.make(tree.size, stamped)
        leaf = self._hasher.leaf(row)
        tree.append(leaf)
        rows.append(row)
        return Committed(row.seq, leaf)

    def _speak_of_silence(self) -> None:
        """Write the row that a silence wants before the next one, by itself."""
        now = self.stamp(Record(Operation.SEAL))
        if self._newest_mono_ms is not None and _is_silent(self._newest_mono_ms, now):
            self.append([_gap(self._newest_mono_ms, now)])

    def _must_seal(self, size: int, records: Sequence[Stamped]) -> bool:
        """Whether these rows would leave too many without a checkpoint, or too old ones."""
        since_ms = records[0].mono_ms if self._unsealed_since_ms is None else self._unsealed_since_ms
        is_old = records[-1].mono_ms - since_ms >= MAX_UNSEALED_MS
        return is_old or size - self.sealed_size > SEAL_EVERY_ROWS - MAX_BATCH_ROWS

    def _checkpoint(self, tree: CompactRange, sealing: SealingKey) -> StoredCheckpoint:
        note = sealing.sign_checkpoint(Checkpoint(self.keys.origin, tree.size, tree.root()))
        return StoredCheckpoint(tree.size, note, tree.to_bytes())

    def _published(self, checkpoint: StoredCheckpoint) -> None:
        self.sealed_size = checkpoint.size
        self._unsealed_since_ms = None
        self._publish(checkpoint.note)

    def _recover(self) -> CompactRange:
        """Give the tree of what is stored: the newest checkpoint's, which is signed, and the rows after it."""
        tree = self._sealed_tree()
        self.sealed_size = tree.size
        if self.store.end() < tree.size:
            raise StoreDamaged(
                f"The audit log {self.keys.origin} has fewer rows than it once had: somebody cut it. Keep it as it is, "
                "run `subak audit verify`, and put it back from its back-up or begin a new one."
            )
        for row in self.store.rows(tree.size):
            if row.seq != tree.size:
                raise StoreDamaged(f"The audit log {self.keys.origin} lacks row {tree.size}: run `subak audit verify`.")
            tree.append(self._hasher.leaf(row))
        return tree

    def _sealed_tree(self) -> CompactRange:
        newest = self.store.checkpoint_at_most(2**62)
        if newest is None:
            return CompactRange()
        try:
            tree = CompactRange.from_bytes(newest.size, newest.hashes)
            if open_checkpoint(newest.note, self.keys.sealing.vkey) == Checkpoint(
                self.keys.origin, tree.size, tree.root()
            ):
                return tree
        except (MalformedRange, MalformedNote, BadSignature):
            pass
        raise StoreDamaged(
            f"The newest checkpoint of the audit log {self.keys.origin} isn't the one that was sealed: run "
            "`subak audit verify`, and put the log back from its back-up."
        )


def _is_silent(newest_mono_ms: int, stamped: Stamped) -> bool:
    return stamped.mono_ms - newest_mono_ms > MAX_SILENCE_MS and stamped.record.operation is not Operation.LOG_GAP


def _gap(newest_mono_ms: int, stamped: Stamped) -> Stamped:
    """Give the record that says of itself that nothing was written before `stamped`."""
    fields = {"lost": 0, "silent_ms": stamped.mono_ms - newest_mono_ms, "reason": "stalled"}
    return msgspec.structs.replace(stamped, record=Record(Operation.LOG_GAP, fields))


def certified_key(reader: LogReader, first: VerifierKey) -> VerifierKey:
    """Give the key that the log's certificates end in.

    Raises:
        StoreDamaged: a certificate isn't signed by the key before it.
    """
    key = first
    for seq, word, signature in reader.rotations():
        try:
            successor = VerifierKey.parse(word)
            check_rotation(key, seq, successor, signature)
        except (MalformedNote, BadSignature) as error:
            raise StoreDamaged(f"The key rotation at row {seq} isn't signed by the key before it.") from error
        key = successor
    return key

"""Whether a log is whole: one pass over its rows, offline, with nothing but a public key and what was published.

What is proven: every row that a checkpoint covers is the row that was sealed, in its place, and nothing is missing
between the prune point and the newest checkpoint. What can't be seen without an anchor, a checkpoint that left the
host: that somebody put back an older state of the log, whole, or wrote another one with the stolen key.

Memory doesn't grow with the log: rows and checkpoints stream, findings are bounded, erasures are kept as runs. After a
mismatch the pass goes on from the next checkpoint that is signed, so that a finding names the rows between two seals.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from subak.audit.checkpoints import BadSignature, check_receipt, check_rotation, open_checkpoint
from subak.audit.errors import StoreDamaged
from subak.audit.records import LeafHasher
from subak.audit.store import LogReader, StoredCheckpoint
from subak.audit.verdict import Doubt, Evidence, Findings, Flaw, Receipt, Report
from subak.audit.verify_rows import Core, RowChecks, Unlocked
from subak.audit.writer import MAX_BATCH_ROWS, MAX_UNSEALED_MS, SEAL_EVERY_ROWS
from subak.core.merkle import CompactRange, MalformedRange, Span
from subak.core.notes import Checkpoint, MalformedNote, VerifierKey

PROGRESS_ROWS: Final = 10_000
MAX_UNSEALED_ROWS: Final = SEAL_EVERY_ROWS + MAX_BATCH_ROWS
"""Between two checkpoints. A batch that tells of many gaps is a little longer than its records."""
_NEVER: Final = 2**62


def verify(
    reader: LogReader,
    evidence: Evidence,
    *,
    unlocked: Unlocked | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge a log. `on_progress(rows, size)` is called now and then.

    Raises:
        StoreUnavailable: the log can't be read, so nothing is said about it.
    """
    findings = Findings()
    verification = _Verification(reader, evidence, findings, unlocked)
    try:
        verification.run(on_progress or _ignore)
        for fault in reader.faults():
            findings.add(Flaw.UNREADABLE, 0, fault)
    except StoreDamaged as error:
        findings.add(Flaw.UNREADABLE, verification.size, str(error))
    return Report(
        origin=reader.origin,
        size=verification.size,
        base_size=verification.base_size,
        sealed_size=verification.sealed_size,
        checkpoints=verification.checkpoints,
        findings=tuple(findings.kept),
        finding_count=findings.count,
        warnings=tuple(findings.warnings),
    )


def unreadable(origin: str, error: StoreDamaged) -> Report:
    """Give the verdict on a log that can't even be opened."""
    findings = Findings()
    findings.add(Flaw.UNREADABLE, 0, str(error))
    return Report(origin, 0, 0, 0, 0, tuple(findings.kept), findings.count, ())


def _ignore(_rows: int, _size: int) -> None:
    """Nobody watches."""


class _Anchor(NamedTuple):
    size: int
    root: bytes


class _KeyChain:
    """Which key seals which sizes, by the certificates in the log."""

    def __init__(self, first: VerifierKey, reader: LogReader, findings: Findings) -> None:
        self.certificates: dict[int, tuple[str, str]] = {}
        self._keys = [(0, first)]
        for seq, word, signature in reader.rotations():
            try:
                successor = VerifierKey.parse(word)
                check_rotation(self._keys[-1][1], seq, successor, signature)
            except (MalformedNote, BadSignature, OverflowError) as error:
                findings.add(Flaw.BAD_KEY_CHAIN, seq, str(error))
                return
            self.certificates[seq] = (word, signature.hex())
            self._keys.append((seq + 1, successor))

    def at(self, size: int) -> VerifierKey:
        """Give the key that seals a log of that size; of no size that there is, the first one."""
        return next((key for start, key in reversed(self._keys) if size >= start), self._keys[0][1])


class _Verification:
    """One pass over one log."""

    def __init__(self, reader: LogReader, evidence: Evidence, findings: Findings, unlocked: Unlocked | None) -> None:
        self.base_size = 0
        self.sealed_size = 0
        self.checkpoints = 0
        self._reader = reader
        self._evidence = evidence
        self._findings = findings
        self._rows = RowChecks(findings, unlocked)
        self._hasher = LeafHasher(reader.origin)
        self._tree = CompactRange()
        self._has_gap = False  # since the last checkpoint, so its root can't be compared
        self._first_unsealed: Core | None = None
        self._newest: Core | None = None

    @property
    def size(self) -> int:
        """How many rows there were so far, pruned ones among them."""
        return self._tree.size

    def run(self, on_progress: Callable[[int, int], None]) -> None:
        """Look at everything."""
        if self._evidence.vkey.name != self._reader.origin:
            self._findings.add(Flaw.BAD_SIGNATURE, 0, f"the key is for another log, {self._evidence.vkey.name}")
        self._keys = _KeyChain(self._evidence.vkey, self._reader, self._findings)
        self._read_base()
        self._anchors = self._read_anchors()
        self._receipts = self._read_receipts()
        self._stored = self._reader.checkpoints(self.base_size)
        self._next_checkpoint = next(self._stored, None)
        self._walk(on_progress)
        self._reach(_NEVER)
        self._judge_tail()
        self._judge_strays()
        self._judge_base()
        self._judge_redactions()
        self._judge_rotations()
        self._judge_evidence()

    def _read_base(self) -> None:
        """Begin with what stands for pruned rows; it must be what a checkpoint sealed."""
        size, hashes = self._reader.base()
        if size == 0:
            return
        try:
            tree = CompactRange.from_bytes(size, hashes)
        except MalformedRange as error:
            self._findings.add(Flaw.ROGUE_PRUNE, size, str(error))
            return
        self._tree, self.base_size, self.sealed_size = tree, size, size
        stored = self._reader.checkpoint_at_most(size)
        sealed = None if stored is None or stored.size != size else self._open(stored)
        if sealed is None or stored is None or sealed.root != tree.root() or stored.hashes != hashes:
            self._findings.add(Flaw.ROGUE_PRUNE, size, "what stands for the deleted rows was never sealed")

    def _read_anchors(self) -> list[_Anchor]:
        """Give the anchors that can be compared, by size."""
        opened = {_Anchor(one.size, one.root) for one in map(self._open_anchor, self._evidence.anchors) if one}
        for anchor in opened:
            if anchor.size < self.base_size:
                self._findings.warn(Doubt.ANCHOR_PRUNED, anchor.size)
        return sorted(anchor for anchor in opened if anchor.size >= self.base_size)

    def _open_anchor(self, note: str) -> Checkpoint | None:
        try:
            unchecked = Checkpoint.parse(note.partition("\n\n")[0] + "\n")
            anchor = open_checkpoint(note, self._keys.at(unchecked.size))
        except (MalformedNote, BadSignature) as error:
            self._findings.add(Flaw.BAD_ANCHOR, 0, str(error))
            return None
        if anchor.origin != self._reader.origin:
            self._findings.add(Flaw.BAD_ANCHOR, anchor.size, f"it is of another log, {anchor.origin}")
            return None
        return anchor

    def _read_receipts(self) -> dict[int, list[Receipt]]:
        found: dict[int, list[Receipt]] = {}
        for receipt in self._evidence.receipts:
            try:
                check_receipt(self._keys.at(receipt.seq + 1), receipt.seq, receipt.leaf, receipt.signature)
            except (MalformedNote, BadSignature, OverflowError) as error:
                self._findings.add(Flaw.BAD_RECEIPT, receipt.seq, str(error))
                continue
            if receipt.seq >= self.base_size:
                found.setdefault(receipt.seq, []).append(receipt)
        return found

    def _walk(self, on_progress: Callable[[int, int], None]) -> None:
        end = self._reader.end()
        next_mark = self._next_mark()
        for row in self._reader.rows(self.base_size):
            if row.seq != self._tree.size:
                self._miss(row.seq)
            if row.seq >= next_mark:
                self._reach(row.seq)
                next_mark = self._next_mark()
            core = self._rows.check(row)
            self._first_unsealed = self._first_unsealed or core
            self._newest = core or self._newest
            leaf = self._hasher.leaf(row)
            self._tree.append(leaf)
            if self._receipts:
                self._compare_receipts(row.seq, leaf)
            if row.seq % PROGRESS_ROWS == 0:
                on_progress(row.seq, end)
        on_progress(end, end)

    def _miss(self, seq: int) -> None:
        """Go on after rows that aren't there; no root can be compared before the next checkpoint."""
        self._findings.add(Flaw.MISSING_ROWS, self._tree.size, f"rows {self._tree.size} to {seq - 1}")
        self._has_gap = True
        self._tree = CompactRange(seq, [bytes(32)] * seq.bit_count())

    def _next_mark(self) -> int:
        checkpoint = self._next_checkpoint
        return min(
            _NEVER if checkpoint is None else checkpoint.size, self._anchors[0].size if self._anchors else _NEVER
        )

    def _reach(self, size: int) -> None:
        """Compare what was sealed or published up to `size` rows, in order."""
        while (mark := self._next_mark()) <= size and mark != _NEVER:
            if self._next_checkpoint is not None and self._next_checkpoint.size == mark:
                self._compare_checkpoint(self._next_checkpoint)
                self._next_checkpoint = next(self._stored, None)
            if self._anchors and self._anchors[0].size == mark:
                self._compare_anchor(self._anchors.pop(0))

    def _compare_checkpoint(self, stored: StoredCheckpoint) -> None:
        self.checkpoints += 1
        sealed = self._open(stored)
        if sealed is None:
            return
        if sealed.size - self.sealed_size > MAX_UNSEALED_ROWS:
            detail = f"{sealed.size - self.sealed_size} rows before it without a checkpoint"
            self._findings.add(Flaw.SEALS_APART, sealed.size, detail)
        between = f"rows {self.sealed_size} to {sealed.size - 1}"
        self.sealed_size = sealed.size
        if self._tree.size < sealed.size:
            self._findings.add(Flaw.TRUNCATED, sealed.size, f"there are {self._tree.size} rows")
            return
        self._first_unsealed = None
        if not self._has_gap and self._tree.size == sealed.size and self._tree.root() != sealed.root:
            self._findings.add(Flaw.ROOT_MISMATCH, sealed.size, between)
        self._go_on_from(stored, sealed)

    def _go_on_from(self, stored: StoredCheckpoint, sealed: Checkpoint) -> None:
        """Take the tree that was sealed, whatever the rows before it were."""
        try:
            tree = CompactRange.from_bytes(stored.size, stored.hashes)
        except MalformedRange as error:
            self._findings.add(Flaw.MALFORMED_CHECKPOINT, stored.size, str(error))
            return
        if tree.root() != sealed.root:
            self._findings.add(Flaw.MALFORMED_CHECKPOINT, stored.size, "its hashes don't give the root that is signed")
        elif self._tree.size == sealed.size:
            self._tree, self._has_gap = tree, False

    def _compare_anchor(self, anchor: _Anchor) -> None:
        is_behind = self._tree.size < anchor.size
        if not is_behind and (self._has_gap or self._tree.size != anchor.size or self._tree.root() == anchor.root):
            return
        if self._is_given_up(anchor.size - 1):
            self._findings.warn(Doubt.GIVEN_UP, anchor.size)
        elif is_behind:
            detail = f"it has {self._tree.size} rows, once it had {anchor.size}"
            self._findings.add(Flaw.BEHIND_ANCHOR, anchor.size, detail)
        else:
            self._findings.add(Flaw.FORK, anchor.size, "the anchor's root is another one")

    def _is_given_up(self, seq: int) -> bool:
        """Whether a row of the log before a restore once stood there; the restore says so itself."""
        return any(start <= seq < stop for start, stop in self._rows.given_up)

    def _open(self, stored: StoredCheckpoint) -> Checkpoint | None:
        """Give a stored checkpoint if this log's key signed it."""
        try:
            sealed = open_checkpoint(stored.note, self._keys.at(stored.size))
        except MalformedNote as error:
            self._findings.add(Flaw.MALFORMED_CHECKPOINT, stored.size, str(error))
            return None
        except BadSignature as error:
            self._findings.add(Flaw.BAD_SIGNATURE, stored.size, str(error))
            return None
        if (sealed.origin, sealed.size) != (self._reader.origin, stored.size):
            self._findings.add(Flaw.MALFORMED_CHECKPOINT, stored.size, "it is of another log or size")
            return None
        return sealed

    def _compare_receipts(self, seq: int, leaf: bytes) -> None:
        for receipt in self._receipts.pop(seq, ()):
            if receipt.leaf != leaf:
                self._miss_receipt(seq, "the row isn't the one that was promised")

    def _miss_receipt(self, seq: int, detail: str) -> None:
        if self._is_given_up(seq):
            self._findings.warn(Doubt.GIVEN_UP, seq)
        else:
            self._findings.add(Flaw.BAD_RECEIPT, seq, detail)

    def _judge_tail(self) -> None:
        """A writer seals within a second, and at each start: what isn't sealed is young and of one boot."""
        first, newest = self._first_unsealed, self._newest
        unsealed = self._tree.size - self.sealed_size
        if unsealed <= 0:
            return
        self._findings.warn(Doubt.UNSEALED_ROWS, self._tree.size)
        is_long = unsealed > MAX_UNSEALED_ROWS
        if first is not None and newest is not None:
            is_long = is_long or first.boot != newest.boot or newest.mono_ms - first.mono_ms > MAX_UNSEALED_MS
        if is_long:
            self._findings.add(Flaw.SEALS_APART, self._tree.size, f"the last {unsealed} rows have no checkpoint")

    def _judge_strays(self) -> None:
        """Nothing stands below the prune point, nor below the first row."""
        row = next(self._reader.rows(-_NEVER), None)
        if row is not None and row.seq < self.base_size:
            self._findings.add(Flaw.ROGUE_PRUNE, row.seq, "a row stands where all were deleted")
        checkpoint = next(self._reader.checkpoints(-_NEVER), None)
        if checkpoint is not None and checkpoint.size < max(1, self.base_size):
            self._findings.add(Flaw.MALFORMED_CHECKPOINT, checkpoint.size, "it stands below the rows that are kept")

    def _judge_base(self) -> None:
        """Rows may be deleted by a row that says so, once the first one kept is old enough itself."""
        if self.base_size == 0:
            return
        prune = self._rows.prunes.get(self.base_size)
        if prune is None:
            self._findings.add(Flaw.ROGUE_PRUNE, self.base_size, "no row says that they were deleted")
        elif prune.term_ms < self._evidence.least_term_ms:
            self._findings.add(Flaw.ROGUE_PRUNE, prune.seq, f"rows were kept for {prune.term_ms} ms only")
        elif self._rows.first_time_ms > prune.time_ms - prune.term_ms:
            self._findings.add(Flaw.ROGUE_PRUNE, prune.seq, "the rows deleted weren't past their term")

    def _judge_redactions(self) -> None:
        for span in outside(self._rows.redacted, self._rows.erased):
            self._findings.add(Flaw.SILENT_REDACTION, span.start, f"rows {span.start} to {span.stop - 1}")

    def _judge_rotations(self) -> None:
        """Certificates and rows say the same, for the rows that are kept."""
        certified = {seq: pair for seq, pair in self._keys.certificates.items() if seq >= self.base_size}
        for seq in sorted(certified.keys() ^ self._rows.rotations.keys()):
            self._findings.add(Flaw.BAD_KEY_CHAIN, seq, "a key rotation is in one place only")
        for seq in certified.keys() & self._rows.rotations.keys():
            if certified[seq] != self._rows.rotations[seq]:
                self._findings.add(Flaw.BAD_KEY_CHAIN, seq, "row and certificate differ")

    def _judge_evidence(self) -> None:
        for seq in self._receipts:
            self._miss_receipt(seq, "there is no such row")
        if not self._evidence.anchors:
            self._findings.warn(Doubt.NO_ANCHOR, self._tree.size)
        if not self._evidence.is_pinned:
            self._findings.warn(Doubt.KEY_NOT_PINNED, 0)


def outside(spans: Sequence[Span], covers: Iterable[Span]) -> list[Span]:
    """Give what of the ascending spans no cover covers."""
    found: list[Span] = []
    ordered = sorted(covers)
    at = 0
    for start, stop in spans:
        while at < len(ordered) and ordered[at].stop <= start:
            at += 1
        place = start
        for cover in ordered[at:]:
            if cover.start >= stop:
                break
            if cover.start > place:
                found.append(Span(place, cover.start))
            place = max(place, cover.stop)
        if place < stop:
            found.append(Span(place, stop))
    return found

"""Row 75 of the fault matrix, the audit trail's part: broken logs, anchors, keys and proofs are findings or refusals.

As long as in tests/property/test_fuzz.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.audit import retention
from subak.audit.anchors import read_anchors
from subak.audit.proofs import NoProof, check_proof, prove, read_proof
from subak.audit.records import Row, Subject
from subak.audit.store import LogReader, Query, StoredBase, StoredCheckpoint, StoredRotation
from subak.audit.verdict import Evidence, Flaw, Receipt, Report
from subak.audit.verify import verify
from subak.core.notes import Checkpoint, MalformedNote, Note, VerifierKey
from tests.audit import TERM_MS, AuditStage, SqlitePlace, end_of, violation_of
from tests.mutator import FUZZ_MARKS, Mutator

pytestmark = [*FUZZ_MARKS]
SOMEBODY: Final = Subject("principal", "somebody")


@dataclass(frozen=True)
class Kept:
    """A log in memory (`audit.store.LogReader`)."""

    origin: str
    kept: list[Row]
    sealed: list[StoredCheckpoint]
    certificates: list[StoredRotation]
    pruned: StoredBase

    @classmethod
    def of(cls, reader: LogReader) -> "Kept":
        return cls(reader.origin, list(reader.rows(0)), list(reader.checkpoints()), reader.rotations(), reader.base())

    def base(self) -> StoredBase:
        return self.pruned

    def end(self) -> int:
        return self.kept[-1].seq + 1

    def rows(self, start: int) -> Iterator[Row]:
        return (row for row in self.kept if row.seq >= start)

    def checkpoints(self, after: int = 0) -> Iterator[StoredCheckpoint]:
        return (one for one in self.sealed if one.size > after)

    def checkpoint_at_most(self, size: int) -> StoredCheckpoint | None:
        return max((one for one in self.sealed if one.size <= size), default=None)

    def rotations(self) -> list[StoredRotation]:
        return self.certificates

    def first_since(self, time_ms: int) -> int:
        return next((row.seq for row in self.kept if row.time_ms >= time_ms), self.end())

    def search(self, query: Query) -> Iterator[Row]:
        return (row for row in self.kept if row.operation in query.operations)

    def faults(self) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[AuditStage]:
    """A log in which everything happened."""
    stage = AuditStage(SqlitePlace(tmp_path), tmp_path)
    stage.write(5, SOMEBODY)
    stage.clock.jump(TERM_MS / 1000)
    stage.write(3, SOMEBODY)
    retention.prune(stage.writer, term_ms=TERM_MS)
    stage.writer.write(violation_of(Subject("principal", "another")))
    retention.erase_subject(stage.writer, SOMEBODY)
    retention.rotate_key(stage.writer)
    stage.writer.write(end_of())
    stage.writer.seal()
    yield stage
    stage.close()


def judged(log: Kept, stage: AuditStage, *anchors: str) -> Report:
    """Verify it."""
    return verify(log, Evidence(stage.vkey, is_pinned=True, anchors=anchors))


def test_a_row_that_is_nested_too_deep_is_a_finding(stage: AuditStage) -> None:
    log = Kept.of(stage.writer.store)
    deep = log.kept[1]._replace(core=b'{"v":1,"op":"gdpr.erase","seqs":' + b"[" * 100_000)
    assert judged(replace(log, kept=[log.kept[0], deep, *log.kept[2:]]), stage).findings


def test_s75_a_log_with_anything_in_it_gets_a_verdict(stage: AuditStage) -> None:
    log = Kept.of(stage.writer.store)
    assert judged(log, stage, *stage.notes[-3:]).findings == ()
    mutator = Mutator([row.core for row in log.kept], [b'"seqs":[[0,9]]', b'"op":"gdpr.erase"', b'"size":', b"-1"])
    for core in mutator.inputs():
        place = mutator.dice.randrange(len(log.kept))
        rows = [*log.kept]
        rows[place] = rows[place]._replace(core=core)
        is_changed = core != log.kept[place].core
        assert bool(judged(replace(log, kept=rows), stage).findings) == is_changed, f"seed {mutator.seed}, {core!r}"


def test_s75_checkpoints_and_certificates_with_anything_in_them_get_a_verdict(stage: AuditStage) -> None:
    log = Kept.of(stage.writer.store)
    mutator = Mutator([one.note.encode() for one in log.sealed], ["— ".encode(), b"\n\n", b"=", stage.origin.encode()])
    for content in mutator.inputs():
        text = content.decode(errors="replace")
        place = mutator.dice.randrange(len(log.sealed))
        sealed = [*log.sealed]
        sealed[place] = sealed[place]._replace(note=text)
        certificates = [log.certificates[0]._replace(vkey=text)]
        for changed in (
            replace(log, sealed=sealed),
            replace(log, sealed=[sealed[place]._replace(hashes=content)]),
            replace(log, certificates=certificates),
            replace(log, pruned=StoredBase(log.pruned.size, content)),
        ):
            report = judged(changed, stage, text)
            assert report.findings or text in {one.note for one in log.sealed}, f"seed {mutator.seed}, {content!r}"


def test_s75_anchors_notes_and_keys_are_read_or_refused(stage: AuditStage) -> None:
    seeds = ["\n".join(stage.notes[:3]), stage.notes[-1], str(stage.vkey), stage.notes[0].partition("\n\n")[0] + "\n"]
    mutator = Mutator([seed.encode() for seed in seeds], ["— ".encode(), b"\n\n", b"+", b"=="])
    for content in mutator.inputs():
        text = content.decode(errors="replace")
        for anchor in read_anchors(text):
            assert anchor in text
        for read in (Note.parse, Checkpoint.parse, VerifierKey.parse):
            try:
                assert str(read(text)) == text, f"seed {mutator.seed}, {content!r}"
            except MalformedNote:
                continue


def test_s75_proofs_hold_or_are_refused(stage: AuditStage) -> None:
    log = Kept.of(stage.writer.store)
    proofs = [msgspec.json.encode(prove(log, row.seq)) for row in log.kept]
    mutator = Mutator(proofs, [b'"path":', b'"checkpoint":', b'"seq":', b"null"])
    for content in mutator.inputs():
        try:
            found = check_proof(read_proof(content), stage.vkey)
        except NoProof:
            continue
        held = {msgspec.json.encode(msgspec.json.decode(proof)) for proof in proofs}
        assert msgspec.json.encode(read_proof(content)) in held, f"seed {mutator.seed}, {content!r}"
        assert found.origin == stage.origin


@pytest.mark.parametrize("seq", [-(2**70), -2, -1, 2**62, 2**64, 2**70])
def test_s75_a_receipt_of_no_place_is_a_finding(stage: AuditStage, seq: int) -> None:
    receipt = Receipt(stage.origin, seq, bytes(32), bytes(64))
    evidence = Evidence(stage.vkey, is_pinned=True, receipts=(receipt,))
    assert {one.flaw for one in verify(Kept.of(stage.writer.store), evidence).findings} == {Flaw.BAD_RECEIPT}


def test_s75_an_anchor_of_a_size_without_end_is_a_finding(stage: AuditStage) -> None:
    note = stage.notes[-1].replace(f"\n{stage.writer.sealed_size}\n", f"\n{'9' * 5000}\n")
    assert note != stage.notes[-1]
    assert {one.flaw for one in judged(Kept.of(stage.writer.store), stage, note).findings} == {Flaw.BAD_ANCHOR}

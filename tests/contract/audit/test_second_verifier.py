"""The verifier written from docs/audit.md alone: what it is, and where no other test asks it.

`tests.audit.AuditStage.judge` asks it beside the first one, so every tamper case is a case of both.
"""

import ast
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from msgspec.structs import replace

from subak.audit import retention
from subak.audit.keys import day_of
from subak.audit.proofs import Proof, prove
from subak.audit.records import Subject
from subak.core.merkle import CompactRange
from tests import second_verifier
from tests.audit import ADDRESS, QUESTION, AuditStage, SqlitePlace, start_of, violation_of

SOMEBODY = Subject("principal", "somebody")


def test_it_shares_no_code_with_the_first_one() -> None:
    tree = ast.parse(Path(second_verifier.__file__).read_text(encoding="utf-8"))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in named} == {
        *("base64", "collections", "cryptography", "datetime", "hashlib", "hmac", "json"),
        *("pathlib", "sqlite3", "typing"),
    }


class Careless(SqlitePlace):
    """A place whose second verifier doesn't count."""

    def second_opinion(self, origin: str, vkey: str, anchors: Sequence[str]) -> set[str]:
        return super().second_opinion(origin, vkey, anchors) - {"MISSING_ROWS"}


def test_two_verifiers_that_differ_are_noticed(tmp_path: Path) -> None:
    stage = AuditStage(Careless(tmp_path), tmp_path)
    stage.write(3)
    stage.place.tamper("DELETE FROM audit_event WHERE seq = 1")
    with pytest.raises(AssertionError, match="two verifiers"):
        stage.judge()
    stage.close()


def test_it_knows_the_fields_of_a_receipt(stage: AuditStage) -> None:
    committed = stage.writer.write(start_of(SOMEBODY))
    sign = stage.writer.keys.sealing.sign_receipt
    stage.writer.seal()
    for seq, leaf, is_kept in (
        (committed.seq, committed.leaf, True),
        (committed.seq, bytes(32), False),
        (99, committed.leaf, False),
        (-1, committed.leaf, False),
    ):
        signature = sign(max(0, seq), leaf)
        assert is_kept == (not judged(stage, second_verifier.Receipt(seq, leaf, signature))), seq
    assert judged(stage, second_verifier.Receipt(committed.seq, committed.leaf, bytes(64))) == {"BAD_RECEIPT"}


def test_it_takes_the_proofs_that_hold_and_no_others(stage: AuditStage) -> None:
    stage.write(5)
    retention.rotate_key(stage.writer)
    stage.write(6)
    for seq in range(stage.writer.sealed_size):
        proof = prove(stage.writer.store, seq)
        assert holds(proof, stage)
        assert not holds(replace(proof, seq=seq + 1), stage)
        assert not holds(replace(proof, core=proof.core.replace('"v":1', '"v":2')), stage)
        assert not holds(replace(proof, pii_seal=bytes(32)), stage)
        assert not holds(replace(proof, path=(*proof.path, bytes(32))), stage)


def test_it_opens_personal_parts_with_the_keys(stage: AuditStage) -> None:
    stage.write(3, SOMEBODY)
    stage.writer.write(violation_of(SOMEBODY))
    stage.writer.write(violation_of(Subject("address", ADDRESS)))
    stage.reopen()
    stage.write(2, Subject("stream", "st_of_a_stranger"))
    keys = second_verifier.Keys(stage.directory)
    day = day_of(stage.clock.time_ms())
    told = [row for row in stage.rows() if row.pii_commit is not None]
    assert len(told) == 7
    for row in told:
        said = keys.open(second_verifier.Row(*row))
        assert said == msgspec.to_builtins(stage.writer.personal.read(row))
        if "query_hash" in said:
            assert said["query_hash"] == keys.query_hash(said, day, QUESTION)
    retention.erase_subject(stage.writer, SOMEBODY)
    with pytest.raises((InvalidTag, ValueError)):
        keys.open(second_verifier.Row(*told[0]))


def test_trees_of_any_size_have_one_root() -> None:
    ours, theirs = CompactRange(), second_verifier.Tree()
    for size in range(70):
        assert ours.root() == theirs.root() == second_verifier.Tree(size, ours.to_bytes()).root()
        ours.append(bytes([size]) * 32)
        theirs.add(bytes([size]) * 32)


def judged(stage: AuditStage, receipt: second_verifier.Receipt) -> set[str]:
    """Give what is wrong with a log of which somebody has a receipt."""
    rows = [second_verifier.Row(*row) for row in stage.rows()]
    checkpoints = [second_verifier.Stored(*one) for one in stage.writer.store.checkpoints()]
    log = second_verifier.Log(stage.origin, rows, checkpoints, [], [])
    return second_verifier.verify(log, str(stage.vkey), receipts=[receipt])


def holds(proof: Proof, stage: AuditStage) -> bool:
    """Whether it takes a proof."""
    return second_verifier.proof_holds(msgspec.json.encode(proof).decode(), str(stage.vkey))

"""Every way to tamper with a log that we know of, on both stores: found, and with its reason (fault matrix, row 74)."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from subak.audit import retention
from subak.audit.checkpoints import SealingKey
from subak.audit.records import LeafHasher, Row, Subject
from subak.audit.store import Batch, StoredCheckpoint
from subak.audit.verdict import DAY_MS, Flaw
from subak.core.merkle import CompactRange
from subak.core.notes import Checkpoint
from tests.audit import TERM_MS, AuditStage, PostgresPlace, SqlitePlace, end_of


@pytest.fixture
def written(stage: AuditStage) -> AuditStage:
    """Ten sealed rows, `log.open` first, and nothing wrong with them."""
    stage.write(9)
    assert stage.writer.sealed_size == 10
    assert stage.judge(*stage.notes).findings == ()
    return stage


def test_s74_an_edited_row(written: AuditStage) -> None:
    edited = written.rows()[4].core.replace(b"POST", b"HEAD").decode()
    written.place.tamper("UPDATE audit_event SET core = ? WHERE seq = 4", edited)
    assert written.flaws() == {Flaw.ROOT_MISMATCH}


def test_s74_an_edited_row_is_named_by_the_seals_around_it(written: AuditStage) -> None:
    written.place.tamper("UPDATE audit_event SET pii_commit = NULL, pii_seal = NULL WHERE seq = 4")
    findings = written.judge().findings
    assert [one.detail for one in findings if one.flaw is Flaw.ROOT_MISMATCH] == ["rows 4 to 4"]


def test_s74_swapped_commitments(written: AuditStage) -> None:
    fourth, fifth = written.rows()[4:6]
    for target, source in ((fourth, fifth), (fifth, fourth)):
        written.place.tamper("UPDATE audit_event SET pii_commit = ? WHERE seq = ?", source.pii_commit, target.seq)
    assert written.flaws() == {Flaw.ROOT_MISMATCH}


def test_s74_a_swapped_personal_part(written: AuditStage) -> None:
    fourth, fifth = written.rows()[4:6]
    for target, source in ((fourth, fifth), (fifth, fourth)):
        written.place.tamper(
            "UPDATE audit_event SET nonce = ?, ct = ? WHERE seq = ?", source.nonce, source.ct, target.seq
        )
    assert written.flaws() == {Flaw.ALTERED_PERSONAL}


def test_s74_a_deleted_row(written: AuditStage) -> None:
    written.place.tamper("DELETE FROM audit_event WHERE seq = 4")
    assert written.flaws() == {Flaw.MISSING_ROWS}


def test_s74_a_deleted_row_with_the_others_renumbered(written: AuditStage) -> None:
    written.place.tamper("DELETE FROM audit_event WHERE seq = 4")
    renumber(written, after=4, by=-1)
    assert written.flaws() == {Flaw.ROOT_MISMATCH, Flaw.TRUNCATED}


def test_s74_two_rows_in_each_others_place(written: AuditStage) -> None:
    for old, new in ((4, -1), (5, 4), (-1, 5)):
        written.place.tamper("UPDATE audit_event SET seq = ? WHERE seq = ?", new, old)
    assert Flaw.ROOT_MISMATCH in written.flaws()


def test_s74_an_inserted_row(written: AuditStage) -> None:
    row = written.rows()[4]
    renumber(written, after=3, by=1)
    written.place.insert(written.origin, row)
    assert Flaw.ROOT_MISMATCH in written.flaws()


def test_s74_an_appended_row_that_nobody_sealed_for_long(written: AuditStage) -> None:
    row = written.rows()[-1]
    later = row.core.replace(f'"time_ms":{row.time_ms}'.encode(), f'"time_ms":{row.time_ms + 9000}'.encode())
    mono = later.partition(b'"mono_ms":')[2].partition(b",")[0]
    later = later.replace(b'"mono_ms":' + mono, b'"mono_ms":%d' % (int(mono) + 9000))
    written.place.insert(written.origin, row._replace(seq=10))
    written.place.insert(written.origin, row._replace(seq=11, time_ms=row.time_ms + 9000, core=later))
    assert written.flaws() == {Flaw.SEALS_APART}


def test_s74_a_back_dated_row(written: AuditStage) -> None:
    row = written.rows()[4]
    earlier = row.core.replace(str(row.time_ms).encode(), str(row.time_ms - DAY_MS).encode()).decode()
    written.place.tamper("UPDATE audit_event SET core = ?, time_ms = ? WHERE seq = 4", earlier, row.time_ms - DAY_MS)
    assert written.flaws() == {Flaw.ROOT_MISMATCH}


@pytest.mark.parametrize("column", ["operation", "outcome", "stream"])
def test_s74_a_row_that_is_found_by_something_it_doesnt_say(written: AuditStage, column: str) -> None:
    written.place.tamper(f"UPDATE audit_event SET {column} = 'seal' WHERE seq = 4")  # noqa: S608 — our own names
    assert written.flaws() == {Flaw.ALTERED_COLUMNS}


@pytest.mark.parametrize("core", ["", "{", "[]", "{}", '{"v":1,"op":5}', "\u0001"])
def test_s74_a_malformed_row_is_a_finding_and_no_crash(written: AuditStage, core: str) -> None:
    written.place.tamper("UPDATE audit_event SET core = ? WHERE seq = 4", core)
    assert written.flaws() == {Flaw.MALFORMED_ROW, Flaw.ROOT_MISMATCH}


def test_s74_a_cut_tail_with_the_checkpoints_kept(written: AuditStage) -> None:
    written.place.tamper("DELETE FROM audit_event WHERE seq >= 7")
    assert written.flaws() == {Flaw.TRUNCATED}


def test_s74_a_cut_tail_and_checkpoints_is_found_with_an_anchor_only(written: AuditStage) -> None:
    written.place.tamper("DELETE FROM audit_event WHERE seq >= 7")
    written.place.tamper("DELETE FROM audit_checkpoint WHERE size > 7")
    assert written.flaws() == set()
    assert written.flaws(written.notes[-1]) == {Flaw.BEHIND_ANCHOR}


def test_s74_all_checkpoints_taken_away(written: AuditStage) -> None:
    written.place.tamper("DELETE FROM audit_checkpoint")
    assert written.flaws() == {Flaw.SEALS_APART}


def test_s74_all_rewritten_with_the_stolen_key_after_publication(written: AuditStage) -> None:
    edited = written.rows()[4].core.replace(b"POST", b"HEAD").decode()
    written.place.tamper("UPDATE audit_event SET core = ? WHERE seq = 4", edited)
    reseal(written, written.writer.keys.sealing)
    assert written.flaws() == set()
    assert written.flaws(written.notes[-1]) == {Flaw.FORK}


def test_s74_all_rewritten_with_the_attackers_own_key(written: AuditStage) -> None:
    reseal(written, SealingKey.generate(written.origin))
    assert Flaw.BAD_SIGNATURE in written.flaws()


def test_s74_an_attackers_key_named_by_a_forged_certificate(written: AuditStage) -> None:
    key = SealingKey.generate(written.origin)
    forged = key.sign_rotation(8, key.vkey)
    columns, values = "seq, vkey, signature", [8, str(key.vkey), forged]
    if isinstance(written.place, PostgresPlace):
        columns, values = f"origin, {columns}", [written.origin, *values]
    marks = ", ".join("?" * len(values))
    written.place.tamper(f"INSERT INTO audit_rotation ({columns}) VALUES ({marks})", *values)  # noqa: S608
    assert Flaw.BAD_KEY_CHAIN in written.flaws()


def test_s74_a_personal_part_taken_away_silently(written: AuditStage) -> None:
    written.place.tamper("UPDATE audit_event SET subject = NULL, nonce = NULL, ct = NULL WHERE seq = 4")
    assert written.flaws() == {Flaw.SILENT_REDACTION}


def test_s74_a_personal_part_taken_away_by_halves(written: AuditStage) -> None:
    retention.erase_subject(written.writer, Subject("principal", "nobody"))
    written.place.tamper("UPDATE audit_event SET ct = NULL WHERE seq = 4")
    assert written.flaws() == {Flaw.ALTERED_PERSONAL}


def test_s74_a_personal_part_where_there_was_none(written: AuditStage) -> None:
    written.writer.write(end_of())
    written.writer.seal()
    written.place.tamper("UPDATE audit_event SET subject = ? WHERE seq = 10", b"somebody")
    assert written.flaws() == {Flaw.ALTERED_PERSONAL}


def test_s74_a_personal_part_whose_key_was_destroyed_without_a_word_is_found_with_the_keys(written: AuditStage) -> None:
    number = written.rows()[4].subject
    assert number is not None
    written.writer.subjects.destroy([number])
    assert written.flaws() == set()
    assert {one.flaw for one in written.judge().findings} == {Flaw.PERSONAL_MISMATCH}


def test_s74_young_rows_deleted_from_the_front(written: AuditStage) -> None:
    written.place.tamper("DELETE FROM audit_event WHERE seq < 5")
    assert written.flaws() == {Flaw.MISSING_ROWS}


def test_s74_young_rows_deleted_as_if_they_were_pruned(written: AuditStage) -> None:
    point = written.writer.store.checkpoint_at_most(5)
    assert point is not None
    written.writer.store.prune(CompactRange.from_bytes(point.size, point.hashes))
    assert written.flaws() == {Flaw.ROGUE_PRUNE}


def test_s74_young_rows_pruned_with_the_key(written: AuditStage) -> None:
    retention.prune(written.writer, term_ms=3000)
    assert written.writer.store.base().size > 0
    assert written.flaws() == {Flaw.ROGUE_PRUNE}


def test_s74_a_pruned_log_whose_base_was_changed(written: AuditStage) -> None:
    written.clock.jump(TERM_MS / 1000)
    written.write(2)
    assert retention.prune(written.writer, term_ms=TERM_MS) is not None
    assert written.flaws() == set()
    hashes = written.writer.store.base().hashes
    written.place.tamper("UPDATE audit_base SET hashes = ?", bytes([hashes[0] ^ 1]) + hashes[1:])
    assert Flaw.ROGUE_PRUNE in written.flaws()


def test_s74_a_row_below_the_prune_point(written: AuditStage) -> None:
    row = written.rows()[2]
    written.clock.jump(TERM_MS / 1000)
    written.write(2)
    assert retention.prune(written.writer, term_ms=TERM_MS) is not None
    written.place.insert(written.origin, row)
    assert Flaw.ROGUE_PRUNE in written.flaws()


@pytest.mark.parametrize("column", ["note", "hashes"])
def test_s74_a_changed_checkpoint(written: AuditStage, column: str) -> None:
    other = written.writer.store.checkpoint_at_most(4)
    assert other is not None
    value = other.note if column == "note" else other.hashes
    written.place.tamper(f"UPDATE audit_checkpoint SET {column} = ? WHERE size = 6", value)  # noqa: S608
    assert written.flaws() == {Flaw.MALFORMED_CHECKPOINT}


def test_s74_a_clone_of_an_instance(written: AuditStage, tmp_path: Path) -> None:
    """Two processes that were started from one copied state write two logs under one name."""
    if isinstance(written.place, PostgresPlace):
        pytest.skip("the database's lock keeps a second writer from a log; a cloned database is the case of SQLite")
    twin_directory = tmp_path / "twin"
    written.writer.close()
    shutil.copytree(tmp_path, twin_directory, ignore=shutil.ignore_patterns("twin"))
    twin = AuditStage(SqlitePlace(twin_directory), twin_directory)
    written.open()
    twin.write(2, Subject("principal", "twin"))
    written.write(2)
    assert written.flaws(*written.notes) == set()
    assert written.flaws(*twin.notes) == {Flaw.FORK}
    twin.close()


def test_s74_a_log_that_stands_silent_in_a_running_process(written: AuditStage) -> None:
    """The holder of the key may leave rows out; then time shows a hole, which an honest writer would speak of."""
    rows = written.rows()
    mono = int(rows[-1].core.partition(b'"mono_ms":')[2].partition(b",")[0])
    silent = rows[-1].core.replace(b'"mono_ms":%d' % mono, b'"mono_ms":%d' % (mono + 600_000))
    written.place.insert(written.origin, rows[-1]._replace(seq=10, core=silent))
    reseal(written, written.writer.keys.sealing)
    assert written.flaws() == {Flaw.SILENCE}


def test_s74_flipped_bytes_in_the_file(written: AuditStage) -> None:
    """Any byte of any row: in the file, behind SQLite's back."""
    if not isinstance(written.place, SqlitePlace):
        pytest.skip("a file under a running server; PostgreSQL's own checksums are for that")
    path = written.place.path
    rows = written.rows()
    written.writer.close()
    pristine = path.read_bytes()
    for needle in (rows[4].core, rows[4].pii_commit, rows[4].pii_seal, rows[4].ct, rows[4].nonce, rows[4].subject):
        assert needle is not None
        at = pristine.index(needle) + len(needle) // 2
        path.write_bytes(pristine[:at] + bytes([pristine[at] ^ 1]) + pristine[at + 1 :])
        assert written.flaws(), needle
    path.write_bytes(pristine)
    written.open()
    assert written.flaws() == set()


def test_s74_a_damaged_page_is_a_finding_and_no_crash(written: AuditStage) -> None:
    if not isinstance(written.place, SqlitePlace):
        pytest.skip("a file under a running server; PostgreSQL's own checksums are for that")
    path = written.place.path
    written.writer.close()
    with closing(sqlite3.connect(path)) as connection:
        page_bytes: int = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // page_bytes):
        damaged = bytes(content[: page * page_bytes]) + b"\xff" * 64 + bytes(content[page * page_bytes + 64 :])
        path.write_bytes(damaged)
        assert Flaw.UNREADABLE in written.flaws(), page
    path.write_bytes(bytes(content))
    written.open()


def renumber(stage: AuditStage, *, after: int, by: int) -> None:
    """Move the rows after a seq, as somebody would who wants no gap to be seen."""
    stage.place.tamper("UPDATE audit_event SET seq = -seq WHERE seq > ?", after)
    stage.place.tamper("UPDATE audit_event SET seq = -seq + ? WHERE seq < 0", by)


def reseal(stage: AuditStage, key: SealingKey) -> None:
    """Replace all checkpoints by ones that fit the rows as they are now."""
    sizes = [one.size for one in stage.writer.store.checkpoints()]
    stage.place.tamper("DELETE FROM audit_checkpoint")
    tree = CompactRange()
    rows: list[Row] = stage.rows()
    for row in rows:
        tree.append(LeafHasher(stage.origin).leaf(row))
        if tree.size in sizes or tree.size == len(rows):
            note = key.sign_checkpoint(Checkpoint(stage.origin, tree.size, tree.root()))
            stage.writer.store.append(Batch(checkpoint=StoredCheckpoint(tree.size, note, tree.to_bytes())))

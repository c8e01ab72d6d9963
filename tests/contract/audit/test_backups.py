"""Back-ups: a copy verifies by itself; a log that was put back goes on, says so, and forgets again what it had to."""

from contextlib import closing
from pathlib import Path

import pytest

from subak.audit import backups, retention
from subak.audit.backups import Former
from subak.audit.errors import StoreDamaged
from subak.audit.records import Subject
from subak.audit.sqlite import SqliteReader
from subak.audit.verdict import Doubt, Evidence, Flaw
from subak.audit.verify import verify
from tests.audit import EMAIL, TERM_MS, AuditStage, PostgresPlace, SqlitePlace, end_of, start_of

CANARY = Subject("principal", "user:canary")
OTHER = Subject("principal", "user:other")


@pytest.fixture
def copy(stage: AuditStage, tmp_path: Path) -> Path:
    """A copy of a log with rows of two people, made while there is an unsealed row."""
    for subject in (CANARY, OTHER):
        stage.write(4, subject)
    stage.writer.write(end_of())
    return back_up(stage, tmp_path / "copy.db")


def back_up(stage: AuditStage, target: Path) -> Path:
    with closing(stage.place.reader(stage.origin)) as reader:
        assert backups.back_up(reader, target) == stage.writer.size
    return target


def put_back(stage: AuditStage, copy: Path, former: Former | None = None, *, why: str = "") -> backups.Restored:
    """End the process and do what `subak audit restore` does."""
    stage.writer.close()
    with closing(SqliteReader(copy)) as reader:
        if former is None:
            with closing(stage.place.reader(stage.origin)) as there:
                former = backups.look_at_former(there, reader.end())
        if isinstance(stage.place, SqlitePlace):
            backups.put_back_file(reader, stage.directory, suffix=".replaced")
        else:
            stage.place.tamper("TRUNCATE audit_event, audit_checkpoint, audit_rotation, audit_base")
            with closing(stage.place.store(stage.origin)) as store:
                backups.put_back_rows(reader, store)
    stage.open()
    restored = backups.resume(stage.writer, former, why=why)
    stage.writer.seal()
    return restored


def test_a_copy_is_one_private_file_that_verifies_by_itself(stage: AuditStage, copy: Path) -> None:
    assert copy.stat().st_mode & 0o777 == 0o600
    assert list(copy.parent.glob("copy.db?*")) == []
    with closing(SqliteReader(copy)) as reader:
        assert verify(reader, Evidence(stage.vkey, is_pinned=True)).findings == ()
        assert list(reader.rows(0)) == stage.rows()
    with pytest.raises(FileExistsError):
        back_up(stage, copy)


def test_a_copy_of_a_pruned_log_verifies(stage: AuditStage, tmp_path: Path) -> None:
    stage.write(5)
    retention.rotate_key(stage.writer)
    stage.clock.jump(100 * 86_400)
    stage.write(5)
    assert retention.prune(stage.writer, term_ms=TERM_MS) is not None
    stage.write(1)
    with closing(SqliteReader(back_up(stage, tmp_path / "copy.db"))) as reader:
        report = verify(reader, Evidence(stage.vkey, is_pinned=True))
    assert (report.findings, report.base_size > 0) == ((), True)


def test_a_log_put_back_verifies_and_says_so(stage: AuditStage, copy: Path) -> None:
    copied = stage.writer.size
    stage.write(7)
    lost = stage.writer.size - copied
    restored = put_back(stage, copy, why="the disk failed")
    assert (restored.seq, restored.lost, restored.erased) == (copied, lost, 0)
    assert b"the disk failed" in stage.rows()[copied].core
    stage.write(3)
    report = stage.judge(*stage.notes)
    assert report.findings == ()
    assert {warned.doubt for warned in report.warnings} == {Doubt.RESTORED, Doubt.GIVEN_UP}
    assert [warned.seq for warned in report.warnings if warned.doubt is Doubt.RESTORED] == [copied]
    report = stage.judge()
    assert Doubt.RESTORED in {warned.doubt for warned in report.warnings}


def test_the_same_roll_back_without_the_row_is_found(stage: AuditStage, copy: Path) -> None:
    """What the row excuses is the very thing that an attacker would do."""
    stage.write(7)
    stage.writer.close()
    with closing(SqliteReader(copy)) as reader:
        if isinstance(stage.place, PostgresPlace):
            stage.place.tamper("DELETE FROM audit_event WHERE seq >= ?", reader.end())
            stage.place.tamper("DELETE FROM audit_checkpoint WHERE size > ?", reader.end())
        else:
            backups.put_back_file(reader, stage.directory, suffix=".replaced")
    stage.open()
    assert stage.flaws(*stage.notes) == {Flaw.BEHIND_ANCHOR}
    stage.write(9)
    assert stage.flaws(*stage.notes) == {Flaw.FORK}


def test_a_restore_excuses_only_the_rows_that_it_names(stage: AuditStage, copy: Path) -> None:
    stage.write(7)
    size = stage.writer.size
    put_back(stage, copy, Former(size - 2, (), is_readable=False))
    stage.write(20)
    assert stage.flaws(*stage.notes) == {Flaw.FORK}


def test_an_erasure_since_the_copy_is_carried_out_again(stage: AuditStage, copy: Path) -> None:
    assert retention.erase_subject(stage.writer, CANARY).rows == 4
    stage.write(2, OTHER)
    assert put_back(stage, copy).erased == 4
    assert [row.is_redacted for row in stage.rows()[1:9]] == [True] * 4 + [False] * 4
    assert stage.judge().findings == ()
    assert list(retention.rows_about(stage.writer.store, stage.writer.finder.numbers_of(CANARY))) == []


def test_it_is_even_when_the_log_that_was_there_cant_be_read(stage: AuditStage, copy: Path) -> None:
    """The destroyed keys say who was erased."""
    retention.erase_subject(stage.writer, CANARY)
    restored = put_back(stage, copy, Former(0, (), is_readable=False))
    assert restored.erased == 4
    assert stage.judge().findings == ()


def test_the_erasure_of_one_stream_is_known_by_the_log_that_was_there(stage: AuditStage, tmp_path: Path) -> None:
    for stream_id in ("st_mine", "st_other"):
        stage.writer.write(start_of(CANARY, stream_id))
    copy = back_up(stage, tmp_path / "copy.db")
    retention.erase_stream(stage.writer, "st_mine")
    assert put_back(stage, copy).erased == 1
    assert [row.is_redacted for row in stage.rows()[1:3]] == [True, False]
    assert stage.judge().findings == ()


def test_holds_since_the_copy_hold_again(stage: AuditStage, copy: Path) -> None:
    now_ms = stage.clock.time_ms()
    for why, days in (("over soon", 1), ("lifted", 30), ("a dispute", 30)):
        retention.hold(stage.writer, until_ms=now_ms + days * 86_400_000, why=why)
    held = retention.holds(stage.writer.store, now_ms=now_ms)[1]
    retention.release(stage.writer, held, why="over")
    stage.clock.jump(2 * 86_400)
    put_back(stage, copy)
    found = retention.holds(stage.writer.store, now_ms=stage.clock.time_ms())
    assert [(one.why, one.until_ms) for one in found] == [("a dispute", now_ms + 30 * 86_400_000)]
    assert stage.judge().findings == ()


def test_nobody_is_erased_because_keys_are_missing(stage: AuditStage, copy: Path) -> None:
    """Keys that were lost may be found again; only those that were destroyed speak of an erasure."""
    stage.writer.close()
    keys = list((stage.directory / "audit-subjects").iterdir())
    for path in keys:
        path.rename(path.with_name(path.name + ".away"))
    stage.open()
    assert put_back(stage, copy).erased == 0
    stage.writer.close()
    for path in keys:
        path.with_name(path.name + ".away").rename(path)
    stage.open()
    assert stage.judge().findings == ()


def test_a_log_may_be_put_back_more_than_once(stage: AuditStage, copy: Path) -> None:
    for _ in range(3):
        stage.write(4)
        put_back(stage, copy)
    stage.write(8)
    report = stage.judge(*stage.notes)
    assert report.findings == ()


def test_rows_are_put_back_into_an_empty_store_only(stage: AuditStage, copy: Path) -> None:
    with closing(SqliteReader(copy)) as reader, pytest.raises(StoreDamaged, match="still has rows"):
        backups.put_back_rows(reader, stage.writer.store)


def test_keys_are_copied_apart_and_never_put_over_others(stage: AuditStage, tmp_path: Path) -> None:
    stage.write(2, CANARY)
    keys = tmp_path / "keys"
    copied = backups.back_up_keys(stage.directory, keys)
    assert {path.name for path in copied} == {
        "audit.keys",
        *(path.name for path in (keys / "audit-subjects").iterdir()),
    }
    assert {path.stat().st_mode & 0o777 for path in copied} == {0o600}
    retention.erase_subject(stage.writer, CANARY)
    assert backups.put_back_keys(keys, stage.directory) == []
    (stage.directory / "audit.keys").unlink()
    assert [path.name for path in backups.put_back_keys(keys, stage.directory)] == ["audit.keys"]
    assert EMAIL.encode() not in b"".join(path.read_bytes() for path in copied)

"""What a log's writer does when its store fails it, and at its start."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subak.audit.errors import StoreDamaged, StoreUnavailable, Trouble
from subak.audit.keys import KEY_FILE, KeyFileError, load_keys
from subak.audit.postgres import PostgresStore
from subak.audit.records import Subject
from subak.audit.retention import rotate_key
from subak.audit.store import Batch, LogStore
from subak.audit.verdict import Doubt, Evidence, Flaw, Receipt
from subak.audit.verify import verify
from subak.core.notes import VerifierKey
from tests.audit import TERM_MS, AuditStage, PostgresPlace, SqlitePlace, end_of, start_of
from tests.postgres import execute


class Interrupted:
    """Lets the commits of a store break off: unheard, or after they came through."""

    def __init__(self, store: LogStore) -> None:
        self._append: Callable[[Batch], None] = store.append
        self.comes_through: list[bool] = []

    def append(self, batch: Batch) -> None:
        if not self.comes_through:
            self._append(batch)
            return
        if self.comes_through.pop(0):
            self._append(batch)
        raise StoreUnavailable(Trouble.UNREACHABLE)


@pytest.fixture
def interrupted(stage: AuditStage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupted]:
    interrupted = Interrupted(stage.writer.store)
    monkeypatch.setattr(stage.writer.store, "append", interrupted.append)
    yield interrupted
    assert interrupted.comes_through == []


@pytest.mark.parametrize("comes_through", [True, False])
def test_a_batch_whose_commit_broke_off_is_stored_once(
    stage: AuditStage, interrupted: Interrupted, *, comes_through: bool
) -> None:
    records = [stage.writer.stamp(start_of(Subject("principal", f"p{number}"))) for number in range(3)]
    more = stage.writer.stamp(end_of())
    interrupted.comes_through = [comes_through]
    with pytest.raises(StoreUnavailable):
        stage.writer.append(records)
    places = stage.writer.append([*records, more])
    assert [place.seq for place in places] == [1, 2, 3, 4]
    assert [row.operation for row in stage.rows()] == ["log.open", *["stream.start"] * 3, "stream.end"]
    stage.writer.seal()
    assert stage.judge().findings == ()


@pytest.mark.parametrize("comes_through", [True, False])
def test_other_records_after_a_broken_commit_leave_the_log_whole(
    stage: AuditStage, interrupted: Interrupted, *, comes_through: bool
) -> None:
    interrupted.comes_through = [comes_through]
    with pytest.raises(StoreUnavailable):
        stage.writer.write(start_of(Subject("principal", "somebody")))
    assert stage.writer.write(end_of()).seq == (2 if comes_through else 1)
    stage.writer.seal()
    assert stage.judge().findings == ()


@pytest.mark.parametrize("comes_through", [True, False])
def test_a_rotation_whose_commit_broke_off_leaves_one_key(
    stage: AuditStage, interrupted: Interrupted, *, comes_through: bool
) -> None:
    interrupted.comes_through = [comes_through]
    with pytest.raises(StoreUnavailable):
        rotate_key(stage.writer)
    stage.writer.write(end_of())
    stage.writer.seal()
    assert stage.judge(*stage.notes).findings == ()
    stage.reopen()
    assert len(stage.writer.store.rotations()) == comes_through
    assert stage.judge(*stage.notes).findings == ()


def test_a_seal_that_broke_off_is_made_again(stage: AuditStage, interrupted: Interrupted) -> None:
    stage.writer.write(end_of())
    interrupted.comes_through = [True]
    with pytest.raises(StoreUnavailable):
        stage.writer.seal()
    assert stage.writer.seal() == stage.notes[-1]
    assert stage.judge(*stage.notes).findings == ()


def test_a_lost_connection_is_made_anew_with_its_lock(stage: AuditStage) -> None:
    if not isinstance(stage.place, PostgresPlace):
        pytest.skip("a file has no connection")
    dsn = stage.place.dsn
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'subak'"
    stage.write(2)
    execute(dsn, others)
    with pytest.raises(StoreUnavailable) as lost:
        stage.writer.write(end_of())
    assert lost.value.trouble is Trouble.UNREACHABLE
    stage.write(2)
    assert stage.judge(*stage.notes).findings == ()
    locks = execute(dsn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    assert locks[0][0] == 1


def test_a_database_that_takes_no_writes_says_so(stage: AuditStage) -> None:
    if not isinstance(stage.place, PostgresPlace):
        pytest.skip("for files see the tests of the log")
    with pytest.raises(StoreUnavailable) as refused:
        PostgresStore(f"{stage.place.dsn}&default_transaction_read_only=on", "subak/read-only")
    assert refused.value.trouble is Trouble.READ_ONLY


def test_a_start_seals_what_the_last_process_left_open(stage: AuditStage) -> None:
    stage.writer.write(end_of())
    stage.reopen()
    assert stage.writer.sealed_size == stage.writer.size == 2


def test_a_log_that_was_cut_isnt_gone_on_with(stage: AuditStage) -> None:
    stage.write(4)
    stage.place.tamper("DELETE FROM audit_event WHERE seq >= 3")
    stage.writer.close()
    with pytest.raises(StoreDamaged, match="fewer rows"):
        stage.open()


def test_a_log_with_another_newest_checkpoint_isnt_gone_on_with(stage: AuditStage) -> None:
    stage.write(4)
    stage.place.tamper("UPDATE audit_checkpoint SET note = ? WHERE size = 5", stage.notes[1])
    stage.writer.close()
    with pytest.raises(StoreDamaged, match="isn't the one that was sealed"):
        stage.open()


def test_another_logs_key_file_is_refused(stage: AuditStage, tmp_path: Path) -> None:
    stage.write(1)
    stage.writer.close()
    if isinstance(stage.place, SqlitePlace):
        content = (tmp_path / KEY_FILE).read_bytes()
        (tmp_path / KEY_FILE).write_bytes(content.replace(stage.origin.encode(), b"subak/0000000000000000"))
        with pytest.raises(KeyFileError):
            stage.open()
        load_keys(tmp_path / "another")
        (tmp_path / KEY_FILE).write_bytes((tmp_path / "another" / KEY_FILE).read_bytes())
        with pytest.raises(StoreDamaged, match="belongs to"):
            stage.open()
        (tmp_path / KEY_FILE).write_bytes(content)
    stage.open()


def test_a_clock_that_was_set_back_is_a_warning(stage: AuditStage) -> None:
    stage.write(2)
    stage.clock.set_back(3600)
    stage.write(2)
    report = stage.judge(*stage.notes)
    assert report.findings == ()
    assert Doubt.CLOCK_WENT_BACK in {one.doubt for one in report.warnings}


def test_what_a_verdict_rests_on_is_said(stage: AuditStage) -> None:
    stage.write(2)
    stage.writer.write(end_of())
    reader = stage.place.reader(stage.origin)
    try:
        report = verify(reader, Evidence(stage.vkey, is_pinned=False))
    finally:
        reader.close()
    assert report.verdict == 0
    assert {one.doubt for one in report.warnings} == {Doubt.NO_ANCHOR, Doubt.KEY_NOT_PINNED, Doubt.UNSEALED_ROWS}


def test_anchors_of_others_are_no_anchors(stage: AuditStage) -> None:
    stage.write(2)
    foreign = stage.notes[-1].replace(stage.origin, "subak/0000000000000000")
    assert stage.flaws(foreign) == stage.flaws("") == stage.flaws(stage.notes[-1][:-9]) == {Flaw.BAD_ANCHOR}


def test_a_receipt_holds_the_log_to_its_row(stage: AuditStage) -> None:
    committed = stage.writer.write(start_of(Subject("principal", "somebody")))
    signature = stage.writer.keys.sealing.sign_receipt(committed.seq, committed.leaf)
    receipt = Receipt(stage.origin, committed.seq, committed.leaf, signature)
    stage.writer.seal()
    assert flaws_with(stage, receipt) == set()
    other = stage.writer.keys.sealing.sign_receipt(committed.seq, bytes(32))
    assert flaws_with(stage, Receipt(stage.origin, committed.seq, bytes(32), other)) == {Flaw.BAD_RECEIPT}
    assert flaws_with(stage, Receipt(stage.origin, committed.seq, committed.leaf, other)) == {Flaw.BAD_RECEIPT}
    beyond = stage.writer.keys.sealing.sign_receipt(99, committed.leaf)
    assert flaws_with(stage, Receipt(stage.origin, 99, committed.leaf, beyond)) == {Flaw.BAD_RECEIPT}


def test_a_key_of_another_log_verifies_nothing(stage: AuditStage) -> None:
    reader = stage.place.reader(stage.origin)
    try:
        report = verify(reader, Evidence(VerifierKey("subak/other", stage.vkey.public), is_pinned=True))
    finally:
        reader.close()
    assert {one.flaw for one in report.findings} == {Flaw.BAD_SIGNATURE}


def flaws_with(stage: AuditStage, receipt: Receipt) -> set[Flaw]:
    reader = stage.place.reader(stage.origin)
    try:
        report = verify(reader, Evidence(stage.vkey, is_pinned=True, receipts=(receipt,), least_term_ms=TERM_MS))
    finally:
        reader.close()
    return {one.flaw for one in report.findings}

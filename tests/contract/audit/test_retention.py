"""Terms, holds and keys: what leaves the log leaves one that verifies, and what may not leave stays."""

import pytest

from subak.audit import retention
from subak.audit.records import Subject
from subak.audit.retention import Held, Pruned
from subak.audit.verdict import DAY_MS, Doubt
from subak.core.notes import VerifierKey
from tests.audit import TERM_MS, AuditStage, violation_of

CANARY = Subject("principal", "canary")
A_YEAR_MS = 365 * DAY_MS


def test_rows_past_their_term_are_deleted_and_the_rest_verifies(stage: AuditStage) -> None:
    stage.write(9)
    stage.clock.jump(TERM_MS / 1000 - 5)
    assert retention.prune(stage.writer, term_ms=TERM_MS) == Pruned(4, 4)
    assert [row.seq for row in stage.rows()][:1] == [4]
    assert stage.judge().findings == ()
    stage.reopen()
    stage.write(3)
    report = stage.judge(*stage.notes)
    assert report.findings == ()
    assert report.base_size == 4
    assert {one.doubt for one in report.warnings} == {Doubt.ANCHOR_PRUNED}


def test_nothing_is_deleted_before_its_term(stage: AuditStage) -> None:
    stage.write(5)
    stage.clock.jump(TERM_MS / 1000 - 60)
    assert retention.prune(stage.writer, term_ms=TERM_MS) is None
    assert len(stage.rows()) == 6


def test_pruning_goes_on_from_where_it_was(stage: AuditStage) -> None:
    for _ in range(3):
        stage.write(4)
        stage.clock.jump(50 * DAY_MS / 1000)
        stage.write(1)
        retention.prune(stage.writer, term_ms=TERM_MS)
        assert stage.judge().findings == ()
    assert stage.writer.store.base().size > 5


def test_a_log_that_slept_for_a_year_is_pruned_to_its_newest_rows(stage: AuditStage) -> None:
    stage.write(5, CANARY)
    stage.clock.jump(A_YEAR_MS / 1000)
    stage.reopen()
    assert retention.prune(stage.writer, term_ms=TERM_MS) is not None
    stage.write(1)
    assert stage.judge().findings == ()


def test_peppers_and_keys_go_with_the_rows_that_needed_them(stage: AuditStage) -> None:
    stage.write(3, CANARY)
    stage.writer.write(violation_of(CANARY))
    (month,) = stage.writer.keys.months
    stage.clock.jump(60 * DAY_MS / 1000)
    stage.write(3, CANARY)
    stage.clock.jump(100 * DAY_MS / 1000)
    stage.write(2, CANARY)
    retention.prune(stage.writer, term_ms=TERM_MS)
    assert month not in stage.writer.keys.months
    assert not any(month in path.name for path in stage.directory.rglob("*.keys"))
    assert len(stage.writer.keys.days) == 1
    assert stage.judge().findings == ()


def test_a_hold_keeps_everything_until_its_end(stage: AuditStage) -> None:
    stage.write(5, CANARY)
    held = retention.hold(stage.writer, until_ms=stage.clock.time_ms() + A_YEAR_MS, why="a court asked for it")
    stage.clock.jump(TERM_MS / 1000)
    stage.write(1)
    with pytest.raises(Held, match=f"row {held.seq} .*a court asked for it"):
        retention.prune(stage.writer, term_ms=TERM_MS)
    with pytest.raises(Held):
        retention.erase_subject(stage.writer, CANARY)
    with pytest.raises(Held):
        retention.erase_stream(stage.writer, "st_1")
    assert not any(row.is_redacted for row in stage.rows())
    stage.clock.jump(A_YEAR_MS / 1000)
    assert retention.holds(stage.writer.store, now_ms=stage.clock.time_ms()) == []
    assert retention.prune(stage.writer, term_ms=TERM_MS) is not None
    assert stage.judge().findings == ()


def test_a_released_hold_keeps_nothing_and_another_one_does(stage: AuditStage) -> None:
    until_ms = stage.clock.time_ms() + A_YEAR_MS
    stage.write(2, CANARY)
    for why in ("first", "second"):
        retention.hold(stage.writer, until_ms=until_ms, why=why)
    first, second = retention.holds(stage.writer.store, now_ms=stage.clock.time_ms())
    retention.release(stage.writer, first, why="settled")
    assert retention.holds(stage.writer.store, now_ms=stage.clock.time_ms()) == [second]
    retention.release(stage.writer, second, why="settled")
    assert retention.erase_subject(stage.writer, CANARY).rows == 2


def test_a_dry_run_names_the_point_and_deletes_nothing(stage: AuditStage) -> None:
    stage.write(5)
    stage.clock.jump(TERM_MS / 1000)
    reader = stage.place.reader(stage.origin)
    try:
        point = retention.prune_point(reader, before_ms=stage.clock.time_ms() - TERM_MS)
    finally:
        reader.close()
    assert point is not None
    assert retention.prune(stage.writer, term_ms=TERM_MS) == Pruned(point.size, point.size)


def test_another_key_seals_after_a_rotation_and_the_first_one_still_proves_all(stage: AuditStage) -> None:
    first = stage.writer.keys.sealing.vkey
    stage.write(2)
    keys: list[VerifierKey] = []
    for _ in range(3):
        retention.rotate_key(stage.writer)
        keys.append(stage.writer.keys.sealing.vkey)
        stage.write(2)
    assert len({first, *keys}) == 4
    assert keys[-1].key_id.hex() not in stage.notes[0]
    assert stage.judge(*stage.notes).findings == ()
    stage.reopen()
    assert stage.writer.keys.sealing.vkey == keys[-1]
    assert stage.judge(*stage.notes).findings == ()


def test_a_pruned_rotation_still_proves_the_keys_after_it(stage: AuditStage) -> None:
    stage.write(2)
    retention.rotate_key(stage.writer)
    stage.write(2)
    stage.clock.jump(TERM_MS / 1000)
    stage.write(2)
    assert retention.prune(stage.writer, term_ms=TERM_MS) is not None
    assert all(row.operation != "key.rotate" for row in stage.rows())
    assert stage.judge().findings == ()

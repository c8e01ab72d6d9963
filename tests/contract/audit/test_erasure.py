"""What an erasure leaves: a log that verifies, and nothing about the person in any byte of any file."""

from pathlib import Path

import pytest

from subak.audit import retention
from subak.audit.records import Personal, Record, Row, Subject
from subak.audit.retention import Erased
from subak.audit.rows import PersonalMismatch
from subak.audit.store import Query
from subak.audit.subjects import RECORD_BYTES, SUBJECT_FOLDER
from tests.audit import ADDRESS, EMAIL, QUESTION, AuditStage, SqlitePlace, end_of, holding, start_of, violation_of

CANARY = Subject("principal", "canary-4711", tenant="canary-tenant")
CLEAR = [text.encode() for text in (CANARY.id, CANARY.tenant, EMAIL, QUESTION, ADDRESS)]


@pytest.fixture
def busy(stage: AuditStage) -> AuditStage:
    """A log with rows of the canary between those of others, over two boots."""
    for _ in range(3):
        stage.write(40, Subject("principal", "other"))
        stage.write(7, CANARY)
        stage.writer.write(violation_of(CANARY))
        stage.writer.write(violation_of(Subject("principal", "other"), address="203.0.113.78"))
        stage.writer.seal()
    stage.reopen()
    stage.write(5, CANARY)
    return stage


def test_nothing_personal_is_ever_stored_in_clear(busy: AuditStage) -> None:
    assert list(holding(all_files(busy), CLEAR)) == []


def test_nothing_in_any_file_tells_of_an_erased_subject(busy: AuditStage, tmp_path: Path) -> None:
    """No name and no key is left in a byte of any file; numbers that a database's free pages keep lead nowhere."""
    rows = rows_of(busy, CANARY)
    numbers = {number for row in rows for number in (row.subject, row.address) if number is not None}
    secrets = names_of(busy, CANARY) + [record_of(busy, number)[32:92] for number in numbers]
    assert len(rows) == 29
    assert {needle for _, needle in holding(all_files(busy), secrets)} >= {record_of(busy, one)[:32] for one in numbers}

    assert retention.erase_subject(busy.writer, CANARY) == Erased(29, is_scrubbed=True)

    files = all_files(busy)
    if isinstance(busy.place, SqlitePlace):
        reader = busy.place.reader(busy.origin)
        reader.back_up(tmp_path / "backup.db")
        reader.close()
        files.append(tmp_path / "backup.db")
    assert list(holding(files, CLEAR + secrets)) == []
    assert [busy.writer.subjects.find(number) for number in numbers] == [None] * len(numbers)
    assert not any(row.subject in numbers or row.address in numbers for row in busy.rows())


def test_a_back_up_made_before_an_erasure_is_mute_after_it(busy: AuditStage) -> None:
    before = rows_of(busy, CANARY)
    retention.erase_subject(busy.writer, CANARY)
    for row in before:
        with pytest.raises(PersonalMismatch, match="key is missing"):
            busy.writer.personal.read(row)


def test_an_erasure_leaves_a_log_that_verifies_and_the_others_in_it(busy: AuditStage) -> None:
    others = list(export(busy, Subject("principal", "other")))
    retention.erase_subject(busy.writer, CANARY)
    assert busy.judge(*busy.notes).findings == ()
    assert list(export(busy, CANARY)) == []
    assert list(export(busy, Subject("principal", "other"))) == others
    assert len(others) == 123


def test_somebody_with_more_keys_than_a_query_takes_is_found(stage: AuditStage) -> None:
    stage.write(3, CANARY)
    numbers = stage.writer.finder.numbers_of(CANARY)
    many = [number.to_bytes(8) for number in range(40_000)]
    found = retention.rows_about(stage.writer.store, [*many[:15_000], *numbers, *many[15_000:]])
    assert [row.seq for row in found] == [1, 2, 3]


def test_erasing_nobody_writes_nothing(busy: AuditStage) -> None:
    size = busy.writer.size
    assert retention.erase_subject(busy.writer, Subject("principal", "unknown")) == Erased(0, is_scrubbed=True)
    assert busy.writer.size == size


def test_evidence_stays_with_a_reason(busy: AuditStage) -> None:
    erased = retention.erase_subject(busy.writer, CANARY, keep_evidence_because="an attack is being investigated")
    assert erased.rows == 26
    kept = list(export(busy, CANARY))
    assert [one.personal.address for one in kept if one.personal is not None] == [ADDRESS] * 3
    assert b"an attack is being investigated" in busy.rows()[-1].core
    assert busy.judge().findings == ()


def test_an_anonymous_stream_is_erased_by_its_id(stage: AuditStage) -> None:
    for stream_id in ("st_mine", "st_other"):
        stage.writer.write(start_of(Subject("stream", stream_id), stream_id))
        stage.writer.write(end_of(stream_id))
    assert retention.erase_stream(stage.writer, "st_mine").rows == 1
    assert [row.is_redacted for row in stage.rows()] == [False, True, False, False, False, False]
    assert list(export(stage, Subject("stream", "st_mine"))) == []
    assert len(list(export(stage, Subject("stream", "st_other")))) == 1
    stage.writer.seal()
    assert stage.judge().findings == ()


def test_one_stream_of_a_principal_is_erased_and_the_others_stay_readable(stage: AuditStage) -> None:
    for stream_id in ("st_mine", "st_other"):
        stage.writer.write(start_of(CANARY, stream_id))
    assert retention.erase_stream(stage.writer, "st_mine").rows == 1
    assert len(list(export(stage, CANARY))) == 1
    assert stage.judge().findings == ()


def test_a_subjects_rows_of_all_months_are_erased(stage: AuditStage) -> None:
    stage.write(2, CANARY)
    stage.clock.jump(40 * 86_400)
    stage.write(2, CANARY)
    assert len({row.subject for row in rows_of(stage, CANARY)}) == 2
    assert retention.erase_subject(stage.writer, CANARY).rows == 4
    assert stage.judge().findings == ()


def test_an_address_without_a_caller_is_a_subject(stage: AuditStage) -> None:
    subject = Subject("address", ADDRESS)
    stage.writer.write(violation_of(subject))
    found = [one.personal for one in export(stage, subject)]
    assert [one.address for one in found if one is not None] == [ADDRESS]
    assert retention.erase_subject(stage.writer, subject).rows == 1
    assert list(export(stage, subject)) == []


def test_an_erasure_says_who_asked_for_it(stage: AuditStage) -> None:
    stage.write(1, CANARY)
    actor = Personal(Subject("principal", "administrator"))
    retention.erase_subject(stage.writer, CANARY, actor=actor)
    assert [one.personal.subject for one in export(stage, actor.subject) if one.personal is not None] == [
        "administrator"
    ]


def test_an_unfinished_erasure_is_finished_at_the_next_start(busy: AuditStage) -> None:
    """The process ends after the row that announces it."""
    spans = retention.spans_of(row.seq for row in rows_of(busy, CANARY))
    record = retention.announcement(spans, why="")
    busy.writer.write(record)
    busy.reopen()
    assert list(export(busy, CANARY)) == []
    assert busy.judge().findings == ()


def test_a_question_can_be_confirmed_by_who_shows_it_until_it_is_erased(stage: AuditStage) -> None:
    stage.write(1, CANARY)
    row = rows_of(stage, CANARY)[0]
    personal = stage.writer.personal
    assert personal.is_question(row, QUESTION)
    assert not personal.is_question(row, QUESTION + " ")
    retention.erase_subject(stage.writer, CANARY)
    assert not personal.is_question(stage.rows()[row.seq], QUESTION)


def test_a_callers_repeated_question_is_seen_within_a_day_only(stage: AuditStage) -> None:
    def ask(subject: Subject) -> str:
        stage.writer.write(Record(start_of(subject).operation, {}, "st_1", Personal(subject, question=QUESTION)))
        content = stage.writer.personal.read(stage.rows()[-1])
        assert content is not None
        return content.query_hash

    first = ask(CANARY)
    assert ask(CANARY) == first
    assert ask(Subject("principal", "other")) != first
    stage.clock.jump(86_400)
    assert ask(CANARY) != first


def rows_of(stage: AuditStage, subject: Subject) -> list[Row]:
    return list(stage.writer.store.search(Query(subjects=stage.writer.finder.numbers_of(subject))))


def names_of(stage: AuditStage, subject: Subject) -> list[bytes]:
    pseudonyms = stage.writer.pseudonyms
    kinds = (pseudonyms.names_of(subject, is_evidence=is_evidence) for is_evidence in (False, True))
    return [*pseudonyms.names_of_address(ADDRESS).values(), *(name for names in kinds for name in names.values())]


def record_of(stage: AuditStage, number: bytes) -> bytes:
    """Give a record of the key files as it stands there."""
    (path,) = stage.directory.joinpath(SUBJECT_FOLDER).glob("*.keys")
    return path.read_bytes()[int.from_bytes(number[2:]) * RECORD_BYTES :][:RECORD_BYTES]


def export(stage: AuditStage, subject: Subject) -> list[retention.Exported]:
    writer = stage.writer
    return list(retention.export_subject(writer.store, writer.finder, writer.personal, subject))


def all_files(stage: AuditStage) -> list[Path]:
    return [*stage.place.files(), *stage.directory.joinpath(SUBJECT_FOLDER).iterdir()]

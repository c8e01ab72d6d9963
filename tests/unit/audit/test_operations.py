"""The table of what may be written where: every operation is written with all it may, and with nothing else."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from subak.audit.operations import (
    COUNT,
    FIELDS,
    FLAG,
    KEY,
    MILLISECONDS,
    PATH,
    RULES,
    SENTENCE,
    SPANS,
    TERM_DAYS,
    WORD,
    Form,
    NotPermitted,
    Operation,
    PersonalField,
)
from subak.audit.records import Personal, Record, Subject, check_record
from tests.audit import ADDRESS, EMAIL, QUESTION, AuditStage, SqlitePlace, holding

GOOD: dict[Form, object] = {
    WORD: "word",
    PATH: "/v1/streams/{id}",
    COUNT: 3,
    MILLISECONDS: 1.5,
    FLAG: True,
    SENTENCE: "a court asked for it",
    KEY: "name+00+AA==",
    SPANS: [[0, 0]],
}
BAD: dict[Form, list[object]] = {
    WORD: ["", "two words", "é", "x" * 129, "a\n", 5, None],
    PATH: ["streams", "", "/a b", 5],
    COUNT: [-1, 1.5, True, "3", 2**63],
    MILLISECONDS: [-0.1, float("nan"), float("inf"), True, "1"],
    FLAG: [0, 1, "true"],
    SENTENCE: ["", "two\nlines", "x" * 301, 5],
    KEY: ["", "é", "x" * 513, b"x"],
    SPANS: [[], [[1]], [[2, 1]], [[0, "1"]], [0, 1], [[0, 0]] * 10_001, "0-1"],
}
SOMEBODY = Subject("principal", "somebody", tenant="tenant")
WITH_ADDRESS = ("security.", "auth.failure", "admin.")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[AuditStage]:
    stage = AuditStage(SqlitePlace(tmp_path), tmp_path)
    yield stage
    stage.close()


def fullest(operation: Operation) -> Record:
    """Give a record with all that an operation may write."""
    rule = operation.rule
    personal = None
    if PersonalField.SUBJECT in rule.personal:
        personal = Personal(
            SOMEBODY,
            email=EMAIL if PersonalField.EMAIL in rule.personal else "",
            address=ADDRESS if PersonalField.ADDRESS in rule.personal else "",
            question=QUESTION if PersonalField.QUERY_HASH in rule.personal else "",
        )
    fields = {name: GOOD[FIELDS[name]] for name in rule.fields}
    return Record(operation, fields, "st_1" if rule.has_stream else "", personal)


@pytest.mark.parametrize("operation", Operation)
def test_an_operation_writes_what_the_table_says_and_nothing_else(stage: AuditStage, operation: Operation) -> None:
    record = fullest(operation)
    seq = stage.writer.write(record).seq
    row = stage.rows()[seq]
    core = msgspec.json.decode(row.core)
    common = {"v", "op", "time_ms", "mono_ms", "boot"} | ({"stream"} if operation.rule.has_stream else set())
    assert core.keys() == common | operation.rule.fields
    content = stage.writer.personal.read(row)
    written = set() if content is None else {name for name, value in msgspec.structs.asdict(content).items() if value}
    assert written - {"kind"} == set(operation.rule.personal)
    files = [path for path in stage.directory.rglob("*") if path.is_file()]
    assert list(holding(files, [text.encode() for text in (SOMEBODY.id, EMAIL, ADDRESS, QUESTION, "st_1")])) == []


@pytest.mark.parametrize("operation", Operation)
def test_a_field_of_another_operation_is_refused(operation: Operation) -> None:
    for name in FIELDS.keys() - operation.rule.fields:
        with pytest.raises(NotPermitted, match=name):
            check_record(Record(operation, {name: GOOD[FIELDS[name]]}))
    with pytest.raises(NotPermitted, match="question"):
        check_record(Record(operation, {"question": QUESTION}))


@pytest.mark.parametrize("form", GOOD)
def test_values_are_of_their_fields_form(form: Form) -> None:
    assert form.takes(GOOD[form])
    assert [value for value in BAD[form] if form.takes(value)] == []


def test_a_refusal_names_the_field_and_never_the_value() -> None:
    with pytest.raises(NotPermitted) as refused:
        check_record(Record(Operation.STREAM_END, {"outcome": "mail me: a@example.org"}))
    assert "stream.end.outcome" in str(refused.value)
    assert "example.org" not in str(refused.value)


def test_the_table_covers_all_operations_and_fields() -> None:
    assert set(RULES) == set(Operation)
    assert {name for rule in RULES.values() for name in rule.fields} == set(FIELDS)
    assert all(rule.term_days == TERM_DAYS and rule.about and rule.purpose and rule.basis for rule in RULES.values())


def test_an_address_is_written_for_security_and_administration_only() -> None:
    with_address = {operation for operation in Operation if PersonalField.ADDRESS in operation.rule.personal}
    assert {one.value for one in with_address} <= {one.value for one in Operation if one.value.startswith(WITH_ADDRESS)}
    assert Operation.RATE_LIMIT_VIOLATION in with_address
    for operation in set(Operation) - with_address:
        for personal in (Personal(SOMEBODY, address=ADDRESS), Personal(Subject("address", ADDRESS))):
            with pytest.raises(NotPermitted):
                check_record(Record(operation, personal=personal))


def test_an_email_without_a_user_isnt_stored() -> None:
    for subject in (Subject("stream", "st_1"), Subject("address", ADDRESS)):
        for operation in Operation:
            with pytest.raises(NotPermitted):
                check_record(Record(operation, personal=Personal(subject, email=EMAIL)))


def test_only_a_streams_start_has_digests_of_a_question() -> None:
    for operation in set(Operation) - {Operation.STREAM_START}:
        with pytest.raises(NotPermitted):
            check_record(Record(operation, personal=Personal(SOMEBODY, question=QUESTION)))


def test_a_personal_part_has_a_subject() -> None:
    with pytest.raises(NotPermitted, match="subject"):
        check_record(Record(Operation.STREAM_START, personal=Personal(Subject("principal", ""))))


def test_a_stream_is_named_where_there_is_one_only() -> None:
    for operation in Operation:
        for record in (Record(operation, stream_id="st_1"), Record(operation, stream="digest")):
            if operation.rule.has_stream:
                check_record(record)
            else:
                with pytest.raises(NotPermitted, match="stream"):
                    check_record(record)

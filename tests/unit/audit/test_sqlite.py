"""The SQLite file's own form: brought up to date when it is written, read as it is, searched by its indexes."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from subak.audit.operations import Operation
from subak.audit.records import Row
from subak.audit.sqlite import SqliteReader, SqliteStore
from subak.audit.sqlite_files import migrations
from subak.audit.store import Batch, Query

ORIGIN = "subak/0123456789abcdef"
OPERATIONS = ("stream.start", "stream.end", "admin.action", "stream.start", "stream.end", "gdpr.erase")


def row(seq: int, operation: str) -> Row:
    return Row(seq, 1000 + seq, operation, None, None, b"{}", *(None,) * 6)


ROWS = [row(seq, operation) for seq, operation in enumerate(OPERATIONS)]


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A log as the first version wrote it."""
    path = tmp_path / "audit.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(migrations("sqlite")[0] + "PRAGMA user_version=1;")
    connection.execute("INSERT INTO audit_log (origin) VALUES (?)", (ORIGIN,))
    connection.executemany("INSERT INTO audit_event VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", [_stored(one) for one in ROWS])
    connection.close()
    return path


def _stored(one: Row) -> tuple[object, ...]:
    return (*one[:5], one.core.decode(), *one[6:])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "audit.db", ORIGIN)
    store.append(Batch(ROWS))
    yield store
    store.close()


def test_a_log_of_the_first_version_is_brought_up_to_date_by_its_writer(former: Path) -> None:
    store = SqliteStore(former, ORIGIN)
    try:
        assert list(store.rows(0)) == ROWS
        assert [found.seq for found in store.search(Query(operations=(Operation.ADMIN_ACTION,)))] == [2]
        assert list(store.faults()) == []
    finally:
        store.close()
    assert sqlite3.connect(former).execute("PRAGMA user_version").fetchone() == (len(migrations("sqlite")),)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [(("admin.action", "gdpr.erase"), [2, 5]), (("stream.end",), [1, 4]), (("stream.start", "gdpr.erase"), [0, 3, 5])],
)
def test_a_back_up_of_the_first_version_is_searched_as_it_is(
    former: Path, operations: tuple[str, ...], expected: list[int]
) -> None:
    reader = SqliteReader(former)
    try:
        assert [found.seq for found in reader.search(Query(operations=operations))] == expected
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(operations=("admin.action",)), "audit_event_by_operation"),
        (Query(operations=(Operation.GDPR_ERASE, Operation.ADMIN_ACTION)), "audit_event_by_operation"),
        (Query(operations=(Operation.STREAM_START,)), None),
        (Query(operations=("stream.end", "admin.action"), is_newest_first=True), None),
        (Query(stream="name"), "audit_event_by_stream"),
        (Query(subjects=(b"number",)), "audit_event_by_subject"),
        (Query(addresses=(b"number",)), "audit_event_by_address"),
        (Query(since_ms=1000, until_ms=1001), "audit_event_by_time"),
    ],
)
def test_a_search_goes_by_the_index_that_has_few_rows_for_it(
    store: SqliteStore, query: Query, index: str | None
) -> None:
    connection = store._connection  # noqa: SLF001 — what it asks for is known to nobody else
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    list(store.search(query))
    connection.set_trace_callback(None)
    plan = [line[3] for line in connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    assert plan[0].partition("USING INDEX ")[2].partition(" ")[0] == (index or ""), plan

"""A log in one SQLite file: WAL, every commit on disk, one writer by a lock file, readers beside it."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from subak.audit.errors import StoreDamaged
from subak.audit.operations import Operation
from subak.audit.records import Row
from subak.audit.sqlite_files import (
    WriterLock,
    closed_on_failure,
    connect_reader,
    connect_writer,
    is_wal_empty_after_truncation,
    migrate,
    named_sql,
    transaction,
    translated,
)
from subak.audit.store import Batch, Query, StoredBase, StoredCheckpoint, StoredRotation
from subak.core.merkle import CompactRange, Span

LOG_FILE: Final = "audit.db"
_EMPTY: Final = StoredBase(0, b"")
_FEW_ROWS: Final = 8
_COMMON: Final = frozenset({Operation.STREAM_START.value, Operation.STREAM_END.value})
_SELDOM: Final = "operation NOT IN ('stream.start', 'stream.end')"
"""What the index of operations has: only where a query says so in these words does SQLite use it."""
Value = TypeVar("Value", bound=NamedTuple)


class SqliteReader:
    """A log file, read beside its writer (`audit.store.LogReader`)."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises: StoreUnavailable, StoreDamaged."""
        self._path = path
        self._sql = named_sql("sqlite.sql")
        self._connection = self._connect()
        with closed_on_failure(self._connection):
            self.origin = self._origin()

    def base(self) -> StoredBase:
        """Give what stands for pruned rows."""
        return self._first(self._sql["base"], StoredBase) or _EMPTY

    def end(self) -> int:
        """Give the seq that the next row has."""
        with translated(self._path):
            newest: int | None = self._connection.execute(self._sql["newest_seq"]).fetchone()[0]
        return self.base().size if newest is None else newest + 1

    def rows(self, start: int) -> Iterator[Row]:
        """Give the rows from seq `start` on."""
        return self._each(Row, self._sql["rows"], start)

    def checkpoints(self, after: int = 0) -> Iterator[StoredCheckpoint]:
        """Give the checkpoints over sizes above `after`."""
        return self._each(StoredCheckpoint, self._sql["checkpoints"], after)

    def checkpoint_at_most(self, size: int) -> StoredCheckpoint | None:
        """Give the newest checkpoint over at most `size` rows."""
        return self._first(self._sql["checkpoint_at_most"], StoredCheckpoint, size)

    def rotations(self) -> list[StoredRotation]:
        """Give all certificates."""
        return list(self._each(StoredRotation, self._sql["rotations"]))

    def first_since(self, time_ms: int) -> int:
        """Give the lowest seq whose time isn't before `time_ms`."""
        with translated(self._path):
            found = self._connection.execute(self._sql["first_since"], (time_ms,)).fetchone()
        return self.end() if found is None else int(found[0])

    def search(self, query: Query) -> Iterator[Row]:
        """Give the rows that the query asks for."""
        conditions, values = _conditions(query)
        order = "DESC" if query.is_newest_first else "ASC"
        statement = self._sql["search"].format(conditions=conditions, order=order)
        return self._each(Row, statement, *values, query.limit)

    def faults(self) -> Iterator[str]:
        """Give what SQLite's own check finds wrong with the file."""
        with translated(self._path):
            for (line,) in self._connection.execute("PRAGMA integrity_check"):
                if line != "ok":
                    yield str(line).splitlines()[0]

    def back_up(self, target: Path) -> None:
        """Write a copy of the log as it is at this moment: one file, without what was erased.

        Raises:
            StoreUnavailable: the copy can't be written; StoreDamaged: `target` is there already.
        """
        with translated(self._path):
            connection = sqlite3.connect(self._path, isolation_level=None)
            try:
                connection.execute("VACUUM INTO ?", (str(target),))
            finally:
                connection.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        return connect_reader(self._path)

    def _origin(self) -> str:
        with translated(self._path):
            found = self._connection.execute(self._sql["origin"]).fetchall()
        if len(found) != 1:
            raise StoreDamaged(f"{self._path}: it is no audit log. Give the path of one.")
        return str(found[0][0])

    def _each(self, kind: type[Value], statement: str, *values: object) -> Iterator[Value]:
        with translated(self._path):
            yield from map(kind._make, self._connection.execute(statement, values))

    def _first(self, statement: str, kind: type[Value], *values: object) -> Value | None:
        with translated(self._path):
            found = self._connection.execute(statement, values).fetchone()
        return None if found is None else kind._make(found)


class SqliteStore(SqliteReader):
    """A log file that this process writes (`audit.store.LogStore`)."""

    def __init__(self, path: Path, origin: str) -> None:
        """Open the file, made if there is none, with its form brought up to date.

        Raises:
            LogInUse: another process writes it.
            StoreUnavailable: it can't be written.
            StoreDamaged: it isn't the log `origin`, or isn't a log.
        """
        self._lock = WriterLock(path.with_name(path.name + ".lock"))
        self._wanted = origin
        try:
            super().__init__(path)
        except BaseException:
            self._lock.close()
            raise
        insertion, row = self._sql["insert_rows"], self._sql["row"]
        self._insertions = [insertion.format(rows=", ".join([row] * count)) for count in range(_FEW_ROWS + 1)]
        if self.origin != origin:
            self.close()
            raise StoreDamaged(f"{path}: it is the log {self.origin}, and the key file belongs to {origin}.")

    def append(self, batch: Batch) -> None:
        """Commit a batch durably, whole or not at all."""
        if batch.checkpoint is None and batch.rotation is None and len(batch.rows) <= _FEW_ROWS:
            self._append_few(batch.rows)
            return
        sql = self._sql
        with transaction(self._connection, self._path) as connection:
            connection.executemany(self._insertions[1], batch.rows)
            if batch.rotation is not None:
                connection.execute(sql["insert_rotation"], batch.rotation)
            if batch.checkpoint is not None:
                connection.execute(sql["insert_checkpoint"], batch.checkpoint)

    def _append_few(self, rows: Sequence[Row]) -> None:
        """Commit rows by one statement: each more is another handover of the interpreter to the event loop and back.

        So is what `execute` asks SQLite for afterwards, and `executemany` doesn't.
        """
        with translated(self._path):
            self._connection.executemany(self._insertions[len(rows)], (tuple(chain.from_iterable(rows)),))

    def redact(self, spans: Iterable[Span]) -> None:
        """Null the personal columns of the rows in these spans."""
        with transaction(self._connection, self._path) as connection:
            connection.executemany(self._sql["redact"], ((start, stop - 1) for start, stop in spans))

    def prune(self, base: CompactRange) -> None:
        """Delete rows and checkpoints below `base.size`; keep `base`."""
        with transaction(self._connection, self._path) as connection:
            connection.execute(self._sql["delete_rows"], (base.size,))
            connection.execute(self._sql["delete_checkpoints"], (base.size,))
            connection.execute(self._sql["delete_base"])
            connection.execute(self._sql["insert_base"], (base.size, base.to_bytes()))

    def scrub(self) -> bool:
        """Cut the write-ahead log to nothing: the file itself is overwritten at each deletion."""
        with translated(self._path):
            return is_wal_empty_after_truncation(self._connection)

    def close(self) -> None:
        """Let go of the file and of its lock."""
        self._connection.close()
        self._lock.close()

    def _connect(self) -> sqlite3.Connection:
        with translated(self._path), closed_on_failure(connect_writer(self._path)) as connection:
            migrate(connection, "sqlite")
            if connection.execute(self._sql["origin"]).fetchone() is None:
                connection.execute(self._sql["name_origin"], (self._wanted,))
            return connection


def _conditions(query: Query) -> tuple[str, list[object]]:
    """Give the WHERE clause of a query and its values."""
    is_seldom = query.operations and _COMMON.isdisjoint(map(str, query.operations))
    parts = [_SELDOM if is_seldom else "1"]
    values: list[object] = []
    after = "seq < ?" if query.is_newest_first else "seq > ?"
    for condition, value in (
        ("time_ms >= ?", query.since_ms),
        ("time_ms < ?", query.until_ms),
        ("outcome = ?", query.outcome),
        ("stream = ?", query.stream),
        (after, query.after_seq),
    ):
        if value is not None:
            parts.append(condition)
            values.append(value)
    for column, choices in (
        ("operation", query.operations or None),
        ("subject", query.subjects),
        ("address", query.addresses),
    ):
        if choices is not None:
            parts.append(f"{column} IN ({','.join('?' * len(choices))})")
            values += choices
    return " AND ".join(parts), values

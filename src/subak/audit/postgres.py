"""Logs in one PostgreSQL database, one an origin: many instances may share it, each writes its own.

asyncpg needs an event loop: each store has one of its own, which runs only while a call waits. A store must therefore
be used off the gateway's loop, which the writer's thread is. A lost connection is made anew at the next call, with the
lock; whether a commit that was under way came through is for the writer to find out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it has no types: `_Connection` is what is used of it

from subak.audit.errors import LogInUse, StoreDamaged, StoreUnavailable, Trouble
from subak.audit.records import Row
from subak.audit.sqlite_files import migrations, named_sql
from subak.audit.store import Batch, Query, StoredBase, StoredCheckpoint, StoredRotation
from subak.core.merkle import CompactRange, Span

CONNECT_S: Final = 5.0
COMMAND_S: Final = 30.0
_FETCH_ROWS: Final = 2000
_EMPTY: Final = StoredBase(0, b"")
_TROUBLES: Final[Mapping[type[BaseException], Trouble]] = {
    asyncpg.DiskFullError: Trouble.DISK_FULL,
    asyncpg.ReadOnlySQLTransactionError: Trouble.READ_ONLY,
    asyncpg.LockNotAvailableError: Trouble.LOCKED,
    asyncpg.DeadlockDetectedError: Trouble.LOCKED,
    asyncpg.PostgresConnectionError: Trouble.UNREACHABLE,
    asyncpg.InterfaceError: Trouble.UNREACHABLE,
    asyncpg.OperatorInterventionError: Trouble.UNREACHABLE,
    asyncpg.InsufficientResourcesError: Trouble.UNREACHABLE,
    asyncpg.InvalidAuthorizationSpecificationError: Trouble.UNREACHABLE,
    TimeoutError: Trouble.UNREACHABLE,
    OSError: Trouble.UNREACHABLE,
}
_COLUMNS: Final = ("origin", *Row._fields)

Value = TypeVar("Value", bound=NamedTuple)
Result = TypeVar("Result")


class _Connection(Protocol):
    async def fetch(self, statement: str, *values: object) -> list[Sequence[object]]: ...

    async def fetchrow(self, statement: str, *values: object) -> Sequence[object] | None: ...

    async def fetchval(self, statement: str, *values: object) -> object: ...

    async def execute(self, statement: str, *values: object) -> str: ...

    async def executemany(self, statement: str, values: Iterable[Sequence[object]]) -> None: ...

    async def copy_records_to_table(
        self, table: str, *, records: Iterable[Sequence[object]], columns: Sequence[str]
    ) -> str: ...

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False
    ) -> AbstractAsyncContextManager[None]: ...

    def is_closed(self) -> bool: ...

    async def close(self, *, timeout: float) -> None: ...  # noqa: ASYNC109 — its name there


class PostgresReader:
    """One log of a database, read beside its writer (`audit.store.LogReader`)."""

    def __init__(self, dsn: str, origin: str) -> None:
        """`dsn` as `postgresql://user@host/database`.

        Raises:
            StoreUnavailable: the database can't be reached. StoreDamaged: there is no audit log in it.
        """
        self.origin = origin
        self._dsn = dsn
        self._sql = named_sql("postgres.sql")
        self._runner = asyncio.Runner()
        self._connection: _Connection | None = None
        try:
            self._call(lambda connection: connection.fetchval(self._sql["version"]))
        except BaseException:
            self.close()
            raise

    def base(self) -> StoredBase:
        """Give what stands for pruned rows."""
        return self._first(StoredBase, "base") or _EMPTY

    def end(self) -> int:
        """Give the seq that the next row has."""
        newest = self._call(lambda connection: connection.fetchval(self._sql["newest_seq"], self.origin))
        return newest + 1 if isinstance(newest, int) else self.base().size

    def rows(self, start: int) -> Iterator[Row]:
        """Give the rows from seq `start` on."""
        return self._pages(Row, "rows", start - 1)

    def checkpoints(self, after: int = 0) -> Iterator[StoredCheckpoint]:
        """Give the checkpoints over sizes above `after`."""
        return self._pages(StoredCheckpoint, "checkpoints", after)

    def checkpoint_at_most(self, size: int) -> StoredCheckpoint | None:
        """Give the newest checkpoint over at most `size` rows."""
        return self._first(StoredCheckpoint, "checkpoint_at_most", size)

    def rotations(self) -> list[StoredRotation]:
        """Give all certificates."""
        return self._all(StoredRotation, "rotations")

    def first_since(self, time_ms: int) -> int:
        """Give the lowest seq whose time isn't before `time_ms`."""
        found = self._call(lambda connection: connection.fetchval(self._sql["first_since"], self.origin, time_ms))
        return found if isinstance(found, int) else self.end()

    def search(self, query: Query) -> Iterator[Row]:
        """Give the rows that the query asks for."""
        name = "search_newest_first" if query.is_newest_first else "search"
        after_seq, room = query.after_seq, query.limit
        while room > 0:
            wanted = min(room, _FETCH_ROWS)
            found = self._all(Row, name, *_values(query), after_seq, wanted)
            yield from found
            if len(found) < wanted:
                return
            after_seq, room = found[-1].seq, room - wanted

    def faults(self) -> Iterator[str]:
        """Give nothing: PostgreSQL raises where it finds its files damaged (`data_checksums`)."""
        return iter(())

    def close(self) -> None:
        """Let go of the connection and of the loop. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            self._runner.run(_close(connection))
        self._runner.close()

    def _call(self, use: Callable[[_Connection], Awaitable[Result]]) -> Result:
        """Use the connection, made anew when it was lost.

        Raises:
            StoreUnavailable: it may work later. StoreDamaged: the content is wrong.
        """
        try:
            return self._runner.run(self._use(use))
        except tuple(_TROUBLES) as error:
            raise StoreUnavailable(_trouble_of(error)) from error
        except asyncpg.PostgresError as error:
            raise StoreDamaged(
                f"The audit log {self.origin} in PostgreSQL: {error}. Put it back from its back-up."
            ) from error

    async def _use(self, use: Callable[[_Connection], Awaitable[Result]]) -> Result:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            connection: _Connection = await asyncpg.connect(
                self._dsn, timeout=CONNECT_S, command_timeout=COMMAND_S, server_settings={"application_name": "subak"}
            )
            try:
                await self._prepare(connection)
            except BaseException:
                await _close(connection)
                raise
            self._connection = connection
        return await use(self._connection)

    async def _prepare(self, connection: _Connection) -> None:
        """Hold one moment of the log for as long as the connection lives."""
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def _all(self, kind: type[Value], name: str, *values: object) -> list[Value]:
        found = self._call(lambda connection: connection.fetch(self._sql[name], self.origin, *values))
        return [kind._make(one) for one in found]

    def _first(self, kind: type[Value], name: str, *values: object) -> Value | None:
        found = self._call(lambda connection: connection.fetchrow(self._sql[name], self.origin, *values))
        return None if found is None else kind._make(found)

    def _pages(self, kind: type[Value], name: str, after: int) -> Iterator[Value]:
        """Give what follows `after`, by the first column."""
        while True:
            found = self._all(kind, name, after, _FETCH_ROWS)
            yield from found
            if len(found) < _FETCH_ROWS:
                return
            after = found[-1][0]


class PostgresStore(PostgresReader):
    """A log of a database that this process writes (`audit.store.LogStore`)."""

    def append(self, batch: Batch) -> None:
        """Commit a batch durably, whole or not at all."""
        records = [(self.origin, *row[:5], row.core.decode(), *row[6:]) for row in batch.rows]

        async def write(connection: _Connection) -> None:
            async with connection.transaction():
                if records:
                    await connection.copy_records_to_table("audit_event", records=records, columns=_COLUMNS)
                if batch.rotation is not None:
                    await connection.execute(self._sql["insert_rotation"], self.origin, *batch.rotation)
                if batch.checkpoint is not None:
                    await connection.execute(self._sql["insert_checkpoint"], self.origin, *batch.checkpoint)

        self._call(write)

    def redact(self, spans: Iterable[Span]) -> None:
        """Null the personal columns of the rows in these spans."""
        values = [(self.origin, start, stop - 1) for start, stop in spans]
        self._call(lambda connection: connection.executemany(self._sql["redact"], values))

    def prune(self, base: CompactRange) -> None:
        """Delete rows and checkpoints below `base.size`; keep `base`."""

        async def write(connection: _Connection) -> None:
            async with connection.transaction():
                await connection.execute(self._sql["delete_rows"], self.origin, base.size)
                await connection.execute(self._sql["delete_checkpoints"], self.origin, base.size)
                await connection.execute(self._sql["set_base"], self.origin, base.size, base.to_bytes())

        self._call(write)

    def scrub(self) -> bool:
        """Let PostgreSQL reclaim what was redacted or pruned.

        Its write-ahead log keeps former pages until it is recycled; what they hold is encrypted, and the key is gone.
        """
        self._call(lambda connection: connection.execute(self._sql["scrub"]))
        return True

    async def _prepare(self, connection: _Connection) -> None:
        """Take the lock of this log, and bring the schema up to date.

        Raises:
            LogInUse: another process has it.
        """
        if not await connection.fetchval(self._sql["lock_origin"], self.origin):
            raise LogInUse(
                f"Another process writes the audit log {self.origin}. Stop it, or give this one a state directory of "
                "its own."
            )
        async with connection.transaction():
            await connection.execute(self._sql["lock_schema"])
            await connection.execute(self._sql["make_version"])
            done = await connection.fetchval(self._sql["version"])
            scripts = migrations("postgres")
            assert isinstance(done, int), "versions are whole numbers"
            if done > len(scripts):
                raise StoreDamaged(
                    f"The audit schema has version {done}, this one knows {len(scripts)}: start a newer Subak."
                )
            for number, script in enumerate(scripts[done:], done + 1):
                await connection.execute(script)
                await connection.execute(self._sql["insert_version"], number)


def _trouble_of(error: BaseException) -> Trouble:
    return next(trouble for kind, trouble in _TROUBLES.items() if isinstance(error, kind))


def _values(query: Query) -> tuple[object, ...]:
    return (
        query.since_ms,
        query.until_ms,
        query.operations or None,
        query.outcome,
        query.stream,
        query.subjects,
        query.addresses,
    )


async def _close(connection: _Connection) -> None:
    await connection.close(timeout=CONNECT_S)

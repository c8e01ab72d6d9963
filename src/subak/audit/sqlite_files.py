"""SQLite files as the audit log needs them: durable, wiping what is deleted, readable beside their one writer."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import quote

from subak.audit.errors import LogInUse, StoreDamaged, StoreUnavailable, Trouble

_BUSY_MS: Final = 1000
_PRIMARY: Final = 0xFF
_TROUBLES: Final[Mapping[int, Trouble]] = {
    sqlite3.SQLITE_FULL: Trouble.DISK_FULL,
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Trouble.UNREADABLE,
    sqlite3.SQLITE_IOERR: Trouble.UNREADABLE,
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Give SQLite's errors as ours.

    Raises:
        StoreUnavailable: it may work later.
        StoreDamaged: the file's content is wrong.
    """
    try:
        yield
    except sqlite3.Error as error:
        trouble = _TROUBLES.get(getattr(error, "sqlite_errorcode", -1) & _PRIMARY)
        if trouble is not None:
            raise StoreUnavailable(trouble) from error
        raise StoreDamaged(f"{path}: {error}. Keep the file, and put the log back from its back-up.") from error


@contextmanager
def closed_on_failure(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Close a connection where what is done inside fails: nobody has it yet who could."""
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open a file to write, made with mode 0600: WAL, every commit on disk, deleted content overwritten."""
    with translated(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with closed_on_failure(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", f"busy_timeout={_BUSY_MS}"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a file to read, beside its writer. It sees what was committed when it read first."""
    with translated(path):
        name = f"file:{quote(str(path))}?mode=ro"
        opened = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
        with closed_on_failure(opened) as connection:
            connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}").fetchall()
            connection.execute("BEGIN")
            return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """Commit what is done inside, whole or not at all. Raises: StoreUnavailable, StoreDamaged."""
    with translated(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def is_wal_empty_after_truncation(connection: sqlite3.Connection) -> bool:
    """Move the write-ahead log into the file and cut it to nothing; False while a reader still needs it."""
    busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return busy == 0


def migrate(connection: sqlite3.Connection, folder: str) -> None:
    """Run the migrations that the file hasn't seen, each in one transaction with its number.

    Raises:
        StoreDamaged: the file was written by a later version.
    """
    done: int = connection.execute("PRAGMA user_version").fetchone()[0]
    scripts = migrations(folder)
    if done > len(scripts):
        raise StoreDamaged(f"The audit log has form {done}, this version knows {len(scripts)}: start a newer Subak.")
    for number, script in enumerate(scripts[done:], done + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;")


def migrations(folder: str) -> list[str]:
    """Give the migration scripts below `migrations/`, in order of their numbers."""
    found = resources.files("subak.audit").joinpath("migrations", folder)
    scripts = sorted((one for one in found.iterdir() if one.name.endswith(".sql")), key=lambda one: one.name)
    return [one.read_text(encoding="utf-8") for one in scripts]


def named_sql(name: str) -> dict[str, str]:
    """Give the statements of a file by the names in their `-- name:` lines."""
    text = resources.files("subak.audit").joinpath(name).read_text(encoding="utf-8")
    statements: dict[str, str] = {}
    for block in text.split("-- name: ")[1:]:
        title, _, statement = block.partition("\n")
        statements[title.strip()] = statement.strip().removesuffix(";")
    return statements


class WriterLock:
    """The right to write a log, held by this process until closed or dead."""

    def __init__(self, path: Path) -> None:
        """Take the lock file `path`.

        Raises:
            LogInUse: another process has it.
        """
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise LogInUse(
                f"{path}: another process writes this audit log. Stop it, ask it through its admin API, or give this "
                "one a state directory of its own."
            ) from error

    def close(self) -> None:
        """Give it back. Idempotent."""
        self._file.close()

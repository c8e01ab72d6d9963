"""Where flags are kept: one small SQLite file in the state directory (docs/adr/0005).

Each process has a connection of its own. A change of a flag, of its rollout and of the history is one transaction; a
reader sees all of it or nothing, and a process that is killed leaves the old state. That another process has changed
something is seen by `PRAGMA data_version`: two small reads of the file, no query.

A file that is missing says nothing of whom streaming was switched off for. So a second one, empty, stands beside it
from the first change on: where it is and no history is, the flags were lost, and nothing is taken for "everybody".
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import msgspec

from subak.core.errors import StoreError
from subak.core.flag_state import FlagChange, FlagDocument, differences, summary
from subak.state import StateError

FILE_NAME: Final = "flags.db"
SIGN_NAME: Final = "flags.set"
"""Empty; says that flags were set in this directory."""

MAX_HISTORY: Final = 2_000
"""Entries kept, the newest ones. The audit trail has them all."""

_PRIMARY: Final = 0xFF
_FORMAT: Final = 1
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS flag (key TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS history (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, key TEXT NOT NULL, actor TEXT NOT NULL,
        summary TEXT NOT NULL, why TEXT NOT NULL, changed_from TEXT NOT NULL, changed_to TEXT NOT NULL
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS told (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL) STRICT",
    "INSERT OR IGNORE INTO told VALUES (1, 0)",
    f"PRAGMA user_version = {_FORMAT}",
)
_COLUMNS: Final = "number, at, key, actor, summary, why, changed_from, changed_to"


_OPEN_PATIENCE_S: Final = 5.0

OR_ANEW: Final = (
    "Restore it from a back-up; or remove it, and say anew for whom streaming is on: subak flags set --help."
)


class FlagsUnusable(StoreError):
    """The flags can't be read or written now. `reason` is SQLite's name of what is wrong."""

    code = "flags_unusable"

    def __init__(self, reason: str, detail: str = "The flags can't be read or written.") -> None:
        super().__init__(detail, retry_after_s=1)
        self.reason = reason


class FlagsBusy(FlagsUnusable):
    """Another process is changing flags at this moment, for longer than one waits."""

    code = "flags_busy"

    def __init__(self) -> None:
        super().__init__("busy", "Another process is changing the flags. Try again.")


Change = Callable[[FlagDocument], FlagDocument]
"""Gives the new document for the one that is in force. Whatever it raises leaves that as it was."""


class FlagStore:
    """The flags of one state directory. Not for two threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `open` or `peek`."""
        self.path = path
        self._connection = connection
        self._inode = path.stat().st_ino if path.exists() else 0
        self._seen = self._mark()

    @classmethod
    def open(cls, state_dir: Path, *, patience_s: float) -> Self:
        """Open the flags of a state directory, made at the first use: readable by the owner alone.

        `patience_s`: how long a change waits for another process that is writing.

        Raises:
            StateError: the file can't be read or written, or isn't one of flags.
        """
        path = state_dir / FILE_NAME
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StateError(
                f"{path}: {error.strerror}. Give the process a writable directory with SUBAK_STATE_DIR."
            ) from error
        return cls(path, _connected(path, str(path), patience_s))

    @classmethod
    def peek(cls, state_dir: Path, *, patience_s: float) -> Self:
        """Open them to look: nothing is made where there is nothing yet.

        Raises:
            StateError: as `open`.
        """
        path = state_dir / FILE_NAME
        if path.exists():
            return cls.open(state_dir, patience_s=patience_s)
        return cls(path, _connected(path, ":memory:", patience_s))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def has_news(self) -> bool:
        """Whether another process has changed something since the last call.

        Raises:
            FlagsUnusable: they can't be read now.
        """
        mark = self._mark()
        has_changed = mark != self._seen
        self._seen = mark
        return has_changed

    def is_replaced(self) -> bool:
        """Whether another file stands at the path than the one that is open: a back-up was put in its place."""
        try:
            found = self.path.stat().st_ino
        except OSError:
            return False
        return found != self._inode

    def check(self) -> None:
        """Tell whether what was set here is here.

        Raises:
            StateError: flags were set here once, and no change of them is known any more.
            FlagsUnusable: they can't be read now.
        """
        if self.history(limit=1):
            self._leave_sign()
        elif self._has_sign():
            raise StateError(
                f"{self.path}: flags were set here ({SIGN_NAME} says so) and are lost. Restore it from a back-up; or "
                "say anew for whom streaming is on, such as `subak flags set --percentage 5 --deny user:42` "
                "(`subak flags set --clear`: for everybody)."
            )

    def _leave_sign(self) -> None:
        """Have it known that flags were set here. Where no file can be made the next start tries it again."""
        if self._inode and not self._has_sign():
            with suppress(OSError):
                os.close(os.open(self.path.with_name(SIGN_NAME), os.O_RDWR | os.O_CREAT, 0o600))

    def _has_sign(self) -> bool:
        return self.path.with_name(SIGN_NAME).exists()

    def documents(self) -> dict[str, FlagDocument]:
        """Give what is kept of every flag that was ever changed.

        Raises:
            FlagsUnusable: they can't be read or written now.
        """
        with _translated():
            rows = self._connection.execute("SELECT key, document FROM flag").fetchall()
            return {key: msgspec.json.decode(document, type=FlagDocument) for key, document in rows}

    def change(self, key: str, change: Change, *, actor: str, now: datetime, why: str = "") -> FlagDocument:
        """Put a new document in place of a flag's old one, with an entry in the history; give it.

        A change that changes nothing leaves no entry, unless the flags were lost: then it is what holds from now on.

        Raises:
            FlagsUnusable: they can't be read or written now.
        """
        with self._transaction():
            row = self._connection.execute("SELECT document FROM flag WHERE key = ?", (key,)).fetchone()
            before = msgspec.json.decode(row[0], type=FlagDocument) if row else FlagDocument()
            after = change(before)
            was_lost = self._has_sign() and not self.history(limit=1)
            is_to_keep = after != before or was_lost
            if is_to_keep:
                self._write(key, before, after, (now.astimezone(UTC).isoformat(), key, actor), why)
        if is_to_keep:
            self._leave_sign()
        return after

    def _write(self, key: str, before: FlagDocument, after: FlagDocument, head: tuple[str, str, str], why: str) -> None:
        document = msgspec.json.encode(after).decode()
        self._connection.execute("INSERT OR REPLACE INTO flag VALUES (?, ?)", (key, document))
        number = self._connection.execute(
            f"INSERT INTO history ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own constant
            (*head, summary(before, after), why, *differences(before, after)),
        ).lastrowid
        assert number is not None, "SQLite gives the number of a row that was inserted"
        self._connection.execute("DELETE FROM history WHERE number <= ?", (number - MAX_HISTORY,))

    def history(self, key: str | None = None, *, limit: int = MAX_HISTORY) -> list[FlagChange]:
        """Give the last changes, of one flag or of all, newest first.

        Raises:
            FlagsUnusable: they can't be read or written now.
        """
        with _translated():
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM history WHERE key = ifnull(?, key) ORDER BY number DESC LIMIT ?",  # noqa: S608
                (key, limit),
            ).fetchall()
        return [_change_of(row) for row in rows]

    def take_untold(self) -> list[FlagChange]:
        """Give the changes that no process has taken to tell yet, oldest first; they are never given again.

        Raises:
            FlagsUnusable: they can't be read or written now.
        """
        query = f"SELECT {_COLUMNS} FROM history WHERE number > (SELECT number FROM told) ORDER BY number"  # noqa: S608
        with _translated():
            is_all_told = self._connection.execute(query + " LIMIT 1").fetchone() is None
        if is_all_told:
            return []
        with self._transaction():
            rows = self._connection.execute(query).fetchall()
            if rows:
                self._connection.execute("UPDATE told SET number = ?", (rows[-1][0],))
        return [_change_of(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _mark(self) -> int:
        with _translated():
            version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version


def _connected(path: Path, database: str, patience_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=_OPEN_PATIENCE_S, isolation_level=None)
    try:
        _prepare(connection, path)
        connection.execute(f"PRAGMA busy_timeout = {round(patience_s * 1000)}")
    except sqlite3.Error as error:
        connection.close()
        raise StateError(f"{path}: {error}. {OR_ANEW}") from error
    except StateError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _FORMAT:
        raise StateError(f"{path}: written by a newer version of Subak (format {version}). Use that version.")
    if version < _FORMAT:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode & _PRIMARY in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise FlagsBusy from error
        raise FlagsUnusable(error.sqlite_errorname) from error
    except msgspec.DecodeError as error:
        raise FlagsUnusable("unknown_document") from error


def _change_of(row: tuple[int, str, str, str, str, str, str, str]) -> FlagChange:
    number, at, *rest = row
    return FlagChange(number, datetime.fromisoformat(at), *rest)

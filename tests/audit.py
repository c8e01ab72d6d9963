"""A stage for the audit log: a state directory, a clock, a store of either kind, and a hand that tampers with it."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from subak.audit.errors import StoreDamaged
from subak.audit.keys import AuditKeys, load_keys
from subak.audit.opening import open_writer
from subak.audit.operations import Operation
from subak.audit.postgres import PostgresReader, PostgresStore
from subak.audit.records import Personal, Record, Row, Subject
from subak.audit.rows import PersonalReader, Pseudonyms
from subak.audit.sqlite import LOG_FILE, SqliteReader, SqliteStore
from subak.audit.store import LogReader, LogStore
from subak.audit.subjects import SUBJECT_FOLDER, SubjectKeyReader
from subak.audit.verdict import DAY_MS, Evidence, Flaw, Report
from subak.audit.verify import unreadable, verify
from subak.audit.verify_rows import Unlocked
from subak.audit.writer import LogWriter
from subak.testing import FakeClock
from tests import second_verifier
from tests.postgres import Postgres, execute

DIGEST_SECRET: Final = b"s" * 32
TERM_MS: Final = 90 * DAY_MS
MANY_ROWS: Final = 20_000
EMAIL: Final = "canary.person@example.org"
QUESTION: Final = "Which papers does the canary need?"
ADDRESS: Final = "203.0.113.77"
_COLUMNS: Final = ", ".join(Row._fields)


class Place(Protocol):
    """Where a log is kept in a test."""

    def store(self, origin: str) -> LogStore:
        """Open it to write."""

    def reader(self, origin: str) -> LogReader:
        """Open it to read."""

    def tamper(self, statement: str, *values: object) -> None:
        """Run one statement behind the log's back; values stand for `?`."""

    def insert(self, origin: str, row: Row) -> None:
        """Put a row in, behind the log's back."""

    def files(self) -> Iterable[Path]:
        """Give every file that the store keeps."""

    def second_opinion(self, origin: str, vkey: str, anchors: Sequence[str]) -> set[str]:
        """Judge it by the verifier that was written from docs/audit.md alone."""


class SqlitePlace:
    """One file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE

    def store(self, origin: str) -> SqliteStore:
        return SqliteStore(self.path, origin)

    def reader(self, origin: str) -> SqliteReader:
        assert origin
        return SqliteReader(self.path)

    def tamper(self, statement: str, *values: object) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(statement, values)
        connection.close()

    def insert(self, origin: str, row: Row) -> None:
        assert origin
        marks = ", ".join("CAST(? AS TEXT)" if name == "core" else "?" for name in Row._fields)
        self.tamper(f"INSERT INTO audit_event ({_COLUMNS}) VALUES ({marks})", *row)  # noqa: S608 — our own names

    def files(self) -> Iterable[Path]:
        return self.path.parent.glob(f"{self.path.name}*")

    def second_opinion(self, origin: str, vkey: str, anchors: Sequence[str]) -> set[str]:
        assert origin
        return second_verifier.verify_file(self.path, vkey, anchors)


class PostgresPlace:
    """A database of a server."""

    def __init__(self, server: Postgres) -> None:
        server.empty()
        self.dsn = server.dsn
        self._server = server

    def store(self, origin: str) -> PostgresStore:
        return PostgresStore(self.dsn, origin)

    def reader(self, origin: str) -> PostgresReader:
        return PostgresReader(self.dsn, origin)

    def tamper(self, statement: str, *values: object) -> None:
        numbers = iter(range(1, 100))
        execute(self.dsn, re.sub(r"\?", lambda _: f"${next(numbers)}", statement), *values)

    def insert(self, origin: str, row: Row) -> None:
        marks = ", ".join("?" * len(row))
        values = row._replace(core=row.core.decode())  # type: ignore[arg-type]  # the driver wants text
        self.tamper(f"INSERT INTO audit_event (origin, {_COLUMNS}) VALUES (?, {marks})", origin, *values)  # noqa: S608

    def files(self) -> Iterable[Path]:
        return self._server.files()

    def second_opinion(self, origin: str, vkey: str, anchors: Sequence[str]) -> set[str]:
        said = {"core": "convert_to(core, 'UTF8')", "where": " WHERE origin = $1"}
        tables = {
            name: list(map(tuple, execute(self.dsn, statement.format_map(said), origin)))
            for name, statement in second_verifier.TABLES.items()
        }
        return second_verifier.verify(second_verifier.make_log(origin, tables), vkey, anchors)


class LeapingClock(FakeClock):
    """A clock that also moves by months, in one step."""

    __slots__ = ()

    def jump(self, seconds: float) -> None:
        """Let time pass at once."""
        self._monotonic += seconds
        self._time_ms += seconds * 1000

    def set_back(self, seconds: float) -> None:
        """Turn the clock on the wall back, as an administrator or NTP may."""
        self._time_ms -= seconds * 1000


class AuditStage:
    """One log, written and judged. `notes` are the checkpoints that left the host."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        self.directory = directory
        self.clock = LeapingClock()
        self.notes: list[str] = []
        self.writer = self._open()
        self.vkey = self.writer.keys.first_vkey
        self.origin = self.writer.keys.origin

    def reopen(self) -> None:
        """End the process and start another one."""
        self.writer.close()
        self.open()

    def open(self) -> None:
        """Start another process after the former one was ended."""
        self.writer = self._open()

    def write(self, count: int = 1, subject: Subject | None = None) -> None:
        """Write streams of somebody, a second apart, sealed one by one."""
        for _ in range(count):
            self.writer.write(start_of(subject or Subject("principal", "someone")))
            self.clock.advance(1)
            self.writer.seal()

    def rows(self) -> list[Row]:
        """Give all rows."""
        reader = self.place.reader(self.origin)
        try:
            return list(reader.rows(0))
        finally:
            reader.close()

    def judge(self, *anchors: str, with_keys: bool = True) -> Report:
        """Verify the log, beside its writer; its first public key is known from elsewhere.

        The second verifier, which reads a log whole, must agree.
        """
        report = self._judge(*anchors, with_keys=with_keys)
        if report.size - report.base_size > MANY_ROWS:
            return report
        ours = {one.flaw.name for one in report.findings} - {Flaw.PERSONAL_MISMATCH.name}
        theirs = self.place.second_opinion(self.origin, str(self.vkey), anchors)
        assert ours == theirs or Flaw.UNREADABLE.name in ours & theirs, f"two verifiers: {ours}, {theirs}"
        return report

    def _judge(self, *anchors: str, with_keys: bool) -> Report:
        try:
            reader = self.place.reader(self.origin)
        except StoreDamaged as error:
            return unreadable(self.origin, error)
        evidence = Evidence(self.vkey, is_pinned=True, anchors=anchors)
        try:
            if not with_keys:
                return verify(reader, evidence)
            keys = load_keys(self.directory)
            subjects = SubjectKeyReader(self.directory / SUBJECT_FOLDER, keys.wrapping_key)
            try:
                return verify(reader, evidence, unlocked=unlocked(keys, subjects))
            finally:
                subjects.close()
        finally:
            reader.close()

    def flaws(self, *anchors: str) -> set[Flaw]:
        """Give what is wrong with the log."""
        return {finding.flaw for finding in self.judge(*anchors, with_keys=False).findings}

    def close(self) -> None:
        """Let go of everything."""
        self.writer.close()

    def _open(self) -> LogWriter:
        return open_writer(
            self.directory,
            self.clock,
            open_store=self.place.store,
            digest_secret=DIGEST_SECRET,
            publish=self.notes.append,
            on_keys_created=lambda _path, _vkey: None,
        )


def unlocked(keys: AuditKeys, subjects: SubjectKeyReader) -> Unlocked:
    """Give what `verify --with-keys` is given."""
    return Unlocked(
        PersonalReader(keys.origin, subjects), Pseudonyms(keys, DIGEST_SECRET), subjects, frozenset(keys.months)
    )


def start_of(subject: Subject, stream_id: str = "st_1", question: str = QUESTION) -> Record:
    """Give the record of a stream's start: a principal's with its e-mail."""
    email = EMAIL if subject.kind == "principal" else ""
    return Record(
        Operation.STREAM_START,
        {"connection": "c_1", "route": "/v1/streams", "method": "POST"},
        stream_id,
        Personal(subject, email=email, question=question),
    )


def end_of(stream_id: str = "st_1", outcome: str = "stop") -> Record:
    """Give the record of a stream's end."""
    return Record(Operation.STREAM_END, {"outcome": outcome, "tokens": 3}, stream_id)


def violation_of(subject: Subject, address: str = ADDRESS) -> Record:
    """Give the record of a passed limit."""
    return Record(
        Operation.RATE_LIMIT_VIOLATION,
        {"policy": "chat", "limit": 20, "window_s": 60, "count": 1},
        personal=Personal(subject, address=address),
    )


def holding(files: Iterable[Path], needles: Sequence[bytes]) -> Iterator[tuple[Path, bytes]]:
    """Give each file that holds one of the needles, anywhere in its bytes."""
    for path in files:
        content = path.read_bytes()
        for needle in needles:
            if needle in content:
                yield path, needle

"""What an audit trail says, read from its state directory beside whoever writes it, with the keys that lie there."""

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec

from subak.audit.keys import load_keys
from subak.audit.records import Content, Row
from subak.audit.rows import PersonalReader, Pseudonyms
from subak.audit.sqlite import LOG_FILE, SqliteReader
from subak.audit.store import LogReader
from subak.audit.subjects import SUBJECT_FOLDER, SubjectKeyReader
from subak.audit.verdict import Evidence, Receipt, Report
from subak.audit.verify import verify
from subak.audit.verify_rows import Unlocked
from subak.state import load_secret


@dataclass(frozen=True)
class Entry:
    """One row: its core, and its personal part in clear."""

    row: Row
    core: dict[str, object]
    personal: Content | None

    @property
    def operation(self) -> str:
        """What happened."""
        return self.row.operation

    @property
    def said(self) -> dict[str, object]:
        """The core without what every row has."""
        common = {"v", "op", "time_ms", "mono_ms", "boot", "stream"}
        return {name: value for name, value in self.core.items() if name not in common}


def trail_of(directory: Path) -> list[Entry]:
    """Give all rows."""
    reader = SqliteReader(directory / LOG_FILE)
    keys = load_keys(directory)
    subjects = SubjectKeyReader(directory / SUBJECT_FOLDER, keys.wrapping_key)
    try:
        personal = PersonalReader(keys.origin, subjects)
        return [Entry(row, msgspec.json.decode(row.core), personal.read(row)) for row in reader.rows(0)]
    finally:
        subjects.close()
        reader.close()


def entries_of(directory: Path, *operations: str) -> list[Entry]:
    """Give the rows of these operations."""
    return [entry for entry in trail_of(directory) if entry.operation in operations]


def name_of(directory: Path, stream_id: str) -> str:
    """Give the name of a stream in the trail."""
    return Pseudonyms(load_keys(directory), load_secret(directory)).stream(stream_id)


def judge(
    directory: Path, *anchors: str, reader: LogReader | None = None, receipts: tuple[Receipt, ...] = ()
) -> Report:
    """Verify a trail with its keys."""
    reader = reader or SqliteReader(directory / LOG_FILE)
    keys = load_keys(directory)
    subjects = SubjectKeyReader(directory / SUBJECT_FOLDER, keys.wrapping_key)
    try:
        evidence = Evidence(keys.first_vkey, is_pinned=True, anchors=anchors, receipts=receipts)
        pseudonyms = Pseudonyms(keys, load_secret(directory))
        unlocked = Unlocked(PersonalReader(keys.origin, subjects), pseudonyms, subjects, frozenset(keys.months))
        return verify(reader, evidence, unlocked=unlocked)
    finally:
        subjects.close()
        reader.close()


def assert_verifies(directory: Path, *anchors: str) -> Report:
    """Verify a trail, which must hold."""
    report = judge(directory, *anchors)
    assert not report.findings, report.findings
    return report


def unended(directory: Path) -> Counter[str]:
    """Give the streams whose start is recorded and whose end isn't, or not once."""
    balance: Counter[str] = Counter()
    for entry in trail_of(directory):
        if entry.row.stream is not None:
            balance[entry.row.stream] += {"stream.start": 1, "stream.end": -1}.get(entry.operation, 0)
    return Counter({stream: count for stream, count in balance.items() if count})


def written_rows(directory: Path) -> int:
    """Count the rows that are on disk, without any of our code."""
    with sqlite3.connect(directory / LOG_FILE) as connection:
        count: int = connection.execute("SELECT count(*) FROM audit_event").fetchone()[0]
    connection.close()
    return count

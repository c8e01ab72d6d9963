"""An honest log always verifies, whatever happened to its process; a log with one changed byte never does."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from subak.audit import retention
from subak.audit.records import Row, Subject
from subak.audit.sqlite import SqliteStore
from subak.audit.store import Batch, Query
from subak.core.merkle import CompactRange, Span
from tests.audit import TERM_MS, AuditStage, SqlitePlace, end_of, start_of, violation_of

SUBJECTS = [Subject("principal", "one"), Subject("principal", "two"), Subject("stream", "st_anonymous")]
subjects = st.sampled_from(SUBJECTS)
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 — a folder of its own is made there
"""Hundreds of logs are made here, and nothing is learnt from waiting for a disk."""


class PowerCut(Exception):
    """The process ends here."""


class FragileStore(SqliteStore):
    """A store whose process ends at a chosen write: before it, or right after it."""

    cut_in: int | None = None
    is_cut_after = False

    def append(self, batch: Batch) -> None:
        self._guard(lambda: super(FragileStore, self).append(batch))

    def redact(self, spans: Iterable[Span]) -> None:
        self._guard(lambda: super(FragileStore, self).redact(spans))

    def prune(self, base: CompactRange) -> None:
        self._guard(lambda: super(FragileStore, self).prune(base))

    def _guard(self, write: Callable[[], None]) -> None:
        if self.cut_in is None:
            write()
            return
        self.cut_in -= 1
        if self.cut_in > 0:
            write()
            return
        if self.is_cut_after:
            write()
        raise PowerCut


class FragilePlace(SqlitePlace):
    """A place for one."""

    def store(self, origin: str) -> FragileStore:
        return FragileStore(self.path, origin)


class AuditMachine(RuleBasedStateMachine):
    """Rows come, are sealed, pruned and erased, keys change, and processes end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="subak-audit-", dir=MEMORY))
        self.stage = AuditStage(FragilePlace(self.folder), self.folder)

    def teardown(self) -> None:
        self.stage.close()
        shutil.rmtree(self.folder)

    @rule(subject=subjects, count=st.sampled_from((1, 3, 60)))
    def write(self, subject: Subject, count: int) -> None:
        writer = self.stage.writer
        records = [start_of(subject), end_of(), violation_of(subject)]
        for start in range(0, count, 20):
            writer.append([writer.stamp(records[at % 3]) for at in range(start, min(start + 20, count))])

    @rule()
    def seal(self) -> None:
        self.stage.writer.seal()

    @rule(seconds=st.sampled_from((0.1, 1, 100, 1000, 86_400 * 50)))
    def time_passes(self, seconds: float) -> None:
        self.stage.writer.seal()
        # A day at a time would take the fake clock long; it is moved in one step.
        self.stage.clock.jump(seconds)

    @rule()
    def prune(self) -> None:
        retention.prune(self.stage.writer, term_ms=TERM_MS)

    @rule(subject=subjects)
    def erase(self, subject: Subject) -> None:
        retention.erase_subject(self.stage.writer, subject)
        numbers = self.stage.writer.finder.numbers_of(subject)
        assert numbers == ()

    @rule()
    def rotate(self) -> None:
        retention.rotate_key(self.stage.writer)

    @rule()
    def restart(self) -> None:
        self.stage.reopen()

    @rule(
        action=st.sampled_from(("write", "seal", "prune", "erase", "rotate")),
        cut_in=st.integers(1, 4),
        is_cut_after=st.booleans(),
    )
    def crash(self, action: str, cut_in: int, *, is_cut_after: bool) -> None:
        store = self.stage.writer.store
        assert isinstance(store, FragileStore)
        store.cut_in, store.is_cut_after = cut_in, is_cut_after
        doing: dict[str, Callable[[], object]] = {
            "write": lambda: self.write(SUBJECTS[0], 60),
            "seal": self.seal,
            "prune": self.prune,
            "erase": lambda: self.erase(SUBJECTS[0]),
            "rotate": self.rotate,
        }
        with suppress(PowerCut):
            doing[action]()
        self.stage.reopen()

    @invariant()
    def the_log_verifies_with_all_that_was_published(self) -> None:
        report = self.stage.judge(*self.stage.notes)
        assert report.findings == ()

    @invariant()
    def the_tree_is_that_of_the_rows(self) -> None:
        assert self.stage.writer.store.end() == self.stage.writer.size


TestAuditMachine = pytest.mark.timeout(900)(AuditMachine.TestCase)  # a minute, and more on a busy machine
TestAuditMachine.settings = settings(stateful_step_count=10, deadline=None)


@pytest.fixture(scope="module")
def history() -> Iterator[AuditStage]:
    """A log in which everything happened: pruned, erased, its key changed, all of it sealed."""
    folder = Path(tempfile.mkdtemp(prefix="subak-audit-", dir=MEMORY))
    stage = AuditStage(SqlitePlace(folder), folder)
    stage.write(6, SUBJECTS[0])
    stage.clock.jump(TERM_MS / 1000)
    stage.write(4, SUBJECTS[0])
    stage.writer.write(violation_of(SUBJECTS[1]))
    assert retention.prune(stage.writer, term_ms=TERM_MS) is not None
    assert retention.erase_subject(stage.writer, SUBJECTS[0]).rows > 0
    retention.rotate_key(stage.writer)
    stage.write(3, SUBJECTS[1])
    stage.writer.seal()
    stage.reopen()
    yield stage
    stage.close()
    shutil.rmtree(folder)


TABLES = {
    "audit_event": Row._fields,
    "audit_checkpoint": ("size", "note", "hashes"),
    "audit_rotation": ("seq", "vkey", "signature"),
    "audit_base": ("size", "hashes"),
    "audit_log": ("origin",),
}
CELLS = [(table, column) for table, columns in TABLES.items() for column in columns]


@given(cell=st.sampled_from(CELLS), row=st.integers(0, 1000), at=st.integers(0, 10_000), bit=st.integers(0, 6))
def test_a_log_with_one_changed_cell_never_verifies(
    history: AuditStage, cell: tuple[str, str], row: int, at: int, bit: int
) -> None:
    table, column = cell
    path = history.place.path if isinstance(history.place, SqlitePlace) else None
    assert path is not None
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        rowids = [found[0] for found in connection.execute(f"SELECT rowid FROM {table}")]  # noqa: S608 — our own names
        rowid = rowids[row % len(rowids)]
        (before,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()  # noqa: S608
        after = changed(before, column, at, bit)
        key = after if column in {"seq", "size"} else rowid
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?", (after, rowid))  # noqa: S608
        if connection.execute("SELECT changes()").fetchone()[0] == 0:
            return  # the number is another row's: the store itself refuses
        try:
            assert history.flaws(), (table, column, rowid, before, after)
        finally:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (before, key))  # noqa: S608
    finally:
        connection.close()


def test_the_unchanged_history_verifies(history: AuditStage) -> None:
    assert history.judge(history.notes[-1]).findings == ()
    assert {row.operation for row in history.writer.store.search(Query())} >= {
        "retention.prune",
        "gdpr.erase",
        "key.rotate",
        "stream.start",
    }


def changed(value: bytes | str | int | None, column: str, at: int, bit: int) -> bytes | str | int:
    """Give another value of the same kind: one bit flipped."""
    match value:
        case None:
            return b"\x00" if column.startswith("pii") or column in {"subject", "address", "nonce", "ct"} else "x"
        case int():
            return value ^ (1 << bit)
        case str():
            return changed(value.encode(), column, at, bit).decode("latin-1")  # type: ignore[union-attr]
        case bytes():
            place = at % len(value)
            return value[:place] + bytes([value[place] ^ (1 << bit)]) + value[place + 1 :]

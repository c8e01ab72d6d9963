"""A recorder over a real log in a folder, and the hand of its clock."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from subak.audit.log import MAX_QUEUED, AuditLog
from subak.audit.opening import open_sqlite, open_writer
from subak.audit.recorder import Recorder
from subak.audit.store import LogStore
from subak.core.deadlines import Deadlines
from subak.core.facts import Fact
from subak.state import load_secret
from subak.testing import PATIENCE_S, FakeClock
from tests.trail import Entry, trail_of

OF_THE_LOG = ("log.open", "gateway.start", "gateway.stop", "seal")


class Desk:
    """A recorder at work. `told` is what it had to tell itself."""

    def __init__(
        self, directory: Path, *, is_strict: bool, open_store: Callable[[str], LogStore] | None, max_queued: int
    ) -> None:
        self.directory = directory
        self.told: list[Fact] = []
        self.defects: list[BaseException] = []
        deadlines = Deadlines()
        self.clock = FakeClock(deadlines)
        writer = open_writer(
            directory,
            self.clock,
            open_store=open_store or open_sqlite(directory),
            digest_secret=load_secret(directory),
            publish=lambda _note: None,
            on_keys_created=lambda _path, _vkey: None,
        )
        self.log = AuditLog(writer, self.clock, max_queued=max_queued, on_defect=self.defects.append)
        self.recorder = Recorder(self.log, self.clock, is_strict=is_strict, tell=self.told.append)
        deadlines.watch(self.recorder, self.clock.monotonic())

    def rows(self) -> list[Entry]:
        """Give what is recorded by now, without what every log has."""
        self.log.perform(lambda _writer: None).result(PATIENCE_S)
        return [entry for entry in trail_of(self.directory) if entry.operation not in OF_THE_LOG]

    def row(self) -> Entry:
        """Give the one row that there is."""
        (row,) = self.rows()
        return row

    def hears(self, *facts: Fact) -> None:
        """Tell the recorder."""
        for fact in facts:
            self.recorder.notify(fact)


DeskMaker = Callable[..., AbstractContextManager[Desk]]


@pytest.fixture
def open_desk(tmp_path: Path) -> DeskMaker:
    """Give what opens a recorder, in strict mode unless told otherwise."""

    @contextmanager
    def make(
        *, is_strict: bool = True, open_store: Callable[[str], LogStore] | None = None, max_queued: int = MAX_QUEUED
    ) -> Iterator[Desk]:
        desk = Desk(tmp_path, is_strict=is_strict, open_store=open_store, max_queued=max_queued)
        try:
            yield desk
        finally:
            desk.log.close(PATIENCE_S)
            assert not desk.defects

    return make


@pytest.fixture
def desk(open_desk: DeskMaker) -> Iterator[Desk]:
    """Give a recorder in strict mode."""
    with open_desk() as opened:
        yield opened

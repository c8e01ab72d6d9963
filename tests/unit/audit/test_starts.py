"""Strict and degraded mode over a disk that hangs or is locked: who is told what, and that the loop never waits."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from subak.audit.log import MAX_QUEUED
from subak.audit.sqlite import LOG_FILE, SqliteStore
from subak.audit.starts import COMMIT_S
from subak.audit.store import Batch
from subak.core.errors import AuditUnavailable
from subak.core.facts import AuditRecovered, AuditTroubled, StopRequested, StreamOpened
from subak.testing import PATIENCE_S
from tests.trail import written_rows
from tests.unit.audit.conftest import Desk, DeskMaker

QUEUED: Final = 500
HANGS_S: Final = 2 * PATIENCE_S
"""How long a disk hangs, in real seconds, that no test lets go on: whoever waits for it lets that test fail."""


class HangingStore(SqliteStore):
    """A store whose disk doesn't answer while `answers` isn't set."""

    def __init__(self, path: Path, origin: str) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()
        super().__init__(path, origin)

    def append(self, batch: Batch) -> None:
        """Commit, once the disk answers."""
        self.is_asked.set()
        assert self.answers.wait(HANGS_S)
        super().append(batch)


class Waiters:
    """A recorder over a disk that can hang, and what those who wait were told."""

    def __init__(self, desk: Desk, store: HangingStore) -> None:
        self.desk = desk
        self.store = store
        self.told: dict[str, bool] = {}
        self._changed = asyncio.Event()

    def hang(self) -> None:
        """Let the disk hang from the next commit on."""
        self.store.is_asked.clear()
        self.store.answers.clear()

    def begins(self, stream_id: str) -> None:
        """Put a start on its way, and wait for it."""
        start = self.desk.recorder.begin(StreamOpened(stream_id, "c", "GET chat-stream"))
        assert start is not None
        start.when_done(lambda is_recorded: self._on_told(stream_id, is_recorded=is_recorded))

    async def all_told(self, count: int) -> dict[str, bool]:
        """Give what was told, once so many know."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.told

    def _on_told(self, stream_id: str, *, is_recorded: bool) -> None:
        assert stream_id not in self.told, "told twice"
        self.told[stream_id] = is_recorded
        self._changed.set()


@asynccontextmanager
async def waiters(
    open_desk: DeskMaker, folder: Path, *, is_strict: bool = True, max_queued: int = 1000
) -> AsyncIterator[Waiters]:
    """Open it; the disk answers at the end."""
    stores: list[HangingStore] = []

    def open_store(origin: str) -> HangingStore:
        stores.append(HangingStore(folder / LOG_FILE, origin))
        return stores[0]

    with open_desk(is_strict=is_strict, open_store=open_store, max_queued=max_queued) as desk:
        yield Waiters(desk, stores[0])
        stores[0].answers.set()


async def until(is_met: Callable[[], bool]) -> None:
    """Wait for something that the writer's thread does."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_met():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)


async def test_who_waits_is_told_when_the_record_is_on_disk(open_desk: DeskMaker, tmp_path: Path) -> None:
    async with waiters(open_desk, tmp_path) as waiting:
        before = written_rows(tmp_path)
        for number in range(20):
            waiting.begins(f"st_{number}")
        assert waiting.told == {}
        assert await waiting.all_told(20) == {f"st_{number}": True for number in range(20)}
        assert written_rows(tmp_path) == before + 20


async def test_a_hanging_disk_holds_up_neither_the_loop_nor_who_tells_facts(
    open_desk: DeskMaker, tmp_path: Path
) -> None:
    """The disk hangs until all has been said: who waited for it would never come to let it go on."""
    async with waiters(open_desk, tmp_path, max_queued=MAX_QUEUED) as waiting:
        waiting.hang()
        waiting.begins("st_0")
        await until(waiting.store.is_asked.is_set)
        for number in range(2 * MAX_QUEUED):
            waiting.desk.hears(StopRequested(f"st_{number}", was_live=True))
            if number % 100 == 0:
                await asyncio.sleep(0)
        assert waiting.told == {}
        assert waiting.desk.log.state.lost == MAX_QUEUED
        waiting.store.answers.set()
        assert await waiting.all_told(1) == {"st_0": True}


async def test_after_five_seconds_without_a_commit_there_is_none(open_desk: DeskMaker, tmp_path: Path) -> None:
    async with waiters(open_desk, tmp_path) as waiting:
        desk = waiting.desk
        waiting.hang()
        waiting.begins("st_0")
        await until(waiting.store.is_asked.is_set)
        desk.clock.advance(2)
        waiting.begins("st_1")
        desk.clock.advance(COMMIT_S - 2)
        assert waiting.told == {}
        desk.recorder.check()
        desk.clock.advance(1)
        assert waiting.told == {"st_0": False}
        assert desk.told == [AuditTroubled("stalled")]
        with pytest.raises(AuditUnavailable) as refused:
            desk.recorder.check()
        assert refused.value.retry_after_s == 1
        waiting.store.answers.set()
        assert await waiting.all_told(2) == {"st_0": False, "st_1": True}
        await until(lambda: desk.log.state.queued == 0)
        desk.clock.advance(1)
        desk.recorder.check()
        assert desk.told == [AuditTroubled("stalled"), AuditRecovered(0)]


async def test_in_degraded_mode_nobody_waits_and_the_loss_is_counted_and_recorded(
    open_desk: DeskMaker, tmp_path: Path
) -> None:
    async with waiters(open_desk, tmp_path, is_strict=False, max_queued=QUEUED) as waiting:
        recorder, log = waiting.desk.recorder, waiting.desk.log
        waiting.hang()
        for number in range(QUEUED + 600):
            assert recorder.begin(StreamOpened(f"st_{number}", "c", "GET chat-stream")) is None
        waiting.desk.clock.advance(6)
        recorder.check()
        lost = log.state.lost
        assert 0 < lost <= 600
        waiting.store.answers.set()
        rows = waiting.desk.rows()
        assert sum(row.operation == "stream.start" for row in rows) == QUEUED + 600 - lost
        await until(lambda: any(row.operation == "log.gap" for row in waiting.desk.rows()))
        (gap,) = [row for row in waiting.desk.rows() if row.operation == "log.gap"]
        assert gap.core["lost"] == lost


async def test_a_locked_file_refuses_new_starts_until_it_is_free(open_desk: DeskMaker, tmp_path: Path) -> None:
    async with waiters(open_desk, tmp_path) as waiting:
        other = sqlite3.connect(tmp_path / LOG_FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting.begins("st_0")
        assert await waiting.all_told(1) == {"st_0": False}
        with pytest.raises(AuditUnavailable):
            waiting.desk.recorder.check()
        other.execute("ROLLBACK")
        other.close()
        waiting.desk.clock.advance(2)
        await until(lambda: waiting.desk.recorder.trouble is None)
        waiting.begins("st_1")
        assert await waiting.all_told(2) == {"st_0": False, "st_1": True}
        assert [row.operation for row in waiting.desk.rows()] == ["stream.start", "log.gap", "stream.start"]

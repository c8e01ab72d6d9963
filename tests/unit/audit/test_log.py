"""The log of a running process: nobody waits for the disk, nothing is lost unseen."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from subak.audit.errors import StoreUnavailable
from subak.audit.log import IDLE_SEAL_S, MAX_QUEUED, RETRY_S, AuditLog, Ticket
from subak.audit.operations import NotPermitted, Operation
from subak.audit.records import Record, Subject
from subak.audit.sqlite import SqliteStore
from subak.audit.store import Query
from subak.audit.writer import LogWriter
from subak.core.errors import AuditUnavailable
from subak.testing import PATIENCE_S
from tests.audit import AuditStage, SqlitePlace, end_of, start_of
from tests.integration.gateway import eventually

SOMEBODY = Subject("principal", "somebody")


class RunningLog:
    """A log with its thread, on a clock that the test moves."""

    def __init__(self, folder: Path, max_queued: int = MAX_QUEUED) -> None:
        self.stage = AuditStage(SqlitePlace(folder), folder)
        self.clock = self.stage.clock
        self.defects: list[BaseException] = []
        self.log = AuditLog(self.stage.writer, self.clock, max_queued=max_queued, on_defect=self.defects.append)

    @property
    def path(self) -> Path:
        assert isinstance(self.stage.place, SqlitePlace)
        return self.stage.place.path

    def operations(self) -> list[str]:
        return [row.operation for row in self.stage.rows()]

    def is_sealed_a_moment_later(self) -> bool:
        """Let a moment pass: the thread may take the time of a row only after the row can be seen."""
        self.clock.advance(0.05)
        return self.log.state.sealed_size == self.log.state.size

    async def until(self, is_met: Callable[[], bool]) -> None:
        await eventually(is_met, lambda: self.log.state, PATIENCE_S)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningLog]:
    running = RunningLog(tmp_path)
    yield running
    running.log.close(PATIENCE_S)
    assert running.defects == []


@contextmanager
def locked(running: RunningLog) -> Iterator[None]:
    """Let another program hold the file."""
    connection = sqlite3.connect(running.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


@contextmanager
def full(running: RunningLog) -> Iterator[None]:
    """Let the disk have no room for another page."""

    def fill(writer: LogWriter) -> None:
        with suppress(StoreUnavailable):
            while True:
                writer.write(end_of())

    with _pragma(running, "max_page_count", "1"):
        running.log.perform(fill).result(PATIENCE_S)
        yield


@contextmanager
def read_only(running: RunningLog) -> Iterator[None]:
    """Let the file be one that can't be written."""
    with _pragma(running, "query_only", "ON"):
        yield


@contextmanager
def _pragma(running: RunningLog, name: str, value: str) -> Iterator[None]:
    usual = {"max_page_count": "1073741823", "query_only": "OFF", "busy_timeout": "1000"}[name]

    def put(wanted: str) -> Callable[[LogWriter], None]:
        def action(writer: LogWriter) -> None:
            assert isinstance(writer.store, SqliteStore)
            writer.store._connection.execute(f"PRAGMA {name}={wanted}").fetchall()  # noqa: SLF001 — a fault from inside

        return action

    running.log.perform(put(value)).result(PATIENCE_S)
    try:
        yield
    finally:
        running.log.perform(put(usual)).result(PATIENCE_S)


async def test_a_record_is_on_disk_when_its_ticket_says_so(running: RunningLog) -> None:
    ticket = running.log.submit(start_of(SOMEBODY))
    committed = await ticket.wait()
    assert running.stage.rows()[committed.seq].operation == "stream.start"
    assert (await ticket.wait()) == committed


async def test_records_keep_their_order(running: RunningLog) -> None:
    tickets = [running.log.submit(end_of(outcome=f"o{number}")) for number in range(1000)]
    places = [(await ticket.wait()).seq for ticket in tickets]
    assert places == list(range(1, 1001))
    assert [row.outcome for row in running.stage.rows()[1:]] == [f"o{number}" for number in range(1000)]


async def test_many_may_wait_for_one_ticket(running: RunningLog) -> None:
    ticket = running.log.submit(end_of())
    calls: list[bool] = []
    ticket.when_done(calls.append)
    places = await asyncio.gather(ticket.wait(), ticket.wait())
    ticket.when_done(calls.append)
    await running.until(lambda: len(calls) == 2)
    assert calls == [True, True]
    assert places[0] == places[1]


async def test_records_come_from_any_thread(running: RunningLog) -> None:
    def submit_some() -> list[Ticket]:
        return [running.log.submit(end_of()) for _ in range(200)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.to_thread(submit_some)) for _ in range(4)]
    places = [(await ticket.wait()).seq for task in tasks for ticket in task.result()]
    assert sorted(places) == list(range(1, 801))


async def test_what_isnt_permitted_is_refused_at_the_door(running: RunningLog) -> None:
    with pytest.raises(NotPermitted):
        running.log.submit(Record(Operation.STREAM_END, {"question": "why?"}))
    assert running.log.state.queued == 0


async def test_a_change_is_sealed_within_a_second(running: RunningLog) -> None:
    await running.log.submit(end_of()).wait()
    published = len(running.stage.notes)
    assert running.log.state.sealed_size < running.log.state.size
    running.clock.advance(0.9)
    await running.until(lambda: running.log.state.sealed_size == running.log.state.size)
    assert len(running.stage.notes) == published + 1


async def test_a_seal_that_is_being_made_is_no_failed_one(running: RunningLog, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(running.stage.writer, "_publish", lambda _note: seen.append(running.log.state.failed_seals))
    await running.log.submit(end_of()).wait()
    running.clock.advance(0.9)
    await running.until(lambda: bool(seen))
    assert seen == [0]


async def test_rows_are_sealed_by_the_thousand_without_waiting_for_time(running: RunningLog) -> None:
    tickets = [running.log.submit(end_of()) for _ in range(2500)]
    await tickets[-1].wait()
    sizes = [int(note.split("\n")[1]) for note in running.stage.notes]
    assert max(later - former for former, later in pairwise(sizes)) <= 1000
    assert running.log.state.size - running.log.state.sealed_size <= 1000


async def test_an_idle_log_says_once_a_minute_that_it_lives(running: RunningLog) -> None:
    for beats in (1, 2):
        running.clock.advance(IDLE_SEAL_S)
        await running.until(lambda beats=beats: running.operations().count("seal") == beats)  # type: ignore[misc]
        await running.until(running.is_sealed_a_moment_later)
    assert running.stage.judge().findings == ()


async def test_a_stalled_process_says_so_afterwards(running: RunningLog) -> None:
    await running.log.submit(end_of()).wait()
    running.clock.jump(3600)
    await running.log.submit(end_of()).wait()
    await running.until(running.is_sealed_a_moment_later)
    assert "log.gap" in running.operations()
    assert running.stage.judge().findings == ()


@pytest.mark.parametrize(("fault", "trouble"), [(locked, "locked"), (full, "disk_full"), (read_only, "read_only")])
async def test_a_store_in_trouble_fails_tickets_at_once_and_is_taken_up_again(
    running: RunningLog, fault: Callable[[RunningLog], AbstractContextManager[None]], trouble: str
) -> None:
    with fault(running):
        first = running.log.submit(start_of(SOMEBODY))
        with pytest.raises(AuditUnavailable):
            await first.wait()
        assert running.log.state.trouble == trouble
        second = running.log.submit(end_of())
        assert second.failure == trouble
    running.clock.advance(RETRY_S)
    await running.until(lambda: running.log.state.trouble is None)
    await running.until(lambda: running.operations().count("log.gap") == 1)
    assert [one for one in running.operations() if one.startswith("stream")][-2:] == ["stream.start", "stream.end"]
    assert running.log.state.lost == 0
    await running.log.submit(end_of()).wait()
    await running.until(running.is_sealed_a_moment_later)
    assert running.stage.judge(*running.stage.notes).findings == ()


async def test_a_log_that_nobody_writes_to_finds_out_that_its_store_is_back(running: RunningLog) -> None:
    with read_only(running):
        await running.until(lambda: running.log.submit(end_of()).is_settled)
        await running.until(lambda: running.log.state.trouble is not None)
    await running.until(lambda: running.log.state.trouble == "read_only")
    running.clock.advance(RETRY_S)
    await running.until(lambda: running.log.state.trouble is None)


async def test_what_finds_no_room_is_counted_and_told(tmp_path: Path) -> None:
    running = RunningLog(tmp_path, max_queued=5)
    with locked(running):
        await running.until(lambda: running.log.submit(end_of()).is_settled)
        await running.until(lambda: running.log.state.trouble is not None)
        for _ in range(40):
            assert running.log.submit(end_of()).failure is not None
        await running.until(lambda: running.log.state.queued == 5)
    running.clock.advance(RETRY_S)
    await running.until(lambda: running.log.state.trouble is None)
    lost = running.log.state.lost
    assert lost >= 35
    gap = next(row for row in running.stage.rows() if row.operation == "log.gap")
    assert f'"lost":{lost}'.encode() in gap.core
    assert not running.log.close(PATIENCE_S)
    assert running.stage.judge().findings == ()


async def test_a_disk_that_doesnt_answer_never_holds_up_the_loop(running: RunningLog) -> None:
    """SQLite waits for the lock until it is free: meanwhile the loop turns, records are taken, and nobody notices."""
    with _pragma(running, "busy_timeout", str(round(2000 * PATIENCE_S))), locked(running):
        ticket = running.log.submit(start_of(SOMEBODY))
        for _ in range(100):
            await asyncio.sleep(0.001)
            assert not running.log.submit(end_of()).is_settled
        assert not ticket.is_settled
    assert (await ticket.wait()).seq == 1


async def test_work_on_the_log_is_done_by_its_thread_and_answered(running: RunningLog) -> None:
    ticket = running.log.submit(end_of())
    done = running.log.perform(lambda writer: (threading.current_thread().name, writer.size))
    assert await asyncio.wrap_future(done) == ("subak-audit", 2)
    assert ticket.is_settled


async def test_an_error_in_such_work_goes_to_who_asked(running: RunningLog) -> None:
    def fail(_writer: LogWriter) -> None:
        raise KeyError("nothing")

    with pytest.raises(KeyError):
        await asyncio.wrap_future(running.log.perform(fail))
    await running.log.submit(end_of()).wait()


async def test_closing_writes_and_seals_what_is_queued(running: RunningLog) -> None:
    tickets = [running.log.submit(end_of()) for _ in range(600)]
    assert await asyncio.to_thread(running.log.close, PATIENCE_S)
    assert all(ticket.committed is not None for ticket in tickets)
    assert running.log.state.sealed_size == 601
    running.stage.open()
    assert running.stage.judge().findings == ()
    running.stage.close()


async def test_a_closed_log_takes_nothing(running: RunningLog) -> None:
    assert running.log.close(PATIENCE_S)
    ticket = running.log.submit(end_of())
    with pytest.raises(AuditUnavailable):
        await ticket.wait()
    with pytest.raises(AuditUnavailable):
        running.log.perform(lambda writer: writer.size).result(PATIENCE_S)
    assert running.log.state.lost == 1
    assert not running.log.close(PATIENCE_S)


async def test_a_search_goes_on_beside_the_writer(running: RunningLog) -> None:
    reader = running.stage.place.reader(running.stage.origin)
    try:
        for _ in range(50):
            await running.log.submit(end_of()).wait()
            assert len(list(reader.search(Query(operations=("stream.end",))))) == 0
    finally:
        reader.close()
    assert running.operations().count("stream.end") == 50

"""The audit log of a running process: whoever records never waits, one thread writes.

    submit ──► bounded queue ──► writer thread: at most 256 rows a commit, as soon as somebody waits for one of them
      │                             │
      └── Ticket ◄── committed ─────┘   seals ≤ 1 s after a change, every 1 000 rows, every 60 s when idle

While the store takes nothing, records are held and tried again every second; tickets fail at once, so that strict mode
can refuse; what finds no room is counted, and the count becomes a row when the store is back.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import msgspec

from subak.audit.bell import Bell
from subak.audit.errors import StoreDamaged, StoreUnavailable, Trouble
from subak.audit.operations import Operation
from subak.audit.records import Record, Stamped, check_record
from subak.audit.writer import MAX_BATCH_ROWS, Committed, LogWriter
from subak.core.clock import Clock
from subak.core.errors import AuditUnavailable, ErrorCode

MAX_QUEUED: Final = 10_000
SEAL_AFTER_S: Final = 0.8
"""After a change; with a slow commit it is still on disk within a second."""
IDLE_SEAL_S: Final = 60.0
RETRY_S: Final = 1.0
_POLL_S: Final = 0.05
"""How long the thread sleeps at most, and what nobody waits for is put off: it is handed a clock that may jump."""
_QUEUE_FULL: Final = "queue_full"
_CLOSED: Final = "closed"
_DEFECT: Final = "internal_error"

Result = TypeVar("Result")


class Ticket:
    """A record on its way to the disk, settled once by the writer's thread (`core.ledger.Commitment`)."""

    __slots__ = ("_ring", "_waiting", "committed", "failure")

    def __init__(self, failure: str | None = None, ring: Callable[[], None] | None = None) -> None:
        """`failure` says why it is lost already; `ring` wakes the writer, when somebody waits."""
        self._ring = ring
        self.committed: Committed | None = None
        self.failure = failure
        self._waiting: list[tuple[asyncio.AbstractEventLoop, Callable[[bool], None]]] = []

    @property
    def is_settled(self) -> bool:
        """Whether it is known what became of the record."""
        return self.committed is not None or self.failure is not None

    def when_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once, from the running loop: True when the record is on disk, False when that isn't known."""
        self._waiting.append((asyncio.get_running_loop(), callback))
        # The thread settles first and looks for who waits then; here it is the other way round. One sees the other.
        if self.is_settled:
            self._release()
        elif self._ring is not None:
            self._ring()

    async def wait(self) -> Committed:
        """Give the row's place once it is on disk. Give it a deadline.

        Raises:
            AuditUnavailable: it isn't, and may never be.
        """
        if not self.is_settled:
            done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.when_done(lambda is_safe: None if done.done() else done.set_result(is_safe))
            await done
        if self.committed is None:
            raise unavailable()
        return self.committed

    def settle(self, committed: Committed | None, failure: str | None) -> None:
        """Say what became of it, from any thread; the first word stands."""
        if self.is_settled:
            return
        self.failure = failure
        self.committed = committed
        self._release()

    def _release(self) -> None:
        """Call who waits, each once: to take one from a list is atomic."""
        is_safe = self.committed is not None
        while self._waiting:
            try:
                loop, callback = self._waiting.pop()
                loop.call_soon_threadsafe(callback, is_safe)
            except IndexError:
                return  # the other thread took it
            except RuntimeError:
                continue  # the loop has gone, and who waited with it


def unavailable() -> AuditUnavailable:
    """Give the error for what can't be recorded."""
    return AuditUnavailable(ErrorCode.AUDIT_UNAVAILABLE.message, retry_after_s=1)


class LogState(NamedTuple):
    """How the log does, for metrics and health. `trouble` is None while it can write.

    `oldest_waiting_s`: how long the oldest record has waited to be committed. Counts are since the start.
    """

    trouble: str | None
    queued: int
    oldest_waiting_s: float
    written: int
    lost: int
    failed_seals: int
    size: int
    sealed_size: int


class _Entry(msgspec.Struct, frozen=True):
    stamped: Stamped
    ticket: Ticket


class _Command(NamedTuple):
    """Something to do on the writer's thread, between two batches; or to be told that it won't be done."""

    run: Callable[[LogWriter], None]
    refuse: Callable[[], None]


def _answer(action: Callable[[LogWriter], Result], result: Future[Result], writer: LogWriter) -> None:
    """Do it, unless nobody waits any more; its errors belong to who asked."""
    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(action(writer))
    except Exception as error:  # noqa: BLE001 — handed over whole to who waits for it
        result.set_exception(error)


class _Close(NamedTuple):
    """The last thing in the queue."""


class AuditLog:
    """One log and its writer's thread. `submit` and `perform` may be called from any thread."""

    def __init__(
        self,
        writer: LogWriter,
        clock: Clock,
        *,
        max_queued: int = MAX_QUEUED,
        on_defect: Callable[[BaseException], None],
    ) -> None:
        """Start the thread, to which `writer` belongs from now on.

        `max_queued` bounds the records that wait, and again those held while the store takes none. `on_defect` hears,
        on the thread, of an exception that should not be.
        """
        self._writer = writer
        self._clock = clock
        self._max_queued = max_queued
        self._on_defect = on_defect
        self._queue: deque[_Entry | _Command | _Close] = deque()
        self._bell = Bell()
        self._ring = self._bell.ring
        self._held: deque[_Entry] = deque()
        self._trouble: str | None = None
        self._is_closed = False
        self._written = 0
        self._lost = 0
        self._lost_at_door = 0
        self._failed_seals = 0
        self._reported_lost = 0
        self._trouble_at = 0.0
        self._retry_at = 0.0
        self._changed_at: float | None = None
        self._wrote_at = clock.monotonic()
        self._seen_size = writer.size
        self._thread = threading.Thread(target=self._run, name="subak-audit", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why it takes no records; None while it does."""
        return self._trouble

    @property
    def oldest_waiting_s(self) -> float:
        """How long the oldest record has waited to be committed."""
        if not self._held:
            return 0.0
        try:
            oldest = self._held[0].stamped
        except IndexError:
            return 0.0  # the thread took it between the two
        return max(0.0, self._clock.monotonic() - oldest.mono_ms / 1000)

    @property
    def state(self) -> LogState:
        """How it does."""
        writer = self._writer
        return LogState(
            trouble=self._trouble,
            queued=len(self._queue) + len(self._held),
            oldest_waiting_s=self.oldest_waiting_s,
            written=self._written,
            lost=self._lost + self._lost_at_door,
            failed_seals=self._failed_seals,
            size=writer.size,
            sealed_size=writer.sealed_size,
        )

    def submit(self, record: Record) -> Ticket:
        """Queue a record; never blocks. The ticket has failed already while the log is in trouble.

        What nobody waits for is written with the next that somebody does wait for, or within 50 ms: to wake the thread
        for each would cost more than the record.

        A failed ticket means "not known to be on disk": what could be held is written once the store is back.

        Raises:
            NotPermitted: the table doesn't let it be written.
        """
        check_record(record)
        clock = self._clock
        stamped = Stamped(record, clock.time_ms(), int(clock.monotonic() * 1000))
        if self._is_closed or len(self._queue) >= self._max_queued:
            self._lost_at_door += 1
            return Ticket(_CLOSED if self._is_closed else _QUEUE_FULL)
        ticket = Ticket(self._trouble, self._ring)
        self._queue.append(_Entry(stamped, ticket))
        if len(self._queue) == MAX_BATCH_ROWS:
            self._ring()
        return ticket

    def perform(self, action: Callable[[LogWriter], Result]) -> Future[Result]:
        """Have something done on the writer's thread, after what is queued now; asyncio waits by `wrap_future`.

        The future has what `action` gives or raises; AuditUnavailable when the log was closed before.
        """
        result: Future[Result] = Future()
        refuse = partial(result.set_exception, unavailable())
        if self._is_closed:
            refuse()
        else:
            self._put(_Command(partial(_answer, action, result), refuse))
        return result

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, seal, let go of the store; whether all records are on disk. Blocks: not on a loop.

        What is submitted later is lost and counted. Idempotent.
        """
        if not self._is_closed:
            self._is_closed = True
            self._put(_Close())
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and self._lost + self._lost_at_door == 0

    def _put(self, urgent: "_Command | _Close") -> None:
        self._queue.append(urgent)
        self._ring()

    def _run(self) -> None:
        is_open = True
        while is_open:
            try:
                is_open = self._turn()
            except Exception as error:  # noqa: BLE001 — the root of this thread: it outlives a defect
                self._drop_held(_DEFECT)
                self._on_defect(error)
        self._leave()

    def _turn(self) -> bool:
        """Wait for something to do, and do it; False once it is time to close."""
        taken = self._take(self._sleep_s())
        if self._is_due(self._retry_at):
            self._write_what_waits()
        match taken:
            case _Close():
                return False
            case _Command():
                taken.run(self._writer)
                self._note_change()
            case None:
                pass
        return True

    def _take(self, timeout_s: float) -> _Command | _Close | None:
        """Move records from the queue to those held, a batch at most, and give what else comes first."""
        self._bell.wait(timeout_s)
        while self._queue:
            taken = self._queue.popleft()
            if not isinstance(taken, _Entry):
                self._ring()
                return taken
            self._hold(taken)
            if len(self._held) >= MAX_BATCH_ROWS and self._trouble is None:
                self._ring()
                return None
        return None

    def _hold(self, entry: _Entry) -> None:
        if len(self._held) >= self._max_queued:
            self._lost += 1
            entry.ticket.settle(None, self._trouble or _QUEUE_FULL)
            return
        self._held.append(entry)
        if self._trouble is not None:
            entry.ticket.settle(None, self._trouble)

    def _write_what_waits(self) -> None:
        """Write records, then what is to be said of a gap, then the seal; stop where the store takes nothing."""
        try:
            while self._held:
                self._write_batch()
            self._report_gap()
            self._seal_if_due()
        except StoreUnavailable as error:
            self._fall_into(error.trouble)
        except StoreDamaged as error:
            if self._trouble != Trouble.DAMAGED:
                self._on_defect(error)
            self._fall_into(Trouble.DAMAGED)

    def _write_batch(self) -> None:
        batch = list(islice(self._held, MAX_BATCH_ROWS))
        committed = self._writer.append([entry.stamped for entry in batch])
        self._written += len(batch)
        self._note_change()
        for entry, place in zip(batch, committed, strict=True):
            self._held.popleft()
            entry.ticket.settle(place, None)

    def _report_gap(self) -> None:
        """Write how long and why nothing was written, and how many records never will be. It shows recovery, too."""
        lost = self._lost + self._lost_at_door
        if self._trouble is None and lost == self._reported_lost:
            return
        silent_ms = 0 if self._trouble is None else int((self._clock.monotonic() - self._trouble_at) * 1000)
        fields = {"lost": lost - self._reported_lost, "silent_ms": silent_ms, "reason": self._trouble or _QUEUE_FULL}
        self._writer.write(Record(Operation.LOG_GAP, fields))
        self._note_change()
        self._reported_lost = lost
        self._trouble = None

    def _seal_if_due(self) -> None:
        if self._is_due(self._wrote_at + IDLE_SEAL_S):
            self._writer.write(Record(Operation.SEAL))
            self._note_change()
        if self._changed_at is not None and self._is_due(self._changed_at + SEAL_AFTER_S):
            try:
                self._writer.seal()
            except BaseException:
                self._failed_seals += 1
                raise
            self._changed_at = None

    def _note_change(self) -> None:
        """Take the time of new rows, and of the oldest that aren't sealed."""
        size = self._writer.size
        if size != self._seen_size:
            self._seen_size = size
            self._wrote_at = self._clock.monotonic()
        if self._writer.sealed_size == size:
            self._changed_at = None
        elif self._changed_at is None:
            self._changed_at = self._wrote_at

    def _fall_into(self, trouble: Trouble) -> None:
        now = self._clock.monotonic()
        if self._trouble is None:
            self._trouble_at = now
        self._trouble = trouble.value
        self._retry_at = now + RETRY_S
        for entry in self._held:
            entry.ticket.settle(None, self._trouble)

    def _is_due(self, at: float) -> bool:
        return self._clock.monotonic() >= at

    def _sleep_s(self) -> float:
        """Give how long nothing is due unless something comes."""
        due = self._wrote_at + IDLE_SEAL_S
        if self._trouble is not None:
            due = self._retry_at
        elif self._changed_at is not None:
            due = self._changed_at + SEAL_AFTER_S
        return min(_POLL_S, max(0.0, due - self._clock.monotonic()))

    def _drop_held(self, reason: str) -> None:
        self._lost += len(self._held)
        while self._held:
            self._held.popleft().ticket.settle(None, reason)

    def _leave(self) -> None:
        """Write, seal and close, each once; what can't be written now never will be."""
        try:
            self._write_what_waits()
            self._writer.seal()
        except (StoreUnavailable, StoreDamaged) as error:
            self._on_defect(error)
        finally:
            self._drop_held(self._trouble or _CLOSED)
            self._refuse_late()
            self._writer.close()

    def _refuse_late(self) -> None:
        """Answer what came in while the door closed."""
        while self._queue:
            late = self._queue.popleft()
            match late:
                case _Entry():
                    self._lost_at_door += 1
                    late.ticket.settle(None, _CLOSED)
                case _Command():
                    late.refuse()
                case _Close():
                    pass

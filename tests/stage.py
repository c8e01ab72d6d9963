"""One process' relay on a clock and an event loop that move only when a test says so.

`Stage` builds a real hub, real publishers, subscribers and store. Only what lies outside the relay is played here: the
upstream (`PuppetUpstream`) and the client's side of a response (`Response` on a `FakeOutlet`). Nothing waits in real
time: a loop that would have to wait is idle, and `settle` returns.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import msgspec

from subak.core.clock import Clock
from subak.core.cursor import Cursor
from subak.core.deadlines import Deadlines
from subak.core.envelope import encode_preface, to_json, token_event
from subak.core.errors import AuditUnavailable, ErrorCode, UpstreamError
from subak.core.events import SOURCES, Ending, Event, Failed, Finished, FinishReason, UpstreamSink
from subak.core.facts import StreamOpened
from subak.core.ledger import Receipt
from subak.core.lifecycle import OnDisconnect
from subak.core.principal import ANONYMOUS, Principal
from subak.core.question import Question
from subak.relay.hub import Attachment, Hub, HubTimes, Opened, Reading, StopResult, StreamState
from subak.relay.publisher import Origin, StreamBounds
from subak.relay.subscriber import Departure, ReaderTimes, Subscriber
from subak.replay.base import (
    Batch,
    Created,
    Creation,
    IdempotencyKey,
    LogReader,
    ReplayStore,
    StreamLog,
    StreamMeta,
    Tombstone,
)
from subak.replay.memory import MemoryStore
from subak.testing import FakeClock, RecordingObserver
from tests.wire import transcribe

TICK_S: Final = 0.25
KIB: Final = 1024
MIB: Final = 1024 * KIB
QUERY: Final = "What is a KITAS?"

T = TypeVar("T")


class _IdleSelector(selectors.SelectSelector):
    """Selects nothing and never waits: where a loop would have to wait, it is told to stop."""

    def __init__(self, on_idle: Callable[[], None]) -> None:
        super().__init__()
        self._on_idle = on_idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._on_idle()
        return []


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for, without a round of any loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("the coroutine waits for something")


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop without sockets whose time is a test's clock."""

    def __init__(self, clock: Clock) -> None:
        self._test_clock = clock
        super().__init__(_IdleSelector(self.stop))

    def time(self) -> float:
        return self._test_clock.monotonic()

    def settle(self) -> None:
        """Run until nothing is left to do at this time."""
        self.run_forever()

    def step(self) -> None:
        """Run each callback that is ready now, once: what these make ready waits for the next step."""
        self.call_soon(self.stop)
        self.run_forever()


class PuppetExchange:
    """One question at the upstream, played by the test."""

    def __init__(self, question: Question, sink: UpstreamSink, clock: Clock) -> None:
        self.question = question
        self.is_open = False
        self.is_aborted = False
        self.is_paused = False
        self.is_over = False
        self._sink = sink
        self._clock = clock

    @property
    def is_silent(self) -> bool:
        """Whether nothing more comes from it: it has ended, was aborted, or never came about."""
        return self.is_aborted or self.is_over

    def abort(self) -> None:
        self.is_aborted = True

    def pause(self) -> None:
        assert not self.is_silent, "nobody touches an exchange that is over"
        self.is_paused = True

    def resume(self) -> None:
        assert not self.is_silent, "nobody touches an exchange that is over"
        self.is_paused = False

    def says(self, *events: Event, ending: Ending | None = None) -> None:
        """Bring all of this in one read. What is aborted brings nothing any more."""
        if self.is_silent:
            return
        self.is_over = ending is not None
        self._sink.on_read(events, ending, sum(len(event.data) for event in events))

    def token(self, *texts: str) -> None:
        """Bring tokens in one read."""
        self.says(*[token_event(text, self._clock.time_ms()) for text in texts])

    def sources(self, *names: str) -> None:
        """Bring a list of sources."""
        self.says(Event(SOURCES, to_json([{"source": name} for name in names]), self._clock.time_ms()))

    def done(self, reason: FinishReason = FinishReason.STOP) -> None:
        """End the answer well."""
        self.says(ending=Finished(reason))

    def fails(self, code: ErrorCode = ErrorCode.UPSTREAM_TRUNCATED) -> None:
        """Break off."""
        self.says(ending=Failed(code, "puppet"))

    def runs(self) -> None:
        """Assert that nobody has cut it, and that nobody holds it back."""
        assert not self.is_aborted
        assert not self.is_paused

    def waits(self) -> None:
        """Assert that it is held back."""
        assert self.is_paused

    def was_cut(self) -> None:
        """Assert that its connection was closed."""
        assert self.is_aborted


class PuppetCommitment:
    """The record of a stream's start, on its way until the test says what became of it."""

    def __init__(self) -> None:
        self._callback: Callable[[bool], None] | None = None

    def when_done(self, callback: Callable[[bool], None]) -> None:
        self._callback = callback

    def receipt(self) -> Receipt | None:
        """Give none."""

    def comes_to(self, *, is_recorded: bool) -> None:
        """The record is safe, or never will be."""
        assert self._callback is not None, "the publisher asked to be told"
        self._callback(is_recorded)


class PuppetLedger:
    """A ledger that a test plays. While `refusal` is set nothing can be recorded; while not `is_slow` nobody waits."""

    def __init__(self) -> None:
        self.is_slow = False
        self.refusal: AuditUnavailable | None = None
        self.commitments: list[PuppetCommitment] = []

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def begin(self, opened: StreamOpened) -> PuppetCommitment | None:
        del opened
        if not self.is_slow:
            return None
        self.commitments.append(PuppetCommitment())
        return self.commitments[-1]


class Hanging:
    """The upstream takes its time to be reached: until the gate is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()


Manner = Exception | Hanging
"""How the upstream takes a question, if not at once: it raises, or it hangs."""


class PuppetUpstream:
    """An upstream whose every answer a test plays. `manners`: how it takes questions that it doesn't take at once."""

    def __init__(self, clock: Clock) -> None:
        self.exchanges: list[PuppetExchange] = []
        self.manners: dict[str, Manner | None] = {}
        self.refusal: Exception | None = None
        self._clock = clock

    @property
    def questions(self) -> list[str]:
        """What it was asked, in order."""
        return [exchange.question.query for exchange in self.exchanges]

    def check(self, question: Question) -> None:
        del question
        if self.refusal is not None:
            raise self.refusal

    async def open(self, question: Question, sink: UpstreamSink) -> PuppetExchange:
        manner = self.manners.get(question.query)
        exchange = PuppetExchange(question, sink, self._clock)
        self.exchanges.append(exchange)
        if isinstance(manner, Exception):
            exchange.is_over = True
            raise manner
        if manner is not None:
            await self._hang(exchange, manner)
        exchange.is_open = True
        return exchange

    async def close(self) -> None:
        """It keeps no connections."""

    @staticmethod
    async def _hang(exchange: PuppetExchange, manner: Hanging) -> None:
        try:
            await manner.gate.wait()
        except asyncio.CancelledError:
            exchange.is_aborted = True
            raise


def refused() -> UpstreamError:
    """Nobody listens at the upstream's address."""
    return UpstreamError(ErrorCode.UPSTREAM_ERROR, "connect_refused")


class FakeOutlet:
    """A response's transport. `received` is what the client has, `waiting` what its socket hasn't taken yet.

    It holds the relay to its word: nobody writes for a reader that has departed, and not into a blocked outlet except
    for a batch that was being read meanwhile.
    """

    def __init__(self, subscriber: Subscriber, clock: Clock) -> None:
        self.received = bytearray()
        self.waiting = bytearray()
        self.is_writable = True
        self.is_lost = False
        self.spoke_at = clock.monotonic()
        self.blocked_at: float | None = None
        self.writes = self.writes_while_blocked = 0
        self.is_finished = False
        self._subscriber = subscriber
        self._clock = clock
        self._room_bytes: int | None = None

    @property
    def buffered_bytes(self) -> int:
        return len(self.waiting)

    def write(self, frames: bytes) -> None:
        assert frames, "an empty chunk would end a chunked body"
        assert self._subscriber.departure is None, "nobody writes for a reader that has departed"
        assert not self.is_finished, "nothing follows the end of a body"
        self.writes += 1
        self.writes_while_blocked += not self.is_writable
        self.send(frames)

    def write_last(self, frames: bytes) -> None:
        self.write(frames)
        self.is_finished = True

    def send(self, frames: bytes) -> None:
        """Take bytes as a transport does: what the socket doesn't take waits."""
        if self.is_lost:
            return
        if self._room_bytes is None:
            self.received += frames
            self.spoke_at = self._clock.monotonic()
            return
        self.waiting += frames
        if self.is_writable and len(self.waiting) > self._room_bytes:
            self._fill()

    def stall(self, room_bytes: int) -> None:
        """The client reads no more: so many bytes still find room, then the outlet is blocked."""
        self._room_bytes = room_bytes

    def block(self) -> None:
        """The client reads no more, and all buffers are full."""
        self._room_bytes = 0
        if self.is_writable:
            self._fill()

    def unblock(self) -> None:
        """The client reads again, all that waits to begin with."""
        self._room_bytes = None
        self.received += self.waiting
        self.waiting.clear()
        if not self.is_writable:
            self.is_writable = True
            self.blocked_at = None
            self.spoke_at = self._clock.monotonic()
            self._subscriber.on_writable()

    def lose(self) -> None:
        """The client has gone."""
        if not self.is_lost:
            self.is_lost = True
            self.waiting.clear()
            self._subscriber.on_lost()

    def _fill(self) -> None:
        self.is_writable = False
        self.blocked_at = self._clock.monotonic()
        self._subscriber.on_blocked()


class Response:
    """One response as its client sees it, from its first byte to its end."""

    def __init__(self, stage: "Stage", reading: Reading) -> None:
        self.reading = reading
        self.subscriber = reading.subscriber
        self.outlet = FakeOutlet(reading.subscriber, stage.clock)
        self.departure: Departure | None = None
        self._stage = stage
        self._seen_lines = 0

    @property
    def is_over(self) -> bool:
        """Whether it has ended, cleanly or not."""
        return self.departure is not None

    async def serve(self) -> None:
        """Do what the web layer does: first frames, then what the reading writes, then a clean end or an abort."""
        self.outlet.send(encode_preface(self.reading.retry_ms) + await self.reading.first_frames())
        self.departure = await self.reading.run(self.outlet)
        if self.departure is not Departure.COMPLETED:
            self.outlet.waiting.clear()

    def gets(self, *lines: str) -> None:
        """Assert what has come since the last look, in the words of `tests.wire.transcribe`."""
        self._stage.settle()
        said = transcribe(bytes(self.outlet.received))
        new = said[self._seen_lines :]
        self._seen_lines = len(said)
        assert new == list(lines), f"came: {new}"

    def gets_nothing(self) -> None:
        """Assert that nothing has come since the last look."""
        self.gets()

    def ends(self, departure: Departure = Departure.COMPLETED) -> None:
        """Assert that it is over, and why: only `completed` is a clean end."""
        self._stage.settle()
        assert self.departure is departure

    def goes_on(self) -> None:
        """Assert that it isn't over."""
        self._stage.settle()
        assert self.departure is None

    def blocks(self) -> None:
        """The client's socket takes no more bytes."""
        self.outlet.block()
        self._stage.settle()

    def unblocks(self) -> None:
        """It takes bytes again."""
        self.outlet.unblock()
        self._stage.settle()

    def leaves(self) -> None:
        """The client closes its connection."""
        self.outlet.lose()
        self._stage.settle()


class SlowLog:
    """A log as a remote one is: `read` and `events` suspend for `turns` rounds of the loop after they have looked."""

    def __init__(self, log: StreamLog, turns: int) -> None:
        self.meta = log.meta
        self.head = log.head
        self.turns = turns
        self._log = log

    @property
    def last_seq(self) -> int:
        return self._log.last_seq

    @property
    def is_ended(self) -> bool:
        return self._log.is_ended

    @property
    def size_bytes(self) -> int:
        return self._log.size_bytes

    def append(self, events: Sequence[Event]) -> int:
        return self._log.append(events)

    def size_after(self, seq: int) -> int:
        return self._log.size_after(seq)

    async def read(self, after: int, max_bytes: int) -> Batch:
        batch = await self._log.read(after, max_bytes)
        await self._suspend()
        return batch

    async def events(self) -> Sequence[Event]:
        events = await self._log.events()
        await self._suspend()
        return events

    def subscribe(self, reader: LogReader) -> None:
        self._log.subscribe(reader)

    def unsubscribe(self, reader: LogReader) -> None:
        self._log.unsubscribe(reader)

    async def _suspend(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)


class SlowStore:
    """A store whose logs are slow to read."""

    def __init__(self, store: ReplayStore, turns: int) -> None:
        self._store = store
        self._turns = turns

    async def create(self, meta: StreamMeta, key: IdempotencyKey | None) -> Creation:
        creation = await self._store.create(meta, key)
        return Created(SlowLog(creation.log, self._turns)) if isinstance(creation, Created) else creation

    async def lookup_key(self, key: IdempotencyKey) -> str | None:
        return await self._store.lookup_key(key)

    async def find(self, stream_id: str) -> StreamLog | Tombstone | None:
        found = await self._store.find(stream_id)
        return found if found is None or isinstance(found, Tombstone) else SlowLog(found, self._turns)


class Terms(msgspec.Struct, frozen=True):
    """What streams, responses and the store are held to: the defaults of PROTOCOL §4 and §9."""

    heartbeat_s: float = 30
    comment_s: float = 15
    slow_reader_s: float = 30
    connection_age_s: float | None = 300
    grace_s: float = 30
    max_lag_bytes: int = 256 * KIB
    max_events: int = 20_000
    max_bytes: int = 4 * MIB
    stream_age_s: float = 1800
    retry_min_ms: int = 1000
    retry_max_ms: int = 3000
    budget_bytes: int = 1024 * MIB
    replay_s: float = 300
    tombstone_s: float = 3600
    key_ttl_s: float = 86_400
    max_keys: int = 100_000


def hub_times(terms: Terms) -> HubTimes:
    """Give the hub's part of the terms."""
    return HubTimes(
        bounds=StreamBounds(terms.max_events, terms.max_bytes, terms.stream_age_s),
        reader=ReaderTimes(terms.heartbeat_s, terms.comment_s, terms.slow_reader_s, terms.connection_age_s),
        grace_s=terms.grace_s,
        max_lag_bytes=terms.max_lag_bytes,
        retry_min_ms=terms.retry_min_ms,
        retry_max_ms=terms.retry_max_ms,
    )


def memory_store(terms: Terms, clock: Clock) -> MemoryStore:
    """Make a store on these terms."""
    return MemoryStore(
        clock,
        budget_bytes=terms.budget_bytes,
        replay_s=terms.replay_s,
        tombstone_s=terms.tombstone_s,
        key_ttl_s=terms.key_ttl_s,
        max_keys=terms.max_keys,
    )


class Stage:
    """A hub with everything around it. `close` it: that also fails if a task of the relay has crashed."""

    def __init__(self, terms: Terms | None = None, *, read_turns: int = 0) -> None:
        """`read_turns`: for how many rounds of the loop a read of a log suspends."""
        terms = Terms() if terms is None else terms
        self.clock = FakeClock()
        self.loop = SteppedLoop(self.clock)
        self.deadlines = Deadlines()
        self.upstream = PuppetUpstream(self.clock)
        self.facts = RecordingObserver(self.clock)
        self.store = memory_store(terms, self.clock)
        self.responses: list[Response] = []
        self.tasks: asyncio.TaskGroup
        self._drains: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()
        self._house = self.loop.create_task(self._keep_house())
        self.loop.settle()
        self.deadlines.watch(self.store, self.store.on_deadline(self.clock.monotonic()))
        self.ledger = PuppetLedger()
        self.hub = Hub(
            store=SlowStore(self.store, read_turns) if read_turns else self.store,
            upstream=self.upstream,
            times=hub_times(terms),
            clock=self.clock,
            deadlines=self.deadlines,
            observer=self.facts,
            tasks=self.tasks,
            chance=lambda: 0.5,
            ledger=self.ledger,
        )

    def close(self) -> None:
        """End everything."""
        self.hub.close()
        for response in self.responses:
            response.outlet.lose()
        for drain in self._drains:
            drain.cancel()
        self._closing.set()
        self.loop.settle()
        try:
            assert self._house.done(), "no task outlives its stream or its response"
            self._house.result()
        finally:
            self.loop.close()

    def settle(self) -> None:
        """Let everything run that can run at this time."""
        self.loop.settle()
        if self._house.done():
            self._house.result()

    def advance(self, seconds: float, tick_s: float = TICK_S) -> None:
        """Let time pass as it does for the application: a look at the deadlines every tick, the rest in between."""
        self.settle()
        until = self.clock.monotonic() + seconds
        while (left_s := until - self.clock.monotonic()) > 0:
            self.clock.advance(min(left_s, tick_s))
            self.deadlines.run(self.clock.monotonic())
            self.settle()

    def perform(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one call to its end; it may not wait for anything but its turn. Others get turns meanwhile."""
        return self.loop.run_until_complete(coroutine)

    def opening(
        self,
        query: str = QUERY,
        *,
        key: IdempotencyKey | None = None,
        principal: Principal = ANONYMOUS,
        on_disconnect: OnDisconnect = OnDisconnect.GRACE,
    ) -> Coroutine[Any, Any, Opened]:
        """Give the call that puts a question."""
        origin = Origin("c_stage", "POST streams")
        return self.hub.open(Question(query), principal, origin, on_disconnect=on_disconnect, key=key)

    def open(
        self,
        query: str = QUERY,
        *,
        key: IdempotencyKey | None = None,
        principal: Principal = ANONYMOUS,
        on_disconnect: OnDisconnect = OnDisconnect.GRACE,
    ) -> str:
        """Put a question; give its stream."""
        opening = self.opening(query, key=key, principal=principal, on_disconnect=on_disconnect)
        return at_once(opening).stream_id

    def ask(
        self,
        query: str = QUERY,
        *,
        principal: Principal = ANONYMOUS,
        on_disconnect: OnDisconnect = OnDisconnect.GRACE,
    ) -> tuple[Response, PuppetExchange]:
        """Put a question and read its stream; give the response and the upstream's side."""
        stream_id = self.open(query, principal=principal, on_disconnect=on_disconnect)
        response = self.read(stream_id, principal=principal)
        return response, self.upstream.exchanges[-1]

    def attach(
        self,
        stream_id: str,
        after: int | None = None,
        *,
        principal: Principal = ANONYMOUS,
        takes_snapshot: bool = False,
    ) -> Attachment:
        """Attach to a stream and do nothing with it yet."""
        cursor = None if after is None else Cursor(stream_id, after)
        attaching = self.hub.attach(
            stream_id, cursor, principal, connection_id="c_stage", takes_snapshot=takes_snapshot
        )
        return self.perform(attaching) if takes_snapshot else at_once(attaching)

    def read(
        self,
        stream_id: str,
        after: int | None = None,
        *,
        principal: Principal = ANONYMOUS,
        takes_snapshot: bool = False,
    ) -> Response:
        """Attach to a stream that can be read, and let its response begin."""
        attachment = self.attach(stream_id, after, principal=principal, takes_snapshot=takes_snapshot)
        assert isinstance(attachment, Reading)
        response = self.serve(attachment)
        self.settle()
        return response

    def serve(self, reading: Reading) -> Response:
        """Begin the response of a reading. It runs from the next settling on."""
        response = Response(self, reading)
        self.responses.append(response)
        self.tasks.create_task(response.serve())
        return response

    def state(self, stream_id: str, principal: Principal = ANONYMOUS) -> StreamState:
        """Give a stream's state."""
        return self.perform(self.hub.state(stream_id, principal))

    def stop(self, stream_id: str, principal: Principal = ANONYMOUS) -> StopResult:
        """Stop a stream."""
        return self.perform(self.hub.stop(stream_id, principal))

    def begin_drain(self, limit_s: float = 10) -> asyncio.Task[None]:
        """Begin to go away. Readers hear of it when the stage next settles."""
        drain = self.tasks.create_task(self.hub.drain(limit_s))
        self._drains.append(drain)
        return drain

    def events_of(self, stream_id: str) -> Sequence[Event]:
        """Give what stands in a stream's log."""
        found = at_once(self.store.find(stream_id))
        assert found is not None, "the stream is known"
        assert not isinstance(found, Tombstone), "its log is there"
        return at_once(found.events())

    async def _keep_house(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            await self._closing.wait()

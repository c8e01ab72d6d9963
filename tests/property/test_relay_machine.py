"""The relay as a whole under anything that may happen, in any order, at any moment (PROTOCOL §7).

A real hub with real publishers, subscribers and store; the test plays upstreams, clients and time, and often lets the
loop run only a single round between two moves. What is asserted, by invariant of PROTOCOL §7:

    I1  frames number the log 1..n           `FollowingReader`, and the whole log when a run ends
    I2  any cuts: a prefix of the log        each client keeps what it applied; compared event by event
    I3  a resume at `c` starts at `c+1`      `FollowingReader` takes no gap and no repeat; 204 and 409 in `join`
    I4  one terminal event, last             every log, after every move
    I5  then every response ends             whenever the loop has settled
    I6  one question a key                   `ask` counts questions; a second one only after a failure without a token
    I7  stop: nothing after it               the log's tail, and the upstream's connection
    I8  grace                                when a stream was abandoned, and that no live one is overdue
    I9  N at once with one key: one          `ask_at_once`
    I14 the others go on                     whenever the loop has settled, every response that can be written to is at
                                             the tail, whatever became of the others; an outlet that takes nothing is
                                             not written to; the upstream waits only if all lag too far
    I16 only `completed` ends cleanly        and it has brought the terminal event
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from subak.core.envelope import to_json, token_event
from subak.core.errors import CursorAhead, ErrorCode
from subak.core.events import SOURCES, TOKEN, Ending, Event, Failed, Finished, FinishReason
from subak.core.facts import ReaderAttached, ReaderLeft, StreamEnded
from subak.core.lifecycle import OnDisconnect
from subak.relay.hub import AlreadyRead, Opened, Reading
from subak.relay.subscriber import Departure
from subak.replay.base import IdempotencyKey
from tests.stage import KIB, TICK_S, Hanging, Manner, PuppetExchange, Response, Stage, Terms, refused
from tests.wire import Envelope, FollowingReader, decode_envelope

TERMS: Final = Terms(
    connection_age_s=40,
    max_lag_bytes=8 * KIB,
    max_events=60,
    max_bytes=400 * KIB,
    stream_age_s=400,
    replay_s=100_000,
)
MAX_STREAMS: Final = 3
MAX_CLIENTS: Final = 8
WHICH: Final = st.integers(0, MAX_STREAMS * MAX_CLIENTS - 1)
PATIENCE: Final = st.integers(0, 3)
"""Ends come rarely, so that answers grow: only where this is 0."""

MANNERS: Final = (*["at once"] * 9, "hangs", "fails", "crashes")
KEYS: Final = tuple(IdempotencyKey(bytes([number]), b"question") for number in range(3))


@dataclass
class Asked:
    """A stream, and what the test knows of it."""

    stream_id: str
    query: str
    on_disconnect: OnDisconnect
    events: list[Event] = field(default_factory=list)
    frames: list[Envelope] = field(default_factory=list)
    stopped_at: int | None = None


@dataclass
class Client:
    """A client by PROTOCOL §6: its memory, and its response if it has one.

    `taken` counts the bytes it has read of that, `share` is how much of the rest arrives when it is aborted.
    """

    asked: Asked
    reader: FollowingReader
    share: float
    checked: int = 0
    response: Response | None = None
    taken: int = 0


T = TypeVar("T")


def pick(items: Sequence[T], which: int) -> T:
    """Choose one of what there is."""
    return items[which % len(items)]


def endings() -> st.SearchStrategy[Ending]:
    good = st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]).map(Finished)
    bad = st.sampled_from([ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_TRUNCATED, ErrorCode.EVENT_TOO_LARGE])
    return st.one_of(good, bad.map(lambda code: Failed(code, "machine")))


texts = st.one_of(st.text(max_size=8), st.sampled_from((9 * KIB, 30 * KIB)))
"""What an upstream says: a few characters, or so many of them that readers lag."""

reads = st.lists(texts, min_size=1, max_size=5)


class RelayMachine(RuleBasedStateMachine):
    """Moves of the world; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self.stage: Stage
        self.read_turns = 0
        self.asked: list[Asked] = []
        self.clients: list[Client] = []
        self.hanging: list[Hanging] = []
        self.questions_of: dict[IdempotencyKey, list[Asked]] = {}

    @initialize(read_turns=st.integers(0, 2))
    def begin(self, read_turns: int) -> None:
        self.stage = Stage(TERMS, read_turns=read_turns)
        self.read_turns = read_turns

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        try:
            self._finish_everything()
        finally:
            self.stage.close()

    # The world: questions

    @precondition(lambda self: len(self.asked) < MAX_STREAMS)
    @rule(on_disconnect=st.sampled_from(OnDisconnect), manner=st.sampled_from(MANNERS))
    def ask(self, on_disconnect: OnDisconnect, manner: str) -> None:
        query = self._next_query(manner)
        self.asked.append(Asked(self.stage.open(query, on_disconnect=on_disconnect), query, on_disconnect))

    @precondition(lambda self: len(self.asked) < MAX_STREAMS or self.questions_of)
    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 3), manner=st.sampled_from(MANNERS))
    def ask_with_a_key(self, key: IdempotencyKey, times: int, manner: str) -> None:
        """One or more callers ask with the same key at the same time."""
        query = self._next_query(manner)

        async def ask_all() -> list[Opened]:
            return await asyncio.gather(*[self.stage.opening(query, key=key) for _ in range(times)])

        earlier = self.questions_of.setdefault(key, [])
        is_free = all(self._failed_without_token(asked) for asked in earlier)
        opened = self.stage.perform(ask_all())
        assert len({one.stream_id for one in opened}) == 1
        assert [one.is_replay for one in opened].count(False) == is_free
        if is_free:
            earlier.append(Asked(opened[0].stream_id, query, OnDisconnect.GRACE))
            self.asked.append(earlier[-1])
        assert opened[0].stream_id == earlier[-1].stream_id

    @precondition(lambda self: self.grown)
    @rule(which=WHICH, patience=PATIENCE)
    def stop(self, which: int, patience: int) -> None:
        asked = pick(self.grown, which)
        if patience:
            return
        result = self.stage.stop(asked.stream_id)
        self._update(asked)
        assert result.last_seq == len(asked.events)
        assert asked.events[-1].is_terminal
        if asked.stopped_at is None:
            asked.stopped_at = result.last_seq

    # The world: upstreams

    @precondition(lambda self: self.talking)
    @rule(which=WHICH, said=reads)
    def upstream_says(self, which: int, said: list[str | int]) -> None:
        pick(self.talking, which).says(*self._tokens(said))

    @precondition(lambda self: self.talking)
    @rule(which=WHICH, said=reads)
    def upstream_names_sources(self, which: int, said: list[str | int]) -> None:
        sources = Event(SOURCES, to_json([{"source": "a.md"}]), self.stage.clock.time_ms())
        pick(self.talking, which).says(*self._tokens(said), sources)

    @precondition(lambda self: self.talking)
    @rule(which=WHICH, said=st.one_of(st.just([]), reads), ending=endings(), patience=PATIENCE)
    def upstream_ends(self, which: int, said: list[str | int], ending: Ending, patience: int) -> None:
        pick(self.talking, which).says(*self._tokens(said), ending=None if patience else ending)

    @precondition(lambda self: self.hanging)
    @rule()
    def upstreams_are_reached(self) -> None:
        for hanging in self.hanging:
            hanging.gate.set()
        self.hanging.clear()

    # The world: clients

    @precondition(lambda self: self.asked and len(self.clients) < MAX_CLIENTS)
    @rule(which=WHICH, behind=st.one_of(st.none(), st.integers(-1, 4)), share=st.floats(0, 1))
    def a_client_comes(self, which: int, behind: int | None, share: float) -> None:
        """It may have any part of the log from an earlier life, or a cursor that is ahead; None: it has no cursor."""
        asked = pick(self.asked, which)
        self._update(asked)
        after = None if behind is None else max(0, len(asked.events) - behind)
        client = Client(asked, FollowingReader(asked.stream_id, after or 0), share)
        self.clients.append(client)
        self._attach(client, after)

    @precondition(lambda self: self.away)
    @rule(which=WHICH)
    def a_client_comes_back(self, which: int) -> None:
        self._come_back(pick(self.away, which))

    @precondition(lambda self: self.connected)
    @rule(which=WHICH, share=st.floats(0, 1))
    def a_client_reads(self, which: int, share: float) -> None:
        self._take(pick(self.connected, which), share)

    @precondition(lambda self: self.connected)
    @rule(which=WHICH, share=st.floats(0, 1))
    def a_line_is_cut(self, which: int, share: float) -> None:
        """Of what was under way the client has any part, to the byte."""
        client = pick(self.connected, which)
        self._take(client, share)
        self._response_of(client).outlet.lose()
        client.response = None

    @precondition(lambda self: self.connected)
    @rule(which=WHICH)
    def a_client_is_sent_away(self, which: int) -> None:
        """As for its connection's age or for a drain, at any moment."""
        self._response_of(pick(self.connected, which)).subscriber.dismiss(Departure.MAX_AGE)

    @precondition(lambda self: self.connected)
    @rule(which=WHICH, room_bytes=st.sampled_from((None, 0, 200, 20 * KIB)))
    def a_socket_takes_no_more(self, which: int, room_bytes: int | None) -> None:
        """At once, or when the room in its buffers is used up."""
        outlet = self._response_of(pick(self.connected, which)).outlet
        if room_bytes is None:
            outlet.block()
        else:
            outlet.stall(room_bytes)

    @precondition(lambda self: self.connected)
    @rule(which=WHICH)
    def a_socket_takes_bytes_again(self, which: int) -> None:
        self._response_of(pick(self.connected, which)).outlet.unblock()

    # The world: time

    @rule(rounds=st.integers(1, 3))
    def the_loop_runs(self, rounds: int) -> None:
        for _ in range(rounds):
            self.stage.loop.step()

    @rule()
    def the_loop_settles(self) -> None:
        self.stage.settle()
        self._check_settled()

    @rule(seconds=st.sampled_from((0.25, 1, 5, 14.75, 30.25)))
    def time_passes(self, seconds: float) -> None:
        self.stage.advance(seconds)
        self._check_settled()
        self._check_grace()
        self._check_silence()

    # What must hold after every move

    @invariant()
    def logs_have_one_ending_at_most_and_it_is_last(self) -> None:
        for asked in self.asked:
            self._update(asked)
            assert not any(event.is_terminal for event in asked.events[:-1])
            if asked.stopped_at is not None:
                assert len(asked.events) == asked.stopped_at

    @invariant()
    def clients_have_a_piece_of_the_log(self) -> None:
        for client in self.clients:
            self._update(client.asked)
            for index in range(client.checked, len(client.reader.applied)):
                assert client.reader.applied[index] == self._frame(client.asked, client.reader.base + index)
            client.checked = len(client.reader.applied)

    @invariant()
    def clean_ends_have_brought_the_terminal_event(self) -> None:
        for client in self.connected:
            response = self._response_of(client)
            if not response.is_over:
                continue
            if response.departure is Departure.SLOW_READER:
                assert response.outlet.blocked_at is not None
                assert self.stage.clock.monotonic() >= response.outlet.blocked_at + TERMS.slow_reader_s
            is_clean = response.departure is Departure.COMPLETED
            self._take(client, 1.0 if is_clean else client.share)
            assert client.reader.has_ending or not is_clean
            client.response = None

    @invariant()
    def questions_are_not_asked_twice(self) -> None:
        if not hasattr(self, "stage"):
            return
        asked = self.stage.upstream.questions
        assert len(asked) == len(set(asked)) <= len(self.asked)
        for questions in self.questions_of.values():
            assert all(self._failed_without_token(earlier) for earlier in questions[:-1])

    # Helpers: who can do something now

    @property
    def talking(self) -> list[PuppetExchange]:
        """The exchanges that may say something: under way, and not held back."""
        return [
            exchange
            for exchange in self.stage.upstream.exchanges
            if exchange.is_open and not exchange.is_silent and not exchange.is_paused
        ]

    @property
    def grown(self) -> list[Asked]:
        """The streams that have got a few events."""
        return [asked for asked in self.asked if len(asked.events) >= 4]

    @property
    def connected(self) -> list[Client]:
        """The clients that have a response."""
        return [client for client in self.clients if client.response is not None]

    @property
    def away(self) -> list[Client]:
        """The clients that have none, and have not seen the end."""
        return [client for client in self.clients if client.response is None and not client.reader.has_ending]

    # Helpers: the moves

    def _next_query(self, manner: str) -> str:
        query = f"q{len(self.stage.upstream.manners)}"
        self.stage.upstream.manners[query] = self._manner(manner)
        return query

    def _manner(self, manner: str) -> Manner | None:
        match manner:
            case "hangs":
                self.hanging.append(Hanging())
                return self.hanging[-1]
            case "fails":
                return refused()
            case "crashes":
                return KeyError("content")
            case _:
                return None

    def _tokens(self, said: list[str | int]) -> list[Event]:
        now_ms = self.stage.clock.time_ms()
        return [token_event(text if isinstance(text, str) else "x" * text, now_ms) for text in said]

    def _come_back(self, client: Client) -> None:
        client.reader.reconnect()
        self._attach(client, client.reader.last)

    @staticmethod
    def _response_of(client: Client) -> Response:
        assert client.response is not None
        return client.response

    def _attach(self, client: Client, after: int | None) -> None:
        asked = client.asked
        self._update(asked)
        last_seq, is_ended = len(asked.events), self._is_ended(asked)
        if after is not None and after > last_seq:
            try:
                self.stage.attach(asked.stream_id, after)
            except CursorAhead:
                client.reader = FollowingReader(asked.stream_id, last_seq)
                return
            raise AssertionError("a cursor past the log is refused")
        attachment = self.stage.attach(asked.stream_id, after)
        if after == last_seq and is_ended:
            assert isinstance(attachment, AlreadyRead)
            return
        assert isinstance(attachment, Reading)
        client.response = self.stage.serve(attachment)
        client.taken = 0

    def _take(self, client: Client, share: float) -> None:
        """The client reads that share of what has left for it."""
        outlet = self._response_of(client).outlet
        sent = bytes(outlet.received + outlet.waiting)[client.taken :]
        chunk = sent[: round(len(sent) * share)]
        client.taken += len(chunk)
        client.reader.take(chunk)

    # Helpers: the logs

    def _update(self, asked: Asked) -> None:
        asked.events = list(self.stage.events_of(asked.stream_id))

    @staticmethod
    def _frame(asked: Asked, index: int) -> Envelope:
        """Give what the event at this index must look like on the wire."""
        for seq in range(len(asked.frames) + 1, index + 2):
            event = asked.events[seq - 1]
            data = decode_envelope(
                b'{"type":%b,"data":%b,"sequence":%d,"timestamp":%d}'
                % (to_json(event.type), event.data, seq, event.at_ms)
            )
            asked.frames.append(data)
        return asked.frames[index]

    def _is_ended(self, asked: Asked) -> bool:
        self._update(asked)
        return asked.events[-1].is_terminal

    def _failed_without_token(self, asked: Asked) -> bool:
        self._update(asked)
        events = asked.events
        if any(event.type == TOKEN for event in events) or events[-1].type != "error":
            return False
        return b'"retryable":true' in events[-1].data

    def _running(self, asked: Asked) -> list[Response]:
        return [
            response
            for response in self.stage.responses
            if not response.is_over and response.subscriber.log.meta.stream_id == asked.stream_id
        ]

    # Helpers: what must hold when nothing is left to do at this time

    def _check_settled(self) -> None:
        for asked in self.asked:
            running = self._running(asked)
            for response in running:
                self._check_running(asked, response)
            self._check_upstream(asked, running)

    def _check_running(self, asked: Asked, response: Response) -> None:
        subscriber, outlet = response.subscriber, response.outlet
        assert subscriber.departure is None
        assert not outlet.is_lost
        if outlet.is_writable:
            assert subscriber.is_live
            assert subscriber.cursor == len(asked.events)
            assert not self._is_ended(asked)
        assert not outlet.writes_while_blocked or self.read_turns, "only what was being read when it blocked"

    def _check_upstream(self, asked: Asked, running: Sequence[Response]) -> None:
        lags = [response.subscriber.lag_bytes for response in running]
        exact = [response.subscriber.log.size_after(response.subscriber.cursor) for response in running]
        assert lags == exact
        for exchange in self.stage.upstream.exchanges:
            if exchange.question.query != asked.query:
                continue
            assert exchange.is_silent == self._is_ended(asked), "a stream that has ended holds no upstream"
            if exchange.is_open and not exchange.is_silent:
                assert exchange.is_paused == bool(lags and min(lags) > TERMS.max_lag_bytes)

    def _check_grace(self) -> None:
        """I8, from facts alone: who read when, and what was abandoned."""
        asked_by_id = {asked.stream_id: asked for asked in self.asked}
        readers: dict[str, int] = {}
        empty_since: dict[str, float] = {}
        for at, fact in self.stage.facts.heard:
            match fact:
                case ReaderAttached(stream_id=stream_id):
                    readers[stream_id] = readers.get(stream_id, 0) + 1
                    empty_since.pop(stream_id, None)
                case ReaderLeft(stream_id=stream_id):
                    readers[stream_id] -= 1
                    if not readers[stream_id]:
                        empty_since[stream_id] = at
                case StreamEnded(stream_id=stream_id, outcome=FinishReason.ABANDONED):
                    self._check_abandoned(asked_by_id[stream_id], at, readers, empty_since)
                case _:
                    pass
        now = self.stage.clock.monotonic()
        for asked in self.asked:
            is_waiting = not self._is_ended(asked) and asked.on_disconnect is OnDisconnect.GRACE
            if is_waiting and asked.stream_id in empty_since:
                assert now - empty_since[asked.stream_id] <= TERMS.grace_s + TICK_S

    @staticmethod
    def _check_abandoned(asked: Asked, at: float, readers: dict[str, int], empty_since: dict[str, float]) -> None:
        assert asked.on_disconnect is not OnDisconnect.CONTINUE
        if asked.on_disconnect is OnDisconnect.CANCEL and readers.get(asked.stream_id):
            assert readers[asked.stream_id] == 1, "the last reader is just leaving"
            return
        assert not readers.get(asked.stream_id)
        if asked.stream_id in empty_since:
            assert at - empty_since[asked.stream_id] >= TERMS.grace_s

    def _check_silence(self) -> None:
        """I13 as far as the relay can keep it: what takes bytes is never silent for long, what takes none is cut."""
        now = self.stage.clock.monotonic()
        for response in self.stage.responses:
            outlet = response.outlet
            if response.is_over:
                continue
            if outlet.blocked_at is not None:
                assert now <= outlet.blocked_at + TERMS.slow_reader_s + TICK_S
            elif not outlet.waiting:
                assert now - outlet.spoke_at <= TERMS.heartbeat_s + 1

    def _finish_everything(self) -> None:
        """Every upstream ends, every client reads on and comes back: each has the log to its end."""
        self.upstreams_are_reached()
        self.stage.settle()
        for response in self.stage.responses:
            if not response.is_over:
                response.outlet.unblock()
        self.stage.settle()
        for exchange in self.stage.upstream.exchanges:
            exchange.says(ending=Finished())
        self.stage.settle()
        for asked in self.asked:
            assert self._is_ended(asked)
        self.clean_ends_have_brought_the_terminal_event()
        for client in self.away:
            self._come_back(client)
        self.stage.settle()
        self._check_settled()
        self.clean_ends_have_brought_the_terminal_event()
        self.clients_have_a_piece_of_the_log()
        for client in self.clients:
            assert client.reader.last == len(client.asked.events)


TestRelay = pytest.mark.timeout(600)(RelayMachine.TestCase)  # to find the shortest failing run takes minutes
TestRelay.settings = settings(stateful_step_count=80)

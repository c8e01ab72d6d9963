"""The step from catch-up to live: no gap, no repeat, however appends, reads and the socket interleave (I1, I2, I3).

A real `Subscriber` reads a real log whose `read` really suspends, as a remote log's does, in a loop that is stepped one
round at a time. Hypothesis chooses what happens between two rounds.
"""

from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from subak.core.envelope import StreamMetrics, done_event, metadata_event, token_event
from subak.core.events import Event, FinishReason
from subak.relay.subscriber import CATCH_UP_BYTES, Departure, ReaderTimes, Subscriber
from subak.replay.base import StreamMeta
from subak.replay.memory import MemoryLog
from subak.testing import FakeClock
from tests.stage import FakeOutlet, SlowLog, SteppedLoop
from tests.wire import FollowingReader

STREAM_ID = f"st_{0:028d}"
TIMES = ReaderTimes(heartbeat_s=30, comment_s=15, slow_reader_s=30, max_age_s=None)
BIG = CATCH_UP_BYTES // 2
"""So large that a catch-up takes several reads."""


class Append(NamedTuple):
    """The publisher appends tokens of these sizes."""

    sizes_bytes: tuple[int, ...]


class Rounds(NamedTuple):
    """The loop runs so many rounds."""

    number: int


class Socket(NamedTuple):
    """The client's socket takes bytes, or takes no more but for some room in buffers."""

    takes_bytes: bool
    room_bytes: int = 0


Move = Append | Rounds | Socket

sizes = st.sampled_from((1, 1, 1, BIG))
moves = st.lists(
    st.one_of(
        st.lists(sizes, min_size=1, max_size=4).map(lambda chosen: Append(tuple(chosen))),
        st.integers(1, 4).map(Rounds),
        st.builds(Socket, st.booleans(), st.sampled_from((0, 300, BIG))),
    ),
    max_size=30,
)


class Play:
    """One subscriber on one log."""

    def __init__(self, already: int, cursor: int, turns: int) -> None:
        self.clock = FakeClock()
        self.loop = SteppedLoop(self.clock)
        log = MemoryLog(StreamMeta(STREAM_ID, "", 0), lambda _log, _grown_bytes: None)
        self.events: list[Event] = []
        self.log = SlowLog(log, turns)
        self.append([metadata_event(STREAM_ID, "c", 0)] + [self._token(BIG) for _ in range(already)])
        self.subscriber = Subscriber(self.log, cursor, times=TIMES, retry_ms=1000, clock=self.clock, audience=None)
        self.outlet = FakeOutlet(self.subscriber, self.clock)
        self.reader = FollowingReader(STREAM_ID, cursor)
        self.has_begun = False
        self.task = self.loop.create_task(self.subscriber.run(self.outlet))

    def append(self, events: list[Event]) -> None:
        self.events += events
        self.log.append(events)

    def do(self, move: Move) -> None:
        match move:
            case Append(sizes_bytes):
                self.append([self._token(size_bytes) for size_bytes in sizes_bytes])
            case Rounds(number):
                self.has_begun = True
                for _ in range(number):
                    self.loop.step()
            case Socket(takes_bytes=True):
                self.outlet.unblock()
            case Socket(room_bytes=room_bytes):
                self.outlet.stall(room_bytes)

    def check(self) -> None:
        """What has arrived so far is a piece of the log: `FollowingReader` fails on a gap or a repeat."""
        self.reader.take(bytes(self.outlet.received))
        self.outlet.received.clear()
        assert not (self.subscriber.is_live and self.subscriber.lag_bytes)
        if self.has_begun:
            assert self.subscriber.lag_bytes == self.log.size_after(self.subscriber.cursor)

    def finish(self) -> None:
        """The answer ends, the socket takes everything: the reader has the whole log from its cursor on."""
        self.append([done_event(FinishReason.STOP, StreamMetrics(None, 0, 0, 0), None, 0)])
        self.outlet.unblock()
        self.loop.settle()
        self.check()

    def close(self) -> None:
        self.subscriber.on_lost()
        self.loop.settle()
        self.loop.close()

    def _token(self, size_bytes: int) -> Event:
        return token_event("x" * size_bytes, len(self.events))


def play(already: int, cursor: int, turns: int, interleaving: list[Move]) -> None:
    playing = Play(already, cursor, turns)
    try:
        for move in interleaving:
            playing.do(move)
            playing.check()
        playing.finish()
        assert playing.task.result() is Departure.COMPLETED
        assert [item.timestamp for item in playing.reader.applied] == [item.at_ms for item in playing.events[cursor:]]
        assert playing.reader.has_ending
        blocks = [move for move in interleaving if isinstance(move, Socket)]
        assert playing.outlet.writes_while_blocked <= len(blocks), "only what was being read when it blocked"
    finally:
        playing.close()


@given(
    st.integers(0, 5).flatmap(lambda already: st.tuples(st.just(already), st.integers(0, already + 1))),
    st.integers(0, 3),
    moves,
)
@example((3, 0), 2, [Rounds(1), Append((1,)), Rounds(1), Append((1,)), Rounds(1), Append((1,)), Rounds(4)])
@example((0, 1), 1, [Rounds(2), Append((1,)), Socket(takes_bytes=False), Append((1, 1)), Socket(takes_bytes=True)])
def test_catching_up_and_going_live_leaves_no_gap_and_repeats_nothing(
    start: tuple[int, int], turns: int, interleaving: list[Move]
) -> None:
    already, cursor = start
    play(already, cursor, turns, interleaving)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 8))
def test_an_append_in_any_round_of_the_hand_over_arrives_once(turns: int, before: int, after: int) -> None:
    play(2, 0, turns, [Rounds(before + 1), Append((1, 1)), Rounds(after + 1), Append((1,))])


@given(st.integers(0, 4), st.integers(0, 8))
def test_nothing_is_written_for_a_client_that_is_lost_in_any_round_of_the_hand_over(turns: int, before: int) -> None:
    """`FakeOutlet` fails on a write for a reader that has departed; a read that was under way is dropped."""
    playing = Play(3, 0, turns)
    try:
        playing.do(Rounds(before + 1))
        playing.outlet.lose()
        writes = playing.outlet.writes
        playing.do(Append((1, 1)))
        playing.loop.settle()
        assert playing.task.result() is Departure.LOST
        assert playing.outlet.writes == writes
    finally:
        playing.close()

"""A subscriber's deadlines and edges. Its way through an answer: `tests/scenario` and `tests/property`."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.envelope import metadata_event, token_event
from subak.relay.subscriber import Departure, ReaderTimes, Subscriber
from subak.replay.base import StreamMeta
from subak.replay.memory import MemoryLog
from subak.testing import FakeClock
from tests.stage import FakeOutlet, SteppedLoop, at_once
from tests.wire import transcribe

STREAM_ID = f"st_{0:028d}"
TIMES = ReaderTimes(heartbeat_s=30, comment_s=15, slow_reader_s=20, max_age_s=300)


def make_log(tokens: int = 0) -> MemoryLog:
    log = MemoryLog(StreamMeta(STREAM_ID, "", 0), lambda _log, _grown_bytes: None)
    log.append([metadata_event(STREAM_ID, "c", 0), *[token_event("x", 0)] * tokens])
    return log


def make_subscriber(log: MemoryLog, clock: FakeClock, cursor: int = 0, times: ReaderTimes = TIMES) -> Subscriber:
    return Subscriber(log, cursor, times=times, retry_ms=1840, clock=clock, audience=None)


def test_the_first_batch_is_what_is_past_the_cursor() -> None:
    subscriber = make_subscriber(make_log(tokens=2), FakeClock(), cursor=2)
    frames = at_once(subscriber.first_batch())
    assert frames.startswith(f"id: {STREAM_ID}.3\n".encode())
    assert (subscriber.cursor, subscriber.lag_bytes) == (3, 0)


def test_at_the_tail_there_is_no_first_batch() -> None:
    subscriber = make_subscriber(make_log(), FakeClock(), cursor=1)
    assert at_once(subscriber.first_batch()) == b""


def test_the_first_deadline_is_the_first_comment() -> None:
    clock = FakeClock()
    subscriber = make_subscriber(make_log(), clock)
    assert subscriber.next_deadline(clock.monotonic()) == clock.monotonic() + 15


def test_the_age_is_a_deadline() -> None:
    clock = FakeClock()
    subscriber = make_subscriber(make_log(), clock, times=ReaderTimes(30, 15, 20, max_age_s=5))
    assert subscriber.next_deadline(clock.monotonic()) == clock.monotonic() + 5


def test_after_a_stall_a_reader_is_not_left_alone_until_something_else_is_due() -> None:
    clock = FakeClock()
    subscriber = make_subscriber(make_log(), clock, times=ReaderTimes(0.2, 0.1, 20, max_age_s=300))
    clock.advance(1)
    assert subscriber.next_deadline(clock.monotonic()) == pytest.approx(clock.monotonic() + 0.1)


def test_a_reader_that_has_departed_has_no_deadline() -> None:
    clock = FakeClock()
    subscriber = make_subscriber(make_log(), clock)
    subscriber.on_lost()
    assert subscriber.on_deadline(clock.monotonic()) is None


def test_the_first_departure_stands() -> None:
    subscriber = make_subscriber(make_log(), FakeClock())
    subscriber.on_lost()
    subscriber.dismiss(Departure.DRAIN)
    assert subscriber.departure is Departure.LOST


def test_a_client_that_is_lost_before_its_response_runs_gets_nothing() -> None:
    clock = FakeClock()
    log = make_log()
    subscriber = make_subscriber(log, clock)
    outlet = FakeOutlet(subscriber, clock)
    outlet.lose()
    assert at_once(subscriber.run(outlet)) is Departure.LOST
    log.append([token_event("x", 0)])
    assert outlet.writes == 0


@given(
    st.builds(
        ReaderTimes,
        heartbeat_s=st.floats(0.5, 60),
        comment_s=st.floats(0.5, 60),
        slow_reader_s=st.floats(0.5, 60),
        max_age_s=st.none() | st.floats(0.5, 600),
    ),
    st.lists(st.tuples(st.sampled_from(("block", "unblock", "wait")), st.floats(0, 40)), max_size=20),
)
def test_a_deadline_is_always_ahead_and_never_too_far(times: ReaderTimes, moves: list[tuple[str, float]]) -> None:
    """Asked whenever its deadline has passed, a reader is never blocked longer nor older than it may be."""
    clock = FakeClock()
    subscriber = make_subscriber(make_log(), clock, times=times)
    began_at, blocked_at = clock.monotonic(), float("inf")
    deadline: float | None = subscriber.next_deadline(clock.monotonic())
    for move, wait_s in moves:
        if move == "block" and blocked_at == float("inf"):
            subscriber.on_blocked()
            blocked_at = clock.monotonic()
        elif move == "unblock":
            subscriber.on_writable()
            blocked_at = float("inf")
        until = clock.monotonic() + wait_s
        while deadline is not None and deadline <= until:
            clock.advance(deadline - clock.monotonic())
            deadline = subscriber.on_deadline(clock.monotonic())
            assert deadline is None or deadline > clock.monotonic()
        clock.advance(until - clock.monotonic())
        now = clock.monotonic()
        is_due = now > blocked_at + times.slow_reader_s
        is_old = times.max_age_s is not None and now > began_at + times.max_age_s
        if is_due or is_old:
            assert subscriber.departure in {Departure.SLOW_READER, Departure.MAX_AGE}
        if deadline is None:
            assert subscriber.departure is not None
            return


class Live:
    """A subscriber that has gone live at the tail of a log, in a loop that a test moves."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.loop = SteppedLoop(clock)
        self.log = make_log(tokens=1)
        self.subscriber = make_subscriber(self.log, clock, cursor=2)
        self.outlet = FakeOutlet(self.subscriber, clock)
        self.task = self.loop.create_task(self.subscriber.run(self.outlet))
        self.loop.settle()

    def close(self) -> None:
        self.subscriber.on_lost()
        self.loop.settle()
        self.loop.close()


@pytest.fixture
def live() -> Iterator[Live]:
    """A live subscriber."""
    playing = Live()
    yield playing
    playing.close()


def test_a_batch_that_was_read_already_is_not_written_again(live: Live) -> None:
    """A remote log may tell of events that a catch-up has just read."""
    live.subscriber.on_batch(2, at_once(live.log.read(1, 1000)))
    live.loop.settle()
    assert not live.outlet.received
    assert (live.subscriber.is_live, live.subscriber.lag_bytes) == (True, 0)


def test_a_batch_with_a_hole_before_it_is_read_from_the_log_instead(live: Live) -> None:
    live.log.unsubscribe(live.subscriber)
    live.log.append([token_event("a", 0)])
    live.log.subscribe(live.subscriber)
    live.log.append([token_event("b", 0)])
    live.loop.settle()
    assert transcribe(bytes(live.outlet.received)) == ['3 token "a"', '4 token "b"']
    assert (live.subscriber.is_live, live.subscriber.lag_bytes) == (True, 0)

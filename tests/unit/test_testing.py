"""The public fakes: time that stands still, a sink and an observer that wait."""

import asyncio

import pytest

from subak.core.deadlines import Deadlines
from subak.core.events import Event, Finished
from subak.core.facts import DescriptorsFreed, StreamEnded, StreamOpened
from subak.testing import FakeClock, RecordingObserver, RecordingSink

OPENED = StreamOpened("st_1", "c_1", "POST streams")
ENDED = StreamEnded("st_1", "c_1", "POST streams", "upstream_error", "connect_refused", 0, 12, None, 3.5)


class Repeating:
    """Wants to be asked every ten seconds."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    def on_deadline(self, now: float) -> float | None:
        self.asked_at.append(now)
        return now + 10


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(time_ms=5_000)
    start = clock.monotonic()
    assert (clock.monotonic(), clock.time_ms()) == (start, 5_000)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.time_ms()) == (start + 2.5, 7_500)


def test_a_fake_clock_asks_at_every_deadline_that_it_passes() -> None:
    deadlines = Deadlines()
    clock = FakeClock(deadlines)
    start = clock.monotonic()
    watched = Repeating()
    deadlines.watch(watched, start + 10)
    clock.advance(35)
    assert watched.asked_at == [start + 10, start + 20, start + 30]


async def test_a_recording_sink_gives_the_ending_and_counts_what_comes_after_it() -> None:
    sink = RecordingSink()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(sink.wait_ended())
        await asyncio.sleep(0)
        sink.on_read([Event("token", b'"a"', 1), Event("sources", b"[]", 1)], None, 10)
        sink.on_read([Event("token", b'"b"', 2)], Finished(), 5)
    assert waiting.result() == Finished()
    assert (sink.text, sink.size_bytes, sink.reads, sink.late_reads) == ("ab", 15, 2, 0)
    sink.on_read([], None, 0)
    assert sink.late_reads == 1


async def test_a_recording_sink_loses_patience() -> None:
    with pytest.raises(TimeoutError):
        await RecordingSink().wait_events(1, timeout_s=0.01)


def test_a_recording_observer_keeps_facts_in_order_each_with_its_time() -> None:
    clock = FakeClock()
    observer = RecordingObserver(clock)
    start = clock.monotonic()
    observer.notify(OPENED)
    clock.advance(2)
    observer.notify(DescriptorsFreed())
    observer.notify(ENDED)
    assert observer.facts == [OPENED, DescriptorsFreed(), ENDED]
    assert [at - start for at, _ in observer.heard] == [0, 2, 2]
    assert observer.of(StreamEnded) == [ENDED]
    observer.clear()
    assert observer.facts == observer.of(StreamEnded) == []


async def test_a_recording_observer_waits_for_as_many_facts_of_a_kind_as_are_wanted() -> None:
    observer = RecordingObserver()
    async with asyncio.TaskGroup() as tasks:
        both = tasks.create_task(observer.wait_for(StreamOpened, 2))
        ending = tasks.create_task(observer.ended())
        for fact in (OPENED, ENDED, OPENED):
            await asyncio.sleep(0)
            assert not both.done()
            observer.notify(fact)
    assert both.result() == [OPENED, OPENED]
    assert ending.result() == ("upstream_error", "connect_refused", 0)


async def test_a_recording_observer_loses_patience() -> None:
    observer = RecordingObserver()
    observer.notify(OPENED)
    with pytest.raises(TimeoutError):
        await observer.wait_for(StreamOpened, 2, timeout_s=0.01)

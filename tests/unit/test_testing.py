"""The public fakes: time that stands still, and a sink that waits."""

import asyncio

import pytest

from subak.core.deadlines import Deadlines
from subak.core.events import Event, Finished
from subak.testing import FakeClock, RecordingSink


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

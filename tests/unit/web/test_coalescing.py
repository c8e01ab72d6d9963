"""When the event loop rests, for how long, and when it never does. Clock, CPU and rest are the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from subak.web.coalescing import BUSY_SHARE, CALM_SHARE, HASTE_S, Coalescer

WINDOW_S = 0.0005
LOOK_S = 0.25


class Machine:
    """A processor: what time it is, and what the loop's thread has used of it. Resting takes time and nothing else."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.used_s = 5.0
        self.rests: list[float] = []

    def works(self, busy_s: float) -> None:
        """Let the loop's thread compute."""
        self.now_s += busy_s
        self.used_s += busy_s

    def passes(self, share: float, duration_s: float = LOOK_S) -> None:
        """Let time pass, of which the thread uses a share."""
        self.now_s += duration_s
        self.used_s += share * duration_s

    def rest(self, duration_s: float) -> None:
        """Stand in for `time.sleep`."""
        assert duration_s > 0
        self.rests.append(duration_s)
        self.now_s += duration_s


@pytest.fixture
def machine() -> Machine:
    """A machine at its beginning."""
    return Machine()


@pytest.fixture
async def coalescer(machine: Machine) -> AsyncIterator[Coalescer]:
    """One on the running loop, which it lets go of at the end."""
    made = Coalescer(
        asyncio.get_running_loop(),
        WINDOW_S,
        now=lambda: machine.now_s,
        cpu_s=lambda: machine.used_s,
        rest=machine.rest,
    )
    yield made
    made.window_s = 0
    made.look()


async def rounds(count: int, each: Callable[[], None] = lambda: None) -> None:
    """Let the loop go round, with something to do each time."""
    for _ in range(count):
        each()
        await asyncio.sleep(0)


def becomes_busy(machine: Machine, coalescer: Coalescer) -> None:
    """Let it see that the loop is busy."""
    machine.passes(BUSY_SHARE + 0.01)
    coalescer.look()
    assert coalescer.is_active


def is_calm(coalescer: Coalescer) -> bool:
    """Ask it anew: a type checker takes an attribute for what it was."""
    return not coalescer.is_active


async def test_a_loop_with_little_to_do_never_rests(machine: Machine, coalescer: Coalescer) -> None:
    for _ in range(5):
        machine.passes(BUSY_SHARE - 0.01)
        coalescer.look()
        await rounds(3)
    assert not coalescer.is_active
    assert machine.rests == []


async def test_a_busy_loop_rests_for_what_is_left_of_the_window(machine: Machine, coalescer: Coalescer) -> None:
    becomes_busy(machine, coalescer)
    await rounds(1)
    del machine.rests[:]
    await rounds(10, lambda: machine.works(0.0002))
    assert machine.rests == pytest.approx([WINDOW_S - 0.0002] * 10)


async def test_a_loop_with_more_to_do_than_the_window_holds_never_rests(machine: Machine, coalescer: Coalescer) -> None:
    becomes_busy(machine, coalescer)
    await rounds(1)
    del machine.rests[:]
    await rounds(10, lambda: machine.works(1.5 * WINDOW_S))
    assert machine.rests == []


async def test_it_stops_when_little_is_left_and_goes_on_in_between(machine: Machine, coalescer: Coalescer) -> None:
    becomes_busy(machine, coalescer)
    machine.passes(CALM_SHARE + 0.01)
    coalescer.look()
    assert coalescer.is_active
    machine.passes(CALM_SHARE - 0.01)
    coalescer.look()
    assert is_calm(coalescer)
    await rounds(1)
    del machine.rests[:]
    await rounds(5)
    assert machine.rests == []
    becomes_busy(machine, coalescer)
    await rounds(5)
    assert machine.rests


async def test_what_a_client_sends_is_dealt_with_at_once(machine: Machine, coalescer: Coalescer) -> None:
    becomes_busy(machine, coalescer)
    await rounds(2)
    del machine.rests[:]
    coalescer.hurry()
    await rounds(20)
    assert machine.rests == []
    machine.now_s += HASTE_S
    async with asyncio.timeout(10):
        while not machine.rests:  # noqa: ASYNC110 - nothing announces it; the loop's own clock runs, too
            await asyncio.sleep(0.001)


async def test_it_goes_round_once_however_often_it_is_judged(machine: Machine, coalescer: Coalescer) -> None:
    for _ in range(5):
        becomes_busy(machine, coalescer)
    await rounds(1)
    del machine.rests[:]
    await rounds(4, lambda: machine.works(0.0001))
    assert len(machine.rests) == 4


async def test_a_window_of_zero_is_never(machine: Machine, coalescer: Coalescer) -> None:
    coalescer.window_s = 0
    machine.passes(0.9)
    coalescer.look()
    await rounds(5)
    assert not coalescer.is_active
    assert machine.rests == []

"""When garbage is looked for: what is old never, everything seldom."""

import gc
from collections.abc import Iterator

import pytest

from subak.garbage import PERIOD_S, SHARE, GarbageCollection
from subak.testing import FakeClock


@pytest.fixture(autouse=True)
def _own_schedule() -> Iterator[None]:
    """Give this process its own schedule back."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class Itself:
    """Something that refers to itself."""

    alive = 0

    def __init__(self) -> None:
        self.me = self
        Itself.alive += 1

    def __del__(self) -> None:
        """Count."""
        Itself.alive -= 1


def test_what_is_there_at_the_start_is_never_looked_through_again() -> None:
    GarbageCollection(FakeClock())
    before = gc.get_freeze_count()
    assert len(gc.get_objects()) < before / 10
    assert gc.get_threshold()[1:] == (1_000_000_000, 1_000_000_000)


def test_everything_is_looked_through_when_it_is_due_and_the_next_time_a_minute_later() -> None:
    clock = FakeClock()
    collection = GarbageCollection(clock)
    alive = Itself.alive
    Itself()
    assert Itself.alive == alive + 1
    assert collection.on_deadline(clock.monotonic()) == clock.monotonic() + PERIOD_S
    assert Itself.alive == alive


def test_looking_takes_a_small_share_of_the_time_however_long_it_takes() -> None:
    clock = FakeClock()
    collection = GarbageCollection(clock)
    now = clock.monotonic()

    def take_long(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            clock.advance(0.5)

    gc.callbacks.append(take_long)
    try:
        following = collection.on_deadline(now)
    finally:
        gc.callbacks.remove(take_long)
    assert following == pytest.approx(now + 0.5 * SHARE)

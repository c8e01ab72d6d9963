"""A bell: heard once for however many rings, by whoever waits or will."""

import threading
from itertools import count

from subak.audit.bell import Bell

RINGERS = 4
RINGS = 2000


def test_a_ring_before_the_wait_is_heard_and_two_are_heard_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    bell.wait()
    assert is_silent(bell)


def test_it_is_silent_until_it_is_rung() -> None:
    assert is_silent(Bell())


def test_a_ring_wakes_who_waits() -> None:
    bell = Bell()
    listener = listening(bell)
    bell.ring()
    listener.join()


def test_nothing_that_was_put_down_before_a_ring_is_overlooked_whoever_rings() -> None:
    bell = Bell()
    numbers = count()
    put: list[int] = []

    def put_and_ring() -> None:
        for _ in range(RINGS):
            put.append(next(numbers))
            bell.ring()

    ringers = [threading.Thread(target=put_and_ring, daemon=True) for _ in range(RINGERS)]
    for ringer in ringers:
        ringer.start()
    seen = 0
    while seen < RINGERS * RINGS:
        bell.wait()
        seen = len(put)
    for ringer in ringers:
        ringer.join()
    assert sorted(put) == list(range(RINGERS * RINGS))


def listening(bell: Bell) -> threading.Thread:
    """Give a thread that ends once it has heard the bell."""
    listener = threading.Thread(target=bell.wait, daemon=True)
    listener.start()
    return listener


def is_silent(bell: Bell) -> bool:
    """Whether nobody rang: who waits for a moment hears nothing. The bell is rung then, so that no thread is left."""
    listener = listening(bell)
    listener.join(0.05)
    was_silent = listener.is_alive()
    bell.ring()
    listener.join()
    return was_silent

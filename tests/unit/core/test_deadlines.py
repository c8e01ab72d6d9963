"""One timer for everything: who is asked when, and how often."""

from collections.abc import Callable

import pytest

from subak.core.deadlines import Deadlines


class Recorder:
    """Keeps when it was asked, and answers as it is told."""

    def __init__(self, answer: Callable[[float], float | None] = lambda _now: None) -> None:
        self.asked: list[float] = []
        self.answer = answer

    def on_deadline(self, now: float) -> float | None:
        self.asked.append(now)
        return self.answer(now)


def test_nothing_is_asked_before_its_deadline() -> None:
    deadlines, watched = Deadlines(), Recorder()
    deadlines.watch(watched, 10.0)
    deadlines.run(9.999)
    assert watched.asked == []
    deadlines.run(10.0)
    assert watched.asked == [10.0]


def test_what_answers_none_is_forgotten() -> None:
    deadlines, watched = Deadlines(), Recorder()
    deadlines.watch(watched, 1.0)
    deadlines.run(1.0)
    assert len(deadlines) == 0
    deadlines.run(100.0)
    assert watched.asked == [1.0]


def test_what_answers_with_a_time_is_asked_again_then() -> None:
    deadlines, watched = Deadlines(), Recorder(lambda now: now + 5)
    deadlines.watch(watched, 1.0)
    for now in (1.0, 2.0, 5.9, 6.0, 20.0):
        deadlines.run(now)
    assert watched.asked == [1.0, 6.0, 20.0]
    assert len(deadlines) == 1


def test_a_new_deadline_stands_instead_of_the_old_one() -> None:
    deadlines, watched = Deadlines(), Recorder()
    deadlines.watch(watched, 1.0)
    deadlines.watch(watched, 10.0)
    deadlines.run(5.0)
    assert watched.asked == []
    deadlines.watch(watched, 6.0)
    deadlines.run(7.0)
    deadlines.run(11.0)
    assert watched.asked == [7.0]


def test_what_is_forgotten_is_not_asked() -> None:
    deadlines, watched = Deadlines(), Recorder()
    deadlines.watch(watched, 1.0)
    deadlines.forget(watched)
    deadlines.forget(watched)
    deadlines.run(2.0)
    assert watched.asked == []
    assert len(deadlines) == 0


def test_the_oldest_deadline_is_asked_first() -> None:
    deadlines = Deadlines()
    order: list[int] = []

    def remember(number: int) -> Callable[[float], None]:
        return lambda _now: order.append(number)

    for number, deadline in enumerate((3.0, 1.0, 2.0, 1.0)):
        deadlines.watch(Recorder(remember(number)), deadline)
    deadlines.run(5.0)
    assert order == [1, 3, 2, 0]


def test_each_is_asked_once_a_run_even_if_its_next_deadline_has_passed() -> None:
    deadlines, watched = Deadlines(), Recorder(lambda now: now - 10)
    deadlines.watch(watched, 1.0)
    deadlines.run(5.0)
    assert watched.asked == [5.0]
    deadlines.run(5.0)
    assert watched.asked == [5.0, 5.0]


@pytest.mark.parametrize("is_rewatched", [True, False])
def test_one_that_is_due_may_forget_another_that_is_due(*, is_rewatched: bool) -> None:
    deadlines, second = Deadlines(), Recorder()

    def end_it(_now: float) -> None:
        deadlines.forget(second)
        if is_rewatched:
            deadlines.watch(second, 50.0)

    deadlines.watch(Recorder(end_it), 1.0)
    deadlines.watch(second, 2.0)
    deadlines.run(3.0)
    assert second.asked == []
    deadlines.run(50.0)
    assert second.asked == ([50.0] if is_rewatched else [])


def test_one_that_forgets_itself_stays_forgotten_whatever_it_answers() -> None:
    deadlines = Deadlines()
    watched = Recorder()

    def forget(_now: float) -> float:
        deadlines.forget(watched)
        return 10.0

    watched.answer = forget
    deadlines.watch(watched, 1.0)
    deadlines.run(1.0)
    deadlines.run(20.0)
    assert watched.asked == [1.0]


def test_one_that_sets_its_own_deadline_is_asked_then_whatever_it_answers() -> None:
    deadlines = Deadlines()
    watched = Recorder()

    def move(_now: float) -> float | None:
        if len(watched.asked) == 1:
            deadlines.watch(watched, 30.0)
        return None

    watched.answer = move
    deadlines.watch(watched, 1.0)
    for now in (1.0, 20.0, 30.0):
        deadlines.run(now)
    assert watched.asked == [1.0, 30.0]


def test_moving_deadlines_takes_no_memory() -> None:
    deadlines = Deadlines()
    watched = [Recorder() for _ in range(10)]
    for turn in range(10_000):
        deadlines.watch(watched[turn % 10], 1.0 + turn)
    assert len(deadlines) == 10
    assert len(deadlines._heap) < 200  # noqa: SLF001 - the bound that the class promises
    for one in watched:
        deadlines.forget(one)
    assert len(deadlines._heap) < 100  # noqa: SLF001 - (same reason)


def test_many_things_are_each_asked_at_their_time() -> None:
    deadlines = Deadlines()
    watched = {number: Recorder() for number in range(500)}
    for number, one in watched.items():
        deadlines.watch(one, (number * 7919) % 500)
    for now in range(500):
        deadlines.run(now)
    assert all(one.asked == [(number * 7919) % 500] for number, one in watched.items())

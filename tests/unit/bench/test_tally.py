"""Counts that aren't sums: how many are open, how many kinds of errors, points of a long run."""

from subak.bench.figures import Figures
from subak.bench.tally import MAX_KINDS, OTHER, Crowd, Tally


def test_the_average_crowd_is_that_between_its_slopes() -> None:
    crowd = Crowd()
    for at in (0.0, 1.0, 2.0):
        crowd.come(at)
    assert crowd.mean is None
    for at in (3.0, 4.0, 5.0):
        crowd.go(at)
        crowd.come(at)
    for at in (6.0, 7.0, 8.0):
        crowd.go(at)
    assert (crowd.now, crowd.most) == (0, 3)
    assert crowd.mean == 3.0


def test_kinds_of_errors_have_a_bound() -> None:
    tally = Tally()
    for number in range(2 * MAX_KINDS):
        tally.fail(f"error {number}", 0.0)
    assert len(tally.errors) == MAX_KINDS + 1
    assert tally.errors[OTHER] == MAX_KINDS
    assert tally.failed == 2 * MAX_KINDS


def test_a_long_run_has_points_that_cover_several_seconds() -> None:
    tally = Tally()
    for at in range(1_000):
        tally.ask(float(at))
        tally.second(float(at)).first_token.record(1_000 * at)
    timeline = Figures.of("target", "http://127.0.0.1", tally).timeline
    assert len(timeline) <= 120
    assert sum(point.asked for point in timeline) == 1_000
    assert timeline[-1].first_token_max == 999.0

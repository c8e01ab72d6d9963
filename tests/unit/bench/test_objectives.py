"""Objectives: how they are read, and when they are met."""

import pytest

from subak.bench.figures import Figures, Spread
from subak.bench.objectives import ALWAYS, Added, ObjectiveError, judge, read_objectives
from subak.bench.tally import Tally
from subak.core.histogram import Histogram


def run(first_token_us: int | None = 40_000, *, asked: int = 100, opened: int = 99, lost: int = 0) -> Figures:
    tally = Tally(asked=asked, opened=opened, whole=opened, lost=lost, errors={"cut": asked - opened})
    if first_token_us is not None:
        tally.first_token.record(first_token_us)
    return Figures.of("target", "http://127.0.0.1", tally)


def spread(us: int) -> Spread:
    histogram = Histogram()
    histogram.record(us)
    return Spread.of(histogram)


def verdicts(text: str, figures: Figures, added: Added | None = None) -> list[bool]:
    return [judged.is_met for judged in judge(read_objectives(text), figures, added)]


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("first_token_p95=41ms", True),
        ("first_token_mean=40ms", True),
        ("first_token_max=0.04s", True),
        ("first_token_p50=39000us", False),
        ("connection_success=99%", True),
        ("connection_success=99.5%", False),
        ("error_rate=1%", True),
        ("error_rate=0.5%", False),
        ("lost=0", True),
    ],
)
def test_an_objective_is_met_up_to_its_limit(text: str, is_met: bool) -> None:
    assert verdicts(text, run()) == [is_met]


def test_several_are_judged_each_by_itself() -> None:
    assert verdicts(" first_token_p95=100ms, lost=0 ,", run(lost=1)) == [True, False]


def test_what_was_not_measured_is_missed() -> None:
    (judged,) = judge(read_objectives("first_token_p95=100ms"), run(None))
    assert (judged.measured, judged.is_met) == (None, False)


def test_what_a_gateway_adds_is_held_against_the_comparison() -> None:
    added = Added(first_token=spread(900), event=spread(60))
    assert verdicts("added_first_token_p99=1ms,added_event_p50=50us", run(), added) == [True, False]
    assert verdicts("added_first_token_p99=1ms", run()) == [False]


def test_whole_answers_are_always_an_objective() -> None:
    assert verdicts(ALWAYS, run(lost=1)) == [False, True, True]


@pytest.mark.parametrize(
    "text",
    [
        "first_token_p95",
        "first_token_p95=",
        "first_token_p95=100",
        "first_token_p95=100%",
        "first_token_p95=-1ms",
        "first_token_p97=100ms",
        "first_token=100ms",
        "second_token_p95=100ms",
        "lost=0ms",
        "error_rate=1",
        "error_rate=101%",
        "p95=100ms",
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(ObjectiveError, match=r"expected|takes"):
        read_objectives(text)

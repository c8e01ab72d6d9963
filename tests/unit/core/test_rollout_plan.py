"""When a rollout is raised, when it is taken back, and what its figures say."""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import pytest

from subak.core.rollout_plan import (
    CRITERIA,
    Bounds,
    ChatBaseline,
    Outcome,
    Phase,
    Rollout,
    RolloutFigures,
    RolloutTotals,
    Verdict,
    advance,
    as_percentage,
    figures_between,
    is_ascending,
    judge,
    with_baseline,
    worst,
)

START: Final = datetime(2026, 11, 23, 6, tzinfo=UTC)
HELD: Final = START + timedelta(hours=24)
PLAN: Final = Rollout(
    steps=(5, 25, 50, 100),
    hold_s=86_400,
    started_at=START,
    step_since=START,
    why="started",
    chat_baseline=ChatBaseline(mean_ms=800, error_rate=2),
)
WELL: Final = RolloutFigures(
    requests=200,
    error_rate=0.5,
    connection_success=99,
    first_token_mean_ms=60,
    inter_token_mean_ms=20,
    chat_requests=200,
    chat_mean_ms=810,
    chat_error_rate=2,
)
GOOD: Final = Verdict(Outcome.GOOD)
BAD: Final = Verdict(Outcome.BAD, "error-rate is 9 %")


def figures(**other: float) -> RolloutFigures:
    return msgspec.structs.replace(WELL, **other)


def plan(**other: object) -> Rollout:
    return msgspec.structs.replace(PLAN, **other)


def test_figures_are_what_was_counted_in_between() -> None:
    earlier = RolloutTotals(100, 99, 1, 99, 9_900, 500, 10_000, 50, 1, 40_000)
    later = RolloutTotals(300, 295, 7, 295, 21_660, 1_500, 35_000, 150, 5, 130_000)
    assert figures_between(earlier, later) == RolloutFigures(200, 3.0, 98.0, 60.0, 25.0, 100, 900.0, 4.0)


def test_of_nothing_there_are_no_figures() -> None:
    totals = RolloutTotals(requests=5)
    assert figures_between(totals, totals) == RolloutFigures(0, None, None, None, None, 0, None, None)


def test_good_figures_are_good() -> None:
    assert judge(PLAN, WELL) == GOOD


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        ({"first_token_mean_ms": 99.9}, Outcome.GOOD),
        ({"first_token_mean_ms": 100}, Outcome.MIDDLING),
        ({"first_token_mean_ms": 200}, Outcome.MIDDLING),
        ({"first_token_mean_ms": 200.1}, Outcome.BAD),
        ({"inter_token_mean_ms": 50}, Outcome.MIDDLING),
        ({"inter_token_mean_ms": 5_000}, Outcome.MIDDLING),
        ({"error_rate": 1}, Outcome.MIDDLING),
        ({"error_rate": 5}, Outcome.MIDDLING),
        ({"error_rate": 5.1}, Outcome.BAD),
        ({"connection_success": 95.1}, Outcome.GOOD),
        ({"connection_success": 95}, Outcome.MIDDLING),
        ({"connection_success": 90}, Outcome.MIDDLING),
        ({"connection_success": 89.9}, Outcome.BAD),
        ({"chat_mean_ms": 879}, Outcome.GOOD),
        ({"chat_mean_ms": 881}, Outcome.MIDDLING),
        ({"chat_mean_ms": 1_201}, Outcome.BAD),
        ({"chat_mean_ms": 1_201, "chat_requests": 199}, Outcome.GOOD),
        ({"chat_error_rate": 3}, Outcome.MIDDLING),
        ({"chat_error_rate": 7.1}, Outcome.BAD),
        ({"requests": 199, "error_rate": 100}, Outcome.TOO_FEW),
        ({"first_token_mean_ms": 150, "error_rate": 6}, Outcome.BAD),
    ],
)
def test_each_criterion_has_its_bounds(one: dict[str, float], outcome: Outcome) -> None:
    verdict = judge(PLAN, figures(**one))
    assert verdict.outcome is outcome
    assert bool(verdict.why) is (outcome is not Outcome.GOOD)


def test_a_verdict_names_figure_and_bound() -> None:
    assert judge(PLAN, figures(error_rate=12.34)).why == "error-rate is 12.3 %, not below 5 %"
    assert judge(PLAN, figures(connection_success=80)).why == "connection-success is 80 %, not above 90 %"


def test_an_operators_bounds_come_before_the_tables() -> None:
    lenient = plan(bounds={"first-token": Bounds(good=3_000, bad=6_000), "inter-token": Bounds(bad=60)})
    assert judge(lenient, figures(first_token_mean_ms=2_000)) == GOOD
    assert judge(lenient, figures(first_token_mean_ms=6_001)).outcome is Outcome.BAD
    assert judge(lenient, figures(inter_token_mean_ms=50)).outcome is Outcome.MIDDLING
    assert judge(lenient, figures(inter_token_mean_ms=61)).outcome is Outcome.BAD


def test_without_a_baseline_chat_is_not_judged() -> None:
    assert judge(plan(chat_baseline=None), figures(chat_mean_ms=99_999, chat_error_rate=100)) == GOOD


def test_every_criterion_can_be_measured() -> None:
    assert [each.measure(WELL, PLAN.chat_baseline) for each in CRITERIA] == [60, 20, 0.5, 99, pytest.approx(1.25), 0]


def test_the_worst_stretch_with_enough_requests_counts() -> None:
    bad, few = figures(error_rate=50), figures(requests=10, error_rate=100)
    assert worst(PLAN, (bad, WELL, WELL)).outcome is Outcome.BAD
    assert worst(PLAN, (few, WELL, WELL)).outcome is Outcome.GOOD
    assert worst(PLAN, (few, figures(error_rate=2), WELL)).outcome is Outcome.MIDDLING
    assert worst(PLAN, (few, few, few)) == Verdict(Outcome.TOO_FEW, "10 requests of 200")


def test_a_step_that_has_held_is_passed() -> None:
    after = advance(PLAN, GOOD, HELD)
    assert (after.step, after.percentage, after.phase, after.step_since) == (1, 25, Phase.RUNNING, HELD)
    assert after.why == "raised: 5 % has held for 24 h"


@pytest.mark.parametrize(("hold_s", "said"), [(90, "90 s"), (1_800, "30 min"), (5_400, "90 min"), (172_800, "48 h")])
def test_how_long_it_held_is_said_in_a_unit_that_fits(hold_s: float, said: str) -> None:
    assert advance(plan(hold_s=hold_s), GOOD, START + timedelta(seconds=hold_s)).why.endswith(f"held for {said}")


def test_the_last_step_finishes_it_when_it_has_held() -> None:
    after = advance(plan(step=3), GOOD, HELD)
    assert (after.step, after.percentage, after.phase) == (3, 100, Phase.FINISHED)


@pytest.mark.parametrize(
    ("phase", "outcome", "now"),
    [
        (Phase.RUNNING, Outcome.GOOD, HELD - timedelta(seconds=1)),
        (Phase.RUNNING, Outcome.MIDDLING, HELD),
        (Phase.RUNNING, Outcome.TOO_FEW, HELD),
        (Phase.PAUSED, Outcome.GOOD, HELD),
        (Phase.ROLLED_BACK, Outcome.GOOD, HELD),
        (Phase.FINISHED, Outcome.BAD, HELD),
        (Phase.ABORTED, Outcome.BAD, HELD),
    ],
)
def test_otherwise_it_stays(phase: Phase, outcome: Outcome, now: datetime) -> None:
    rollout = plan(phase=phase)
    assert advance(rollout, Verdict(outcome), now) is rollout


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.PAUSED, Phase.ROLLED_BACK])
@pytest.mark.parametrize(("step", "percentage"), [(3, 50), (1, 5), (0, 0)])
def test_a_bad_verdict_takes_it_back_to_the_last_good_step(phase: Phase, step: int, percentage: float) -> None:
    after = advance(plan(phase=phase, step=step), BAD, START + timedelta(seconds=5))
    assert (after.phase, after.percentage) == (Phase.ROLLED_BACK, percentage)
    assert after.why.startswith("rolled back from ")
    assert after.why.endswith(BAD.why)


def test_by_the_operators_wish_it_is_taken_back_to_0() -> None:
    assert advance(plan(step=2, on_failure="zero"), BAD, START).percentage == 0


def test_below_the_first_step_there_is_nothing_to_take_back() -> None:
    rollout = plan(step=-1, phase=Phase.ROLLED_BACK)
    assert advance(rollout, BAD, START) is rollout


def test_the_baseline_is_taken_once_and_early() -> None:
    learning = plan(chat_baseline=None)
    assert with_baseline(learning, WELL).chat_baseline == ChatBaseline(810, 2)
    assert with_baseline(PLAN, WELL) is PLAN
    for too_late in (plan(chat_baseline=None, step=1), plan(chat_baseline=None, phase=Phase.ABORTED)):
        assert with_baseline(too_late, WELL) is too_late
    assert with_baseline(learning, figures(chat_requests=199)) is learning


@pytest.mark.parametrize(
    ("steps", "is_fine"),
    [
        ((5, 25, 50, 100), True),
        ((0, 0.5), True),
        ((100,), True),
        ((), False),
        ((25, 5), False),
        ((5, 5), False),
        ((5, 101), False),
        ((-1, 5), False),
        ((float("nan"),), False),
        (tuple(range(21)), False),
    ],
)
def test_steps_ascend(steps: tuple[float, ...], *, is_fine: bool) -> None:
    assert is_ascending(steps) is is_fine


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 %"), (0.5, "0.5 %"), (25, "25 %"), (100, "100 %"), (0.001, "0.001 %")]
)
def test_percentages_are_written_short(value: float, text: str) -> None:
    assert as_percentage(value) == text

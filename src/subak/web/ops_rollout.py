"""The operations page's parts about flag and rollout: who changed what, where the rollout stands and why."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from subak.admission.rollout import RolloutStatus
from subak.core.flag_state import FlagChange
from subak.core.rollout_plan import CRITERIA, Criterion, Outcome, Phase, Rollout, RolloutFigures, as_percentage
from subak.web.markup import Markup, element, joined
from subak.web.tables import figure, rows
from subak.web.wording import NOTHING, duration, milliseconds, moment, number, percent

_STRETCHES: Final = 3
"""What a step is judged over: the last minute, the last quarter of an hour, the whole step."""


def changes(history: Sequence[FlagChange]) -> Markup:
    """Give who changed the flag, when and how; newest first."""
    lines = ([moment(each.at), each.actor, each.summary, each.why or NOTHING] for each in history)
    return rows(lines, "Nobody has changed it yet.")


def rollout_state(rollout: Rollout | None, now: datetime) -> Markup:
    """Say where the rollout stands."""
    if rollout is None:
        return element("p", "No rollout has been started. ", element("code", "subak rollout start --steps 5,25,50,100"))
    steps = [_step(rollout, place) for place in range(len(rollout.steps))]
    told = element("p", element("strong", _phase(rollout)), f" since {moment_text(rollout.step_since)}: {rollout.why}.")
    return joined([told, element("ol", *steps, class_="steps"), *_hold(rollout, now)])


def moment_text(time: datetime) -> str:
    """Give a moment within a sentence."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _phase(rollout: Rollout) -> str:
    return f"{rollout.phase.replace('_', ' ').capitalize()} at {as_percentage(rollout.percentage)}"


def _step(rollout: Rollout, place: int) -> Markup:
    is_present = place == rollout.step
    is_past = place < rollout.step
    words = "now" if is_present else "passed" if is_past else "to come"
    return element(
        "li",
        as_percentage(rollout.steps[place]),
        element("span", words, class_="when"),
        class_="past" if is_past else "present" if is_present else None,
        aria_current="step" if is_present else None,
    )


def _hold(rollout: Rollout, now: datetime) -> Iterable[Markup]:
    if rollout.phase is not Phase.RUNNING or not rollout.hold_s:
        return
    held_s = min((now - rollout.step_since).total_seconds(), rollout.hold_s)
    bar = element("progress", max=f"{rollout.hold_s:.0f}", value=f"{held_s:.0f}", aria_label="How long it has held")
    yield element("p", bar, f" has held for {duration(held_s)} of {duration(rollout.hold_s)}", class_="hold")


def verdict(rollout: Rollout | None, status: RolloutStatus | None) -> str:
    """Say what the controller thinks of the step."""
    if rollout is None or status is None or status.step_since != rollout.step_since:
        return "This step hasn’t been judged yet." if rollout is not None and not rollout.phase.is_over else ""
    words = {
        Outcome.TOO_FEW: "Too few requests to judge it",
        Outcome.GOOD: "All figures are good",
        Outcome.MIDDLING: "Not good enough to rise",
        Outcome.BAD: "Bad: it is taken back",
    }
    why = f": {status.verdict.why}" if status.verdict.why else ""
    return f"{words[status.verdict.outcome]}{why}."


def criteria(rollout: Rollout | None, status: RolloutStatus | None) -> Markup:
    """Give each criterion's bounds, and the figures that the step was last judged by."""
    nothing = "Figures appear once a rollout is under way."
    if rollout is None:
        return rows((), nothing)
    stretches = () if status is None or status.step_since != rollout.step_since else status.figures
    wanted = f"from {number(rollout.min_requests)}"
    requests = [figure(number(each.requests)) for each in stretches]
    lines = [_criterion(each, rollout, stretches) for each in CRITERIA]
    return rows([["requests", wanted, NOTHING, *_padded(requests)], *lines], nothing)


def _criterion(criterion: Criterion, rollout: Rollout, stretches: Sequence[RolloutFigures]) -> Sequence[str]:
    good, bad = rollout.bounds_of(criterion)
    below, above = ("below", "above") if criterion.is_lower_better else ("above", "below")
    figures = [criterion.measure(each, rollout.chat_baseline) for each in stretches]
    return [
        element("span", criterion.name.replace("-", " "), title=criterion.about),
        f"{below} {_in_unit(good, criterion)}",
        NOTHING if bad is None else f"{above} {_in_unit(bad, criterion)}",
        *_padded([figure(_in_unit(each, criterion), _judged(each, criterion, rollout)) for each in figures]),
    ]


def _padded(figures: list[Markup]) -> list[Markup]:
    return [*figures, *[figure(NOTHING)] * (_STRETCHES - len(figures))]


def _in_unit(value: float | None, criterion: Criterion) -> str:
    if criterion.unit == "ms":
        return milliseconds(value)
    return percent(value) if criterion.unit == "%" or value is None else f"{value:.1f} {criterion.unit}"


def _judged(value: float | None, criterion: Criterion, rollout: Rollout) -> str | None:
    good, bad = rollout.bounds_of(criterion)
    if value is None:
        return None
    if bad is not None and criterion.is_past(value, bad):
        return "bad"
    return "middling" if value == good or criterion.is_past(value, good) else "good"

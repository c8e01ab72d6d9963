"""A gradual rollout: its steps, the criteria of each, and when the next one begins or the last one is taken back.

    phase        raises  rolls back  becomes
    -----------  ------  ----------  ---------------------------------------------------------------------------
    running      yes     yes         finished, when the last step has held; rolled_back, when a criterion is broken
    paused       no      yes         running, by `resume`; rolled_back
    rolled_back  no      yes         running, by `resume`; rolled back further, when that doesn't help
    finished     no      no          the percentage stays
    aborted      no      no          the percentage is 0, or stays by the operator's wish

Decisions only: figures and `now` are passed in. A step is judged over the last minute, the last quarter of an hour and
as a whole, over each of them that holds `min_requests`: a failure after a good day isn't averaged away, and five
requests decide nothing. Any of them broken rolls back; a step is passed when all of them are good and its hold is over.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Literal, Protocol

import msgspec

WINDOWS_S: Final = (60.0, 900.0)
MAX_STEPS: Final = 20
MAX_HOLD_S: Final = 31_536_000.0
MAX_REQUESTS: Final = 1_000_000_000
"""What `min_requests` may ask for at most."""


class RolloutTotals(msgspec.Struct, frozen=True):
    """What one process has counted since it started; figures only ever grow. Sums in milliseconds.

    `requests`: questions that came to something, streams that ended and refusals with a 5xx. `connected`: those of them
    that delivered a first event. `errors`: those that failed. `first_tokens` and `token_gaps`: how many measurements
    their sums hold. A first token's time is the gateway's, from the request to the wire: it includes what the upstream
    takes to think.
    """

    requests: int = 0
    connected: int = 0
    errors: int = 0
    first_tokens: int = 0
    first_token_sum_ms: float = 0.0
    token_gaps: int = 0
    token_gap_sum_ms: float = 0.0
    chat_requests: int = 0
    chat_errors: int = 0
    chat_sum_ms: float = 0.0


class TotalsSource(Protocol):
    """Where a controller has its figures from."""

    def rollout_totals(self) -> RolloutTotals:
        """Give what was counted so far."""


class ChatBaseline(msgspec.Struct, frozen=True):
    """What `/chat` was like before the rollout, or in its first step. `error_rate` in percent."""

    mean_ms: float
    error_rate: float = 0.0


class RolloutFigures(msgspec.Struct, frozen=True):
    """A stretch of time in figures; None where nothing was measured. Rates in percent, means in milliseconds."""

    requests: int
    error_rate: float | None
    connection_success: float | None
    first_token_mean_ms: float | None
    inter_token_mean_ms: float | None
    chat_requests: int
    chat_mean_ms: float | None
    chat_error_rate: float | None


def figures_between(earlier: RolloutTotals, later: RolloutTotals) -> RolloutFigures:
    """Give the figures of the time between two readings."""
    requests = later.requests - earlier.requests
    chat_requests = later.chat_requests - earlier.chat_requests
    return RolloutFigures(
        requests=requests,
        error_rate=_ratio(100.0 * (later.errors - earlier.errors), requests),
        connection_success=_ratio(100.0 * (later.connected - earlier.connected), requests),
        first_token_mean_ms=_ratio(
            later.first_token_sum_ms - earlier.first_token_sum_ms, later.first_tokens - earlier.first_tokens
        ),
        inter_token_mean_ms=_ratio(
            later.token_gap_sum_ms - earlier.token_gap_sum_ms, later.token_gaps - earlier.token_gaps
        ),
        chat_requests=chat_requests,
        chat_mean_ms=_ratio(later.chat_sum_ms - earlier.chat_sum_ms, chat_requests),
        chat_error_rate=_ratio(100.0 * (later.chat_errors - earlier.chat_errors), chat_requests),
    )


def _ratio(amount: float, count: int) -> float | None:
    return amount / count if count else None


Measure = Callable[[RolloutFigures, ChatBaseline | None], float | None]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One row of the table: a figure, the bound up to which it is good, and the one from which it is bad."""

    name: str
    about: str
    unit: str
    good: float
    bad: float | None
    measure: Measure
    is_lower_better: bool = True

    def is_past(self, figure: float, bound: float) -> bool:
        """Whether a figure is worse than a bound."""
        return figure > bound if self.is_lower_better else figure < bound


def _slowdown(figures: RolloutFigures, baseline: ChatBaseline | None) -> float | None:
    if baseline is None or figures.chat_mean_ms is None or baseline.mean_ms <= 0:
        return None
    return 100.0 * (figures.chat_mean_ms / baseline.mean_ms - 1.0)


def _error_rise(figures: RolloutFigures, baseline: ChatBaseline | None) -> float | None:
    if baseline is None or figures.chat_error_rate is None:
        return None
    return figures.chat_error_rate - baseline.error_rate


CRITERIA: Final = (
    Criterion("first-token", "the mean time to the first token", "ms", 100, 200, lambda f, _: f.first_token_mean_ms),
    Criterion("inter-token", "the mean time between two tokens", "ms", 50, None, lambda f, _: f.inter_token_mean_ms),
    Criterion("error-rate", "the share of streams that end in an error", "%", 1, 5, lambda f, _: f.error_rate),
    Criterion(
        "connection-success",
        "the share of requests that get a first event",
        "%",
        95,
        90,
        lambda f, _: f.connection_success,
        is_lower_better=False,
    ),
    Criterion("chat-slowdown", "the slowdown of /chat against its baseline", "%", 10, 50, _slowdown),
    Criterion("chat-error-rise", "the rise of /chat's error rate over its baseline", "points", 1, 5, _error_rise),
)
"""What a step must be like, and what takes it back. The last two count from `min_requests` requests of /chat on."""


class Bounds(msgspec.Struct, frozen=True):
    """An operator's bounds of one criterion; None leaves the table's."""

    good: float | None = None
    bad: float | None = None


class Phase(StrEnum):
    """Where a rollout stands (see the table above)."""

    RUNNING = "running"
    PAUSED = "paused"
    ROLLED_BACK = "rolled_back"
    FINISHED = "finished"
    ABORTED = "aborted"

    @property
    def is_over(self) -> bool:
        """Whether nothing will change by itself any more, nor by `resume`."""
        return self in {Phase.FINISHED, Phase.ABORTED}


class Rollout(msgspec.Struct, frozen=True):
    """One rollout of one flag. `step`: 0-based place in `steps`; -1 when it was taken back from the first, to 0 %.

    `step_since`: when the step began, or was begun anew by `resume`. `why`: what led to the present phase and step.
    """

    steps: tuple[float, ...]
    hold_s: float
    started_at: datetime
    step_since: datetime
    why: str
    step: int = 0
    phase: Phase = Phase.RUNNING
    min_requests: Annotated[int, msgspec.Meta(ge=1)] = 200
    on_failure: Literal["last-good", "zero"] = "last-good"
    bounds: dict[str, Bounds] = {}
    chat_baseline: ChatBaseline | None = None

    @property
    def percentage(self) -> float:
        """The share that is in at this step."""
        return self.steps[self.step] if self.step >= 0 else 0.0

    def bounds_of(self, criterion: Criterion) -> tuple[float, float | None]:
        """Give the good and the bad bound of a criterion, an operator's before the table's."""
        own = self.bounds.get(criterion.name, Bounds())
        return (
            criterion.good if own.good is None else own.good,
            criterion.bad if own.bad is None else own.bad,
        )


class Outcome(StrEnum):
    """What a stretch of time says about a step."""

    TOO_FEW = "too_few"
    GOOD = "good"
    MIDDLING = "middling"
    BAD = "bad"


class Verdict(msgspec.Struct, frozen=True):
    """An outcome, and in a sentence why it isn't better."""

    outcome: Outcome
    why: str = ""


def judge(rollout: Rollout, figures: RolloutFigures) -> Verdict:
    """Hold the figures of one stretch against the criteria."""
    if figures.requests < rollout.min_requests:
        return Verdict(Outcome.TOO_FEW, f"{figures.requests} requests of {rollout.min_requests}")
    measured = [(each, figure) for each in CRITERIA if (figure := _measured(each, rollout, figures)) is not None]
    for criterion, figure in measured:
        bad = rollout.bounds_of(criterion)[1]
        if bad is not None and criterion.is_past(figure, bad):
            return Verdict(Outcome.BAD, _sentence(criterion, figure, bad))
    for criterion, figure in measured:
        good = rollout.bounds_of(criterion)[0]
        if figure == good or criterion.is_past(figure, good):
            return Verdict(Outcome.MIDDLING, _sentence(criterion, figure, good))
    return Verdict(Outcome.GOOD)


def _measured(criterion: Criterion, rollout: Rollout, figures: RolloutFigures) -> float | None:
    if criterion.name.startswith("chat-") and figures.chat_requests < rollout.min_requests:
        return None
    return criterion.measure(figures, rollout.chat_baseline)


def _sentence(criterion: Criterion, figure: float, bound: float) -> str:
    side = "not below" if criterion.is_lower_better else "not above"
    return f"{criterion.name} is {_number(figure)} {criterion.unit}, {side} {_number(bound)} {criterion.unit}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def worst(rollout: Rollout, stretches: Sequence[RolloutFigures]) -> Verdict:
    """Give the verdict over all stretches that hold enough requests; `TOO_FEW` when none does."""
    verdicts = [judge(rollout, figures) for figures in stretches]
    for outcome in (Outcome.BAD, Outcome.MIDDLING, Outcome.GOOD):
        for verdict in verdicts:
            if verdict.outcome is outcome:
                return verdict
    return verdicts[-1]


def advance(rollout: Rollout, verdict: Verdict, now: datetime) -> Rollout:
    """Give what follows from the verdict over its step so far: the next step, the one before, or the same object."""
    if rollout.phase.is_over:
        return rollout
    if verdict.outcome is Outcome.BAD:
        return _taken_back(rollout, verdict.why, now)
    has_held = (now - rollout.step_since).total_seconds() >= rollout.hold_s
    if rollout.phase is not Phase.RUNNING or verdict.outcome is not Outcome.GOOD or not has_held:
        return rollout
    return _passed(rollout, now)


def _taken_back(rollout: Rollout, why: str, now: datetime) -> Rollout:
    if rollout.step < 0:
        return rollout
    return msgspec.structs.replace(
        rollout,
        phase=Phase.ROLLED_BACK,
        step=-1 if rollout.on_failure == "zero" else rollout.step - 1,
        step_since=now,
        why=f"rolled back from {as_percentage(rollout.percentage)}: {why}",
    )


def _passed(rollout: Rollout, now: datetime) -> Rollout:
    passed = f"{as_percentage(rollout.percentage)} has held for {_duration(rollout.hold_s)}"
    if rollout.step == len(rollout.steps) - 1:
        return msgspec.structs.replace(rollout, phase=Phase.FINISHED, step_since=now, why=f"finished: {passed}")
    return msgspec.structs.replace(rollout, step=rollout.step + 1, step_since=now, why=f"raised: {passed}")


def _duration(seconds: float) -> str:
    for unit, size_s in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{_number(seconds / size_s)} {unit}"
    return f"{_number(seconds)} s"


def with_baseline(rollout: Rollout, figures: RolloutFigures) -> Rollout:
    """Take `/chat`'s figures for its baseline, while it has none and they hold enough requests; else the same object.

    They are from before the rollout, or from its first step, when few streams yet load the backend.
    """
    is_early = rollout.step == 0 and not rollout.phase.is_over
    if rollout.chat_baseline is not None or not is_early or figures.chat_requests < rollout.min_requests:
        return rollout
    if figures.chat_mean_ms is None or figures.chat_error_rate is None:
        return rollout
    return msgspec.structs.replace(rollout, chat_baseline=ChatBaseline(figures.chat_mean_ms, figures.chat_error_rate))


def as_percentage(value: float) -> str:
    """Give `0.5 %` for 0.5 and `25 %` for 25."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + " %"


def is_ascending(steps: Sequence[float]) -> bool:
    """Whether steps can be those of a rollout: some, not too many, each larger than the one before, none past 100."""
    return (
        0 < len(steps) <= MAX_STEPS
        and all(math.isfinite(step) and 0 <= step <= 100 for step in steps)  # noqa: PLR2004 - a percentage
        and all(earlier < later for earlier, later in pairwise(steps))
    )

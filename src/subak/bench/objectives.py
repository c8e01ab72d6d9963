"""Objectives: what a run must reach, as `first_token_p95=100ms,connection_success=95%`, and whether it did."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from subak.bench.figures import STATISTICS, Figures, Spread

TIMES: Final = ("first_token", "inter_token", "duration", "added_first_token", "added_event")
SHARES: Final = ("error_rate", "connection_success")
COUNTS: Final = ("lost", "duplicated", "reordered")
ALWAYS: Final = "lost=0,duplicated=0,reordered=0"
"""Held against every run: the figures of answers that aren't whole are worth nothing."""

_AT_LEAST: Final = "connection_success"
_MS: Final = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1_000.0}
_LIMIT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(us|µs|ms|s|%)?")
_WHOLE_PERCENT: Final = 100.0


class ObjectiveError(ValueError):
    """An objective can't be read; the message says what can."""


class Objective(msgspec.Struct, frozen=True):
    """One figure and its limit: milliseconds, percent or a number, by `unit`. A figure on the limit is good."""

    name: str
    limit: float
    unit: str

    def __str__(self) -> str:
        sign = "≥" if self.name == _AT_LEAST else "≤"
        return f"{self.name} {sign} {self.limit:g}{f' {self.unit}' if self.unit else ''}"


class Judged(msgspec.Struct, frozen=True):
    """An objective and what was measured; `measured` None: nothing was, which misses it."""

    objective: Objective
    measured: float | None
    is_met: bool


def read_objectives(text: str) -> Sequence[Objective]:
    """Read objectives, separated by commas.

    Raises:
        ObjectiveError: one of them can't be read.
    """
    return [_objective(part.strip()) for part in text.split(",") if part.strip()]


def judge(objectives: Iterable[Objective], run: Figures, added: "Added | None" = None) -> Sequence[Judged]:
    """Hold a run against its objectives; `added` is what a comparison with the direct path gave."""
    return [_judge(objective, _measured(objective.name, run, added)) for objective in objectives]


class Added(msgspec.Struct, frozen=True):
    """What the gateway adds over the direct path: to a first token, and to each event on its way."""

    first_token: Spread
    event: Spread


def _objective(part: str) -> Objective:
    name, _, given = part.partition("=")
    name = name.strip()
    found = _LIMIT.fullmatch(given.strip())
    if found is None or not _is_known(name):
        times = "|".join(TIMES)
        raise ObjectiveError(
            f"{part!r}: expected ({times})_({'|'.join(STATISTICS)})=100ms, ({'|'.join(SHARES)})=1%, or "
            f"({'|'.join(COUNTS)})=0"
        )
    number, unit = float(found[1]), found[2] or ""
    if name in SHARES and unit == "%" and number <= _WHOLE_PERCENT:
        return Objective(name, number, "%")
    if name in COUNTS and not unit:
        return Objective(name, number, "")
    if unit in _MS and name not in SHARES and name not in COUNTS:
        return Objective(name, number * _MS[unit], "ms")
    wanted = "a share such as 1%" if name in SHARES else "a number" if name in COUNTS else "a time such as 100ms"
    raise ObjectiveError(f"{part!r}: {name} takes {wanted}")


def _is_known(name: str) -> bool:
    quantity, _, statistic = name.rpartition("_")
    return name in SHARES or name in COUNTS or (quantity in TIMES and statistic in STATISTICS)


def _judge(objective: Objective, measured: float | None) -> Judged:
    if measured is None:
        return Judged(objective, None, is_met=False)
    is_met = measured >= objective.limit if objective.name == _AT_LEAST else measured <= objective.limit
    return Judged(objective, measured, is_met)


def _measured(name: str, run: Figures, added: Added | None) -> float | None:
    if name in SHARES or name in COUNTS:
        value: float | None = getattr(run, name)
        return value
    quantity, _, statistic = name.rpartition("_")
    spread: Spread | None = getattr(run, quantity, None)
    if quantity.startswith("added_"):
        spread = None if added is None else getattr(added, quantity.removeprefix("added_"))
    return None if spread is None else spread.statistic(statistic)

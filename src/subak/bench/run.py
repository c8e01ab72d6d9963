"""Whole benchmarks: one target, or the gateway against the direct path; from a plan to a report."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import msgspec

from subak.bench.advice import advise
from subak.bench.embedded import NotStarted, paths
from subak.bench.figures import Figures
from subak.bench.load import Load, Plan
from subak.bench.machine import Machine, busy_share, look_at_machine, read_cpu_times
from subak.bench.objectives import Added, Judged, Objective, judge
from subak.bench.reading import Wanted
from subak.bench.tally import Tally
from subak.bench.target import Fields, Target

TARGET: Final = "target"
DIRECT: Final = "direct"
GATEWAY: Final = "gateway"
DIRECT_AGAIN: Final = "direct again"
PROBE: Final = "the question before"
MAX_DERIVED_RATE: Final = 1_000.0
"""Questions a second that follow from the length of an answer, at most: more have to be asked for by their rate."""
_ROOM: Final = 1.5
"""Places of an open load, for each answer meant to be open: with fewer, none would be free at the least delay."""


class Comparison(msgspec.Struct, frozen=True):
    """The gateway against the direct path, and the direct path against itself: what the second doesn't know is noise.

    Differences of quantiles, in milliseconds. `event`: a token's way from the upstream's write to our read.
    """

    added: Added
    noise: Added


class Circumstances(msgspec.Struct, frozen=True):
    """When and where. `busy`: share of all CPUs' time that was used meanwhile, by whomever, 0 to 1."""

    started_at: datetime
    machine: Machine
    busy: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a benchmark says. Of the headers that were sent only the names."""

    circumstances: Circumstances
    plan: Plan
    headers: Sequence[str]
    runs: Sequence[Figures]
    objectives: Sequence[Judged]
    advice: Sequence[str]
    comparison: Comparison | None = None
    is_ended_early: bool = False

    @property
    def main(self) -> Figures:
        """The run that the objectives are about."""
        return next((run for run in self.runs if run.name == GATEWAY), self.runs[0])

    @property
    def is_good(self) -> bool:
        """Whether every objective was met, and something was measured."""
        return self.main.whole > 0 and all(judged.is_met for judged in self.objectives)


class Progress(msgspec.Struct, frozen=True):
    """How far a run is. `share` from 0 to 1, None where nobody knows."""

    name: str
    share: float | None
    asked: int
    open: int
    failed: int


class Benchmark:
    """One benchmark, run once."""

    def __init__(self, plan: Plan, questions: Sequence[Fields], objectives: Sequence[Objective]) -> None:
        self._plan = plan
        self._questions = questions
        self._objectives = objectives
        self._load: Load | None = None
        self._is_ended = False

    def end(self) -> None:
        """Ask no more, stop what is open, and report what there is."""
        self._is_ended = True
        if self._load is not None:
            self._load.end()

    async def of_target(self, target: Target, on_progress: Callable[[Progress], None]) -> Report:
        """Measure one target."""
        began = _Began()
        plan, probed = await self._settled(target, on_progress)
        tally = probed if plan is None else await self._drive(TARGET, target, plan, on_progress)
        run = Figures.of(PROBE if plan is None else TARGET, target.url, tally)
        return Report(
            circumstances=began.over(),
            plan=plan or self._plan,
            headers=sorted(target.headers),
            runs=[run],
            objectives=judge(self._objectives, run),
            advice=[*advise(tally)],
            is_ended_early=self._is_ended,
        )

    async def of_gateway(
        self, environment: Mapping[str, str], tokens: int, pace_ms: float, on_progress: Callable[[Progress], None]
    ) -> Report:
        """Measure what a gateway adds: direct, through it, and direct again, before the same upstream.

        Raises:
            NotStarted: the gateway or its upstream didn't come up, or gives no answer.
        """
        async with paths(environment, tokens, pace_ms) as (direct_url, gateway_url):
            began = _Began()
            direct, gateway = Target.of(direct_url, method="get"), Target.of(gateway_url)
            settled, _ = await self._settled(gateway, on_progress)
            if settled is None:
                raise NotStarted("the gateway gives no answer: the settings of this environment are its own")
            wanted = Wanted(self._plan.wanted.max_tokens, is_stamped=True)
            plan = msgspec.structs.replace(settled, wanted=wanted)
            order = ((DIRECT, direct), (GATEWAY, gateway), (DIRECT_AGAIN, direct))
            tallies = [(name, to, await self._drive(name, to, plan, on_progress)) for name, to in order]
            circumstances = began.over()
        runs = [Figures.of(name, to.url, tally) for name, to, tally in tallies]
        first, through, again = runs
        comparison = Comparison(_added(through, first), _added(again, first))
        told = [sentence for _, _, tally in tallies for sentence in advise(tally)]
        return Report(
            circumstances=circumstances,
            plan=plan,
            headers=[],
            runs=runs,
            objectives=judge(self._objectives, through, comparison.added),
            advice=[*dict.fromkeys(told)],
            comparison=comparison,
            is_ended_early=self._is_ended,
        )

    async def _settled(self, target: Target, on_progress: Callable[[Progress], None]) -> tuple[Plan | None, Tally]:
        """Give the plan with its rate. Where none was given, one question tells how long an answer takes.

        The plan is None when that question got no answer.
        """
        if self._plan.is_settled:
            return self._plan, Tally()
        one = Plan(is_closed=True, questions=1, wanted=self._plan.wanted)
        tally = await self._drive(PROBE, target, one, on_progress)
        mean_us = tally.duration.mean
        return (None if mean_us is None else _with_rate(self._plan, max(1.0, mean_us) / 1e6)), tally

    async def _drive(self, name: str, target: Target, plan: Plan, on_progress: Callable[[Progress], None]) -> Tally:
        tally = Tally()
        self._load = Load(target, self._questions, plan, tally)
        if self._is_ended:
            self._load.end()
        await self._load.run(lambda: on_progress(_progress(name, plan, tally)))
        return tally


class _Began:
    """What was so before a benchmark."""

    def __init__(self) -> None:
        self._at = datetime.now(UTC)
        self._machine = look_at_machine()
        self._cpu = read_cpu_times()

    def over(self) -> Circumstances:
        """It is over."""
        return Circumstances(self._at, self._machine, busy_share(self._cpu, read_cpu_times()))


def _with_rate(plan: Plan, answer_s: float) -> Plan:
    """Give the plan with a rate at which `plan.streams` answers of this length are open on average (Little's law)."""
    if plan.is_settled:
        return plan
    rate = min(plan.streams / answer_s, MAX_DERIVED_RATE)
    return msgspec.structs.replace(plan, rate=rate, streams=math.ceil(plan.streams * _ROOM))


def _added(one: Figures, other: Figures) -> Added:
    return Added(one.first_token.minus(other.first_token), one.transit.minus(other.transit))


def _progress(name: str, plan: Plan, tally: Tally) -> Progress:
    expected = plan.expected
    shares = [] if not expected else [(tally.asked - tally.crowd.now) / expected]
    if plan.duration_s:
        shares.append((monotonic() - tally.started_at) / plan.duration_s)
    share = min(1.0, max(shares)) if shares else None
    return Progress(name, share, tally.asked, tally.crowd.now, tally.failed)

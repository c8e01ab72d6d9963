"""A report in words and cells, for the terminal and for the page alike."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from subak.bench.figures import STATISTICS, Figures, Spread
from subak.bench.load import Plan
from subak.bench.objectives import Judged
from subak.bench.run import Comparison, Report

NOTHING: Final = "–"
SPREAD_HEAD: Final = ("ms", *STATISTICS, "count")
_BUSY: Final = 0.9
_OTHERS: Final = 0.5
_LATE_MS: Final = 5.0


class Table(NamedTuple):
    """A table: its heads and its rows; the first cell of each is a name."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def shown(value: float | None) -> str:
    """Give a figure with as many digits as it deserves."""
    if value is None:
        return NOTHING
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"  # noqa: PLR2004 - three digits or so


def times(run: Figures) -> Table:
    """First token, inter-token, duration."""
    named = (("first token", run.first_token), ("inter-token", run.inter_token), ("whole answer", run.duration))
    return Table(SPREAD_HEAD, [_row(name, spread) for name, spread in named])


def comparison_table(comparison: Comparison) -> Table:
    """What the gateway adds, and what the direct path adds to itself."""
    added, noise = comparison.added, comparison.noise
    rows = [
        _row("gateway adds to a first token", added.first_token),
        _row("gateway adds to an event", added.event),
        _row("direct against direct, first token", noise.first_token),
        _row("direct against direct, event", noise.event),
    ]
    return Table(SPREAD_HEAD, rows)


def counts(runs: Sequence[Figures]) -> Table:
    """What was asked and what came of it, a column a run."""
    columns = [_counts(run) for run in runs]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return Table(("", *(run.name for run in runs)), rows)


def _counts(run: Figures) -> dict[str, str]:
    return {
        "questions": f"{run.asked} in {run.took_s:.1f} s",
        "whole answers": f"{run.whole}, {run.stopped} of them stopped by us" if run.stopped else f"{run.whole}",
        "connection success": _share(run.connection_success),
        "errors": _share(run.error_rate),
        "open at the same time": _open_words(run),
        "waited for a place": f"{run.waited}",
        "tokens": f"{run.tokens}, {run.tokens_per_s:g} a second",
        "lost, duplicated, reordered": f"{run.lost}, {run.duplicated}, {run.reordered}",
    }


def _open_words(run: Figures) -> str:
    most = f"{run.max_open} at most"
    return most if run.mean_open is None else f"{run.mean_open:g} on average, {most}"


def errors(run: Figures) -> Table:
    """How often what went wrong."""
    return Table(("error", "count"), [(kind, str(count)) for kind, count in run.errors.items()])


def objectives(judged: Sequence[Judged]) -> Table:
    """Each objective, what was measured, and whether it was met."""
    rows = [(str(each.objective), _measured(each), "met" if each.is_met else "MISSED") for each in judged]
    return Table(("objective", "measured", ""), rows)


def notes(report: Report) -> Iterator[str]:
    """Give what a reader of the figures should know."""
    run, where = report.main, report.circumstances
    machine = where.machine
    parts = ", ".join(f"{name} {version or 'missing'}" for name, version in machine.versions.items())
    yield f"{where.started_at:%Y-%m-%d %H:%M} UTC on {machine.cpus} × {machine.model}, {machine.system}; {parts}."
    yield _plan_words(report.plan)
    yield _load_words(report)
    own = run.own
    if own.cpu_us_per_event is not None:
        late = "" if own.lateness.p99 is None else f"; its timers were {shown(own.lateness.p99)} ms late at p99"
        yield (
            f"The benchmark itself took {own.cpu_us_per_event:g} µs CPU an event, "
            f"{100 * (own.cpu_share or 0):.0f} % of one core{late}."
        )
    if run.joined:
        share = 100 * run.joined / max(1, run.inter_token.count)
        yield f"{share:.1f} % of the tokens came in one read with the one before: their gap counts as 0."
    yield from _warnings(report)


def _load_words(report: Report) -> str:
    busy, load = report.circumstances.busy, report.circumstances.machine.load_before
    before = "" if load is None else f" Load average before: {load:g}."
    if busy is None:
        return f"How busy the machine was isn't known.{before}"
    return f"All CPUs of this machine were {100 * busy:.0f} % busy meanwhile, by whomever.{before}"


def _warnings(report: Report) -> Iterator[str]:
    own, machine = report.main.own, report.circumstances.machine
    if (own.cpu_share or 0) > _BUSY:
        yield "WARNING: the benchmark had no CPU left: the latencies are its own. Ask less, or from several machines."
    elif (own.lateness.p99 or 0) > _LATE_MS:
        yield "WARNING: the benchmark's own timers were late: the machine has no CPU left for it."
    if (machine.load_before or 0) > _OTHERS * machine.cpus:
        yield "WARNING: something else was running before: figures of a busy machine are not to be published."
    if report.is_ended_early:
        yield "It was ended early: the figures are of what there was by then."


def _measured(judged: Judged) -> str:
    if judged.measured is None:
        return "nothing"
    unit = judged.objective.unit
    return f"{shown(judged.measured)} {unit}" if unit else f"{judged.measured:g}"


def _plan_words(plan: Plan) -> str:
    """Say how was asked."""
    until = [
        "" if plan.questions is None else "1 question" if plan.questions == 1 else f"{plan.questions} questions",
        f"{plan.duration_s:g} s" if plan.duration_s else "",
    ]
    lasted = " or ".join(part for part in until if part)
    if not plan.is_settled:
        return "There was no load: the question before it, which tells how long an answer takes, got no answer."
    if plan.rate is None:
        return f"Closed load: {plan.streams} at the same time, each asks again when its answer has ended; {lasted}."
    room = f"room for {plan.streams} at the same time"
    return f"Open load: {plan.rate:.4g} questions a second, each at its time; {lasted}; {room}."


def _row(name: str, spread: Spread) -> Sequence[str]:
    return (name, *(shown(spread.statistic(each)) for each in STATISTICS), str(spread.count))


def _share(percent: float | None) -> str:
    return NOTHING if percent is None else f"{percent:.2f} %"

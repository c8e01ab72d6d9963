"""The page of a rehearsal, docs/rehearsal.md, and its charts. Written by a run that passed, not by hand."""

import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

from subak.bench.chart import HEIGHT, WIDTH, Axis, Mark, Series, line_chart
from subak.bench.machine import CpuTimes, busy_share, read_cpu_times
from tests.rehearsal.arms import Arms, Stretch
from tests.rehearsal.course import (
    ALERT,
    HOLD,
    LENIENCE,
    MIN_REQUESTS,
    Course,
    Done,
    Injected,
    time_bounds,
)
from tests.rehearsal.load import CALLERS, PERIOD_S, TESTER_PERIOD_S, TESTERS, Asked, ChatTimes, Load
from tests.rehearsal.watching import FIRING, Alerts

PAGE: Final = "rehearsal.md"
IMAGES: Final = "images"
NOTHING: Final = "–"
_BUCKET_S: Final = 5
_CHAT_BUCKET_S: Final = 10
_LABELS: Final = 6
_MINUTE_S: Final = 60
_SHARED: Final = 0.5
"""A load average of more than this for each core, before anything began, and others used the machine, too."""
_HEAD: Final = 26
_FOOT: Final = 26
_LEGEND_X: Final = 56
_IS_DRAWN: Final = 'class="limit"'
"""In a chart that has a limit; one that lies outside isn't drawn."""
_CHAR_PX: Final = 6.6
_SAMPLE_PX: Final = 34
_STYLE: Final = """
svg { --ink: #1d2420; --paper: #fdfdfb; --faint: #d9ded9; --dim: #5c665f; --bad: #b3261e;
  --c0: #0b6e4f; --c1: #b3541e; --c2: #44569c; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6ebe7; --paper: #141816; --faint: #363e39; --dim: #9aa69e;
  --bad: #ff8a80; --c0: #4fc79a; --c1: #f0a06a; --c2: #9db0ff; } }
text { font: 11px system-ui, sans-serif; fill: var(--dim); } text.title { font-size: 13px; fill: var(--ink); }
rect { fill: var(--paper); } line.grid { stroke: var(--faint); }
polyline, line.sample { fill: none; stroke-width: 2; stroke-linejoin: round; }
line.limit { stroke: var(--bad); stroke-dasharray: 5 4; } line.moment { stroke: var(--dim); stroke-dasharray: 2 3; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
circle { stroke: none; } circle.s0 { fill: var(--c0); } circle.s1 { fill: var(--c1); } circle.s2 { fill: var(--c2); }
"""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """When and on what. `busy`: share of all CPUs' time that was used meanwhile, by whomever, 0 to 1."""

    at: datetime
    cores: int
    memory_gib: float
    kernel: str
    python: str
    load_before: float
    cpu_before: CpuTimes | None = None
    busy: float | None = None

    @classmethod
    def begin(cls) -> "Circumstances":
        """Look at the machine before anything is started."""
        return cls(
            at=datetime.now(UTC),
            cores=os.cpu_count() or 1,
            memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
            kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            load_before=os.getloadavg()[0],
            cpu_before=read_cpu_times(),
        )

    @property
    def is_shared(self) -> bool:
        """Whether somebody else used the machine."""
        return self.load_before > _SHARED * self.cores


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A rehearsal that passed. Times in seconds since the load began; `took_s` is the whole of it."""

    circumstances: Circumstances
    busy: float | None
    took_s: float
    phases: Sequence[Done]
    asked: Sequence[Asked]
    chat_times: Sequence[ChatTimes]
    compared: int
    alerts: Mapping[tuple[str, str], float]
    injected: Injected
    percentages: Sequence[tuple[float, float]] = ()
    is_lenient: bool = False

    @classmethod
    def of(cls, circumstances: Circumstances, course: Course, load: Load, alerts: Alerts) -> "Rehearsed":
        """Gather it when it is over."""
        assert course.injected is not None
        return cls(
            circumstances=circumstances,
            busy=busy_share(circumstances.cpu_before, read_cpu_times()),
            took_s=(datetime.now(UTC) - circumstances.at).total_seconds(),
            phases=course.done,
            asked=load.asked,
            chat_times=load.chat_times,
            compared=load.compared.count,
            alerts=alerts.first_seen,
            injected=course.injected,
            percentages=course.percentages,
            is_lenient=course.is_lenient,
        )


def write(rehearsed: Rehearsed, folder: Path) -> None:
    """Write the page and its charts."""
    images = folder / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    for name, svg in charts_of(rehearsed).items():
        (images / f"{name}.svg").write_text(svg, encoding="utf-8")
    (folder / PAGE).write_text(page_of(rehearsed), encoding="utf-8")


def page_of(rehearsed: Rehearsed) -> str:
    """Spell the page."""
    return "\n".join([*_lines(rehearsed), ""])


def _lines(rehearsed: Rehearsed) -> Iterator[str]:
    yield "# Rehearsal: the whole deployment on one machine\n"
    yield "Written by a run that passed, not by hand; it begins with nothing and takes some minutes on two cores:\n"
    yield "    ./dev.py rehearse\n"
    yield f"{_about(rehearsed)}\n"
    yield "## What runs\n"
    yield from _setting()
    yield _shorter(is_lenient=rehearsed.is_lenient)
    yield "\n## Phases\n"
    yield "Times in minutes and seconds since the load began. First token in ms, as callers see it, p50 / p95.\n"
    yield "| from | phase | what was done | questions | callers let in | first token | broken streams | compared |"
    yield "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    yield from (_row(phase, rehearsed.asked) for phase in rehearsed.phases)
    yield "\nWhat was seen there besides:\n"
    yield from (f"- {phase.name}: {'; '.join(phase.facts)}." for phase in rehearsed.phases if phase.facts)
    yield "\n## The bad release\n"
    yield from _story(rehearsed)
    yield "\n## Held against the criteria\n"
    yield from _criteria(rehearsed)
    yield "\n## Charts\n"
    yield from (f"![{title}]({IMAGES}/{name}.svg)\n" for name, title in _TITLES.items())


def _about(rehearsed: Rehearsed) -> str:
    where = rehearsed.circumstances
    shared = (
        f" Others used the machine, too: its load average was {where.load_before:.1f} before anything began."
        if where.is_shared
        else ""
    )
    busy = "" if rehearsed.busy is None else f" All cores were {100 * rehearsed.busy:.0f} % busy meanwhile."
    return (
        f"{where.at:%Y-%m-%d}, {where.cores} cores, {where.memory_gib:.0f} GiB, {where.kernel}, {where.python}: "
        f"**passed in {rehearsed.took_s / _MINUTE_S:.1f} minutes**. {len(rehearsed.asked):,} questions, all answered; "
        f"{rehearsed.compared:,} answers of `/chat` compared with the backend's own (status, headers, body), "
        f"0 differences.{busy}{shared}"
    )


def _setting() -> Iterator[str]:
    yield "- a RAG backend: the embedded one by HTTP, which takes 30 ms before it answers, with a fault to switch on"
    yield "- `subak serve` before it, with limits, tokens and audit trail; nothing of it is set otherwise than it comes"
    yield "- nginx by [subak.conf](../deploy/nginx/subak.conf), where callers ask"
    yield "- Prometheus with [alerts.yml](../deploy/prometheus/alerts.yml) as it stands, scraping four times a second"
    yield (
        f"- {CALLERS} callers with a token each, who ask every {PERIOD_S:g} s, and {TESTERS} testers, every "
        f"{TESTER_PERIOD_S:g} s: first for a stream, and by `/chat` where they get none"
    )
    yield (
        "- `/chat` asked on three ways twice a second as well: the backend itself, the gateway, the whole way; bad "
        "requests among them"
    )


def _shorter(*, is_lenient: bool) -> str:
    bounds = (
        f"others use this machine, so bounds of time are {LENIENCE:g} times as wide"
        if is_lenient
        else "a `/chat` of 40 ms is soon half as long again"
    )
    return (
        f"\nShorter than in earnest: `--hold {HOLD}` for 24 h and `--min-requests {MIN_REQUESTS}` for 200. "
        f"`{' '.join(time_bounds(is_lenient=is_lenient))}`: {bounds}. All other bounds are the ones of "
        "[flags.md](flags.md#gradual-rollout). While the gateway restarts callers hold their questions: one process "
        "has a gap."
    )


def _row(phase: Done, asked: Sequence[Asked]) -> str:
    ours = phase.stretch.of(asked)
    first = [each.first_token_ms for each in ours if each.first_token_ms is not None]
    first_token = f"{percentile(first, 0.5):.0f} / {percentile(first, 0.95):.0f}" if first else NOTHING
    broken = sum(each.is_let_in and not each.is_whole for each in ours)
    share = f"{Arms.of(phase.stretch.wholly(asked)).share:.1f} %" if ours else NOTHING
    cells = (
        _clock(phase.stretch.from_s),
        phase.name,
        phase.did,
        f"{len(ours):,}",
        share,
        first_token,
        f"{broken:,}",
        f"{phase.compared:,}",
    )
    return f"| {' | '.join(cells)} |"


def _story(rehearsed: Rehearsed) -> Iterator[str]:
    bad = rehearsed.injected
    began_s = bad.at_s
    broken = sum(each.is_let_in and not each.is_whole for each in rehearsed.asked)
    yield f"Times since the release, at {_clock(began_s)}, of which every stream breaks, by a 500 or in mid-sentence.\n"
    yield "| after | what |"
    yield "| ---: | --- |"
    moments = [
        (bad.rolled_back_s, f"the rollout goes back by itself, *{bad.why}*; then to {_went(bad.went)}"),
        (bad.mended_s, "the release is taken back"),
        (bad.healed_s, "streams are whole again: until then the gateway left the upstream alone"),
        *(
            (at_s, f"`{name}` is {state}")
            for (name, state), at_s in rehearsed.alerts.items()
            if name == ALERT and at_s >= began_s
        ),
    ]
    yield from (f"| {at_s - began_s:.1f} s | {what} |" for at_s, what in sorted(moments))
    yield (
        f"\n{broken:,} streams broke; each of their callers had the answer by `/chat` instead. `subak rollout resume` "
        f"began anew at {bad.resumed_from:g} %, with the same callers in at each step as before. "
        f"Alerts that fired in all: {_names(rehearsed.alerts)}."
    )


def _went(percentages: Sequence[float]) -> str:
    return ", ".join(f"{each:g} %" for each in percentages[1:]) or "no other step"


def _names(alerts: Mapping[tuple[str, str], float]) -> str:
    return ", ".join(f"`{name}`" for name, state in sorted(alerts) if state == FIRING)


def _criteria(rehearsed: Rehearsed) -> Iterator[str]:
    seen = next(phase.figures for phase in rehearsed.phases if phase.name.startswith("watched"))
    assert seen is not None
    own, gateway, proxy = (percentile([times[column] for times in rehearsed.chat_times], 0.5) for column in (1, 2, 3))
    yield "[Success](checklist.md#success), by Prometheus, in the phase that watches at 100 %:\n"
    yield "| criterion | figure | seen |"
    yield "| --- | --- | ---: |"
    yield f"| first token, mean | < 100 ms | {_shown(seen.first_token_mean_ms, 'ms')} |"
    yield f"| first token, p95 | < 150 ms, or an alert | {_shown(seen.first_token_p95_ms, 'ms')} |"
    yield f"| inter-token, mean | < 50 ms | {_shown(seen.inter_token_mean_ms, 'ms')} |"
    yield f"| error rate | < 1 % | {_shown(seen.error_rate, '%')} |"
    yield f"| connection success | > 95 % | {_shown(seen.connection_success, '%')} |"
    yield (
        f"| existing endpoints | not slower | `/chat`, median of the whole run: backend {own:.1f} ms, by the gateway "
        f"{gateway:.1f} ms, by nginx and the gateway {proxy:.1f} ms |"
    )
    yield "| audit | every operation | `subak audit verify`: whole; every stream with start and end |"
    yield "| abuse | limited | `subak smoke --limit`: 429, and recorded |"


def _shown(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{value:.1f} {unit}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    return f"{minutes}:{rest:02d}"


def percentile(values: Sequence[float], share: float) -> float:
    """Give the least value that is not below so many of them, by nearest rank; NaN of nothing."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else math.nan


_TITLES: Final[Mapping[str, str]] = {
    "rehearsal-arms": "The flag's percentage, and the share of the callers who were let in",
    "rehearsal-first-token": "First token as callers see it, ms",
    "rehearsal-questions": "Questions a second, by the way of their answer",
    "rehearsal-chat": "/chat: median time, ms",
}


def charts_of(rehearsed: Rehearsed) -> dict[str, str]:
    """Draw them: each a file of its own, for light and dark."""
    lines = {
        "rehearsal-arms": ("%", _BUCKET_S, _arms_lines(rehearsed), ()),
        "rehearsal-first-token": ("ms", _BUCKET_S, _first_token_lines(rehearsed), (Mark("target 100 ms", 100.0),)),
        "rehearsal-questions": ("", _BUCKET_S, _question_lines(rehearsed), ()),
        "rehearsal-chat": ("ms", _CHAT_BUCKET_S, _chat_lines(rehearsed), ()),
    }
    return {
        name: _file(_TITLES[name], _axis(rehearsed, bucket_s, unit), drawn, marks)
        for name, (unit, bucket_s, drawn, marks) in lines.items()
    }


def _end_s(rehearsed: Rehearsed) -> float:
    return max(phase.stretch.to_s for phase in rehearsed.phases)


def _buckets(rehearsed: Rehearsed, width_s: int) -> Sequence[Stretch]:
    """Give whole stretches only: the rest at the end would look like a fall."""
    return [Stretch(at_s, at_s + width_s) for at_s in range(0, int(_end_s(rehearsed)) - width_s + 1, width_s)]


def _axis(rehearsed: Rehearsed, bucket_s: int, unit: str) -> Axis:
    end_s, bad = _end_s(rehearsed), rehearsed.injected
    minutes = range(int(end_s // _MINUTE_S) + 1)
    middle = [min(1.0, (bucket.from_s + bucket_s / 2) / end_s) for bucket in _buckets(rehearsed, bucket_s)]
    moments = [(bad.at_s / end_s, "bad release"), (bad.healed_s / end_s, "well again")]
    return Axis(middle, [(minute * _MINUTE_S / end_s, f"{minute} min") for minute in minutes], unit, moments)


def _arms_lines(rehearsed: Rehearsed) -> Sequence[Series]:
    buckets = _buckets(rehearsed, _BUCKET_S)
    by_bucket = [bucket.of(rehearsed.asked) for bucket in buckets]
    let_in = [Arms.of(several).share if several else None for several in by_bucket]
    wanted = [_percentage_at(rehearsed.percentages, bucket.from_s + _BUCKET_S / 2) for bucket in buckets]
    return [Series("callers let in", let_in), Series("percentage of the flag", wanted)]


def _percentage_at(percentages: Iterable[tuple[float, float]], at_s: float) -> float:
    return next((value for from_s, value in reversed([*percentages]) if from_s <= at_s), 0.0)


def _first_token_lines(rehearsed: Rehearsed) -> Sequence[Series]:
    by_bucket = [
        [each.first_token_ms for each in bucket.of(rehearsed.asked) if each.first_token_ms is not None]
        for bucket in _buckets(rehearsed, _BUCKET_S)
    ]
    return [
        Series(name, [percentile(values, share) if values else None for values in by_bucket])
        for name, share in (("p50", 0.5), ("p95", 0.95))
    ]


def _question_lines(rehearsed: Rehearsed) -> Sequence[Series]:
    by_bucket = [bucket.of(rehearsed.asked) for bucket in _buckets(rehearsed, _BUCKET_S)]

    def rate(is_such: Callable[[Asked], bool]) -> Sequence[float]:
        return [sum(map(is_such, several)) / _BUCKET_S for several in by_bucket]

    return [
        Series("streamed", rate(lambda each: each.is_whole)),
        Series("stream broke, answered by /chat", rate(lambda each: each.is_let_in and not each.is_whole)),
        Series("not let in, answered by /chat", rate(lambda each: not each.is_let_in)),
    ]


def _chat_lines(rehearsed: Rehearsed) -> Sequence[Series]:
    by_bucket = [
        [times for times in rehearsed.chat_times if bucket.from_s <= times.at_s < bucket.to_s]
        for bucket in _buckets(rehearsed, _CHAT_BUCKET_S)
    ]
    return [
        Series(
            name, [percentile([times[column] for times in several], 0.5) if several else None for several in by_bucket]
        )
        for column, name in ((1, "the backend itself"), (2, "by the gateway"), (3, "by nginx and the gateway"))
    ]


def _file(title: str, axis: Axis, lines: Sequence[Series], marks: Sequence[Mark]) -> str:
    """Give a chart as a file: what stands around it in a page, it brings with it."""
    figure = line_chart(title, axis, lines, marks)
    inner = figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]
    placed = inner.replace("<svg ", f'<svg x="0" y="{_HEAD}" width="{WIDTH}" height="{HEIGHT}" ', 1)
    height = HEIGHT + _HEAD + _FOOT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        f'<style>{_STYLE}</style>\n<rect width="{WIDTH}" height="{height}"/>\n'
        f'<text class="title" x="{_LEGEND_X}" y="18">{escape(title)}</text>\n{placed}\n'
        f"{''.join(_legend(lines, [mark for mark in marks if _IS_DRAWN in inner], height - 12))}\n</svg>\n"
    )


def _legend(lines: Sequence[Series], marks: Sequence[Mark], y: int) -> Iterator[str]:
    x = float(_LEGEND_X)
    named = [
        *((f"s{number} sample", line.name) for number, line in enumerate(lines)),
        *(("limit", m.name) for m in marks),
    ]
    for kind, name in named:
        yield f'<line class="{kind}" x1="{x:g}" x2="{x + 16:g}" y1="{y - 4}" y2="{y - 4}"/>'
        yield f'<text x="{x + 22:g}" y="{y}">{escape(name)}</text>'
        x += len(name) * _CHAR_PX + _SAMPLE_PX

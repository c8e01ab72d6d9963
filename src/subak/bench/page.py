"""A report as one HTML file: no script, nothing from elsewhere, readable in the dark, on paper and on a telephone."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from subak.bench import words
from subak.bench.chart import Axis, Mark, Series, line_chart
from subak.bench.figures import CURVE, Figures
from subak.bench.objectives import Judged
from subak.bench.run import Report

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2420; --paper: #fdfdfb; --faint: #d9ded9; --dim: #5c665f;
  --c0: #0b6e4f; --c1: #b3541e; --c2: #44569c; --bad: #b3261e; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebe7; --paper: #141816; --faint: #363e39; --dim: #9aa69e;
  --c0: #4fc79a; --c1: #f0a06a; --c2: #9db0ff; --bad: #ff8a80; --good: #6fd394; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--faint); text-align: right; }
th:first-child, td:first-child { text-align: left; } td:first-child { font-weight: 500; }
thead th { color: var(--dim); font-weight: 500; }
.met { color: var(--good); } .missed, .warning { color: var(--bad); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  margin-top: 1rem; }
figure { margin: 0; } figcaption { font-weight: 500; } svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; } line.grid { stroke: var(--faint); }
line.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
polyline.s0 { stroke: var(--c0); } polyline.s1 { stroke: var(--c1); } polyline.s2 { stroke: var(--c2); }
circle.s0 { fill: var(--c0); } circle.s1 { fill: var(--c1); } circle.s2 { fill: var(--c2); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .25rem 0; padding: 0;
  color: var(--dim); font-size: .875rem; }
.legend li::before { content: ""; display: inline-block; width: 1rem; margin-right: .4rem; vertical-align: middle;
  border-top: 2px solid; }
.legend .s0::before { color: var(--c0); } .legend .s1::before { color: var(--c1); }
.legend .s2::before { color: var(--c2); } .legend .limit::before { color: var(--bad); border-top-style: dashed; }
"""
_LABELLED: Final = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999)
_TIME_LABELS: Final = 6


def page(report: Report) -> str:
    """Give the whole file."""
    title = f"subak bench: {report.main.url}"
    body = "\n".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n"
        "</html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    run = report.main
    yield "<h1>subak bench</h1>"
    yield f"<p>{escape(run.url)}</p>"
    if report.objectives:
        yield "<h2>Objectives</h2>" + _objectives(report.objectives)
    yield "<h2>Latency</h2>" + _table(words.times(run))
    if report.comparison is not None:
        yield "<h2>What the gateway adds</h2>" + _table(words.comparison_table(report.comparison))
        yield "<p>Differences of quantiles. What the direct path adds to itself is the noise of this measurement.</p>"
    yield f'<div class="charts">{"".join(_charts(report))}</div>'
    yield "<h2>Questions and answers</h2>"
    yield _table(words.counts(report.runs))
    if run.errors:
        yield "<h2>Errors</h2>" + _table(words.errors(run))
    if report.advice:
        yield f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in report.advice)}</ul>"
    yield "<h2>How it was measured</h2>"
    yield from (_note(sentence) for sentence in words.notes(report))


def _note(sentence: str) -> str:
    kind = ' class="warning"' if sentence.startswith("WARNING") else ""
    return f"<p{kind}>{escape(sentence)}</p>"


def _charts(report: Report) -> Iterator[str]:
    runs, limits = report.runs, report.objectives
    places = _quantile_axis()
    first = [Series(_name(run, runs), run.first_token.curve) for run in runs if run.first_token.curve]
    inter = [Series(_name(run, runs), run.inter_token.curve) for run in runs if run.inter_token.curve]
    yield line_chart("First token: ms, by share of the questions", places, first, _marks(limits, "first_token"))
    yield line_chart("Inter-token: ms, by share of the gaps", places, inter, _marks(limits, "inter_token"))
    timeline = report.main.timeline
    seconds = _time_axis([point.at_s for point in timeline])
    over_time = [
        Series("p50", [point.first_token_p50 for point in timeline]),
        Series("p95", [point.first_token_p95 for point in timeline]),
        Series("max", [point.first_token_max for point in timeline]),
    ]
    yield line_chart("First token over time: ms, by second", seconds, over_time, _marks(limits, "first_token"))
    counted = [
        Series("open", [point.open for point in timeline]),
        Series("errors", [point.errors for point in timeline]),
    ]
    yield line_chart("Open answers and errors over time", seconds._replace(unit=""), counted)


def _name(run: Figures, runs: Sequence[Figures]) -> str:
    return run.name if len(runs) > 1 else "this run"


def _quantile_axis() -> Axis:
    """Give places that make room for the tail: each nine as wide as the one before."""
    widest = -math.log10(1 - CURVE[-1])
    places = [-math.log10(1 - share) / widest for share in CURVE]
    labels = [(-math.log10(1 - share) / widest, f"{100 * share:g} %") for share in _LABELLED]
    return Axis(places, labels, "ms")


def _time_axis(seconds: Sequence[int]) -> Axis:
    last = max(seconds[-1], 1) if seconds else 1
    places = [second / last for second in seconds]
    step = max(1, -(-last // _TIME_LABELS))
    return Axis(places, [(second / last, f"{second} s") for second in range(0, last + 1, step)], "ms")


def _marks(judged: Sequence[Judged], quantity: str) -> Sequence[Mark]:
    named = {each.objective.limit: each for each in judged if each.objective.name.startswith(f"{quantity}_")}
    return [Mark(f"limit {limit:g} ms", limit) for limit in sorted(named)]


def _objectives(judged: Sequence[Judged]) -> str:
    table = words.objectives(judged)
    rows = "".join(
        f'<tr>{_cells(row[:2])}<td class="{"met" if each.is_met else "missed"}">{row[2]}</td></tr>'
        for each, row in zip(judged, table.rows, strict=True)
    )
    return _framed(table.head, rows)


def _table(table: words.Table) -> str:
    return _framed(table.head, "".join(f"<tr>{_cells(row)}</tr>" for row in table.rows))


def _framed(head: Sequence[str], rows: str) -> str:
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cells(row: Sequence[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in row)

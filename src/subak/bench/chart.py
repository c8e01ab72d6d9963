"""Line charts as SVG text, to stand in a page: no script, no font, colours by the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 640
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 34
_TICKS: Final = 5
_NEAR_THE_EDGE: Final = 0.97
_NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


class Series(NamedTuple):
    """One line: a value for each place on the axis, None where there is none."""

    name: str
    values: Sequence[float | None]


class Mark(NamedTuple):
    """A limit, drawn across."""

    name: str
    value: float


class Axis(NamedTuple):
    """The places of all lines: where each stands, from 0 to 1, and what is written below some of them.

    `moments`: places with a line down, and what is written at its top.
    """

    places: Sequence[float]
    labels: Sequence[tuple[float, str]]
    unit: str
    moments: Sequence[tuple[float, str]] = ()


def line_chart(title: str, axis: Axis, lines: Sequence[Series], marks: Sequence[Mark] = ()) -> str:
    """Give a chart with a legend. The n-th line has the class `s{n}`; limits outside of it aren't drawn."""
    known = [value for line in lines for value in line.values if value is not None]
    if not known:
        return f"<figure><figcaption>{escape(title)}</figcaption><p>Nothing was measured.</p></figure>"
    step, top = _scale(max(known))
    drawn = [mark for mark in marks if mark.value <= top]
    parts = [
        *(_grid(value, top, axis.unit) for value in _ticks(step, top)),
        *(_label(place, text) for place, text in axis.labels),
        *(_moment(number, place, text) for number, (place, text) in enumerate(axis.moments)),
        *(_mark(mark, top) for mark in drawn),
        *(_line(number, line, axis.places, top) for number, line in enumerate(lines)),
    ]
    legend = "".join(f'<li class="s{number}">{escape(line.name)}</li>' for number, line in enumerate(lines))
    limits = "".join(f'<li class="limit">{escape(mark.name)}</li>' for mark in drawn)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg><ul class="legend">{legend}{limits}</ul></figure>'
    )


def _scale(greatest: float) -> tuple[float, float]:
    """Give a round step and the top of an axis that holds this value."""
    if greatest <= 0:
        return 1.0, 1.0
    raw = greatest / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(nice * power for nice in _NICE if nice * power >= raw * (1 - 1e-9))
    return step, step * math.ceil(greatest / step - 1e-9)


def _ticks(step: float, top: float) -> Sequence[float]:
    return [number * step for number in range(round(top / step) + 1)]


def _x(place: float) -> float:
    return round(_LEFT + place * (WIDTH - _LEFT - _RIGHT), 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM), 1)


def _grid(value: float, top: float, unit: str) -> str:
    y = _y(value, top)
    text = f"{value:g}{f' {unit}' if unit and value == top else ''}"
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(text)}</text>'
    )


def _label(place: float, text: str) -> str:
    anchor = "end" if place > _NEAR_THE_EDGE else "middle"
    return f'<text x="{_x(place)}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="{anchor}">{escape(text)}</text>'


def _moment(number: int, place: float, text: str) -> str:
    """Draw one; each text stands a line below the one before, so that near ones can be read."""
    x = _x(place)
    return (
        f'<line class="moment" x1="{x}" x2="{x}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text x="{x + 4}" y="{_TOP + 12 + 13 * number}">{escape(text)}</text>'
    )


def _mark(mark: Mark, top: float) -> str:
    y = _y(mark.value, top)
    return f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'


def _line(number: int, line: Series, places: Sequence[float], top: float) -> str:
    """Draw what is known; a value that isn't breaks the line."""
    pieces: list[list[str]] = [[]]
    for place, value in zip(places, line.values, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{_x(place)},{_y(value, top)}")
    return "".join(_piece(number, points) for points in pieces if points)


def _piece(number: int, points: list[str]) -> str:
    if len(points) > 1:
        return f'<polyline class="s{number}" points="{" ".join(points)}"/>'
    x, _, y = points[0].partition(",")
    return f'<circle class="s{number}" cx="{x}" cy="{y}" r="2.5"/>'

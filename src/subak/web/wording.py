"""Figures as people read them. None is a dash: nothing was measured."""

from datetime import UTC, datetime
from typing import Final

from subak.web.markup import Markup, element

NOTHING: Final = "–"
_NARROW: Final = "\u202f"
"""A narrow space that isn't broken at."""
_EXACT_BELOW_MS: Final = 10.0
_MS_BELOW: Final = 10_000.0
_SIZES: Final = (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000))
_TIMES: Final = (("d", 86_400), ("h", 3_600), ("min", 60))


def number(value: float | None) -> str:
    """`12 345`."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", _NARROW)


def counted(count: int, what: str) -> str:
    """`1 reader`, `50 readers`."""
    return f"{number(count)} {what}" if count == 1 else f"{number(count)} {what}s"


def milliseconds(value: float | None) -> str:
    """`4.2 ms`, `62 ms`, `12.1 s`."""
    if value is None:
        return NOTHING
    if value >= _MS_BELOW:
        return f"{value / 1000:.1f}{_NARROW}s"
    return f"{value:.1f}{_NARROW}ms" if value < _EXACT_BELOW_MS else f"{number(value)}{_NARROW}ms"


def duration(seconds: float | None) -> str:
    """`8.1 s`, `12 min`, `3.5 h`: in the largest unit of which there are two."""
    if seconds is None:
        return NOTHING
    for unit, size_s in _TIMES:
        if seconds >= 2 * size_s:
            return f"{_short(seconds / size_s)}{_NARROW}{unit}"
    return f"{seconds:.1f}{_NARROW}s"


def size(count_bytes: float | None) -> str:
    """`1.2 MB`."""
    if count_bytes is None:
        return NOTHING
    for unit, size_bytes in _SIZES:
        if count_bytes >= size_bytes:
            return f"{count_bytes / size_bytes:.1f}{_NARROW}{unit}"
    return f"{count_bytes}{_NARROW}B"


def share(value: float | None) -> str:
    """`0.4 %` for 0.004."""
    return NOTHING if value is None else percent(value * 100)


def percent(value: float | None) -> str:
    """`0.4 %` for 0.4."""
    return NOTHING if value is None else f"{_short(value)}{_NARROW}%"


def moment(time: datetime | int) -> Markup:
    """A moment in UTC, given as such or in milliseconds since the epoch."""
    at = datetime.fromtimestamp(time / 1000, UTC) if isinstance(time, int) else time.astimezone(UTC)
    return element("time", f"{at:%Y-%m-%d %H:%M:%S}", datetime=at.isoformat(timespec="seconds"))


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

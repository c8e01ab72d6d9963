"""A run in figures: what a tally comes to, in milliseconds and percent, as it is printed, charted and written."""

from collections.abc import Sequence
from typing import Final

import msgspec

from subak.bench.tally import Second, Tally
from subak.core.histogram import Histogram

STATISTICS: Final = ("mean", "p50", "p95", "p99", "max")
CURVE: Final = (0.0, *(step / 100 for step in range(5, 96, 5)), 0.97, 0.98, 0.99, 0.995, 0.999)
"""The shares at which a distribution is charted."""
_QUANTILES: Final = (0.5, 0.95, 0.99)
_US_PER_MS: Final = 1_000
_MAX_POINTS: Final = 120


class Spread(msgspec.Struct, frozen=True):
    """How times are spread, in milliseconds; `count` of them. `curve` has a value for each share of `CURVE`."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    curve: tuple[float, ...] = ()

    @classmethod
    def of(cls, times: Histogram) -> "Spread":
        """Read a histogram of microseconds."""
        if times.mean is None:
            return cls(0)
        p50, p95, p99 = (_ms(value) for value in times.quantiles(_QUANTILES))
        curve = tuple(_ms(value) for value in times.quantiles(CURVE))
        return cls(times.count, round(times.mean / _US_PER_MS, 3), p50, p95, p99, _ms(times.maximum), curve)

    def statistic(self, name: str) -> float | None:
        """Give `mean`, `p50`, `p95`, `p99` or `max`."""
        value: float | None = getattr(self, name)
        return value

    def minus(self, other: "Spread") -> "Spread":
        """Give the difference of each figure: of quantiles, not of pairs."""
        mean, p50, p95, p99, most = (_difference(self.statistic(name), other.statistic(name)) for name in STATISTICS)
        return Spread(min(self.count, other.count), mean, p50, p95, p99, most)


class Point(msgspec.Struct, frozen=True):
    """A stretch of the run: from second `at_s` on. `first_token_*` of the questions whose time was in it."""

    at_s: int
    asked: int
    tokens: int
    errors: int
    open: int
    first_token_p50: float | None
    first_token_p95: float | None
    first_token_max: float | None


class Own(msgspec.Struct, frozen=True):
    """What the benchmark itself cost and added. `cpu_share`: of one core; `lateness` of its own timers."""

    cpu_us_per_event: float | None
    cpu_share: float | None
    lateness: Spread


class Figures(msgspec.Struct, frozen=True):
    """One run. See `Tally` for the counts; shares in percent, times in milliseconds.

    `connection_success`: answers whose first event came, of the questions that weren't refused by a 4xx.
    """

    name: str
    url: str
    took_s: float
    asked: int
    opened: int
    whole: int
    stopped: int
    refused: int
    waited: int
    max_open: int
    mean_open: float | None
    questions_per_s: float
    tokens: int
    tokens_per_s: float
    joined: int
    events: int
    size_bytes: int
    lost: int
    duplicated: int
    reordered: int
    connection_success: float | None
    error_rate: float | None
    first_token: Spread
    inter_token: Spread
    duration: Spread
    transit: Spread
    errors: dict[str, int]
    timeline: Sequence[Point]
    own: Own

    @classmethod
    def of(cls, name: str, url: str, tally: Tally) -> "Figures":
        """Read a tally that is finished."""
        took_s = max(tally.took_s, 1e-6)
        admitted = tally.asked - tally.refused
        return cls(
            name=name,
            url=url,
            took_s=round(took_s, 3),
            asked=tally.asked,
            opened=tally.opened,
            whole=tally.whole,
            stopped=tally.stopped,
            refused=tally.refused,
            waited=tally.waited,
            max_open=tally.crowd.most,
            mean_open=None if tally.crowd.mean is None else round(tally.crowd.mean, 1),
            questions_per_s=round(tally.asked / took_s, 2),
            tokens=tally.tokens,
            tokens_per_s=round(tally.tokens / took_s, 1),
            joined=tally.joined,
            events=tally.events,
            size_bytes=tally.size_bytes,
            lost=tally.lost,
            duplicated=tally.duplicated,
            reordered=tally.reordered,
            connection_success=_percent(tally.opened, admitted),
            error_rate=_percent(tally.failed, tally.asked),
            first_token=Spread.of(tally.first_token),
            inter_token=Spread.of(tally.inter_token),
            duration=Spread.of(tally.duration),
            transit=Spread.of(tally.transit),
            errors=dict(sorted(tally.errors.items(), key=lambda item: -item[1])),
            timeline=_timeline(tally.seconds),
            own=Own(
                cpu_us_per_event=round(tally.cpu_s / tally.events * 1e6, 1) if tally.events else None,
                cpu_share=round(tally.cpu_s / took_s, 3),
                lateness=Spread.of(tally.lateness),
            ),
        )


def _timeline(seconds: Sequence[Second]) -> Sequence[Point]:
    """Give at most so many points that each is wider than a pixel."""
    width = -(-len(seconds) // _MAX_POINTS) or 1
    return [_point(start, seconds[start : start + width]) for start in range(0, len(seconds), width)]


def _point(at_s: int, rows: Sequence[Second]) -> Point:
    first_token = Histogram()
    for row in rows:
        first_token.merge(row.first_token)
    spread = Spread.of(first_token)
    return Point(
        at_s=at_s,
        asked=sum(row.asked for row in rows),
        tokens=sum(row.tokens for row in rows),
        errors=sum(row.errors for row in rows),
        open=max(row.open for row in rows),
        first_token_p50=spread.p50,
        first_token_p95=spread.p95,
        first_token_max=spread.max,
    )


def _ms(value_us: int | None) -> float:
    assert value_us is not None, "there are values"
    return round(value_us / _US_PER_MS, 3)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(one - other, 3)


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 3) if whole > 0 else None

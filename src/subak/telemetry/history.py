"""How latency and load went in the last hour, for a chart: a few figures, noted every five seconds.

Prometheus keeps more, and for longer; this is there without it, and costs some quantiles of the last minute each time.
"""

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Final, NamedTuple

import msgspec

from subak.core.clock import Clock
from subak.core.histogram import Histogram
from subak.core.live import Load
from subak.telemetry.stats import Stats
from subak.telemetry.tally import Window

EVERY_S: Final = 5.0
KEPT: Final = 720
"""An hour."""
_SHARES: Final = (0.5, 0.95)

Milliseconds = tuple[float | None, ...]


class History(msgspec.Struct, frozen=True):
    """The body of `/-/history`: columns of one length, the oldest moment first.

    Quantiles are those of the minute before each moment, in milliseconds; None where nothing was measured.
    """

    at_ms: tuple[int, ...]
    streams: tuple[int, ...]
    first_token_p50_ms: Milliseconds
    first_token_p95_ms: Milliseconds
    inter_token_p50_ms: Milliseconds
    inter_token_p95_ms: Milliseconds


class _Moment(NamedTuple):
    at_ms: int
    streams: int
    first_token: tuple[float | None, float | None]
    inter_token: tuple[float | None, float | None]


class Historian:
    """Notes the figures, by `core.deadlines`."""

    def __init__(self, stats: Stats, load: Callable[[], Load], clock: Clock) -> None:
        """Begin with nothing."""
        self._stats = stats
        self._load = load
        self._clock = clock
        self._moments: deque[_Moment] = deque(maxlen=KEPT)

    def on_deadline(self, now: float) -> float:
        """Note how things are; give when to do so again."""
        streams = self._stats.over(Window.LAST_MINUTE).all_streams()
        moment = _Moment(
            self._clock.time_ms(),
            self._load().streams,
            _quantiles(streams.first_token),
            _quantiles(streams.inter_token),
        )
        self._moments.append(moment)
        return now + EVERY_S

    def since(self, after_ms: int = 0) -> History:
        """Give what was noted after a moment, in milliseconds since the epoch."""
        newest_first = takewhile(lambda moment: moment.at_ms > after_ms, reversed(self._moments))
        moments = tuple(newest_first)[::-1]
        return History(
            at_ms=tuple([moment.at_ms for moment in moments]),
            streams=tuple([moment.streams for moment in moments]),
            first_token_p50_ms=tuple([moment.first_token[0] for moment in moments]),
            first_token_p95_ms=tuple([moment.first_token[1] for moment in moments]),
            inter_token_p50_ms=tuple([moment.inter_token[0] for moment in moments]),
            inter_token_p95_ms=tuple([moment.inter_token[1] for moment in moments]),
        )


def _quantiles(times: Histogram) -> tuple[float | None, float | None]:
    median, high = (None if us is None else round(us / 1000, 3) for us in times.quantiles(_SHARES))
    return median, high

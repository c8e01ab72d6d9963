"""What one answer was like for its reader."""

import msgspec

from subak.core.histogram import Histogram

_US_PER_S = 1_000_000
_US_PER_MS = 1_000


class Metrics(msgspec.Struct, frozen=True):
    """Times in milliseconds, quantiles within 0.8 %; None where there is nothing to tell yet.

    `tokens` counts pieces as they were told, `size_bytes` all bodies of event streams, read once or again.
    """

    first_token_ms: float | None
    inter_token_p50_ms: float | None
    inter_token_p95_ms: float | None
    inter_token_p99_ms: float | None
    duration_ms: float
    tokens: int
    size_bytes: int
    reconnects: int
    duplicates: int
    gaps: int


class Meter:
    """Times of tokens. Every `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.tokens = 0
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._first_at: float | None = None
        self._last_at = 0.0
        self._gaps_us = Histogram()

    def start(self, now: float) -> None:
        """The question is about to be sent; later starts of the same answer change nothing."""
        if self._started_at is None:
            self._started_at = now
        self._ended_at = None

    def token(self, now: float) -> None:
        """A piece of text has come."""
        self.tokens += 1
        if self._first_at is None:
            self._first_at = now
        else:
            self._gaps_us.record(round((now - self._last_at) * _US_PER_S))
        self._last_at = now

    def end(self, now: float) -> None:
        """Nothing more is read for now."""
        self._ended_at = now

    def read(self, now: float, *, connects: int, duplicates: int, gaps: int) -> Metrics:
        """Give the figures so far; `connects`: how many responses have begun."""
        started_at = now if self._started_at is None else self._started_at
        ended_at = now if self._ended_at is None else self._ended_at
        return Metrics(
            first_token_ms=None if self._first_at is None else (self._first_at - started_at) * 1_000,
            inter_token_p50_ms=self._quantile_ms(0.5),
            inter_token_p95_ms=self._quantile_ms(0.95),
            inter_token_p99_ms=self._quantile_ms(0.99),
            duration_ms=(ended_at - started_at) * 1_000,
            tokens=self.tokens,
            size_bytes=self.size_bytes,
            reconnects=max(0, connects - 1),
            duplicates=duplicates,
            gaps=gaps,
        )

    def _quantile_ms(self, share: float) -> float | None:
        found = self._gaps_us.quantile(share)
        return None if found is None else found / _US_PER_MS

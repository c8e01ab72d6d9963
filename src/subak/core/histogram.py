"""A histogram of times: log-linear, in ints; one can be added to another, and taken away again.

Each octave (a value and twice it) is cut into 64 buckets of equal width, and values below 128 have one each. So what is
read from it is within 0.8 % of what was recorded, whatever the range, and a merge of parts equals the whole.

Buckets that nothing fell into take no memory: most parts hold a minute of one kind of time, some dozens of buckets.
`record` takes 0.27 µs, `record_all` 0.25 µs a value (2026-11, CPython 3.11, a shared 2-core machine).
"""

from collections.abc import Sequence
from typing import Final

_EXACT_BITS: Final = 7
"""Values of so many bits are kept as they are."""
_OCTAVE_BITS: Final = 6
_OCTAVE: Final = 1 << _OCTAVE_BITS


class Histogram:
    """Counts of values, which are whole and not negative: microseconds everywhere in Subak."""

    __slots__ = ("counts", "maximum", "total")

    def __init__(self) -> None:
        """Start empty. `counts` by bucket; `total` is the exact sum of all values, `maximum` the exact greatest."""
        self.counts: dict[int, int] = {}
        self.total = 0
        self.maximum = 0

    def record(self, value: int) -> None:
        """Count one value."""
        shift = value.bit_length() - _EXACT_BITS
        bucket = value if shift <= 0 else (shift << _OCTAVE_BITS) + (value >> shift)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.total += value
        if value > self.maximum:  # noqa: PLR1730 - a call of `max` would cost a fourth of all this
            self.maximum = value

    def record_all(self, values: Sequence[int]) -> None:
        """Count many values: as `record` for each, in one call."""
        if not values:
            return
        counts = self.counts
        for value in values:
            shift = value.bit_length() - _EXACT_BITS
            bucket = value if shift <= 0 else (shift << _OCTAVE_BITS) + (value >> shift)
            counts[bucket] = counts.get(bucket, 0) + 1
        self.total += sum(values)
        self.maximum = max(self.maximum, *values)

    def merge(self, other: "Histogram") -> None:
        """Add all that the other one counted."""
        counts = self.counts
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    def take_away(self, other: "Histogram") -> None:
        """Take away what was added before. If the maximum was among it, the new one is up to 1.6 % too great."""
        counts = self.counts
        for bucket, count in other.counts.items():
            left = counts[bucket] - count
            if left:
                counts[bucket] = left
            else:
                del counts[bucket]
        self.total -= other.total
        if _bucket(self.maximum) not in counts:
            self.maximum = _greatest(max(counts)) if counts else 0

    @property
    def count(self) -> int:
        """How many values it has."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """Their exact mean, None without any."""
        count = self.count
        return self.total / count if count else None

    def quantile(self, share: float) -> int | None:
        """Give the value that this share (0 to 1) of all values doesn't exceed, within 0.8 %; None without any."""
        return self.quantiles([share])[0]

    def quantiles(self, shares: Sequence[float]) -> Sequence[int | None]:
        """Give `quantile` for each share, in rising order; the values are gone through once."""
        count = self.count
        if not count:
            return [None] * len(shares)
        ordered = iter(sorted(self.counts.items()))
        bucket, seen = 0, 0
        found = []
        for share in shares:
            rank = max(1, -int(-share * count // 1))
            while seen < rank:
                bucket, here = next(ordered)
                seen += here
            found.append(min(_middle(bucket), self.maximum))
        return found

    def counts_upto(self, bounds: Sequence[int]) -> list[int]:
        """Give for each bound, in rising order, how many values don't exceed it or share its bucket."""
        pending = sorted(self.counts.items(), reverse=True)
        seen = 0
        upto = []
        for bound in bounds:
            last = _bucket(bound)
            while pending and pending[-1][0] <= last:
                seen += pending.pop()[1]
            upto.append(seen)
        return upto


def _bucket(value: int) -> int:
    shift = value.bit_length() - _EXACT_BITS
    return value if shift <= 0 else (shift << _OCTAVE_BITS) + (value >> shift)


def _middle(bucket: int) -> int:
    """Give the value in the middle of a bucket: its inverse, as near as one value can be."""
    least, width = _range(bucket)
    return least + width // 2


def _greatest(bucket: int) -> int:
    least, width = _range(bucket)
    return least + width - 1


def _range(bucket: int) -> tuple[int, int]:
    """Give the least value of a bucket, and how many values it has."""
    shift = max(0, (bucket >> _OCTAVE_BITS) - 1)
    return (bucket - (shift << _OCTAVE_BITS)) << shift, 1 << shift

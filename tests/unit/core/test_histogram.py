"""The histogram's arithmetic at its edges, and against a library that does the same."""

import random

import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from subak.core.histogram import Histogram

SHARES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    histogram.record_all(values)
    return histogram


def test_an_empty_histogram_knows_nothing() -> None:
    histogram = Histogram()
    assert (histogram.count, histogram.total, histogram.maximum) == (0, 0, 0)
    assert histogram.mean is None
    assert histogram.quantile(0.5) is None
    assert histogram.counts_upto([0, 100]) == [0, 0]
    histogram.record_all([])
    histogram.merge(Histogram())
    assert histogram.count == 0


def test_values_below_128_are_exact() -> None:
    for value in range(128):
        assert histogram_of([value]).quantile(0.5) == value
    assert histogram_of(list(range(101))).quantile(0.5) == 50


@pytest.mark.parametrize("value", [127, 128, 129, 255, 256, 257, 65_535, 65_536, 2**40 - 1, 2**40, 2**40 + 1])
def test_values_around_a_power_of_two_are_within_one_percent(value: int) -> None:
    found = histogram_of([value, 2**50]).quantile(0.5)
    assert found is not None
    assert abs(found - value) <= value / 100


def test_the_greatest_value_is_exact_and_never_exceeded() -> None:
    histogram = histogram_of([1_000_000, 1_000_001])
    assert histogram.maximum == 1_000_001
    assert histogram_of([1_000_448]).quantile(1.0) == 1_000_448
    assert histogram_of([999_424]).quantile(1.0) == 999_424  # its bucket's middle is past it


def test_the_mean_is_exact() -> None:
    values = [3, 1_000_003, 77_777_777]
    assert histogram_of(values).mean == sum(values) / 3


def test_an_octave_has_64_buckets() -> None:
    assert len(histogram_of(list(range(1024, 2048))).counts) == 64
    assert len(histogram_of(list(range(2048, 4096))).counts) == 64


def test_bounds_take_what_is_below_or_equal() -> None:
    histogram = histogram_of([10, 20, 20, 30, 5_000_000])
    assert histogram.counts_upto([9, 10, 19, 20, 100, 4_000_000, 5_000_000]) == [0, 1, 1, 3, 4, 4, 5]


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_agree_with_hdrhistogram(seed: int) -> None:
    draw = random.Random(seed)
    values = [max(1, int(draw.lognormvariate(9 + seed, 1.2))) for _ in range(5_000)]
    histogram = Histogram()
    oracle = HdrHistogram(1, 3_600_000_000, 3)
    for value in values:
        histogram.record(value)
        oracle.record_value(value)
    for share in SHARES[1:]:
        expected = oracle.get_value_at_percentile(share * 100)
        assert histogram.quantile(share) == pytest.approx(expected, rel=0.01, abs=1)
    assert histogram.count == oracle.get_total_count()

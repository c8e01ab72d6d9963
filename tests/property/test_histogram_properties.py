"""A histogram is within one percent of the truth, and a merge of parts is the whole."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from subak.core.histogram import Histogram

VALUES = st.lists(
    st.one_of(st.integers(0, 300), st.integers(0, 10_000_000), st.integers(0, 2**45)), min_size=1, max_size=200
)
SHARE = st.floats(0, 1)


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def state(histogram: Histogram) -> tuple[dict[int, int], int, int]:
    return histogram.counts, histogram.total, histogram.maximum


@given(VALUES, SHARE)
def test_a_quantile_is_within_one_percent_of_the_value_of_that_rank(values: list[int], share: float) -> None:
    exact = sorted(values)[max(1, ceil(share * len(values))) - 1]
    found = recorded(values).quantile(share)
    assert found is not None
    assert abs(found - exact) <= exact / 100


@given(VALUES)
def test_count_sum_and_maximum_are_exact(values: list[int]) -> None:
    histogram = recorded(values)
    assert (histogram.count, histogram.total, histogram.maximum) == (len(values), sum(values), max(values))


@given(VALUES)
def test_many_values_at_once_are_as_one_after_the_other(values: list[int]) -> None:
    at_once = Histogram()
    at_once.record_all(values)
    assert state(at_once) == state(recorded(values))


@given(st.lists(VALUES, max_size=6))
def test_merged_parts_equal_the_whole(parts: list[list[int]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(recorded(part))
    assert state(merged) == state(recorded([value for part in parts for value in part]))


@given(VALUES, VALUES)
def test_what_is_taken_away_is_as_if_it_had_never_been_there(kept: list[int], taken: list[int]) -> None:
    histogram = recorded(taken + kept)
    histogram.take_away(recorded(taken))
    assert (histogram.counts, histogram.total) == (recorded(kept).counts, sum(kept))
    assert max(kept) <= histogram.maximum <= max(kept) * 65 / 64


@given(VALUES, st.lists(st.integers(0, 2**45), min_size=1, max_size=10))
def test_counts_up_to_a_bound_are_those_of_values_within_a_bucket_of_it(values: list[int], bounds: list[int]) -> None:
    bounds.sort()
    counts = recorded(values).counts_upto(bounds)
    for bound, count in zip(bounds, counts, strict=True):
        assert sum(value <= bound for value in values) <= count <= sum(value <= bound * 65 / 64 for value in values)

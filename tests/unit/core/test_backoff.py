"""Jitter between bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.backoff import full_jitter_s, jittered_retry_ms


@pytest.mark.parametrize(("chance", "retry_ms"), [(0.0, 1000), (0.5, 2000), (0.999999, 3000)])
def test_the_bounds_are_within_reach(chance: float, retry_ms: int) -> None:
    assert jittered_retry_ms(1000, 3000, chance) == retry_ms


def test_equal_bounds_leave_no_choice() -> None:
    assert {jittered_retry_ms(5, 5, chance) for chance in (0.0, 0.3, 0.999999)} == {5}


@given(st.integers(0, 600_000), st.integers(0, 600_000), st.floats(0, 1, exclude_max=True))
def test_a_retry_is_a_whole_number_between_its_bounds(low_ms: int, spread_ms: int, chance: float) -> None:
    assert low_ms <= jittered_retry_ms(low_ms, low_ms + spread_ms, chance) <= low_ms + spread_ms


def test_readers_that_are_cut_together_come_back_apart() -> None:
    retries = [jittered_retry_ms(1000, 3000, number / 1000) for number in range(1000)]
    assert len(set(retries)) == 1000


@pytest.mark.parametrize(
    ("attempt", "longest_s"), [(0, 1.0), (1, 2.0), (4, 16.0), (5, 30.0), (6, 30.0), (100_000, 30.0)]
)
def test_waits_grow_up_to_a_bound(attempt: int, longest_s: float) -> None:
    assert full_jitter_s(attempt, 0.0, first_s=1.0, longest_s=30.0) == 0.0
    assert full_jitter_s(attempt, 0.5, first_s=1.0, longest_s=30.0) == longest_s / 2

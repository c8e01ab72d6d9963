"""When an upstream is left alone, and how many retries there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.breaker import Breaker, BreakerPolicy, BreakerState, RetryBudget

POLICY = BreakerPolicy(failures=3, rest_s=5.0)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.failures):
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_open_it_and_the_rest_is_kept() -> None:
    breaker = Breaker(POLICY)
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.allows(0.0)
    breaker.failed(1.0)
    assert breaker.state(1.0) is BreakerState.OPEN
    assert not breaker.allows(5.9)
    assert breaker.wait_s(2.0) == pytest.approx(4.0)


def test_a_first_token_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker(POLICY)
    for _ in range(10):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_after_the_rest_one_question_probes_at_a_time() -> None:
    breaker = opened()
    assert breaker.state(5.0) is BreakerState.HALF_OPEN
    assert breaker.allows(5.0)
    breaker.asked(5.0)
    assert not breaker.allows(5.0)
    breaker.succeeded()
    assert breaker.state(5.0) is BreakerState.CLOSED
    assert breaker.allows(5.0)


def test_a_probe_that_fails_doubles_the_rest_up_to_eight_times() -> None:
    breaker, now, rests = opened(), 0.0, []
    for _ in range(6):
        now += breaker.wait_s(now)
        breaker.asked(now)
        breaker.failed(now)
        rests.append(breaker.wait_s(now))
    assert rests == [10.0, 20.0, 40.0, 40.0, 40.0, 40.0]


def test_a_probe_that_we_ended_ourselves_lets_the_next_one_through() -> None:
    breaker = opened()
    breaker.asked(5.0)
    breaker.gave_up()
    assert breaker.allows(5.0)


@given(st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_a_tenth_of_the_questions_and_the_first_stock(wants: list[bool]) -> None:
    budget, taken = RetryBudget(), 0
    for asked, wants_retry in enumerate(wants, start=1):
        budget.asked()
        taken += wants_retry and budget.take()
        assert taken <= 1 + asked * 0.1 + 1e-9

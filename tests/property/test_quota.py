"""The sliding window, for any arrivals: against its definition, and against another implementation's moving window."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import limits
import limits.storage.memory
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.strategies import MovingWindowRateLimiter

from subak.core.quota import US_PER_S, QuotaPolicy, Stamps, Verdict, count, new_stamps, standing

CHAT = QuotaPolicy("chat", 20, 60.0)
SMALL = QuotaPolicy("small", 3, 1.0)

# Bursts, steps that add up to the window exactly, just under and just over it, and anything else.
STEPS_US = st.one_of(
    st.just(0),
    st.sampled_from((1, 3 * US_PER_S, 20 * US_PER_S, 60 * US_PER_S - 1, 60 * US_PER_S, 60 * US_PER_S + 1)),
    st.integers(0, 90 * US_PER_S),
)
ARRIVALS = st.lists(STEPS_US, min_size=1, max_size=120)


def times(steps_us: Sequence[int]) -> Iterator[int]:
    now_us = 0
    for step_us in steps_us:
        now_us += step_us
        yield now_us


def take(policy: QuotaPolicy, stamps: Stamps, now_us: int) -> bool:
    if not standing(policy, stamps, now_us).has_room:
        return False
    count(policy, stamps, now_us)
    return True


def in_window(policy: QuotaPolicy, admitted: Sequence[int], now_us: int) -> list[int]:
    """What was admitted in the window that ends now, by definition."""
    return [at for at in admitted if now_us - policy.window_us < at <= now_us]


@given(ARRIVALS)
def test_no_window_admits_more_than_the_limit_and_nobody_is_refused_below_it(steps_us: list[int]) -> None:
    stamps = new_stamps()
    admitted: list[int] = []
    for now_us in times(steps_us):
        before = len(in_window(CHAT, admitted, now_us))
        if take(CHAT, stamps, now_us):
            admitted.append(now_us)
            assert before < CHAT.limit
        else:
            assert before == CHAT.limit
    for start_us in admitted:
        assert sum(start_us <= at < start_us + CHAT.window_us for at in admitted) <= CHAT.limit


@given(ARRIVALS)
def test_the_figures_are_what_is_admitted_next(steps_us: list[int]) -> None:
    stamps = new_stamps()
    for now_us in times(steps_us):
        told = standing(CHAT, stamps, now_us)
        trial = stamps[:]
        assert sum(take(CHAT, trial, now_us) for _ in range(CHAT.limit + 1)) == told.remaining
        take(CHAT, stamps, now_us)
        after = standing(CHAT, stamps, now_us)
        assert after.remaining == max(0, told.remaining - 1)
        if not after.has_room:
            assert not take(CHAT, stamps[:], now_us + after.wait_us - 1)
            assert take(CHAT, stamps[:], now_us + after.wait_us)
            assert take(CHAT, stamps[:], now_us + after.retry_after_s * US_PER_S)


@given(ARRIVALS)
def test_a_log_never_holds_more_than_twice_the_limit(steps_us: list[int]) -> None:
    stamps = new_stamps()
    for now_us in times(steps_us):
        take(SMALL, stamps, now_us)
        assert len(stamps) <= 2 * SMALL.limit


def test_a_full_log_of_a_million_moves_little() -> None:
    policy = QuotaPolicy("vast", 1_000_000, 1.0)
    times = []
    for _ in range(3):
        stamps = new_stamps()
        stamps.extend(range(US_PER_S))
        started = time.thread_time()
        assert all(take(policy, stamps, now_us) for now_us in range(US_PER_S, US_PER_S + 20_000))
        times.append(time.thread_time() - started)
    assert min(times) < 1.0, "moving all stamps each time takes ten times that"


@given(ARRIVALS, st.integers(1, 40), st.integers(1, 40), st.floats(0.5, 120))
def test_a_changed_policy_holds_at_once(steps_us: list[int], before: int, after: int, window_s: float) -> None:
    stamps, policy = new_stamps(), QuotaPolicy("chat", before, 60.0)
    admitted = [now_us for now_us in times(steps_us) if take(policy, stamps, now_us)]
    changed = QuotaPolicy("chat", after, min(window_s, 60.0))
    used = len(in_window(changed, admitted, now_us := admitted[-1]))
    assert standing(changed, stamps, now_us).remaining == max(0, after - used)


@dataclass
class OracleClock:
    """Stands in for the `time` module of the oracle.

    Its window is closed at both ends and ours is open at its end, so its time runs a billionth faster: a window is
    over for both at the same microsecond.
    """

    now_us: int = 0

    def time(self) -> float:
        return self.now_us / US_PER_S * (1 + 1e-9)


@pytest.fixture(scope="module")
def oracle_clock() -> Iterator[OracleClock]:
    clock = OracleClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.storage.memory, "time", clock)
        yield clock


@pytest.fixture(scope="module")
def oracle(oracle_clock: OracleClock) -> MovingWindowRateLimiter:
    assert oracle_clock.now_us == 0
    return MovingWindowRateLimiter(limits.storage.memory.MemoryStorage())


@given(st.lists(st.tuples(STEPS_US, st.sampled_from("ab")), min_size=1, max_size=120))
def test_another_moving_window_decides_the_same(
    oracle: MovingWindowRateLimiter, oracle_clock: OracleClock, arrivals: list[tuple[int, str]]
) -> None:
    item = limits.RateLimitItemPerMinute(CHAT.limit)
    oracle.storage.reset()
    oracle_clock.now_us = 0
    logs = {"a": new_stamps(), "b": new_stamps()}
    for step_us, key in arrivals:
        oracle_clock.now_us += step_us
        assert take(CHAT, logs[key], oracle_clock.now_us) == oracle.hit(item, key)


def test_a_verdict_without_room_never_says_wait_0() -> None:
    assert Verdict(CHAT, 0, 1).retry_after_s == 1
    assert Verdict(CHAT, 0, US_PER_S).retry_after_s == 1
    assert Verdict(CHAT, 0, US_PER_S + 1).retry_after_s == 2

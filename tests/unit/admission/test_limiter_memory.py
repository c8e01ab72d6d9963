"""The bounds of the limiter in memory: it may refuse too early when it is full, and forget nobody who is limited."""

import tracemalloc

import pytest

from subak.admission.limiter import Charge, Charges, Decision, Slot
from subak.admission.limiter_memory import MemoryLimiter
from subak.admission.partition import Partition, QuotaTerms
from subak.core.deadlines import Deadlines
from subak.core.principal import ANONYMOUS, Caller
from subak.core.quota import ConcurrencyPolicy, QuotaPolicy
from subak.testing import FakeClock
from tests.integration.gateway import resident_bytes
from tests.settings import runs
from tests.stage import at_once

CHAT = QuotaPolicy("chat", 20, 60.0)
RESUME = QuotaPolicy("resume", 240, 60.0)
FLOOD = runs(fast=200_000, default=1_000_000, soak=1_000_000)
SOME_NOISE_BYTES = 16 << 20
"""Keeping all keys of the flood would take ten times that."""


def chat(key: str) -> Charges:
    return Charges((Charge(CHAT, key),))


def take(limiter: MemoryLimiter, key: str) -> Decision:
    return at_once(limiter.take(chat(key)))


def limit(limiter: MemoryLimiter, key: str, already: int = 0) -> None:
    assert all(take(limiter, key).is_admitted for _ in range(CHAT.limit - already))
    assert not take(limiter, key).is_admitted


def keys(limiter: MemoryLimiter) -> int:
    return limiter.figures().keys["chat"]


def test_a51_a_million_keys_within_a_window_push_no_limited_key_out() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_keys=10_000)
    limit(limiter, "user:limited")
    admitted = sum(take(limiter, f"ip:{number}").is_admitted for number in range(10_000))
    before_bytes = resident_bytes()
    admitted += sum(take(limiter, f"ip:{number}").is_admitted for number in range(10_000, FLOOD))
    assert resident_bytes() - before_bytes < SOME_NOISE_BYTES
    assert admitted == 10_000 - 1
    assert limiter.figures().overflows["chat"] == FLOOD - admitted
    assert not take(limiter, "user:limited").is_admitted
    clock.advance(60)
    assert take(limiter, "user:limited").is_admitted


def test_a51_a_million_keys_over_hours_are_all_served_in_bounded_memory() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_keys=11_000)
    before_bytes = 0
    for number in range(FLOOD):
        if number % 5_000 == 0:
            clock.advance(30)
        if number % 10_000 == 0:
            limit(limiter, f"user:limited {number}")
        if number == 20_000:
            before_bytes = resident_bytes()
        assert take(limiter, f"ip:{number}").is_admitted
        assert number % 1_000 or not take(limiter, f"user:limited {number - number % 10_000}").is_admitted
    assert resident_bytes() - before_bytes < SOME_NOISE_BYTES
    assert keys(limiter) <= 11_000


@pytest.mark.parametrize(("requests", "bound_bytes"), [(1, 300), (20, 500)])
def test_a_key_takes_a_few_hundred_bytes(requests: int, bound_bytes: int) -> None:
    limiter = MemoryLimiter(FakeClock(), max_keys=2_000)
    tracemalloc.start()
    try:
        for number in range(2_000):
            for _ in range(requests):
                take(limiter, f"user:0123456789abcdef-{number}")
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size_bytes / 2_000 < bound_bytes


def test_a51_all_addresses_of_one_ipv6_network_share_an_account() -> None:
    limiter = MemoryLimiter(FakeClock(), max_keys=10)
    partition = Partition(QuotaTerms(streams_anonymous=1_000))
    decisions = [
        at_once(limiter.take(partition.ask(Caller(ANONYMOUS, f"2001:db8:0:7:{number:x}::1")))) for number in range(500)
    ]
    assert sum(decision.is_admitted for decision in decisions) == 20
    assert limiter.figures().keys == {"chat": 1, "chat_network": 1}


def test_a51_the_networks_of_one_owner_share_the_looser_account() -> None:
    limiter = MemoryLimiter(FakeClock(), max_keys=100_000)
    partition = Partition(QuotaTerms())
    decisions = [
        at_once(limiter.take(partition.ask(Caller(ANONYMOUS, f"2001:db8:7:{number:x}::1")))) for number in range(5_000)
    ]
    assert sum(decision.is_admitted for decision in decisions) == 200
    assert limiter.figures().keys == {"chat": 200, "chat_network": 1}, "a refused network fills no table"
    refusal = decisions[-1].refusal
    assert refusal is not None
    assert refusal.policy.name == "chat_network"


def test_a_full_table_refuses_new_keys_and_says_until_when() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_keys=3)
    take(limiter, "a")
    clock.advance(10)
    take(limiter, "b")
    take(limiter, "c")
    clock.advance(5)
    refusal = take(limiter, "d").refusal
    assert refusal is not None
    assert (refusal.remaining, refusal.retry_after_s) == (0, 45)
    assert take(limiter, "b").is_admitted, "a key that is counted goes on"
    clock.advance(45)
    assert take(limiter, "d").is_admitted, "the first idle key has made room"
    assert not take(limiter, "e").is_admitted
    assert keys(limiter) == 3
    limit(limiter, "d", already=1)
    assert limiter.figures().denials == {"chat": 3}
    assert limiter.figures().overflows == {"chat": 2}


def test_a_key_that_asks_again_is_the_newest() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_keys=2)
    take(limiter, "a")
    take(limiter, "b")
    clock.advance(30)
    take(limiter, "a")
    clock.advance(30)
    assert take(limiter, "c").is_admitted
    assert [take(limiter, "a").verdicts[0].remaining for _ in range(2)] == [18, 17], "a was not forgotten"


def test_a_flood_on_one_policy_leaves_the_others_alone() -> None:
    limiter = MemoryLimiter(FakeClock(), max_keys=2)
    for key in "abc":
        at_once(limiter.take(Charges((Charge(RESUME, key),))))
    assert limiter.figures().overflows["resume"] == 1
    assert take(limiter, "d").is_admitted


def test_idle_keys_go_without_a_call_some_at_a_time() -> None:
    deadlines = Deadlines()
    clock = FakeClock(deadlines)
    limiter = MemoryLimiter(clock, max_keys=10_000)
    deadlines.watch(limiter, limiter.on_deadline(clock.monotonic()))
    for number in range(5_000):
        take(limiter, f"ip:{number}")
    clock.advance(59)
    assert keys(limiter) == 5_000
    clock.advance(1)
    assert 0 < keys(limiter) < 5_000, "one look is bounded"
    clock.advance(10)
    assert keys(limiter) == 0


def test_a_request_lets_go_of_a_few_idle_keys_only() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_keys=10_000)
    for number in range(1_000):
        take(limiter, f"ip:{number}")
    clock.advance(60)
    take(limiter, "new")
    assert keys(limiter) == 999


def test_a_longer_window_forgets_no_key_before_its_time() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock, max_keys=10)
    long = QuotaPolicy("chat", 20, 600.0)
    limit(limiter, "a")
    clock.advance(1)
    at_once(limiter.take(Charges((Charge(long, "b"),))))
    clock.advance(60)
    limiter.on_deadline(clock.monotonic())
    refusal = at_once(limiter.take(Charges((Charge(long, "a"),)))).refusal
    assert refusal is not None
    assert refusal.retry_after_s == 600 - 61


def test_slots_that_nobody_holds_take_no_memory() -> None:
    limiter = MemoryLimiter(FakeClock(), max_keys=10)
    tracemalloc.start()
    try:
        for number in range(10_000):
            slots = (Slot(ConcurrencyPolicy("streams", 5), f"user:{number}"),)
            lease = at_once(limiter.take(Charges(slots=slots))).lease
            assert lease is not None
            limiter.release(lease)
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert limiter.figures().leases == 0
    assert size_bytes < 20_000

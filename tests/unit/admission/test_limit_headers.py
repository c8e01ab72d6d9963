"""What a client reads about its limits (PROTOCOL §2)."""

from subak.admission.limit_headers import limit_headers
from subak.admission.limiter import Decision
from subak.admission.limiter_memory import MemoryLimiter
from subak.admission.partition import Partition, QuotaTerms
from subak.core.principal import ANONYMOUS, Caller, Principal
from subak.core.quota import ConcurrencyPolicy, QuotaPolicy, Verdict
from subak.testing import FakeClock
from tests.stage import at_once

NOW_S = 1_795_359_600
NOW_MS = NOW_S * 1_000
CHAT = QuotaPolicy("chat", 20, 60.0)
NETWORK = QuotaPolicy("chat_network", 200, 60.0)
STREAMS = ConcurrencyPolicy("streams", 5)
TOTAL = ConcurrencyPolicy("streams_total", 50_000, is_shared=True)

FREE = Decision((Verdict(CHAT, 19, 0), Verdict(STREAMS, 4, 0), Verdict(TOTAL, 49_999, 0)))


def refused(*verdicts: Verdict, by: Verdict) -> Decision:
    return Decision(verdicts, by)


def test_an_admitted_request_is_told_what_remains() -> None:
    assert limit_headers(FREE, NOW_MS + 999, ietf=False) == {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "19",
        "X-RateLimit-Reset": str(NOW_S),
    }


def test_a52_a_refusal_is_told_the_second_of_the_next_one() -> None:
    full = Verdict(CHAT, 0, 33_200_000)
    assert limit_headers(refused(full, by=full), NOW_MS, ietf=True) == {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(NOW_S + 34),
        "Retry-After": "34",
        "RateLimit-Policy": '"chat";q=20;w=60',
        "RateLimit": '"chat";r=0;t=34',
    }


def test_the_last_admitted_request_is_told_when_the_next_one_is() -> None:
    headers = limit_headers(Decision((Verdict(CHAT, 0, 60_000_000),)), NOW_MS, ietf=True)
    assert headers["X-RateLimit-Remaining"] == "0"
    assert headers["X-RateLimit-Reset"] == str(NOW_S + 60)
    assert headers["RateLimit"] == '"chat";r=0;t=60'
    assert "Retry-After" not in headers


def test_the_reset_is_no_second_too_early() -> None:
    headers = limit_headers(Decision((Verdict(CHAT, 0, 1),)), NOW_MS, ietf=False)
    assert headers["X-RateLimit-Reset"] == str(NOW_S + 1)
    exact = limit_headers(Decision((Verdict(CHAT, 0, 33_700_000),)), NOW_MS + 300, ietf=False)
    assert exact["X-RateLimit-Reset"] == str(NOW_S + 34)


def test_the_tightest_policy_is_shown_and_all_that_count_requests_are_listed() -> None:
    decision = Decision((Verdict(CHAT, 15, 0), Verdict(NETWORK, 3, 0)))
    headers = limit_headers(decision, NOW_MS, ietf=True)
    assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("200", "3")
    assert headers["RateLimit-Policy"] == '"chat";q=20;w=60, "chat_network";q=200;w=60'
    assert headers["RateLimit"] == '"chat";r=15, "chat_network";r=3'


def test_a54_too_many_streams_are_shown_when_they_are_the_reason() -> None:
    full = Verdict(STREAMS, 0, 5_000_000)
    headers = limit_headers(refused(Verdict(CHAT, 12, 0), full, by=full), NOW_MS, ietf=True)
    assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("5", "0")
    assert headers["Retry-After"] == "5"
    assert headers["RateLimit-Policy"] == '"chat";q=20;w=60, "streams";q=5;qu="concurrent-requests"'
    assert headers["RateLimit"] == '"chat";r=12, "streams";r=0;t=5'


def test_how_full_the_process_is_is_nobodys_business() -> None:
    full = Verdict(TOTAL, 0, 5_000_000)
    headers = limit_headers(refused(Verdict(CHAT, 12, 0), full, by=full), NOW_MS, ietf=True)
    assert headers == {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "12",
        "X-RateLimit-Reset": str(NOW_S),
        "Retry-After": "5",
        "RateLimit-Policy": '"chat";q=20;w=60',
        "RateLimit": '"chat";r=12',
    }
    assert limit_headers(refused(full, by=full), NOW_MS, ietf=True) == {"Retry-After": "5"}


def test_a_window_of_part_of_a_second_is_rounded_up() -> None:
    short = Decision((Verdict(QuotaPolicy("chat", 5, 0.25), 4, 0),))
    assert limit_headers(short, NOW_MS, ietf=True)["RateLimit-Policy"] == '"chat";q=5;w=1'


def test_without_charges_there_is_nothing_to_tell() -> None:
    assert limit_headers(Decision(), NOW_MS, ietf=True) == {}


def test_the_headers_of_a_real_refusal_are_true() -> None:
    clock = FakeClock(time_ms=NOW_MS)
    limiter, partition = MemoryLimiter(clock, max_keys=10), Partition(QuotaTerms(streams_anonymous=100))
    charges = partition.ask(Caller(ANONYMOUS, "192.0.2.7"))
    for _ in range(20):
        at_once(limiter.take(charges))
    clock.advance(26.5)
    headers = limit_headers(at_once(limiter.take(charges)), clock.time_ms(), ietf=True)
    assert headers["RateLimit"] == '"chat";r=0;t=34'
    assert headers["X-RateLimit-Reset"] == str(NOW_S + 60)
    clock.advance(int(headers["Retry-After"]))
    assert at_once(limiter.take(charges)).is_admitted


def test_an_internal_caller_is_told_nothing() -> None:
    charges = Partition(QuotaTerms()).ask(Caller(Principal("key:frontend", is_internal=True), "192.0.2.7"))
    decision = at_once(MemoryLimiter(FakeClock(), max_keys=10).take(charges))
    assert limit_headers(decision, NOW_MS, ietf=True) == {}

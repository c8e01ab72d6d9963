"""On whose account each request goes."""

import sys

import pytest

from subak.admission.limiter import Charges
from subak.admission.partition import (
    NOTHING,
    Partition,
    QuotaTerms,
    address_key,
    caller_key,
    network_key,
    principal_key,
)
from subak.core.principal import ANONYMOUS, Caller, Principal

TERMS = QuotaTerms(chat=7, chat_window_s=30, chat_network=8, streams=2, streams_anonymous=3, streams_total=9)
ANN = Caller(Principal("user:ann"), "2001:db8:1:2::9")
STRANGER = Caller(ANONYMOUS, "192.0.2.7")
STRANGER_6 = Caller(ANONYMOUS, "2001:db8:1:2::9")
INTERNAL = Caller(Principal("key:frontend", is_internal=True), "192.0.2.7")


def listed(charges: Charges) -> list[tuple[str, int, str]]:
    requests = [(policy.name, policy.limit, key) for policy, key in charges.requests]
    return requests + [(policy.name, policy.limit, key) for policy, key in charges.slots]


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        (ANN, [("chat", 7, "user:ann"), ("streams", 2, "user:ann"), ("streams_total", 9, "process")]),
        (
            STRANGER,
            [("chat", 7, "ip:192.0.2.7"), ("streams_anonymous", 3, "ip:192.0.2.7"), ("streams_total", 9, "process")],
        ),
        (
            STRANGER_6,
            [
                ("chat", 7, "ip:20010db800010002/64"),
                ("chat_network", 8, "ip:20010db80001/48"),
                ("streams_anonymous", 3, "ip:20010db800010002/64"),
                ("streams_total", 9, "process"),
            ],
        ),
        (INTERNAL, [("streams_total", 9, "process")]),
    ],
    ids=["verified", "anonymous", "anonymous IPv6", "internal"],
)
def test_a_question_is_charged_to_the_principal_or_else_to_its_address(
    caller: Caller, expected: list[tuple[str, int, str]]
) -> None:
    charges = Partition(TERMS).ask(caller)
    assert listed(charges) == expected
    assert all(charge.policy.window_s == 30 for charge in charges.requests)
    assert [slot.policy.is_shared for slot in charges.slots] == [False] * (len(charges.slots) - 1) + [True]


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        (ANN, [("resume", 240, "user:ann")]),
        (STRANGER_6, [("resume", 240, "ip:20010db800010002/64")]),
        (INTERNAL, []),
    ],
    ids=["verified", "anonymous", "internal"],
)
def test_a61_a_resume_has_an_account_of_its_own_and_costs_no_question(
    caller: Caller, expected: list[tuple[str, int, str]]
) -> None:
    assert listed(Partition(TERMS).resume(caller)) == expected


def test_refused_credentials_are_charged_to_the_address() -> None:
    partition = Partition(TERMS)
    assert listed(partition.refused_credentials("192.0.2.7")) == [("unauthenticated", 30, "ip:192.0.2.7")]
    assert listed(partition.refused_credentials("2001:db8::1")) == [("unauthenticated", 30, "ip:20010db800000000/64")]


def test_the_passed_chat_is_limited_only_when_a_limit_is_set() -> None:
    assert Partition(TERMS).passed_chat(STRANGER) is NOTHING
    limited = Partition(QuotaTerms(passed_chat=11))
    assert listed(limited.passed_chat(STRANGER)) == [("passed_chat", 11, "ip:192.0.2.7")]
    assert limited.passed_chat(INTERNAL) is NOTHING


def test_nothing_is_charged_when_the_limits_are_off() -> None:
    off = Partition(QuotaTerms(enabled=False, passed_chat=11))
    charges = (off.ask(ANN), off.resume(ANN), off.refused_credentials("192.0.2.7"), off.passed_chat(ANN))
    assert set(map(id, charges)) == {id(NOTHING)}


def test_an_address_never_shares_an_account_with_a_principal_or_another_family() -> None:
    accounts = [
        caller_key(Caller(Principal("192.0.2.7"), "192.0.2.7")),
        caller_key(Caller(ANONYMOUS, "192.0.2.7")),
        caller_key(Caller(ANONYMOUS, "::c000:207")),
        caller_key(Caller(ANONYMOUS, "")),
    ]
    assert len(set(accounts)) == len(accounts)


def test_the_hosts_of_an_ipv6_network_share_its_account_and_its_neighbours_do_not() -> None:
    assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:ffff:ffff:ffff:ffff")
    assert address_key("2001:db8:1:2::1") != address_key("2001:db8:1:3::1")
    assert network_key("2001:db8:1:2::1") == network_key("2001:db8:1:ffff::1")
    assert network_key("2001:db8:1:2::1") != network_key("2001:db8:2:2::1")
    assert network_key("192.0.2.7") is None


def test_a_long_id_makes_no_long_key_and_stays_different() -> None:
    long = ["user:" + "x" * 8_000 + end for end in ("a", "b")]
    accounts = [principal_key(Principal(name)) for name in long]
    assert len(set(accounts)) == 2
    assert all(sys.getsizeof(account) < 150 for account in accounts)
    assert principal_key(Principal("user:\ud800" + "x" * 100)).startswith("id:")

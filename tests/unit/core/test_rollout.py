"""For whom a flag is on: each pair of rows of the table, lists, buckets."""

from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.errors import InvalidField
from subak.core.principal import Caller, Principal
from subak.core.rollout import (
    BUCKETS,
    MAX_ENTRIES,
    STREAMING,
    Bucketing,
    FileRule,
    FlagDecision,
    Overrides,
    Reason,
    checked,
    decide,
    normal_entry,
    rules_for,
    share_of,
    sticky_key,
)

NOW: Final = datetime(2026, 11, 23, 6, tzinfo=UTC)
NOW_MS: Final = round(NOW.timestamp() * 1000)
HOUR: Final = timedelta(hours=1)
CALLER: Final = Caller(Principal("user:42"), "192.0.2.7")
STEPS: Final = (0, 0.5, 5, 25, 50, 100)


def caller(principal: str = "", address: str = "192.0.2.7") -> Caller:
    return Caller(Principal(principal), address)


def test_someone_whom_nothing_concerns_is_in() -> None:
    rules = rules_for(STREAMING, Overrides(), is_permitted=True, file=FileRule())
    assert decide(rules, CALLER, NOW_MS) == FlagDecision(is_on=True, arm="on", reason=Reason.INSIDE)


# What leads to each row of the table, in the table's order; every pair of them is tried.
ROWS: Final = (
    ("environment", False, {"is_permitted": False}),
    ("switched_off", False, {"is_off": True}),
    ("file", False, {"file": FileRule(is_off=True, arm="off")}),
    ("denied", False, {"deny": ("user:42",)}),
    ("allowed", True, {"allow": ("192.0.2.0/24",)}),
    ("not_yet", False, {"not_before": NOW + HOUR}),
    ("no_longer", False, {"not_after": NOW}),
    ("targeting", False, {"targeted": False}),
    ("outside", False, {"percentage": 0.0}),
)


@pytest.mark.parametrize(("first", "second"), [*combinations(ROWS, 2), *((row, row) for row in ROWS)])
def test_of_two_rows_the_upper_one_decides(
    first: tuple[str, bool, dict[str, object]], second: tuple[str, bool, dict[str, object]]
) -> None:
    reason, is_on, _ = first
    given_rows = {**second[2], **first[2]}
    assert outcome(given_rows) == (reason, is_on)


def outcome(rows: dict[str, object]) -> tuple[str, bool]:
    """Decide with these rows' causes in place."""
    is_permitted = rows.pop("is_permitted", True) is True
    file = rows.pop("file", FileRule())
    assert isinstance(file, FileRule)
    targeted = rows.pop("targeted", True) is True
    rules = rules_for(STREAMING, msgspec.structs.replace(Overrides(), **rows), is_permitted=is_permitted, file=file)
    decision = decide(
        rules, CALLER, NOW_MS, lambda: FlagDecision(targeted, "on" if targeted else "off", Reason.TARGETING)
    )
    return decision.reason, decision.is_on


def test_a_targeting_rule_is_not_asked_about_who_is_denied_or_allowed() -> None:
    def never() -> FlagDecision:
        pytest.fail("it was asked")

    for overrides in (Overrides(allow=("user:42",)), Overrides(deny=("user:42",))):
        decide(rules_for(STREAMING, overrides, is_permitted=True, file=FileRule()), CALLER, NOW_MS, never)


def test_the_arm_is_the_one_that_the_targeting_rule_gives() -> None:
    rules = rules_for(STREAMING, Overrides(), is_permitted=True, file=FileRule(arm="first"))
    decision = decide(rules, CALLER, NOW_MS, lambda: FlagDecision(is_on=True, arm="second", reason=Reason.TARGETING))
    assert decision == FlagDecision(is_on=True, arm="second", reason=Reason.INSIDE)
    assert decide(rules, CALLER, NOW_MS).arm == "first"


def test_the_time_begins_at_its_first_millisecond_and_ends_before_its_last() -> None:
    rules = rules_for(STREAMING, Overrides(not_before=NOW, not_after=NOW + HOUR), is_permitted=True, file=FileRule())
    end_ms = NOW_MS + 3_600_000
    assert [decide(rules, CALLER, at).reason for at in (NOW_MS - 1, NOW_MS, end_ms - 1, end_ms)] == [
        Reason.NOT_YET,
        Reason.INSIDE,
        Reason.INSIDE,
        Reason.NO_LONGER,
    ]


@pytest.mark.parametrize(
    ("entry", "asking", "is_meant"),
    [
        ("user:42", caller("user:42"), True),
        ("user:42", caller("user:421"), False),
        ("user:42", caller("key:42"), False),
        ("192.0.2.0/24", caller("user:42"), True),
        ("192.0.2.0/24", caller(address="192.0.3.7"), False),
        ("192.0.2.7", caller(address="192.0.2.7"), True),
        ("192.0.2.7", caller(address="192.0.2.8"), False),
        ("192.0.2.7", caller(address="::ffff:192.0.2.7"), True),
        ("::ffff:192.0.2.0/120", caller(address="192.0.2.9"), True),
        ("2001:db8::/32", caller(address="2001:db8:1::9"), True),
        ("2001:db8::/32", caller(address="2001:db9::9"), False),
        ("0.0.0.0/0", caller(address="2001:db8::1"), False),
        ("0.0.0.0/0", caller(address="192.0.2.9"), True),
        ("0.0.0.0/0", caller(address="unix:"), False),
        ("0.0.0.0/0", caller(address=""), False),
    ],
)
def test_a_list_holds_principals_and_address_ranges(entry: str, asking: Caller, *, is_meant: bool) -> None:
    rules = rules_for(STREAMING, checked(Overrides(deny=(entry,))), is_permitted=True, file=FileRule())
    assert (decide(rules, asking, NOW_MS).reason is Reason.DENIED) is is_meant


def test_an_anonymous_caller_is_on_no_list_of_principals() -> None:
    rules = rules_for(STREAMING, Overrides(allow=("user:1",), percentage=0), is_permitted=True, file=FileRule())
    assert decide(rules, caller(""), NOW_MS).reason is Reason.OUTSIDE


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" user:42 ", "user:42"),
        ("key:a/b", "key:a/b"),
        ("user:x::1", "user:x::1"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_an_entry_has_one_form(text: str, normal: str) -> None:
    assert normal_entry(text) == normal


@pytest.mark.parametrize(
    "text", ["", "42", "user:", "10.0.0.1/8", "10.0.0.256", "dead::beef::1", "a b:c", "u:" + "x" * 300]
)
def test_what_is_neither_a_principal_nor_a_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"user:42.*10\.0\.0\.0/8"):
        normal_entry(text)


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (Overrides(percentage=-1), "$.percentage"),
        (Overrides(percentage=100.001), "$.percentage"),
        (Overrides(percentage=float("nan")), "$.percentage"),
        (Overrides(percentage=0.0001), "$.percentage"),
        (Overrides(allow=("user:1", "nobody")), "$.allow[1]"),
        (Overrides(deny=("10.0.0.1/8",)), "$.deny[0]"),
        (Overrides(allow=tuple(f"user:{n}" for n in range(MAX_ENTRIES + 1))), "$.allow"),
        (Overrides(not_before=NOW, not_after=NOW), "$.not_after"),
    ],
)
def test_what_can_not_be_is_told_with_its_path(overrides: Overrides, path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        checked(overrides)
    assert caught.value.detail.startswith(f"{path}: expected ")


def test_as_many_entries_as_may_be_are_fine() -> None:
    assert len(checked(Overrides(allow=tuple(f"user:{n}" for n in range(MAX_ENTRIES)))).allow) == MAX_ENTRIES


def test_every_thousandth_of_a_percent_is_a_share() -> None:
    assert [share_of(share / 1000) for share in range(BUCKETS + 1)] == list(range(BUCKETS + 1))


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (caller("user:1"), caller("user:1", "198.51.100.9"), True),
        (caller("user:1"), caller("user:2"), False),
        (caller(address="192.0.2.7"), caller(address="192.0.2.8"), False),
        (caller(address="2001:db8::1"), caller(address="2001:db8::ffff"), True),
        (caller(address="2001:db8::1"), caller(address="2001:DB8:0:0::2"), True),
        (caller(address="2001:db8:0:1::1"), caller(address="2001:db8:0:2::1"), False),
        (caller(address="192.0.2.7"), caller(address="::ffff:192.0.2.7"), True),
    ],
)
def test_a_caller_stays_by_its_id_else_by_its_line(one: Caller, other: Caller, *, is_same: bool) -> None:
    assert (sticky_key(one) == sticky_key(other)) is is_same


def test_the_share_of_100_000_principals_is_right_at_each_step_and_only_grows() -> None:
    callers = [caller(f"user:{number}") for number in range(100_000)]
    inside: set[str] = set()
    for percentage in STEPS:
        rules = rules_for(STREAMING, Overrides(percentage=percentage), is_permitted=True, file=FileRule())
        now_in = {each.principal.id for each in callers if decide(rules, each, NOW_MS).is_on}
        assert inside <= now_in
        assert abs(len(now_in) / 1000 - percentage) < 1
        inside = now_in
    assert len(inside) == len(callers)


def test_a_percentage_ends_at_its_last_bucket() -> None:
    bucket = Bucketing(STREAMING).bucket("user:42")
    shares = [bucket, bucket + 1]
    assert [
        decide(
            rules_for(STREAMING, Overrides(percentage=share / 1000), is_permitted=True, file=FileRule()), CALLER, NOW_MS
        ).is_on
        for share in shares
    ] == [False, True]


@given(st.text(max_size=40), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_who_is_in_at_a_percentage_is_in_at_every_larger_one(name: str, one: int, other: int) -> None:
    smaller, larger = sorted((one / 1000, other / 1000))
    asking = caller(f"user:{name}")
    is_in = [
        decide(
            rules_for(STREAMING, Overrides(percentage=each), is_permitted=True, file=FileRule()), asking, NOW_MS
        ).is_on
        for each in (smaller, larger)
    ]
    assert is_in in ([False, False], [False, True], [True, True])


def test_buckets_of_two_flags_have_nothing_to_do_with_each_other() -> None:
    one, other = Bucketing("ONE"), Bucketing("OTHER")
    both = sum(
        one.bucket(f"user:{number}") < BUCKETS // 2 and other.bucket(f"user:{number}") < BUCKETS // 2
        for number in range(20_000)
    )
    assert abs(both / 20_000 - 0.25) < 0.02


def test_a_bucket_is_the_same_on_every_machine_and_in_every_version() -> None:
    bucketing = Bucketing(STREAMING)
    assert [bucketing.bucket(key) for key in ("user:42", "192.0.2.7", "")] == [63684, 81868, 2099]

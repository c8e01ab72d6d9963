"""Crashes, grouped."""

import msgspec

from subak.core.facts import Crashed, DescriptorsFreed
from subak.telemetry.errors import KEPT, MAX_GROUPS, Errors, fingerprint_of
from subak.testing import FakeClock


def test_crashes_of_one_kind_at_one_place_are_one_group() -> None:
    clock = FakeClock(time_ms=1_000)
    errors = Errors(clock)
    errors.notify(Crashed("KeyError", "hub.py:10 open"))
    clock.advance(5)
    errors.notify(Crashed("KeyError", "hub.py:10 open"))
    errors.notify(Crashed("KeyError", "hub.py:99 stop"))
    errors.notify(DescriptorsFreed())
    snapshot = errors.snapshot()
    assert (snapshot.total, snapshot.by_kind) == (3, {"KeyError": 3})
    newest, first = snapshot.groups
    assert (newest.where, newest.count) == ("hub.py:99 stop", 1)
    assert (first.count, first.first_at_ms, first.last_at_ms) == (2, 1_000, 6_000)
    assert [seen.where for seen in snapshot.latest] == ["hub.py:99 stop", "hub.py:10 open", "hub.py:10 open"]


def test_a_fingerprint_is_the_same_everywhere_and_tells_place_from_kind() -> None:
    assert fingerprint_of("KeyError", "hub.py:10 open") == "1006a2ce4b3e"
    assert fingerprint_of("Key", "Error\nx") != fingerprint_of("KeyError", "x")


def test_groups_kinds_and_the_latest_are_bounded() -> None:
    errors = Errors(FakeClock())
    for number in range(3 * MAX_GROUPS):
        errors.notify(Crashed(f"Error{number}", f"x.py:{number} f"))
    snapshot = errors.snapshot()
    assert snapshot.total == 3 * MAX_GROUPS
    assert len(snapshot.groups) == MAX_GROUPS
    assert len(snapshot.latest) == KEPT
    assert len(snapshot.by_kind) == 101
    assert sum(snapshot.by_kind.values()) == snapshot.total
    assert snapshot.groups[0].kind == f"Error{3 * MAX_GROUPS - 1}"


def test_a_snapshot_stays_as_it_was() -> None:
    errors = Errors(FakeClock())
    errors.notify(Crashed("KeyError", "x.py:1 f"))
    before = msgspec.json.encode(errors.snapshot())
    snapshot = errors.snapshot()
    errors.notify(Crashed("KeyError", "x.py:1 f"))
    assert msgspec.json.encode(snapshot) == before

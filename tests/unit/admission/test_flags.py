"""The flags of a running gateway: decisions, changes from outside, what is told of them."""

import io
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api
from openfeature.evaluation_context import EvaluationContext

from subak.admission.flag_store import FlagStore
from subak.admission.flags import POLL_S, Flags
from subak.core.deadlines import Deadlines
from subak.core.errors import InvalidField
from subak.core.facts import FlagChanged, FlagsRefused, FlagsTaken
from subak.core.flag_state import FlagDocument, overridden
from subak.core.principal import Caller, Claims, Principal
from subak.core.rollout import STREAMING, FlagDecision, Overrides, Reason, UnknownFlag
from subak.state import StateError
from subak.telemetry.logs import LineWriter, make_logger
from subak.telemetry.observer import LogObserver
from subak.testing import FakeClock, RecordingObserver

CALLER: Final = Caller(Principal("user:42", Claims("42", "somebody@example.org", "member")), "192.0.2.7")
IN: Final = FlagDecision(is_on=True, arm="on", reason=Reason.INSIDE)
MEMBERS: Final = {"if": [{"==": [{"var": "role"}, "member"]}, "on", "off"]}


class Installation:
    """A state directory and a flags file, with gateways over them on one clock."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.file = directory / "flags.json"
        self.deadlines = Deadlines()
        self.clock = FakeClock(self.deadlines)
        self._open: list[Flags] = []

    def gateway(self, *, is_permitted: bool = True, with_file: bool = False) -> tuple[Flags, RecordingObserver]:
        """Start one."""
        observer = RecordingObserver(self.clock)
        flags = Flags(
            FlagStore.open(self.state, patience_s=1),
            permits={STREAMING: is_permitted},
            file=self.file if with_file else None,
            clock=self.clock,
            observer=observer,
        )
        self.deadlines.watch(flags, self.clock.monotonic())
        self._open.append(flags)
        return flags, observer

    def write(self, **parts: object) -> None:
        """Put a flags file in place, as an editor does that renames."""
        flag: dict[str, object] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"flags": {STREAMING: flag | parts}}), encoding="utf-8")
        new.replace(self.file)

    def change_from_outside(self, overrides: Overrides) -> None:
        """Change the flag as the command line does."""
        with closing(FlagStore.open(self.state, patience_s=1)) as store:
            store.change(STREAMING, lambda _: FlagDocument(overrides), actor="cli:somebody", now=datetime.now(UTC))

    def close(self) -> None:
        """End all gateways."""
        for flags in self._open:
            self.deadlines.forget(flags)
            flags.close()
        self._open.clear()


def override(flags: Flags, wanted: Overrides, *, actor: str, key: str = STREAMING) -> None:
    """Set a flag's overrides."""
    flags.change(key, partial(overridden, wanted=wanted, now=flags.now()), actor=actor)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    with closing(Installation(tmp_path)) as installation:
        yield installation


def test_without_anything_set_the_environment_decides(here: Installation) -> None:
    assert here.gateway(is_permitted=True)[0].decide(CALLER) == IN
    assert here.gateway(is_permitted=False)[0].decide(CALLER) == FlagDecision(
        is_on=False, arm="off", reason=Reason.ENVIRONMENT
    )


def test_a_change_holds_at_once_and_after_a_restart(here: Installation) -> None:
    flags, _ = here.gateway()
    override(flags, Overrides(is_off=True), actor="admin")
    assert flags.view(STREAMING).effect == "off: switched off"
    assert flags.decide(CALLER).reason is Reason.SWITCHED_OFF
    here.close()
    assert here.gateway()[0].decide(CALLER).reason is Reason.SWITCHED_OFF


def test_a_change_from_outside_holds_in_every_gateway_within_a_second(here: Installation) -> None:
    one, other = here.gateway()[0], here.gateway()[0]
    here.change_from_outside(Overrides(deny=("user:42",)))
    assert one.decide(CALLER) == IN
    here.clock.advance(POLL_S)
    assert POLL_S < 1
    assert one.decide(CALLER).reason is other.decide(CALLER).reason is Reason.DENIED


def test_a_change_is_told_once_by_one_of_the_gateways(here: Installation) -> None:
    here.change_from_outside(Overrides(percentage=5))
    _, one = here.gateway()
    _, other = here.gateway()
    here.clock.advance(2)
    here.change_from_outside(Overrides(percentage=25))
    here.clock.advance(2)
    told = one.of(FlagChanged) + other.of(FlagChanged)
    assert sorted(fact.number for fact in told) == [1, 2]
    here.close()
    _, restarted = here.gateway()
    here.clock.advance(2)
    assert restarted.of(FlagChanged) == []


def test_a_fact_says_who_from_and_to_and_the_log_line_only_what(here: Installation) -> None:
    flags, observer = here.gateway()
    override(flags, Overrides(allow=("user:42", "192.0.2.0/24")), actor="admin:somebody")
    (fact,) = observer.of(FlagChanged)
    assert (fact.number, fact.key, fact.who.subject) == (1, STREAMING, "admin:somebody")
    assert json.loads(fact.values.changed_from) == {"allow": []}
    assert json.loads(fact.values.changed_to) == {"allow": ["192.0.2.0/24", "user:42"]}
    line = logged(fact)
    assert {name: line[name] for name in ("event", "key", "summary")} == {
        "event": "flag_changed",
        "key": STREAMING,
        "summary": "allow +2 -0",
    }
    assert not any(secret in json.dumps(line) + repr(fact) for secret in ("somebody", "user:42", "192.0.2"))


def logged(fact: FlagChanged) -> dict[str, object]:
    """Give the log line that a fact becomes."""
    page = io.StringIO()
    sink = LineWriter(page)
    LogObserver(make_logger(sink, level="debug", form="json"), b"secret").notify(fact)
    sink.close()
    line: dict[str, object] = json.loads(page.getvalue())
    return line


def test_windows_follow_the_clock(here: Installation) -> None:
    flags, _ = here.gateway()
    begins = flags.now() + timedelta(seconds=10)
    override(flags, Overrides(not_before=begins, not_after=begins + timedelta(seconds=10)), actor="admin")
    assert flags.decide(CALLER).reason is Reason.NOT_YET
    here.clock.advance(10)
    assert flags.decide(CALLER) == IN
    here.clock.advance(10)
    assert flags.decide(CALLER).reason is Reason.NO_LONGER


def test_what_can_not_be_set_changes_nothing(here: Installation) -> None:
    flags, observer = here.gateway()
    with pytest.raises(InvalidField, match=r"\$\.percentage"):
        override(flags, Overrides(percentage=101), actor="admin")
    for ask in (flags.view, flags.history, flags.document):
        with pytest.raises(UnknownFlag, match="Known: ENABLE_SSE_STREAMING"):
            ask("ENABLE_SSE")
    with pytest.raises(UnknownFlag):
        override(flags, Overrides(), actor="admin", key="ENABLE_SSE")
    assert flags.history(STREAMING) == []
    assert observer.of(FlagChanged) == []


def test_views_show_what_is_set(here: Installation) -> None:
    flags, _ = here.gateway()
    override(flags, Overrides(percentage=0.5, allow=("user:1",)), actor="admin")
    (view,) = flags.views()
    assert (view.key, view.is_permitted, view.overrides) == (
        STREAMING,
        True,
        Overrides(percentage=0.5, allow=("user:1",)),
    )
    assert view.effect == "on for 0.5 % and for 1 on the allow list"


def test_a_file_narrows_and_is_taken_up_when_it_changes(here: Installation) -> None:
    here.write(defaultVariant="off")
    flags, observer = here.gateway(with_file=True)
    assert flags.decide(CALLER).reason is Reason.FILE
    here.write(defaultVariant="on")
    here.clock.advance(POLL_S)
    assert flags.decide(CALLER) == IN
    here.write(targeting=MEMBERS, defaultVariant="off")
    here.clock.advance(POLL_S)
    assert flags.decide(CALLER) == IN
    assert flags.decide(Caller(Principal("user:1"), "192.0.2.7")).reason is Reason.TARGETING
    assert observer.of(FlagsTaken) == [FlagsTaken("file")] * 3
    assert observer.of(FlagsRefused) == []


def test_a_bad_file_leaves_the_old_one_in_force_and_is_told_once(here: Installation) -> None:
    here.write(targeting=MEMBERS, defaultVariant="off")
    flags, observer = here.gateway(with_file=True)
    for break_it in (lambda: here.file.write_text("{", encoding="utf-8"), here.file.unlink):
        break_it()
        here.clock.advance(5)
        assert flags.decide(CALLER) == IN
        assert not flags.decide(Caller(Principal("user:1"), "192.0.2.7")).is_on
    assert [fact.source for fact in observer.of(FlagsRefused)] == ["file", "file"]
    here.write()
    here.clock.advance(POLL_S)
    assert flags.decide(Caller(Principal("user:1"), "192.0.2.7")).is_on


def test_a_file_that_never_could_be_read_is_off_for_everybody(here: Installation) -> None:
    flags, observer = here.gateway(with_file=True)
    override(flags, Overrides(allow=("user:42",)), actor="admin")
    assert flags.decide(CALLER).reason is Reason.FILE
    assert "No such file" in observer.of(FlagsRefused)[0].reason
    here.write()
    here.clock.advance(POLL_S)
    assert flags.decide(CALLER).is_on


def test_new_settings_are_taken_up(here: Installation) -> None:
    here.write(defaultVariant="off")
    flags, _ = here.gateway()
    flags.configure({STREAMING: False}, None)
    assert flags.decide(CALLER).reason is Reason.ENVIRONMENT
    flags.configure({STREAMING: True}, here.file)
    assert flags.decide(CALLER).reason is Reason.FILE
    flags.configure({STREAMING: True}, None)
    assert flags.decide(CALLER) == IN


def test_a_rule_that_fails_for_one_caller_is_off_for_that_one(
    here: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    here.write(targeting={"if": [{"==": [{"var": "role"}, "broken"]}, "no-such-variant", "on"]}, defaultVariant="off")
    flags, _ = here.gateway(with_file=True)
    broken = Caller(Principal("user:1", Claims(role="broken")), "192.0.2.7")
    assert flags.decide(CALLER).is_on
    assert flags.decide(broken) == FlagDecision(is_on=False, arm="off", reason=Reason.TARGETING_FAILED)
    assert "user:1" not in caplog.text


def test_two_gateways_in_one_process_do_not_meet(tmp_path: Path) -> None:
    with closing(Installation(tmp_path / "one")) as one, closing(Installation(tmp_path / "other")) as other:
        first, second = one.gateway()[0], other.gateway(is_permitted=False)[0]
        assert first.client.get_boolean_value(STREAMING, default_value=False) is True
        assert second.client.get_boolean_value(STREAMING, default_value=True) is False
        assert api.get_client().get_boolean_value(STREAMING, default_value=True) is True


def test_the_openfeature_client_gives_arm_and_reason_and_knows_no_other_flag(here: Installation) -> None:
    flags, _ = here.gateway()
    override(flags, Overrides(deny=("user:42",)), actor="admin")
    details = flags.client.get_boolean_details(
        STREAMING, default_value=True, evaluation_context=EvaluationContext("user:42")
    )
    assert (details.value, details.variant, details.flag_metadata) == (False, "off", {"why": "denied"})
    unknown = flags.client.get_boolean_details("ANOTHER", default_value=True)
    assert (unknown.value, str(unknown.error_code)) == (True, "FLAG_NOT_FOUND")
    wrong = flags.client.get_string_details(STREAMING, default_value="x")
    assert (wrong.value, str(wrong.error_code)) == ("x", "TYPE_MISMATCH")


@given(
    number=st.integers(0, 50),
    is_anonymous=st.booleans(),
    overrides=st.builds(
        Overrides,
        is_off=st.booleans(),
        percentage=st.none() | st.integers(0, 100).map(float),
        allow=st.sets(st.sampled_from(["user:1", "user:2", "192.0.2.0/28"])).map(tuple),
        deny=st.sets(st.sampled_from(["user:2", "user:3", "192.0.2.16/28"])).map(tuple),
    ),
)
def test_the_short_way_and_openfeature_say_the_same(number: int, overrides: Overrides, *, is_anonymous: bool) -> None:
    caller = Caller(Principal("" if is_anonymous else f"user:{number}"), f"192.0.2.{number}")
    flags = Flags(
        FlagStore.peek(Path("nowhere"), patience_s=0),
        permits={STREAMING: True},
        file=None,
        clock=FakeClock(),
        observer=RecordingObserver(),
    )
    with closing(flags):
        override(flags, overrides, actor="admin")
        assert flags.decide(caller) == flags.client.decide(STREAMING, caller)


def test_a_state_that_can_not_be_read_leaves_in_force_what_was_and_is_told_once(here: Installation) -> None:
    flags, observer = here.gateway()
    override(flags, Overrides(deny=("user:42",)), actor="admin")
    with closing(FlagStore.open(here.state, patience_s=1)) as store:
        good = store.path.read_bytes()
        store.path.write_bytes(b"x" * len(good))
        here.clock.advance(5)
        assert flags.decide(CALLER).reason is Reason.DENIED
        assert [fact.source for fact in observer.of(FlagsRefused)] == ["state"]
        store.path.write_bytes(good)
    os.utime(here.state / "flags.db")
    here.clock.advance(5)
    assert flags.decide(CALLER).reason is Reason.DENIED
    assert observer.of(FlagsTaken) == [FlagsTaken("state")]


def test_a_state_that_can_not_be_read_at_a_start_keeps_it_from_starting(here: Installation) -> None:
    here.change_from_outside(Overrides(is_off=True))
    with closing(sqlite3.connect(here.state / "flags.db")) as other:
        other.execute("""UPDATE flag SET document = '{"overrides": 5}'""")
        other.commit()
    with pytest.raises(StateError, match=r"flags\.db: .*unknown_document"):
        here.gateway()


def test_a_back_up_put_in_place_of_the_state_is_taken_up(here: Installation, tmp_path: Path) -> None:
    with closing(Installation(tmp_path / "back-up")) as back_up:
        back_up.change_from_outside(Overrides(is_off=True))
        flags, _ = here.gateway()
        (back_up.state / "flags.db").replace(here.state / "flags.db")
    here.clock.advance(POLL_S)
    assert flags.decide(CALLER).reason is Reason.SWITCHED_OFF


def test_flags_that_were_lost_keep_a_gateway_from_starting_until_they_are_said_anew(here: Installation) -> None:
    here.change_from_outside(Overrides(deny=("user:42",)))
    (here.state / "flags.db").unlink()
    with pytest.raises(StateError, match="subak flags set"):
        here.gateway()
    here.change_from_outside(Overrides(is_off=True))
    flags, _ = here.gateway()
    assert flags.decide(CALLER).reason is Reason.SWITCHED_OFF


def test_an_empty_file_put_in_place_of_the_state_lets_nobody_in(here: Installation, tmp_path: Path) -> None:
    flags, observer = here.gateway()
    override(flags, Overrides(deny=("user:42",)), actor="admin")
    FlagStore.open(tmp_path / "fresh", patience_s=1).close()
    (tmp_path / "fresh" / "flags.db").replace(here.state / "flags.db")
    here.clock.advance(POLL_S)
    assert flags.decide(CALLER).reason is Reason.DENIED
    assert [fact.source for fact in observer.of(FlagsRefused)] == ["state"]

"""What operators do to a flag and its rollout, and what the history says of it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import pytest

from subak.core.errors import InvalidField
from subak.core.flag_state import (
    FlagDocument,
    RestrictionForgotten,
    RolloutConflict,
    aborted,
    differences,
    kept,
    merged,
    overridden,
    paused,
    replaced,
    resumed,
    started,
    summary,
    view_of,
)
from subak.core.rollout import STREAMING, FileRule, Overrides, OverridesIn
from subak.core.rollout_plan import Bounds, Phase, Rollout

NOW: Final = datetime(2026, 11, 23, 6, tzinfo=UTC)
LATER: Final = NOW + timedelta(hours=1)
PLAN: Final = Rollout(steps=(5, 25, 100), hold_s=60, started_at=NOW, step_since=NOW, why="started")
RUNNING: Final = started(FlagDocument(), PLAN, ("user:1",))


def at(phase: Phase, step: int = 1) -> FlagDocument:
    rollout = msgspec.structs.replace(PLAN, phase=phase, step=step)
    return FlagDocument(Overrides(percentage=rollout.percentage, allow=("user:1",)), rollout)


def test_a_rollout_begins_at_its_first_step_with_its_own_callers_besides() -> None:
    before = FlagDocument(Overrides(allow=("user:9",), deny=("user:3",)))
    after = started(before, PLAN, ("user:1",))
    assert after == FlagDocument(Overrides(percentage=5, allow=("user:1", "user:9"), deny=("user:3",)), PLAN)


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.PAUSED, Phase.ROLLED_BACK])
def test_there_is_one_rollout_at_a_time(phase: Phase) -> None:
    with pytest.raises(RolloutConflict, match="subak rollout abort"):
        started(at(phase), PLAN, ())


@pytest.mark.parametrize("phase", [Phase.FINISHED, Phase.ABORTED])
def test_after_one_is_over_there_may_be_another(phase: Phase) -> None:
    assert started(at(phase), PLAN, ()).rollout == PLAN


def test_what_is_off_is_not_rolled_out() -> None:
    with pytest.raises(RolloutConflict, match="subak flags set --on"):
        started(FlagDocument(Overrides(is_off=True)), PLAN, ())


@pytest.mark.parametrize(
    ("plan", "path"),
    [
        ({"steps": (25.0, 5.0)}, "$.steps"),
        ({"steps": (0.0001,)}, "$.steps"),
        ({"hold_s": -1.0}, "$.hold_s"),
        ({"min_requests": 0}, "$.min_requests"),
        ({"min_requests": 2**70}, "$.min_requests"),
        ({"bounds": {"first-token": Bounds(good=300)}}, "$.bounds.first-token"),
        ({"bounds": {"connection-success": Bounds(good=80)}}, "$.bounds.connection-success"),
    ],
)
def test_a_plan_that_can_not_be_is_refused(plan: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        started(FlagDocument(), msgspec.structs.replace(PLAN, **plan), ())
    assert caught.value.detail.startswith(path)


def test_paused_and_resumed_it_begins_its_step_anew() -> None:
    resting = paused(RUNNING, LATER)
    assert resting.rollout is not None
    assert resting.rollout.phase is Phase.PAUSED
    assert resting.overrides == RUNNING.overrides
    again = resumed(resting, LATER)
    assert again.rollout == msgspec.structs.replace(PLAN, step_since=LATER, why="resumed")


def test_one_that_was_taken_back_to_0_begins_at_its_first_step() -> None:
    again = resumed(at(Phase.ROLLED_BACK, -1), LATER)
    assert again.rollout is not None
    assert (again.rollout.step, again.overrides.percentage) == (0, 5)


def test_one_that_was_taken_back_goes_on_at_the_last_good_step() -> None:
    again = resumed(at(Phase.ROLLED_BACK, 1), LATER)
    assert again.rollout is not None
    assert (again.rollout.step, again.overrides.percentage) == (1, 25)


def test_aborted_it_leaves_the_allow_list_alone_in() -> None:
    after = aborted(at(Phase.RUNNING), LATER)
    assert after.overrides == Overrides(percentage=0, allow=("user:1",))
    assert after.live_rollout is None


def test_it_can_be_ended_where_it_is() -> None:
    after = kept(at(Phase.RUNNING), LATER)
    assert after.overrides.percentage == 25
    assert after.live_rollout is None


@pytest.mark.parametrize("command", [paused, resumed, aborted, kept])
@pytest.mark.parametrize("document", [FlagDocument(), at(Phase.FINISHED), at(Phase.ABORTED)])
def test_without_a_rollout_there_is_nothing_to_command(command: object, document: FlagDocument) -> None:
    assert callable(command)
    with pytest.raises(RolloutConflict):
        command(document, NOW)


def test_what_is_paused_or_rolled_back_can_not_be_paused_nor_what_runs_resumed() -> None:
    for document in (at(Phase.PAUSED), at(Phase.ROLLED_BACK)):
        with pytest.raises(RolloutConflict, match="isn't running"):
            paused(document, NOW)
    with pytest.raises(RolloutConflict, match="is running"):
        resumed(RUNNING, NOW)
    with pytest.raises(RolloutConflict, match="switched off"):
        resumed(FlagDocument(Overrides(is_off=True, percentage=25), at(Phase.PAUSED).rollout), NOW)


def test_switching_the_flag_off_pauses_its_rollout() -> None:
    after = overridden(RUNNING, msgspec.structs.replace(RUNNING.overrides, is_off=True), LATER)
    assert after.overrides.is_off
    assert after.rollout is not None
    assert (after.rollout.phase, after.rollout.why) == (Phase.PAUSED, "the flag was switched off")


def test_while_a_rollout_lives_its_percentage_is_its_own_and_the_rest_is_not() -> None:
    with pytest.raises(RolloutConflict, match="sets the percentage"):
        overridden(RUNNING, Overrides(percentage=30), LATER)
    after = overridden(RUNNING, Overrides(percentage=5, deny=("user:3",)), LATER)
    assert after == FlagDocument(Overrides(percentage=5, deny=("user:3",)), PLAN)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Overrides(), Overrides(), "unchanged"),
        (Overrides(), Overrides(is_off=True), "switched off"),
        (Overrides(is_off=True), Overrides(), "switched on"),
        (Overrides(), Overrides(percentage=0.5), "percentage unset → 0.5 %"),
        (Overrides(percentage=25), Overrides(percentage=5), "percentage 25 % → 5 %"),
        (Overrides(allow=("user:1",)), Overrides(allow=("user:2", "user:3")), "allow +2 -1"),
        (Overrides(), Overrides(deny=("10.0.0.0/8",)), "deny +1 -0"),
        (Overrides(), Overrides(not_before=NOW), "not before 2026-11-23T06:00:00+00:00"),
        (Overrides(not_after=NOW), Overrides(), "not after unset"),
    ],
)
def test_a_change_is_said_without_naming_anybody(before: Overrides, after: Overrides, said: str) -> None:
    assert summary(FlagDocument(before), FlagDocument(after)) == said


def test_the_differences_are_all_and_nothing_else() -> None:
    before = FlagDocument(Overrides(percentage=5, allow=("user:1",)), PLAN)
    after = paused(before, LATER)
    was, is_now = (json.loads(text) for text in differences(before, after))
    assert was == {"rollout.phase": "running", "rollout.step_since": "2026-11-23T06:00:00Z", "rollout.why": "started"}
    assert is_now == {"rollout.phase": "paused", "rollout.step_since": "2026-11-23T07:00:00Z", "rollout.why": "paused"}
    assert summary(before, after) == "rollout paused"


@pytest.mark.parametrize(
    ("overrides", "is_permitted", "file", "effect"),
    [
        (Overrides(), True, FileRule(), "on for everybody"),
        (Overrides(), False, FileRule(), "off: the environment doesn't permit it"),
        (Overrides(is_off=True, allow=("user:1",)), True, FileRule(), "off: switched off"),
        (Overrides(), True, FileRule(is_off=True), "off: by the flags file"),
        (
            Overrides(percentage=5, allow=("user:1",), deny=("user:2",)),
            True,
            FileRule(),
            "on for 5 % and for 1 on the allow list but not for 1 on the deny list",
        ),
    ],
)
def test_an_operator_is_told_for_whom_a_flag_is_on(
    overrides: Overrides, file: FileRule, effect: str, *, is_permitted: bool
) -> None:
    view = view_of(STREAMING, FlagDocument(overrides), is_permitted=is_permitted, file=file, is_targeted=False)
    assert view.effect == effect


def part(text: str) -> OverridesIn:
    return msgspec.json.decode(text, type=OverridesIn)


SET: Final = FlagDocument(Overrides(percentage=5, allow=("user:1",), deny=("user:2",), not_after=NOW))


def test_a_part_changes_what_it_names_and_nothing_else() -> None:
    changed = merged(SET, part('{"percentage": 25, "not_after": null}'), NOW).overrides
    assert changed == Overrides(percentage=25, allow=("user:1",), deny=("user:2",))
    assert merged(SET, part("{}"), NOW) == SET
    assert merged(SET, part('{"off": true, "deny": []}'), NOW).overrides.deny == ()


@pytest.mark.parametrize(
    ("body", "forgotten"),
    [
        ('{"percentage": 25}', "deny, not_after."),
        ('{"deny": [], "not_after": null}', "percentage."),
        ('{"off": false}', "percentage, deny, not_after."),
    ],
)
def test_a_whole_that_forgets_whom_the_old_one_kept_out_is_refused(body: str, forgotten: str) -> None:
    with pytest.raises(RestrictionForgotten, match=f"keeps callers out: {forgotten}"):
        replaced(SET, part(body), NOW)


def test_a_whole_that_switches_off_is_taken_and_forgets_nothing() -> None:
    off = replaced(SET, part('{"off": true}'), NOW).overrides
    assert off == msgspec.structs.replace(SET.overrides, is_off=True)


def test_a_whole_that_names_them_replaces_everything() -> None:
    wanted = part('{"percentage": null, "deny": ["user:3"], "not_after": null}')
    assert replaced(SET, wanted, NOW).overrides == Overrides(deny=("user:3",))
    off = FlagDocument(Overrides(is_off=True))
    with pytest.raises(RestrictionForgotten, match="keeps callers out: off"):
        replaced(off, part("{}"), NOW)
    assert replaced(off, part('{"off": false}'), NOW) == FlagDocument()

"""What is kept of one flag, how operators change it, and what a change was.

A flag's overrides and its rollout are one document: they change together or not at all. Every function here gives a
new document for an old one; the store puts it in place in one transaction with the history.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from subak.core.errors import InvalidField, RequestError
from subak.core.rollout import NOTHING_SET, FileRule, Overrides, OverridesIn, checked, share_of
from subak.core.rollout_plan import (
    CRITERIA,
    MAX_HOLD_S,
    MAX_REQUESTS,
    MAX_STEPS,
    Phase,
    Rollout,
    as_percentage,
    is_ascending,
)


class RolloutConflict(RequestError):
    """What was asked for doesn't go with the rollout as it stands."""

    code = "rollout_conflict"
    http_status = 409


class RestrictionForgotten(RequestError):
    """New overrides don't name something of the old ones that keeps callers out."""

    code = "restriction_forgotten"
    http_status = 409

    def __init__(self, names: Iterable[str]) -> None:
        """`names` of fields of `Overrides`."""
        fields = ", ".join(name.removeprefix("is_") for name in names)
        super().__init__(
            f"A PUT replaces everything, and this one doesn't name what is set and keeps callers out: {fields}. "
            "Name it too, or send a PATCH, which changes what it names and nothing else."
        )


class FlagDocument(msgspec.Struct, frozen=True):
    """All that is kept of one flag."""

    overrides: Overrides = NOTHING_SET
    rollout: Rollout | None = None

    @property
    def live_rollout(self) -> Rollout | None:
        """The rollout that may still change the percentage."""
        return self.rollout if self.rollout is not None and not self.rollout.phase.is_over else None


class FlagView(msgspec.Struct, frozen=True):
    """A flag as operators see it. `effect`: in a sentence, for whom it is on."""

    key: str
    is_permitted: bool
    effect: str
    overrides: Overrides
    rollout: Rollout | None


class FlagChange(msgspec.Struct, frozen=True):
    """One entry of a flag's history. `number`: 1-based, over all flags of a state directory.

    `summary` names no one; `actor`, `changed_from` and `changed_to` (JSON of what differs) are personal data.
    """

    number: int
    at: datetime
    key: str
    actor: str
    summary: str
    why: str
    changed_from: str
    changed_to: str


def overridden(document: FlagDocument, wanted: Overrides, now: datetime) -> FlagDocument:
    """Set a flag's overrides. Switching it off pauses a running rollout; its percentage stays the rollout's.

    Raises:
        InvalidField: a value can't be.
        RolloutConflict: another percentage, while a rollout sets it.
    """
    wanted = checked(wanted)
    rollout = document.live_rollout
    if rollout is not None and wanted.percentage != document.overrides.percentage:
        raise RolloutConflict("A rollout sets the percentage. Abort it first: subak rollout abort.")
    if rollout is not None and rollout.phase is Phase.RUNNING and wanted.is_off and not document.overrides.is_off:
        paused = msgspec.structs.replace(rollout, phase=Phase.PAUSED, step_since=now, why="the flag was switched off")
        return FlagDocument(wanted, paused)
    return FlagDocument(wanted, document.rollout)


def replaced(document: FlagDocument, wanted: OverridesIn, now: datetime) -> FlagDocument:
    """Put what is named in place of all overrides. That a restriction is forgotten must have been said.

    To switch off is never refused: what else keeps callers out then stays.

    Raises:
        RestrictionForgotten: something that keeps callers out isn't named. InvalidField, RolloutConflict: `overridden`.
    """
    forgotten = wanted.forgets(document.overrides)
    if forgotten and wanted.is_off is True:
        return merged(document, wanted, now)
    if forgotten:
        raise RestrictionForgotten(forgotten)
    return overridden(document, wanted.onto(NOTHING_SET), now)


def merged(document: FlagDocument, wanted: OverridesIn, now: datetime) -> FlagDocument:
    """Change the overrides that are named, and no others.

    Raises:
        InvalidField, RolloutConflict: `overridden`.
    """
    return overridden(document, wanted.onto(document.overrides), now)


def started(document: FlagDocument, plan: Rollout, allow: tuple[str, ...]) -> FlagDocument:
    """Begin a rollout at its first step, with these callers besides those on the allow list.

    Raises:
        InvalidField: the plan can't be.
        RolloutConflict: there is one already, or the flag is off.
    """
    if document.live_rollout is not None:
        raise RolloutConflict("There is a rollout already. Abort it first: subak rollout abort.")
    if document.overrides.is_off:
        raise RolloutConflict("The flag is switched off. Switch it on first: subak flags set --on.")
    _check_plan(plan)
    return with_rollout(
        FlagDocument(
            checked(msgspec.structs.replace(document.overrides, allow=(*document.overrides.allow, *allow))),
        ),
        plan,
    )


def _check_plan(plan: Rollout) -> None:
    if not is_ascending(plan.steps):
        raise InvalidField("$.steps", f"at most {MAX_STEPS} ascending percentages, such as 5,25,50,100")
    for step in plan.steps:
        share_of(step, "$.steps")
    if not 0 <= plan.hold_s <= MAX_HOLD_S:
        raise InvalidField("$.hold_s", "a time of a year at most")
    if not 1 <= plan.min_requests <= MAX_REQUESTS:
        raise InvalidField("$.min_requests", f"1 to {MAX_REQUESTS}")
    for criterion in CRITERIA:
        good, bad = plan.bounds_of(criterion)
        if bad is not None and criterion.is_past(good, bad):
            raise InvalidField(f"$.bounds.{criterion.name}", f"a good bound on the good side of the bad one, {bad:g}")


def paused(document: FlagDocument, now: datetime) -> FlagDocument:
    """Keep the running rollout at its step. It is still watched, and rolled back when it has to be.

    Raises:
        RolloutConflict: none is running.
    """
    rollout = _live(document)
    if rollout.phase is not Phase.RUNNING:
        raise RolloutConflict(f"The rollout isn't running: it is {_word(rollout)}.")
    return with_rollout(document, _moved(rollout, Phase.PAUSED, "paused", now))


def resumed(document: FlagDocument, now: datetime) -> FlagDocument:
    """Let the rollout go on: its step begins anew. One that was taken back to 0 begins at the first step.

    Raises:
        RolloutConflict: there is none, it is running, or the flag is off.
    """
    rollout = _live(document)
    if rollout.phase is Phase.RUNNING:
        raise RolloutConflict("The rollout is running.")
    if document.overrides.is_off:
        raise RolloutConflict("The flag is switched off. Switch it on first: subak flags set --on.")
    at_step = msgspec.structs.replace(rollout, step=max(rollout.step, 0))
    return with_rollout(document, _moved(at_step, Phase.RUNNING, "resumed", now))


def aborted(document: FlagDocument, now: datetime) -> FlagDocument:
    """End the rollout at 0 %: only the allow list is left in.

    Raises:
        RolloutConflict: there is none.
    """
    rollout = msgspec.structs.replace(_live(document), step=-1)
    return with_rollout(document, _moved(rollout, Phase.ABORTED, "aborted", now))


def kept(document: FlagDocument, now: datetime) -> FlagDocument:
    """End the rollout where it is: the percentage stays.

    Raises:
        RolloutConflict: there is none.
    """
    return with_rollout(document, _moved(_live(document), Phase.ABORTED, "ended, the percentage stays", now))


def with_rollout(document: FlagDocument, rollout: Rollout) -> FlagDocument:
    """Put a rollout into the document, and its percentage into the overrides."""
    overrides = msgspec.structs.replace(document.overrides, percentage=rollout.percentage)
    return FlagDocument(overrides, rollout)


def _live(document: FlagDocument) -> Rollout:
    rollout = document.live_rollout
    if rollout is not None:
        return rollout
    if document.rollout is not None:
        raise RolloutConflict(f"The last rollout is over: it was {_word(document.rollout)}.")
    raise RolloutConflict("There is no rollout. Start one: subak rollout start.")


def _moved(rollout: Rollout, phase: Phase, why: str, now: datetime) -> Rollout:
    return msgspec.structs.replace(rollout, phase=phase, step_since=now, why=why)


def _word(rollout: Rollout) -> str:
    return rollout.phase.replace("_", " ")


def differences(before: FlagDocument, after: FlagDocument) -> tuple[str, str]:
    """Give what differs, as it was and as it is: two JSON objects with the same keys."""
    old, new = _flat(before), _flat(after)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return _json({name: old.get(name) for name in names}), _json({name: new.get(name) for name in names})


def _flat(document: FlagDocument) -> dict[str, object]:
    overrides: dict[str, object] = msgspec.to_builtins(document.overrides)
    rollout: dict[str, object] = msgspec.to_builtins(document.rollout) or {}
    return overrides | {f"rollout.{name}": value for name, value in rollout.items()}


def _json(value: dict[str, object]) -> str:
    return msgspec.json.encode(value).decode()


def summary(before: FlagDocument, after: FlagDocument) -> str:
    """Say what a change was without naming anybody: `percentage 5 % → 25 %, allow +2 -0`."""
    old, new = before.overrides, after.overrides
    parts = []
    if old.is_off is not new.is_off:
        parts.append("switched off" if new.is_off else "switched on")
    if old.percentage != new.percentage:
        parts.append(f"percentage {_shown(old.percentage)} → {_shown(new.percentage)}")
    for name, entries_before, entries_after in (("allow", old.allow, new.allow), ("deny", old.deny, new.deny)):
        if entries_before != entries_after:
            added, removed = set(entries_after) - set(entries_before), set(entries_before) - set(entries_after)
            parts.append(f"{name} +{len(added)} -{len(removed)}")
    for name, was, is_now in (
        ("not before", old.not_before, new.not_before),
        ("not after", old.not_after, new.not_after),
    ):
        if was != is_now:
            parts.append(f"{name} {is_now.isoformat() if is_now else 'unset'}")
    if before.rollout != after.rollout and after.rollout is not None:
        parts.append(f"rollout {_word(after.rollout)}")
    return ", ".join(parts) or "unchanged"


def view_of(key: str, document: FlagDocument, *, is_permitted: bool, file: FileRule, is_targeted: bool) -> FlagView:
    """Give a flag as operators see it. `is_targeted`: whether the file looks at callers, too."""
    effect = _effect(document.overrides, is_permitted=is_permitted, file=file, is_targeted=is_targeted)
    return FlagView(key, is_permitted, effect, document.overrides, document.rollout)


def _effect(overrides: Overrides, *, is_permitted: bool, file: FileRule, is_targeted: bool) -> str:
    if not is_permitted:
        return "off: the environment doesn't permit it"
    if overrides.is_off:
        return "off: switched off"
    if file.is_off:
        return "off: by the flags file"
    share = "everybody" if overrides.percentage is None else as_percentage(overrides.percentage)
    parts = [f"on for {share}"]
    if is_targeted:
        parts.append("of those whom the flags file lets in")
    if overrides.not_before:
        parts.append(f"from {overrides.not_before.isoformat()}")
    if overrides.not_after:
        parts.append(f"before {overrides.not_after.isoformat()}")
    if overrides.allow:
        parts.append(f"and for {len(overrides.allow)} on the allow list")
    if overrides.deny:
        parts.append(f"but not for {len(overrides.deny)} on the deny list")
    return " ".join(parts)


def _shown(percentage: float | None) -> str:
    return "unset" if percentage is None else as_percentage(percentage)

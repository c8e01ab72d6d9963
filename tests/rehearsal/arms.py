"""Who was on which arm: the shares that a percentage gives, and that whoever was in stays in."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tests.rehearsal.expect import expect
from tests.rehearsal.load import CALLER, Asked

MARGIN_S: Final = 0.5
"""What was asked so near to a change may belong to either side of it."""
_DEVIATIONS: Final = 3.5
_ENOUGH: Final = 0.6
"""Of all callers: those whose answers are still on their way aren't counted yet."""


class Stretch(NamedTuple):
    """A part of the rehearsal, in seconds since the load began."""

    from_s: float
    to_s: float

    def of(self, asked: Iterable[Asked]) -> Sequence[Asked]:
        """Give what was asked in it."""
        return [each for each in asked if self.from_s <= each.at_s < self.to_s]

    def wholly(self, asked: Iterable[Asked]) -> Sequence[Asked]:
        """Give what was asked and decided in it: a busy machine may decide long after it was asked."""
        from_s, to_s = self.from_s + MARGIN_S, self.to_s - MARGIN_S
        return [each for each in asked if from_s <= each.at_s and each.told_s < to_s]


class Arms(NamedTuple):
    """The callers who were let in, and those who were refused by the flag; testers aside."""

    let_in: frozenset[str]
    refused: frozenset[str]

    @classmethod
    def of(cls, asked: Iterable[Asked], kind: str = CALLER) -> "Arms":
        """Look at who was told what."""
        ours = [each for each in asked if each.caller.startswith(kind)]
        return cls(
            frozenset(each.caller for each in ours if each.is_let_in),
            frozenset(each.caller for each in ours if not each.is_let_in),
        )

    @property
    def share(self) -> float:
        """The share of callers on the streaming arm, in percent; 0 of nobody."""
        seen = self.let_in | self.refused
        return 100.0 * len(self.let_in) / len(seen) if seen else 0.0


def tolerance(percentage: float, count: int) -> float:
    """Give how many points a share of so many callers may be off: buckets are drawn once for all, by the caller."""
    part = percentage / 100
    return 100 * _DEVIATIONS * math.sqrt(part * (1 - part) / count)


def check_share(arms: Arms, percentage: float, callers: int) -> None:
    """Expect the share that a percentage means.

    Raises:
        Unmet: too few were seen, somebody was told both, or the share is another one.
    """
    seen = len(arms.let_in | arms.refused)
    expect(seen >= _ENOUGH * callers, f"most of the {callers} callers have asked: {seen} did")
    expect(not arms.let_in & arms.refused, f"every caller is in or out: {_some(arms.let_in & arms.refused)} are both")
    off = abs(arms.share - percentage)
    expect(
        off <= tolerance(percentage, seen), f"{percentage:g} % of the callers are in: {arms.share:.1f} % of {seen} are"
    )


def check_stays_in(earlier: Arms, later: Arms) -> None:
    """Expect that whoever was let in is not refused later, at a higher percentage.

    Raises:
        Unmet: somebody is.
    """
    lost = earlier.let_in & later.refused
    expect(not lost, f"who was in stays in: {_some(lost)} aren't any more")


def check_same(first: Arms, again: Arms) -> None:
    """Expect the same callers in at the same percentage.

    Raises:
        Unmet: somebody has changed sides.
    """
    changed = (first.let_in & again.refused) | (first.refused & again.let_in)
    expect(not changed, f"the same callers are in at the same percentage: {_some(changed)} have changed sides")


def _some(callers: frozenset[str]) -> str:
    names = sorted(callers)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

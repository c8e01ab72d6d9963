"""Unexpected exceptions, for operators: grouped by what and where, counted, and the last hundred in order.

An exception's text is never kept: it may hold content. What it was and where it was raised is what a report needs.
"""

import hashlib
from collections import Counter, OrderedDict, deque
from typing import Final

import msgspec

from subak.core.clock import Clock
from subak.core.facts import Crashed, Fact

KEPT: Final = 100
MAX_GROUPS: Final = 200
MAX_KINDS: Final = 100
OTHER: Final = "other"
_FINGERPRINT_CHARS: Final = 12


class ErrorGroup(msgspec.Struct):
    """All crashes of one kind at one place. `fingerprint` is the same in every process of the same version."""

    fingerprint: str
    kind: str
    where: str
    count: int
    first_at_ms: int
    last_at_ms: int


class ErrorSeen(msgspec.Struct, frozen=True):
    """One crash."""

    at_ms: int
    fingerprint: str
    kind: str
    where: str


class ErrorsSnapshot(msgspec.Struct, frozen=True):
    """The body of `/-/errors`: how many in all, by kind, the groups and the last ones, the newest first."""

    total: int
    by_kind: dict[str, int]
    groups: tuple[ErrorGroup, ...]
    latest: tuple[ErrorSeen, ...]


class Errors:
    """An observer of `Crashed`. Of more than 200 groups those are forgotten that were quiet for longest."""

    def __init__(self, clock: Clock) -> None:
        """Start with none."""
        self._clock = clock
        self._kinds: Counter[str] = Counter()
        self._groups: OrderedDict[str, ErrorGroup] = OrderedDict()
        self._latest: deque[ErrorSeen] = deque(maxlen=KEPT)

    def notify(self, fact: Fact) -> None:
        """Count a crash; nothing else."""
        if isinstance(fact, Crashed):
            self._count(fact.kind, fact.where)

    def snapshot(self) -> ErrorsSnapshot:
        """Give the body of `/-/errors`."""
        groups = [msgspec.structs.replace(group) for group in reversed(self._groups.values())]
        return ErrorsSnapshot(
            total=self._kinds.total(),
            by_kind=dict(self._kinds.most_common()),
            groups=tuple(groups),
            latest=tuple(reversed(self._latest)),
        )

    def _count(self, kind: str, where: str) -> None:
        now_ms = self._clock.time_ms()
        self._kinds[kind if kind in self._kinds or len(self._kinds) < MAX_KINDS else OTHER] += 1
        fingerprint = fingerprint_of(kind, where)
        self._latest.append(ErrorSeen(now_ms, fingerprint, kind, where))
        group = self._groups.setdefault(fingerprint, ErrorGroup(fingerprint, kind, where, 0, now_ms, now_ms))
        group.count += 1
        group.last_at_ms = now_ms
        self._groups.move_to_end(fingerprint)
        if len(self._groups) > MAX_GROUPS:
            self._groups.popitem(last=False)


def fingerprint_of(kind: str, where: str) -> str:
    """Give a short name for crashes of one kind at one place."""
    return hashlib.sha256(f"{kind}\n{where}".encode()).hexdigest()[:_FINGERPRINT_CHARS]

"""Refusals that come by the thousand: the first of each key is recorded, then how many there were.

    first refusal of a key ──► a row, and a window opens
    more of them           ──► counted
    the window closes      ──► a row with the exact count, if there was more than the first

A window closes before ten seconds are over, and at the end of the process. Only so many windows are open at once; past
that, what has no window of its own is counted for its kind alone, without a name: nothing is lost and nothing grows.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

import msgspec

from subak.audit.operations import Operation
from subak.audit.records import Record

WINDOW_S: Final = 9.0
"""With the ticker's grain the count is on its way within ten seconds of the first."""
MAX_WINDOWS: Final = 1000


class Kind(msgspec.Struct, frozen=True):
    """What refusals have in common whoever they concern: there are some dozens of kinds, all of our making."""

    operation: Operation
    code: str
    reason: str


class _Window:
    __slots__ = ("count", "first", "opened_at")

    def __init__(self, first: Record, opened_at: float) -> None:
        self.first = first
        self.opened_at = opened_at
        self.count = 1


class Folding:
    """Counts refusals by kind and account."""

    def __init__(self, write: Callable[[Record], object]) -> None:
        """`write` takes each record that comes of it."""
        self._write = write
        self._windows: dict[tuple[Kind, Hashable], _Window] = {}
        self._rest: Counter[Kind] = Counter()
        self._rest_since = 0.0

    def __len__(self) -> int:
        """Count the windows that are open."""
        return len(self._windows)

    def note(self, kind: Kind, account: Hashable, now: float, record: Callable[[], Record]) -> None:
        """Take one refusal at `now` (monotonic seconds); `record` is made only if it is the first of its window."""
        window = self._windows.get((kind, account))
        if window is not None:
            window.count += 1
        elif len(self._windows) < MAX_WINDOWS:
            first = record()
            self._windows[kind, account] = _Window(first, now)
            self._write(first)
        else:
            if not self._rest:
                self._rest_since = now
            self._rest[kind] += 1

    def close_due(self, now: float) -> None:
        """Close the windows whose time is over at `now`."""
        self._close_opened_before(now - WINDOW_S)

    def close_all(self) -> None:
        """Close all windows."""
        self._close_opened_before(float("inf"))

    def _close_opened_before(self, limit: float) -> None:
        """Close them in the order in which they were opened, which is the dict's."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.opened_at > limit:
                break
            del self._windows[key]
            if window.count > 1:
                self._write(counted(window.first, window.count))
        if self._rest and self._rest_since <= limit:
            for kind, count in self._rest.items():
                self._write(_nameless(kind, count))
            self._rest.clear()


def counted(first: Record, count: int) -> Record:
    """Give the row that closes a window: as its first, with how many there were, that one among them."""
    return msgspec.structs.replace(first, fields={**first.fields, "count": count})


def _nameless(kind: Kind, count: int) -> Record:
    fields: dict[str, object] = {"outcome": "refused", "code": kind.code, "count": count}
    permitted = kind.operation.rule.fields
    fields |= {name: kind.reason for name in ("policy", "reason") if kind.reason and name in permitted}
    return Record(kind.operation, {name: value for name, value in fields.items() if name in permitted})

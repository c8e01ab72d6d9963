"""Which events of one answer came, by their seqs: what is lost, came twice, or too late. No IO."""

from typing import Final

MAX_NAMED: Final = 20_000
"""Missing seqs that are kept by name, so that a late one is known for what it is: as many as a stream may have."""


class Order:
    """Takes the seqs of one answer, 1-based, in the order in which they came."""

    __slots__ = ("_missing", "_next", "_unnamed", "duplicated", "reordered")

    def __init__(self) -> None:
        self.duplicated = 0
        self.reordered = 0
        self._next = 1
        self._missing: set[int] = set()
        self._unnamed = 0

    @property
    def lost(self) -> int:
        """How many didn't come, although a later one did."""
        return len(self._missing) + self._unnamed

    def take(self, seq: int) -> None:
        """Take the next one."""
        if seq == self._next:
            self._next = seq + 1
        elif seq > self._next:
            named = min(seq, self._next + MAX_NAMED - len(self._missing))
            self._missing.update(range(self._next, named))
            self._unnamed += seq - named
            self._next = seq + 1
        elif seq in self._missing:
            self._missing.discard(seq)
            self.reordered += 1
        else:
            self.duplicated += 1

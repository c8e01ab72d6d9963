"""One timer for everything: heartbeats, idle limits, ages, grace and replay windows.

A thing that has a deadline is *watched*. When the deadline has passed it is asked once what is next: it answers with
its next deadline, or None to be forgotten. Activity moves no timer: a reader that was written to a moment ago is
simply asked, finds that it isn't due, and answers with a later time. So a token costs no timer work, and 5 000
streams cost some hundred calls a second instead of 5 000 timers.

Sans-IO: `run(now)` is called by the application's ticker, or by a test's fake clock.
"""

import heapq
from itertools import count
from typing import Final, Protocol

_COMPACT_FROM: Final = 64


class Watched(Protocol):
    """Something with a deadline; hashable by identity."""

    def on_deadline(self, now: float) -> float | None:
        """Act on what is due at `now` (monotonic seconds); give the next deadline, or None when there is none."""


class Deadlines:
    """A heap of (deadline, watched) with one valid entry per watched thing. O(log n) for a deadline, nothing per event.

    Entries that were moved or forgotten stay in the heap until they are due or make up half of it.
    """

    __slots__ = ("_due", "_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Watched]] = []
        self._due: dict[Watched, int] = {}
        self._order = count()

    def __len__(self) -> int:
        """Count what is watched."""
        return len(self._due)

    def watch(self, watched: Watched, deadline: float) -> None:
        """Ask `watched` when `deadline` (monotonic seconds) has passed, instead of any time set before."""
        order = next(self._order)
        self._due[watched] = order
        heapq.heappush(self._heap, (deadline, order, watched))
        if len(self._heap) > _COMPACT_FROM + 2 * len(self._due):
            self._compact()

    def forget(self, watched: Watched) -> None:
        """Ask it no more. Idempotent."""
        self._due.pop(watched, None)
        if len(self._heap) > _COMPACT_FROM + 2 * len(self._due):
            self._compact()

    def run(self, now: float) -> None:
        """Ask everything that is due at `now`, oldest deadline first, each at most once."""
        due: list[tuple[float, int, Watched]] = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        for _, order, watched in due:
            if self._due.get(watched) == order:
                self._ask(watched, order, now)

    def _ask(self, watched: Watched, order: int, now: float) -> None:
        following = watched.on_deadline(now)
        if self._due.get(watched) != order:
            return
        if following is None:
            del self._due[watched]
        else:
            self.watch(watched, following)

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[1]]
        heapq.heapify(self._heap)

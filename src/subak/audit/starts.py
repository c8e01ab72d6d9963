"""Starts of streams on their way to the disk: who waits for them, and for how long at most."""

from collections.abc import Callable
from typing import Final

from subak.audit.log import Ticket

COMMIT_S: Final = 5.0
"""A start that isn't on disk after so long counts as one that can't be recorded, for who waits for it."""


class Starts:
    """Those that somebody waits for, oldest first. Everything here runs in one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Start, None] = {}

    def __len__(self) -> int:
        """Count them."""
        return len(self._waiting)

    def take(self, ticket: Ticket, now: float) -> "Start":
        """Give what can be waited for; `now` in monotonic seconds."""
        start = Start(ticket, now, self._waiting.pop)
        self._waiting[start] = None
        return start

    def give_up_late(self, now: float) -> None:
        """Tell those who have waited too long that there is no record."""
        for start in tuple(self._waiting):
            if now - start.since <= COMMIT_S:
                break
            start.settle(False)


class Start:
    """One of them (`core.ledger.Commitment`)."""

    __slots__ = ("_callback", "_forget", "_ticket", "since")

    def __init__(self, ticket: Ticket, since: float, forget: Callable[["Start", None], None]) -> None:
        """`forget` is called with it once it is settled."""
        self.since = since
        self._ticket = ticket
        self._forget = forget
        self._callback: Callable[[bool], None] | None = None

    def when_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once, from the event loop: True when the record is safe, False when it can't be made so."""
        self._callback = callback
        self._ticket.when_done(self.settle)

    def settle(self, is_recorded: bool) -> None:  # noqa: FBT001 — a call-back's one argument
        """Tell who waits; the first word stands."""
        self._forget(self, None)
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(is_recorded)

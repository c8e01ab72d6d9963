"""Starts of streams on their way to the disk: who waits for them, and for how long at most."""

from collections.abc import Callable
from typing import Final

from subak.audit.log import Ticket
from subak.audit.writer import Committed
from subak.core.ledger import Receipt

COMMIT_S: Final = 5.0
"""A start that isn't on disk after so long counts as one that can't be recorded, for who waits for it."""


class Starts:
    """Those that somebody waits for, oldest first. Everything here runs in one event loop."""

    def __init__(self, sign: Callable[[Committed], Receipt] | None) -> None:
        """`sign` makes receipts; without it there are none."""
        self._waiting: dict[Start, None] = {}
        self._forget = self._waiting.pop
        self._sign = sign

    def __len__(self) -> int:
        """Count them."""
        return len(self._waiting)

    def take(self, ticket: Ticket, now: float) -> "Start":
        """Give what can be waited for; `now` in monotonic seconds."""
        start = Start(ticket, now, self._forget, self._sign)
        self._waiting[start] = None
        return start

    def give_up_late(self, now: float) -> None:
        """Tell those who have waited too long that there is no record."""
        for start in tuple(self._waiting):
            if now - start.since <= COMMIT_S:
                break
            start.settle(False)


class Start:
    """One of them (`core.ledger.Commitment`). Its stream keeps it to the end, its ticket only until it is settled."""

    __slots__ = ("_callback", "_committed", "_forget", "_sign", "_ticket", "since")

    def __init__(
        self,
        ticket: Ticket,
        since: float,
        forget: Callable[["Start", None], None],
        sign: Callable[[Committed], Receipt] | None,
    ) -> None:
        """`forget` is called with it once it is settled."""
        self.since = since
        self._ticket: Ticket | None = ticket
        self._committed: Committed | None = None
        self._forget = forget
        self._sign = sign
        self._callback: Callable[[bool], None] | None = None

    def when_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once, from the event loop: True when the record is safe, False when it can't be made so."""
        assert self._ticket is not None, "a start is waited for as soon as it is taken"
        self._callback = callback
        self._ticket.when_done(self.settle)

    def settle(self, is_recorded: bool) -> None:  # noqa: FBT001 — a call-back's one argument
        """Tell who waits; the first word stands."""
        self._forget(self, None)
        self._committed = None if self._sign is None else self._place()
        self._ticket = None
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(is_recorded)

    def receipt(self) -> Receipt | None:
        """Give what proves the record to a reader; None while it isn't on disk, and where receipts aren't given."""
        committed = self._place()
        return None if self._sign is None or committed is None else self._sign(committed)

    def _place(self) -> Committed | None:
        """Give where it is in the log, as far as that is known."""
        return self._committed if self._ticket is None else self._ticket.committed

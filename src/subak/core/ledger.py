"""The mandatory record: a stream's start is written down before anybody reads a token of it.

An observer hears of things and can stop nothing. This can: it is what the publisher waits for. The record is on its way
before the upstream is asked, and an upstream takes longer than a commit, so the wait costs the first token nothing.
"""

from collections.abc import Callable
from typing import Protocol

from subak.core.facts import StreamOpened


class Commitment(Protocol):
    """A record on its way."""

    def when_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once, from the event loop: True when the record is safe, False when it can't be made so."""


class Ledger(Protocol):
    """Where starts are recorded."""

    def check(self) -> None:
        """Tell, before a stream is opened, whether its start could be recorded.

        Raises:
            AuditUnavailable: no, and no answer may be given unrecorded.
        """

    def begin(self, opened: StreamOpened) -> Commitment | None:
        """Put the start on its way; None when nobody has to wait for it."""


class NoLedger:
    """Records nothing and keeps nobody waiting."""

    def check(self) -> None:
        """Nothing stands in the way."""

    def begin(self, opened: StreamOpened) -> None:
        """Nothing is recorded."""
        del opened

"""The mandatory record: a stream's start is written down before anybody reads a token of it.

An observer hears of things and can stop nothing. This can: it is what the publisher waits for. The record is on its way
before the upstream is asked, and an upstream takes longer than a commit, so the wait costs the first token nothing.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from subak.core.facts import StreamOpened


class Receipt(msgspec.Struct, frozen=True):
    """A signed promise to a reader: row `seq` of the log `origin` has this leaf hash. Bytes are base64 in JSON."""

    origin: str
    seq: int
    leaf: bytes
    signature: bytes


class Commitment(Protocol):
    """A record on its way."""

    def when_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once, from the event loop: True when the record is safe, False when it can't be made so."""

    def receipt(self) -> Receipt | None:
        """Give what proves the record to a reader, once it is safe; None where none is given."""


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

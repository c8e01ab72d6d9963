"""The typed items of a stream, from upstream to wire.

An *event* is one entry of a replay log; its seq is its place there (1-based). A *frame* is its bytes on the wire, and
is made from the event by `core.envelope`. The upstream side speaks in events and, once, in an `Ending` (PROTOCOL §3).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from subak.core.errors import ErrorCode

METADATA: Final = "metadata"
TOKEN: Final = "token"
SOURCES: Final = "sources"
DONE: Final = "done"
ERROR: Final = "error"
TERMINAL_TYPES: Final = frozenset({DONE, ERROR})

EVENT_OVERHEAD_BYTES: Final = 160
"""What an event costs in memory beside its data: struct, bytes header, list slot, with some slack (CPython 3.11)."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One entry of a replay log.

    `data` is the JSON text of the envelope's `data` member: UTF-8, one line, no raw control bytes.
    `at_ms` is the wall clock when it came, in milliseconds since the epoch.
    """

    type: str
    data: bytes
    at_ms: int

    @property
    def is_terminal(self) -> bool:
        """Whether nothing may follow it."""
        return self.type in TERMINAL_TYPES


class FinishReason(StrEnum):
    """Why an answer ended well, or was ended (PROTOCOL §3)."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class Finished(msgspec.Struct, frozen=True):
    """The answer is complete, or was ended on purpose. `usage` is the upstream's own account, as it came."""

    reason: FinishReason = FinishReason.STOP
    usage: dict[str, int] | None = None


class Failed(msgspec.Struct, frozen=True):
    """The answer broke. `reason` is for operators (a short constant), the reader sees the code and its message."""

    code: ErrorCode
    reason: str
    retry_after_s: int | None = None


Ending = Finished | Failed


class UpstreamSink(Protocol):
    """Who hears an upstream's answer: the publisher. Called synchronously, in order, from the event loop."""

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Take everything one read of the upstream brought.

        `events` are tokens and sources only; `ending`, if any, comes after them and exactly once; after it nothing is
        called any more. `size_bytes` counts the upstream's body bytes of this read. Must not raise.
        """

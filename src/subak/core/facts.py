"""What has happened, in the past tense. Facts go one way: to observers, who can't refuse, delay or raise.

A stream's id is a capability and goes no further than the observer, which writes a keyed digest of it (PROTOCOL §1).
No fact carries a question, an answer, an e-mail or an address.
"""

from typing import Protocol

import msgspec


class StreamOpened(msgspec.Struct, frozen=True):
    """A question was admitted and its stream began."""

    stream_id: str
    connection_id: str
    route: str


class StreamEnded(msgspec.Struct, frozen=True):
    """A stream's terminal event was appended. `outcome` is a finish reason or an error code.

    Times in milliseconds since the question was admitted; `reason` is the operator's short constant for a failure.
    """

    stream_id: str
    connection_id: str
    route: str
    outcome: str
    reason: str
    tokens: int
    size_bytes: int
    first_token_ms: float | None
    duration_ms: float


class ReaderAttached(msgspec.Struct, frozen=True):
    """A response began to read a log after `cursor`. `is_resume` when it named the cursor itself."""

    stream_id: str
    connection_id: str
    cursor: int
    is_resume: bool


class ReaderLeft(msgspec.Struct, frozen=True):
    """A response is over. `departure` says why, `cursor` how far it got."""

    stream_id: str
    connection_id: str
    departure: str
    cursor: int


class StopRequested(msgspec.Struct, frozen=True):
    """Somebody who may asked for a stream's end. `was_live` is False when it had ended already."""

    stream_id: str
    was_live: bool


class Refused(msgspec.Struct, frozen=True):
    """A request was answered with an error before its first byte."""

    route: str
    method: str
    status: int
    code: str


class Crashed(msgspec.Struct, frozen=True):
    """An unexpected exception reached a task's root: a defect of ours. `kind` is its class, `where` file and line."""

    kind: str
    where: str


class DescriptorsExhausted(msgspec.Struct, frozen=True):
    """No file descriptor is left, of `limit`: new connections wait or are dropped, and no upstream can be reached."""

    limit: int


class DescriptorsFreed(msgspec.Struct, frozen=True):
    """There are file descriptors again."""


class ProcessStarted(msgspec.Struct, frozen=True):
    """The gateway listens."""

    version: str
    upstream: str


class DrainStarted(msgspec.Struct, frozen=True):
    """The process takes no new streams. `live_streams` were under way."""

    live_streams: int
    readers: int


class DrainEnded(msgspec.Struct, frozen=True):
    """The process is about to leave. `lost_streams` were ended as `producer_lost`."""

    lost_streams: int


Fact = (
    StreamOpened
    | StreamEnded
    | ReaderAttached
    | ReaderLeft
    | StopRequested
    | Refused
    | Crashed
    | DescriptorsExhausted
    | DescriptorsFreed
    | ProcessStarted
    | DrainStarted
    | DrainEnded
)


class Observer(Protocol):
    """Who hears facts."""

    def notify(self, fact: Fact) -> None:
        """Take note. Must not block and must not raise."""

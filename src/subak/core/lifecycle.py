"""The life of a stream as a table (PROTOCOL §4).

    status      signal      next
    ----------  ----------  ----------
    connecting  answered    streaming     the upstream's first event
    connecting  finished    completed     an empty answer
    streaming   finished    completed
    any open    stopped     cancelled     somebody called stop
    any open    abandoned   abandoned     nobody listened any more
    any open    failed      failed

Ended states have no way out: a stream ends once, and nothing follows its terminal event.
"""

from enum import StrEnum
from typing import Final

from subak.core.events import FinishReason


class Status(StrEnum):
    """Where a stream stands; the words of `GET /v1/streams/{id}`."""

    CONNECTING = "connecting"
    STREAMING = "streaming"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        """Whether events may still come."""
        return self in OPEN


class Signal(StrEnum):
    """What moves a stream on."""

    ANSWERED = "answered"
    FINISHED = "finished"
    STOPPED = "stopped"
    ABANDONED = "abandoned"
    FAILED = "failed"


OPEN: Final = frozenset({Status.CONNECTING, Status.STREAMING})

TRANSITIONS: Final = {
    (Status.CONNECTING, Signal.ANSWERED): Status.STREAMING,
    (Status.CONNECTING, Signal.FINISHED): Status.COMPLETED,
    (Status.STREAMING, Signal.FINISHED): Status.COMPLETED,
    **{(status, Signal.STOPPED): Status.CANCELLED for status in OPEN},
    **{(status, Signal.ABANDONED): Status.ABANDONED for status in OPEN},
    **{(status, Signal.FAILED): Status.FAILED for status in OPEN},
}

_SIGNAL_OF: Final = {FinishReason.CANCELLED: Signal.STOPPED, FinishReason.ABANDONED: Signal.ABANDONED}


def signal_of(reason: FinishReason) -> Signal:
    """Give the signal that a finish reason stands for."""
    return _SIGNAL_OF.get(reason, Signal.FINISHED)


def status_of(reason: FinishReason) -> Status:
    """Give the status of a stream whose `done` bears this reason."""
    return TRANSITIONS[Status.STREAMING, signal_of(reason)]


class OnDisconnect(StrEnum):
    """What happens to an answer when its last reader has gone."""

    GRACE = "grace"
    CANCEL = "cancel"
    CONTINUE = "continue"


_FRUGALITY: Final = {OnDisconnect.CANCEL: 0, OnDisconnect.GRACE: 1, OnDisconnect.CONTINUE: 2}


def may_choose(wanted: OnDisconnect, allowed: OnDisconnect) -> bool:
    """Whether a request may ask for `wanted` where the setting is `allowed`: never for something that costs more."""
    return _FRUGALITY[wanted] <= _FRUGALITY[allowed]

"""The contract's JSON as types: what events, states and refusals look like on their way (PROTOCOL §2, §3).

Members that aren't known are ignored, so that a newer gateway can be read.
"""

import re
from typing import Final

import msgspec

from subak.core.json_errors import NOT_JSON

_MESSAGE_CHARS: Final = 500
_STREAM_AT_END: Final = re.compile(r"/(st_[A-Za-z0-9_-]{28})\Z")


class Envelope(msgspec.Struct, frozen=True):
    """An event's data."""

    type: str
    data: msgspec.Raw
    sequence: int


class MetadataData(msgspec.Struct, frozen=True, rename="camel"):
    """The data of `metadata`."""

    stream_id: str
    connection_id: str


class DoneData(msgspec.Struct, frozen=True):
    """The data of `done`."""

    finish_reason: str
    usage: dict[str, int] | None = None
    metrics: dict[str, float | None] | None = None


class ErrorData(msgspec.Struct, frozen=True, rename="camel"):
    """The data of `error`."""

    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None


class SnapshotData(msgspec.Struct, frozen=True):
    """The data of `snapshot`."""

    text: str
    upto: int


class StateReply(msgspec.Struct, frozen=True):
    """The body of `GET /v1/streams/{id}`."""

    id: str
    last_seq: int
    text: str
    finish_reason: str | None = None
    error: ErrorData | None = None

    @property
    def is_ended(self) -> bool:
        """Whether its last event is the terminal one."""
        return self.finish_reason is not None or self.error is not None


class Refusal(msgspec.Struct, frozen=True):
    """An answer that is no event stream. `stream_id` is the stream that it tells of; empty without one."""

    status: int
    code: str = "refused"
    message: str = ""
    retry_after_s: float | None = None
    stream_id: str = ""


class _RefusalBody(msgspec.Struct, frozen=True):
    code: str | None = None
    error: str | None = None
    message: str | None = None
    detail: str | None = None
    status_url: str = ""
    retry_after: float | None = msgspec.field(default=None, name="retryAfter")


decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_state = msgspec.json.Decoder(StateReply).decode
_decode_refusal = msgspec.json.Decoder(_RefusalBody).decode


def refusal_of(status: int, body: bytes, retry_after_s: float | None) -> Refusal:
    """Read a refusal, in either of the gateway's forms or from anybody else. Its texts are printable and bounded."""
    try:
        told = _decode_refusal(body)
    except NOT_JSON:
        told = _RefusalBody()
    found = _STREAM_AT_END.search(told.status_url)
    return Refusal(
        status=status,
        code=shown(told.code or told.error or "refused"),
        message=shown(told.message or told.detail or told.error or ""),
        retry_after_s=told.retry_after if retry_after_s is None else retry_after_s,
        stream_id=found[1] if found else "",
    )


def shown(text: str) -> str:
    """Give foreign text, as far as it is bounded, so that it can stand in a line of a log or on a terminal."""
    return printable(text[:_MESSAGE_CHARS])


def printable(text: str) -> str:
    """Give foreign text of any length with a blank for all that a terminal might obey."""
    return "".join(char if char.isprintable() else " " for char in text)

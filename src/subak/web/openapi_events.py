"""The events of a stream as types, for the OpenAPI documents alone: on the wire `core.envelope` makes them.

That what it makes is what stands here is tested on live streams.
"""

from typing import Annotated, Final, Literal

import msgspec

from subak.core.envelope import StreamMetrics
from subak.core.errors import ErrorCode
from subak.core.events import FinishReason
from subak.core.ledger import Receipt
from subak.web.openapi import SCHEMAS


class _Event(msgspec.Struct, tag_field="type"):
    """`sequence` counts the events of a stream from 1, without holes; `timestamp` in milliseconds since the epoch."""

    sequence: int
    timestamp: int


class Connected(msgspec.Struct, rename="camel"):
    """What the first event says: who answers, by the label of the connection and the id of the stream."""

    status: str
    connection_id: str
    stream_id: str
    timestamp: int


class MetadataEvent(_Event, tag="metadata"):
    """The first event, before the upstream has answered: from now on there is a cursor."""

    data: Connected


class TokenEvent(_Event, tag="token"):
    """A piece of the answer, exactly as the upstream gave it. All of them joined are the answer."""

    data: str


class Source(msgspec.Struct, rename="camel"):
    """A passage that the answer is based on."""

    source: str
    snippet: str
    similarity: float | None = None
    tier: str | None = None
    date_last_crawled: str | None = None


class SourcesEvent(_Event, tag="sources"):
    """What the answer is based on."""

    data: tuple[Source, ...]


class DoneData(msgspec.Struct):
    """How the answer ended. `usage` is the upstream's own account; `receipt` is there with `audit.receipts`."""

    finish_reason: FinishReason
    metrics: StreamMetrics
    usage: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    receipt: Receipt | msgspec.UnsetType = msgspec.UNSET


class DoneEvent(_Event, tag="done"):
    """The last event of an answer that is complete or was ended on purpose."""

    data: DoneData


class ErrorData(msgspec.Struct, rename="camel"):
    """What went wrong, and whether asking again may help; `retryAfter` in seconds."""

    code: ErrorCode
    message: str
    retryable: bool
    connection_id: str
    retry_after: int | msgspec.UnsetType = msgspec.UNSET


class ErrorEvent(_Event, tag="error"):
    """The last event of an answer that broke."""

    data: ErrorData


class SnapshotData(msgspec.Struct):
    """All text up to an event."""

    text: str
    upto: int


class SnapshotEvent(_Event, tag="snapshot"):
    """Replaces everything up to `upto`: the first event for `?on_gap=snapshot` where the cursor's place has gone."""

    data: SnapshotData


class HeartbeatData(msgspec.Struct):
    """When it was sent, in milliseconds since the epoch."""

    timestamp: int


class HeartbeatEvent(_Event, tag="heartbeat"):
    """The stream lives. It has no `id` and moves no cursor; `sequence` is that of the last event sent."""

    data: HeartbeatData


StreamEvent = MetadataEvent | TokenEvent | SourcesEvent | DoneEvent | ErrorEvent | SnapshotEvent | HeartbeatEvent
"""What stands behind `data:`. Exactly one `done` or `error` ends a stream; nothing else does."""

CURSOR: Final = r"st_[A-Za-z0-9_-]{28}\.(0|[1-9][0-9]{0,8})"


def _json_text(name: str) -> msgspec.Meta:
    """Say that a string is JSON of a type."""
    return msgspec.Meta(
        extra_json_schema={"contentMediaType": "application/json", "contentSchema": {"$ref": SCHEMAS + name}}
    )


class ServerSentEvent(msgspec.Struct):
    """One block of a stream, as a reader has it (WHATWG HTML §9.2.6).

    `id` is what `Last-Event-ID` takes to go on behind it; a heartbeat has none, and readers keep the one before.
    `retry`, in milliseconds, stands in the first block of a response, and in the last one before we cut it.
    """

    data: Annotated[str, _json_text("StreamEvent")]
    event: Literal["message", "heartbeat"]
    id: Annotated[str, msgspec.Meta(pattern=f"^{CURSOR}$")] | msgspec.UnsetType = msgspec.UNSET
    retry: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET


class Heartbeat(msgspec.Struct):
    """A block that tells nothing but that it came."""

    data: Annotated[str, _json_text("HeartbeatEvent")]
    event: Literal["heartbeat"]

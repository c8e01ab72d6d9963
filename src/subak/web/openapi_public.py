"""What the public listener answers, for its OpenAPI document. docs/PROTOCOL.md says the same in words, and why."""

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from subak.core.asked import ChatAnswer
from subak.core.envelope import (
    StreamMetrics,
    done_event,
    encode_frames,
    encode_preface,
    frame_head,
    metadata_event,
    token_event,
)
from subak.core.errors import (
    AuditUnavailable,
    BudgetExhausted,
    CursorAhead,
    CursorExpired,
    Draining,
    FlagDisabled,
    Forbidden,
    InvalidField,
    KeyReused,
    KeysUnavailable,
    MalformedCursor,
    MissingQuery,
    NotAcceptable,
    QuestionTooLong,
    RateLimited,
    RequestError,
    StoreError,
    StreamNotFound,
    TicketsUsedUp,
    TooLarge,
    TooManyStreams,
    TooSlow,
    Unauthenticated,
    UpstreamError,
    UpstreamUnavailable,
    UrlTooLong,
)
from subak.core.events import FinishReason
from subak.core.lifecycle import OnDisconnect
from subak.relay.hub import StopResult, StreamState
from subak.web.ask import LABEL_BYTES, QuestionIn
from subak.web.health import Health
from subak.web.openapi import (
    EVENTS,
    JSON,
    SCHEMAS,
    Answer,
    Body,
    Face,
    Object,
    Operation,
    document,
    header,
    parameter,
)
from subak.web.openapi_events import CURSOR, Heartbeat, ServerSentEvent, StreamEvent
from subak.web.openapi_shared import BARE, HEADERS, IF_NONE_MATCH, TEXT, file
from subak.web.problems import PROBLEM_TYPE
from subak.web.report import ReportIn
from subak.web.streams import Features, StreamLinks, Ticket

_ID: Final = "st_7Qk2mZ0b9XcVnTq4LwRy8sDfGhJk"
_QUESTION: Final = {"query": "What documents do I need for a B211A visa?", "user_role": "member"}


class FlagOff(msgspec.Struct):
    """The founding document's body for a flag that is off; `origin` is the caller's own."""

    ok: Literal[False]
    code: Literal["feature_flag_disabled"]
    flag: str
    origin: str | msgspec.UnsetType = msgspec.UNSET


class RateLimitExceeded(msgspec.Struct, rename="camel"):
    """The founding document's body for a quota that is used up; `retryAfter` in seconds."""

    ok: Literal[False]
    error: Literal["RATE_LIMIT_EXCEEDED"]
    message: str
    retry_after: int


class QuestionMissing(msgspec.Struct):
    """The founding document's body where nothing was asked."""

    error: str


_AT_MS: Final = 1_795_359_600_123
_ANSWER: Final = encode_preface(1840) + encode_frames(
    frame_head(_ID),
    1,
    (
        metadata_event(_ID, "c_0f3a", _AT_MS),
        token_event("A KITAS is a limited stay permit.", _AT_MS + 41),
        done_event(FinishReason.STOP, StreamMetrics(41.2, 1, 381, 912.0), None, _AT_MS + 912),
    ),
)
_EVENT_STREAM: Final = Body(ServerSentEvent, (EVENTS,), wire=_ANSWER.decode())
_STREAM_HEADERS: Final = ("Subak-Stream-Id", "Location", "X-Connection-ID")
_LIMIT_HEADERS: Final = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
)
_USES: Final = ("readEvents", "readState", "stopStream", "reportOnStream")
_STREAM: Final = Answer(
    "The answer as it comes. Only a `done` or `error` event ends it: a body that ends before was cut, and goes on with "
    "`Last-Event-ID`.",
    (_EVENT_STREAM,),
    (*_STREAM_HEADERS, "Subak-Resumed-From", "Idempotent-Replayed", *_LIMIT_HEADERS),
    _USES,
)
_READ: Final = Answer("The last event was already read: there is nothing more to come.", headers=_STREAM_HEADERS)
_CALLER: Final = (Unauthenticated, RateLimited, KeysUnavailable)
_OF_A_STREAM: Final = (*_CALLER, MalformedCursor, StreamNotFound, CursorExpired, StoreError)
_ASKING: Final = (
    *_OF_A_STREAM,
    CursorAhead,
    RequestError,
    MissingQuery,
    FlagDisabled,
    Forbidden,
    InvalidField,
    KeyReused,
    BudgetExhausted,
    AuditUnavailable,
    TooManyStreams,
    Draining,
    UpstreamUnavailable,
)
_BODY: Final = (NotAcceptable, TooLarge, TooSlow)
_SEED_BODIES: Final = {FlagDisabled: FlagOff, RateLimited: RateLimitExceeded, MissingQuery: QuestionMissing}
_CREDENTIALS: Final = ("", "bearer", "apiKey", "ticket")
_CALLER_HEADERS: Final = ("XUserId",)
_ASK_HEADERS: Final = (
    "LastEventId",
    "IdempotencyKey",
    "XConnectionId",
    "XSessionId",
    "XContinuityId",
    *_CALLER_HEADERS,
    "Traceparent",
)
_NOT_BLANK: Final = r"[^\s\x1c-\x1f\x85]"
_QUERY: Final = {"type": "string", "pattern": _NOT_BLANK}
_PASSED_ON: Final = Body(
    QuestionIn, example=_QUESTION, narrower={"required": ["query"], "properties": {"query": _QUERY}}
)
_ASKED: Final = Body(
    QuestionIn,
    example=_QUESTION,
    narrower={
        "required": ["query"],
        "properties": {
            "query": _QUERY,
            "user_email": {"maxLength": LABEL_BYTES},
            "user_role": {"maxLength": LABEL_BYTES},
        },
    },
)


def _stop(id_: str) -> Operation:
    return Operation(
        id_,
        "End the answer, and the backend's work with it; what came is kept. Idempotent.",
        "streams",
        {200: Answer("How the stream stands.", (Body(StopResult),))},
        errors=(*_OF_A_STREAM, AuditUnavailable),
        parameters=("StreamId", "XConnectionId", *_CALLER_HEADERS),
        security=_CREDENTIALS,
    )


_OPERATIONS: Final = {
    ("GET", "/api/v2/bali-zero/chat-stream"): Operation(
        "askByUrl",
        "Ask; the question stands in the URL. Prefer POST: URLs are written down on the way.",
        "seed",
        {200: _STREAM, 204: _READ},
        errors=(*_ASKING, UrlTooLong),
        parameters=(
            "Query",
            "UserEmail",
            "UserRole",
            "ConversationHistory",
            "OnDisconnect",
            "OnGap",
            "LastEventIdInUrl",
            *_ASK_HEADERS,
        ),
        security=_CREDENTIALS,
        error_bodies=_SEED_BODIES,
    ),
    ("POST", "/api/v2/bali-zero/chat-stream"): Operation(
        "askByBody",
        "Ask; the question is the body. A stream whatever `Accept` says.",
        "seed",
        {200: _STREAM, 204: _READ},
        errors=(*_ASKING, *_BODY, QuestionTooLong),
        parameters=("OnDisconnect", "OnGap", "LastEventIdInUrl", *_ASK_HEADERS),
        takes=_ASKED,
        security=_CREDENTIALS,
        error_bodies=_SEED_BODIES,
    ),
    ("POST", "/api/v2/bali-zero/chat"): Operation(
        "chat",
        "Ask for a whole answer. Passed to the backend byte for byte, flag on or off: what it answers is its own.",
        "seed",
        {
            200: Answer("The backend's answer.", (Body(ChatAnswer),)),
            422: Answer("The backend can't understand it.", (Body(Any),)),
            502: Answer("The backend fails, or can't be reached.", (Body(Any, (JSON, PROBLEM_TYPE)),)),
            504: Answer("The backend doesn't answer in time.", (Body(Any, (JSON, PROBLEM_TYPE)),)),
        },
        errors=(RateLimited, *_BODY, UpstreamError),
        takes=_PASSED_ON,
        error_bodies=_SEED_BODIES,
    ),
    ("POST", "/v1/streams"): Operation(
        "createStream",
        "Ask; 201 with where the answer is, or the stream itself for `Accept: text/event-stream`.",
        "streams",
        {
            200: _STREAM,
            201: Answer(
                "The stream is there; the upstream may not have answered yet.",
                (
                    Body(
                        StreamLinks,
                        example={
                            "id": _ID,
                            "events_url": f"/v1/streams/{_ID}/events",
                            "status_url": f"/v1/streams/{_ID}",
                            "stop_url": f"/v1/streams/{_ID}/stop",
                        },
                    ),
                ),
                (*_STREAM_HEADERS, "Idempotent-Replayed", *_LIMIT_HEADERS),
                _USES,
            ),
            204: _READ,
        },
        errors=(*_ASKING, *_BODY, QuestionTooLong),
        parameters=("OnDisconnect", "OnGap", "LastEventIdInUrl", *_ASK_HEADERS),
        takes=_ASKED,
        security=_CREDENTIALS,
    ),
    ("GET", "/v1/streams/{stream_id}/events"): Operation(
        "readEvents",
        "A stream's events, from the cursor or the beginning: what is there already, then live.",
        "streams",
        {200: _STREAM, 204: _READ},
        errors=(*_OF_A_STREAM, CursorAhead),
        parameters=("StreamId", "LastEventId", "LastEventIdInUrl", "OnGap", "XConnectionId", *_CALLER_HEADERS),
        security=_CREDENTIALS,
    ),
    ("GET", "/v1/streams/{stream_id}"): Operation(
        "readState",
        "How a stream stands, and its text so far: for polling, and the way out of a 410.",
        "streams",
        {200: Answer("Its state.", (Body(StreamState),))},
        errors=_OF_A_STREAM,
        parameters=("StreamId", "XConnectionId", *_CALLER_HEADERS),
        security=_CREDENTIALS,
    ),
    ("POST", "/v1/streams/{stream_id}/stop"): _stop("stopStream"),
    ("DELETE", "/v1/streams/{stream_id}"): _stop("deleteStream"),
    ("POST", "/v1/streams/{stream_id}/report"): Operation(
        "reportOnStream",
        "Tell what the answer was like for its reader.",
        "streams",
        {204: Answer("Taken.")},
        errors=(*_OF_A_STREAM, *_BODY, RequestError, InvalidField),
        parameters=("StreamId", *_CALLER_HEADERS),
        takes=Body(
            ReportIn,
            example={"durationMs": 912, "tokens": 6, "bytes": 381, "reconnects": 0, "duplicates": 0, "gaps": 0},
        ),
        security=_CREDENTIALS,
    ),
    ("GET", "/v1/features"): Operation(
        "readFeatures",
        "Whether flag and rollout would let this caller stream. Costs no quota.",
        "streams",
        {200: Answer("Whether.", (Body(Features, example={"sse": True}),))},
        errors=(*_CALLER, MalformedCursor),
        parameters=("LastEventId", "LastEventIdInUrl", *_CALLER_HEADERS),
        security=_CREDENTIALS,
    ),
    ("POST", "/v1/tickets"): Operation(
        "createTicket",
        "A ticket for a native EventSource, which can send no header: it brings it as `?ticket=`.",
        "streams",
        {201: Answer("The ticket.", (Body(Ticket),), _LIMIT_HEADERS)},
        errors=(*_CALLER, MalformedCursor, Forbidden, TicketsUsedUp),
        parameters=("XUserId",),
        security=("bearer", "apiKey"),
    ),
    ("GET", "/livez"): Operation(
        "live", "Whether the process answers.", "health", {200: Answer("It does.", (Body(Health),))}
    ),
    ("GET", "/livez/stream"): Operation(
        "probe",
        "Three heartbeats a second apart, to measure the line with; at most 16 at a time. It is no stream.",
        "health",
        {200: Answer("The heartbeats, and then a clean end.", (Body(Heartbeat, (EVENTS,)),))},
    ),
    ("GET", "/readyz"): Operation(
        "ready",
        "Whether new streams are welcome.",
        "health",
        {
            200: Answer("They are.", (Body(Health, example={"status": "ok"}),)),
            503: Answer("The process drains.", (Body(Health, example={"status": "draining"}),)),
        },
        parameters=("Verbose",),
    ),
    ("GET", "/"): Operation("home", "To the demo page.", "files", {302: Answer("To `/demo`.", headers=("Location",))}),
    ("GET", "/demo"): file("demo", "A page to ask in.", "files", "text/html"),
    ("GET", "/static/{name}"): file(
        "file",
        "The browser clients, and the page's files.",
        "files",
        "text/javascript",
        "text/css",
        "text/html",
        "image/svg+xml",
        parameters=("FileName",),
    ),
    ("GET", "/openapi.json"): file("openapi", "This document.", "files", JSON),
}

_PRINTABLE: Final = "[!-~]([ -~]{0,253}[!-~])?"
_LABEL: Final = {"type": "string", "pattern": "^[A-Za-z0-9._-]{0,128}$"}
_CURSOR: Final = {"type": "string", "pattern": f"^({CURSOR})?$"}
_INTEGER: Final = {"type": "integer", "minimum": 0}
_LABEL_TEXT: Final = {"type": "string", "maxLength": LABEL_BYTES}
_PARAMETERS: Final = {
    "StreamId": parameter(
        "path",
        "stream_id",
        "The stream's id.",
        {"type": "string", "pattern": "^st_[A-Za-z0-9_-]{28}$"},
    ),
    "FileName": parameter("path", "name", "The file's name.", TEXT, example="subak-client.js"),
    "Query": parameter("query", "query", "The question.", _QUERY, required=True, example="What is a KITAS?"),
    "UserEmail": parameter("query", "user_email", "Not other than what the credentials say.", _LABEL_TEXT),
    "UserRole": parameter(
        "query",
        "user_role",
        "Not other than what the credentials say; without such, `member` or `external`.",
        _LABEL_TEXT,
        example="member",
    ),
    "ConversationHistory": {
        "name": "conversation_history",
        "in": "query",
        "description": "The conversation so far, as JSON.",
        "content": {
            JSON: {
                "schema": {
                    "anyOf": [{"type": "array", "items": {"$ref": f"{SCHEMAS}TurnIn"}}, {"type": "null"}],
                }
            }
        },
    },
    "OnDisconnect": parameter(
        "query",
        "on_disconnect",
        "What becomes of the answer when nobody reads it: not more than the setting `stream.on_disconnect` allows.",
        {"enum": [choice.value for choice in OnDisconnect]},
    ),
    "OnGap": parameter(
        "query",
        "on_gap",
        "`snapshot`: where the cursor's place has gone, begin with all text so far instead of 409 or 410.",
        TEXT,
        example="snapshot",
    ),
    "Verbose": parameter("query", "verbose", "Its presence asks for more.", TEXT, allowEmptyValue=True),
    "LastEventId": parameter(
        "header", "Last-Event-ID", "Go on behind this event; `.0` is the beginning. Never ignored.", _CURSOR
    ),
    "LastEventIdInUrl": parameter(
        "query", "last_event_id", "The same, for who can set no header, which beats it.", _CURSOR
    ),
    "IdempotencyKey": parameter(
        "header",
        "Idempotency-Key",
        "Seen before with the same question: attaches to its stream, and nothing is asked anew. Without credentials at "
        "least 22 characters.",
        {"type": "string", "pattern": f"^{_PRINTABLE}$"},
    ),
    "XConnectionId": parameter("header", "x-connection-id", "A label for log lines, echoed.", TEXT),
    "XUserId": parameter(
        "header",
        "x-user-id",
        "Whose request it is: believed only from a trusted proxy or with an internal key.",
        {"type": "string", "pattern": f"^{_PRINTABLE}$"},
    ),
    "XSessionId": parameter("header", "x-session-id", "Passed on to the backend.", _LABEL),
    "XContinuityId": parameter("header", "x-continuity-id", "Passed on to the backend.", _LABEL),
    "Traceparent": parameter("header", "traceparent", "W3C Trace Context; one that isn't valid is ignored.", TEXT),
    "IfNoneMatch": IF_NONE_MATCH,
}
_RESPONSE_HEADERS: Final = {
    **HEADERS,
    "Subak-Stream-Id": header("The stream's id.", TEXT, required=True),
    "X-Connection-ID": header("The connection's label.", TEXT, required=True),
    "Subak-Resumed-From": header("The cursor behind which this response begins.", TEXT),
    "Idempotent-Replayed": header("The key was known: nothing was asked anew.", {"const": "true"}),
    "X-RateLimit-Limit": header("How many requests the window holds.", _INTEGER),
    "X-RateLimit-Remaining": header("How many are left.", _INTEGER),
    "X-RateLimit-Reset": header("The epoch second at which the next one is admitted.", _INTEGER),
    "RateLimit-Policy": header("The IETF's form of the policy, with `limits.ietf_headers`.", TEXT),
    "RateLimit": header("The IETF's form of how it stands, with `limits.ietf_headers`.", TEXT),
}
_LINKS: Final[dict[str, Object]] = {
    name: {
        "operationId": name,
        "parameters": {"stream_id": "$response.header.Subak-Stream-Id"},
        "description": "On the stream that was asked for.",
    }
    for name in _USES
}
PUBLIC: Final = Face(
    title="Subak",
    about="""
        A gateway for streamed answers. Whoever asks gets Server-Sent Events that survive a cut line: each has an `id`,
        and `Last-Event-ID` goes on behind it. `itemSchema` describes one event of a stream, its `data` is JSON text.

        Refusals come before the first byte, as problem details (RFC 9457), or on the routes of the founding document
        in its own bodies. Whatever goes wrong afterwards is an `error` event. Each path also answers `OPTIONS` to
        pages of allowed origins.
        """,
    operations=_OPERATIONS,
    tags={
        "streams": "Ask, read, look, stop.",
        "seed": "The same with the paths and bodies of the founding document.",
        "health": "For load balancers and `subak doctor`.",
        "files": "The demo page, the browser clients, this document.",
    },
    parameters=_PARAMETERS,
    headers=_RESPONSE_HEADERS,
    security_schemes={
        "bearer": {"type": "http", "scheme": "bearer", "description": "A JSON Web Token, or any of our keys."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same in another header."},
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": "From `POST /v1/tickets`; after its first use only together with its stream's cursor.",
        },
    },
    links=_LINKS,
    refusal_headers={401: ("WWW-Authenticate",), 429: ("Retry-After", *_LIMIT_HEADERS), 503: ("Retry-After",)},
    bare=BARE,
    types={"StreamEvent": StreamEvent},
)


def public_document(routes: Iterable[tuple[str, str]]) -> Object:
    """Give the public listener's document."""
    return document(PUBLIC, routes)

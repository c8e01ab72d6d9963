"""What can go wrong, and who is at fault.

One tree: `RequestError` (the caller), `UpstreamError` (what answers), `StoreError` (where events live). Each leaf
knows its HTTP status for the time before the first byte and its code for the time after it (PROTOCOL §2, §3). The
texts here are the only ones a caller ever sees: never the text of a foreign exception.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class ErrorCode(StrEnum):
    """The closed set of `error.data.code`, of outcomes in metrics and in the audit trail (PROTOCOL §3)."""

    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    EVENT_TOO_LARGE = "event_too_large"
    TOO_LONG = "too_long"
    PRODUCER_LOST = "producer_lost"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    INTERNAL_ERROR = "internal_error"

    @property
    def message(self) -> str:
        """The sentence a reader sees with this code."""
        return _MESSAGES[self]

    @property
    def is_retryable(self) -> bool:
        """Whether asking the same question again may succeed."""
        return self in _RETRYABLE


_MESSAGES = {
    ErrorCode.UPSTREAM_ERROR: "The answering service failed.",
    ErrorCode.UPSTREAM_TIMEOUT: "The answering service did not answer in time.",
    ErrorCode.UPSTREAM_TRUNCATED: "The answer broke off before its end.",
    ErrorCode.UPSTREAM_RATE_LIMITED: "The answering service is busy. Please try again later.",
    ErrorCode.EVENT_TOO_LARGE: "One part of the answer was too large to pass on.",
    ErrorCode.TOO_LONG: "The answer grew past the limits of one stream.",
    ErrorCode.PRODUCER_LOST: "The process that produced this answer has stopped.",
    ErrorCode.AUDIT_UNAVAILABLE: "The answer could not be recorded and was withheld.",
    ErrorCode.INTERNAL_ERROR: "Something went wrong inside the gateway.",
}

_RETRYABLE = frozenset(
    {
        ErrorCode.UPSTREAM_ERROR,
        ErrorCode.UPSTREAM_TIMEOUT,
        ErrorCode.UPSTREAM_TRUNCATED,
        ErrorCode.UPSTREAM_RATE_LIMITED,
        ErrorCode.PRODUCER_LOST,
        ErrorCode.AUDIT_UNAVAILABLE,
        ErrorCode.INTERNAL_ERROR,
    }
)


QUESTION_REFUSED = frozenset({"status_400", "status_413", "status_414", "status_422"})
"""Reasons of an `UpstreamError` that speak of the question, not of who was asked: the next question may be answered.
Whoever can make an upstream say so must not be able to make it look broken."""


class SubakError(Exception):
    """Root of the tree. `code` is stable and for machines, `http_status` is what it is before the first byte.

    `reason` is for operators where a code doesn't say it all: a short constant, never content. `headers` go with the
    answer.
    """

    code: str = "internal_error"
    http_status: int = 500
    reason: str = ""
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, detail: str, *, retry_after_s: int | None = None, members: Mapping[str, object] | None = None
    ) -> None:
        """`detail` is safe to show to the caller; `retry_after_s` in whole seconds, if waiting helps.

        `members` are further keys of the answer's body (RFC 9457, extension members).
        """
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.members = dict(members or {})


class RequestError(SubakError):
    """The caller's fault: 4xx."""

    code = "bad_request"
    http_status = 400


class MalformedCursor(RequestError):
    """The cursor isn't `{stream_id}.{seq}`, or names another stream than the path."""

    code = "malformed_cursor"


class StreamNotFound(RequestError):
    """No such stream, or not the caller's: the two can't be told apart from outside (PROTOCOL §2)."""

    code = "stream_not_found"
    http_status = 404

    def __init__(self, detail: str, *, foreign_stream_id: str | None = None) -> None:
        """`foreign_stream_id`: there is such a stream, of somebody else. For the audit trail, never for the answer."""
        super().__init__(detail)
        self.foreign_stream_id = foreign_stream_id


class CursorAhead(RequestError):
    """The cursor is past the log's end: the store lost data, or the cursor is made up."""

    code = "cursor_ahead"
    http_status = 409


class CursorExpired(RequestError):
    """What the cursor points at is no longer kept. `stream_id` tells where the status may still be."""

    code = "cursor_expired"
    http_status = 410

    def __init__(self, detail: str, *, stream_id: str) -> None:
        """As `SubakError`; the answer names where the stream's state may still be read."""
        super().__init__(detail, members={"status_url": f"/v1/streams/{stream_id}"})


class NotAcceptable(RequestError):
    """A body in a form that the route doesn't take."""

    code = "unsupported_media_type"
    http_status = 415


class InvalidField(RequestError):
    """A field is there but wrong. `path` tells which, never what was in it."""

    code = "invalid_field"
    http_status = 422

    def __init__(self, path: str, expected: str) -> None:
        """`path` as in `$.conversation_history[2].role`, `expected` completes "expected …"."""
        super().__init__(f"{path}: expected {expected}.", members={"errors": [{"path": path, "expected": expected}]})


class MissingQuery(RequestError):
    """No question was asked. The body is the seed's, word for word."""

    code = "missing_query"

    def __init__(self, sentence: str) -> None:
        """`sentence` is the seed's, which differs between GET and POST."""
        super().__init__(sentence, members={"error": sentence})


class FlagDisabled(RequestError):
    """Streaming is off for this caller. The body is the seed's."""

    code = "feature_flag_disabled"
    http_status = 403

    def __init__(self, flag: str, *, reason: str = "") -> None:
        """`reason`: for operators, why it is off for this caller."""
        super().__init__("Streaming is not enabled here.", members={"ok": False, "code": self.code, "flag": flag})
        self.reason = reason


class Unauthenticated(RequestError):
    """The credentials are missing or don't hold. Callers are told no more; `reason` is for the operator."""

    code = "unauthenticated"
    http_status = 401

    def __init__(self, reason: str) -> None:
        """`reason` is a short constant such as `token_expired`, never content."""
        super().__init__("Valid credentials are needed.")
        self.reason = reason


class Forbidden(RequestError):
    """The caller is known and may not do this."""

    code = "forbidden"
    http_status = 403


class RateLimited(RequestError):
    """A quota is used up: `reason` names its policy, `retry_after_s` is when the next request is admitted."""

    code = "rate_limit_exceeded"
    http_status = 429

    def __init__(self, policy: str, retry_after_s: int, headers: Mapping[str, str]) -> None:
        """`retry_after_s` in whole seconds, rounded up, at least 1; `headers` say how the quota stands."""
        sentence = f"Too many requests. Please wait {retry_after_s} seconds before trying again."
        members = {"ok": False, "error": "RATE_LIMIT_EXCEEDED", "message": sentence, "retryAfter": retry_after_s}
        super().__init__(sentence, retry_after_s=retry_after_s, members=members)
        self.reason = policy
        self.headers = headers


class TooLarge(RequestError):
    """The body is past its bound."""

    code = "body_too_large"
    http_status = 413


class UrlTooLong(RequestError):
    """The request target is past its bound."""

    code = "url_too_long"
    http_status = 414


class TooSlow(RequestError):
    """The body didn't arrive in time."""

    code = "request_timeout"
    http_status = 408


class QuestionTooLong(RequestError):
    """The question can't be put to the upstream as it is configured: 413 to a POST; a GET is told 414 (PROTOCOL §5)."""

    code = "question_too_long"
    http_status = 413


class KeyReused(RequestError):
    """An idempotency key came back with other fields."""

    code = "idempotency_key_reused"
    http_status = 422


class StoreError(SubakError):
    """Where events live can't take or give any."""

    code = "store_unavailable"
    http_status = 503


class BudgetExhausted(StoreError):
    """The process' replay budget is used up by live streams."""

    code = "memory_budget"


class AuditUnavailable(StoreError):
    """The start of an answer can't be recorded, and none is given unrecorded."""

    code = "audit_unavailable"


class TicketsUsedUp(StoreError):
    """This process keeps as many stream tickets as it may."""

    code = "tickets_used_up"


class TooManyStreams(StoreError):
    """This process has as many streams as it may."""

    code = "too_many_streams"


class Draining(StoreError):
    """This process takes no new streams: it is going away."""

    code = "draining"


class KeysUnavailable(SubakError):
    """Tokens can't be judged now: their issuer's keys could not be fetched for too long. The caller is not at fault."""

    code = "keys_unavailable"
    http_status = 503


class UpstreamUnavailable(SubakError):
    """Nothing that answers may be asked now: known before the first byte, so it is a plain 503."""

    code = "upstream_unavailable"
    http_status = 503


class UpstreamError(SubakError):
    """What answers failed. `error_code` is what readers of the stream are told."""

    code = "upstream_error"
    http_status = 502

    def __init__(self, error_code: ErrorCode, reason: str, *, retry_after_s: int | None = None) -> None:
        """`reason` is for operators: a short constant such as `connect_refused`, never content."""
        super().__init__(error_code.message, retry_after_s=retry_after_s)
        self.code = error_code.value
        self.http_status = 504 if error_code is ErrorCode.UPSTREAM_TIMEOUT else 502
        self.error_code = error_code
        self.reason = reason

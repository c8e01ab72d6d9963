"""The RAG backend as an upstream: `GET` or `POST {url}/bali-zero/chat-stream`, answered by an event stream.

PROTOCOL §5. Builds the request, judges the response's head, and turns the body into events by `rag_frames`. Of a
response that isn't what was asked for nothing is passed on: neither its body, nor its headers, nor where it wanted to
send us.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.errors import ErrorCode, QuestionTooLong, UpstreamError
from subak.core.events import Ending, Event, Failed, UpstreamSink
from subak.core.question import Question
from subak.upstream.http1 import Http1Client, Http1Exchange, Http1Limits, parse_base_url
from subak.upstream.rag_frames import FrameCounts, RagFrames

MAX_RETRY_AFTER_S: Final = 86_400
"""A longer wait is passed on as this one: a day."""
MAX_ID_BYTES: Final = 256
"""A longer session or continuity id isn't passed on."""

_ROUTE: Final = "/bali-zero/chat-stream"
_STATUS_OK: Final = 200
_STATUS_TOO_MANY_REQUESTS: Final = 429
_STATUS_UNAVAILABLE: Final = 503
_REDIRECTS: Final = range(300, 400)
_EVENT_STREAM: Final = "text/event-stream"
_OWN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-continuity-id",
        "x-session-id",
    }
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_SECONDS: Final = re.compile(r"[0-9]{1,10}")

Method = Literal["get", "post", "auto"]


class RagBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes: the URL of a GET without scheme and host, one event of the answer."""

    max_get_url_bytes: int = 8192
    max_event_bytes: int = 256 * 1024


class RagTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where the backend is, how a question is put to it, and with which credentials.

    `url`: its base, `http://host:8000`. `headers` go with every request. `token_file` holds a bearer token and is read
    again when it changes; `ssl_context` is for https (see `http1.tls_context`).
    """

    url: str
    method: Method = "get"
    headers: Mapping[str, str] = {}
    token_file: Path | None = None
    ssl_context: ssl.SSLContext | None = None
    user_agent: str = "subak"


class RagUpstream:
    """Asks one RAG backend. `counts` and `client` keep figures for whoever exports them."""

    __slots__ = (
        "_bearer",
        "_bounds",
        "_clock",
        "_common_headers",
        "_given_headers",
        "_method",
        "_path",
        "client",
        "counts",
    )

    def __init__(
        self,
        target: RagTarget,
        *,
        clock: Clock,
        deadlines: Deadlines,
        tasks: asyncio.TaskGroup,
        limits: Http1Limits | None = None,
        bounds: RagBounds | None = None,
    ) -> None:
        """See `RagTarget`, `RagBounds`, and `Http1Client` for the others.

        Raises:
            ValueError: the URL or a header can't be used, or there are two credentials.
        """
        origin, prefix = parse_base_url(target.url)
        if target.token_file is not None and any(name.lower() == "authorization" for name in target.headers):
            raise ValueError("an Authorization header and a token file: give one of them")
        self.counts = FrameCounts()
        self.client = Http1Client(
            origin,
            limits=limits or Http1Limits(),
            ssl_context=target.ssl_context,
            clock=clock,
            deadlines=deadlines,
            tasks=tasks,
        )
        self._bounds = bounds or RagBounds()
        self._clock = clock
        self._method = target.method
        self._path = quote(prefix, safe="/%:@!$&'()*+,;=-._~") + _ROUTE
        self._bearer = None if target.token_file is None else _BearerFile(target.token_file)
        self._common_headers = _common_headers(origin.authority, target)
        self._given_headers = dict(target.headers)

    def credentials(self) -> dict[str, str]:
        """Give the headers that every request to this backend bears, for requests that others make of it.

        Raises:
            UpstreamError: `token_file`: it can't be read or holds no token.
        """
        if self._bearer is None:
            return dict(self._given_headers)
        return {**self._given_headers, "Authorization": f"Bearer {self._bearer.read()}"}

    def check(self, question: Question) -> None:
        """Tell before anything is sent whether this question can be asked.

        Raises:
            QuestionTooLong: it doesn't fit into a URL, and the backend is asked by GET only.
        """
        self._request_line_and_body(question)

    async def open(self, question: Question, sink: UpstreamSink) -> Http1Exchange:
        """Send the question; return when it is on its way (see `Upstream.open`).

        Raises:
            UpstreamError: no connection (the reasons of `Http1Client.send`), `question_too_long`, or `token_file`.
        """
        try:
            request = self._request(question)
        except QuestionTooLong as error:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "question_too_long") from error
        answer = _Answer(sink, self._clock, RagFrames(self.counts, max_event_bytes=self._bounds.max_event_bytes))
        exchange = await self.client.send(request, answer)
        answer.exchange = exchange
        return exchange

    async def close(self) -> None:
        """Close idle connections and abort the exchanges under way."""
        await self.client.close()

    def _request(self, question: Question) -> bytes:
        line, body = self._request_line_and_body(question)
        headers = [line, self._common_headers]
        if self._bearer is not None:
            headers.append(f"Authorization: Bearer {self._bearer.read()}\r\n")
        headers.append(_id_header("x-session-id", question.session_id))
        headers.append(_id_header("x-continuity-id", question.continuity_id))
        if body:
            headers.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
        headers.append("\r\n")
        return "".join(headers).encode("latin-1") + body

    def _request_line_and_body(self, question: Question) -> tuple[str, bytes]:
        if self._method != "post":
            target = self._get_target(question)
            if len(target) <= self._bounds.max_get_url_bytes:
                return f"GET {target} HTTP/1.1\r\n", b""
            if self._method == "get":
                raise QuestionTooLong(
                    "The question is too long for the URL in which the answering service is asked "
                    f"({len(target)} bytes, at most {self._bounds.max_get_url_bytes}). "
                    "An operator can allow longer ones by SUBAK_UPSTREAM__METHOD=auto."
                )
        return f"POST {self._path} HTTP/1.1\r\n", msgspec.json.encode(_fields(question))

    def _get_target(self, question: Question) -> str:
        fields = _fields(question)
        if question.conversation_history is not None:
            fields["conversation_history"] = msgspec.json.encode(question.conversation_history)
        return f"{self._path}?{urlencode(fields, quote_via=quote)}"


def _fields(question: Question) -> dict[str, object]:
    """The fields of PROTOCOL §2 that were given."""
    fields: dict[str, object] = {
        "query": question.query,
        "user_email": question.user_email,
        "user_role": question.user_role,
        "conversation_history": question.conversation_history,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _id_header(name: str, value: str | None) -> str:
    """The header line of an id that travels with the question; nothing for one that could break the request."""
    if value is None or len(value) > MAX_ID_BYTES or not _VISIBLE.fullmatch(value):
        return ""
    return f"{name}: {value}\r\n"


def _common_headers(authority: str, target: RagTarget) -> str:
    given = {"User-Agent": target.user_agent, **target.headers}
    for name, value in given.items():
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"upstream header {name!r} is set by the gateway itself: leave it out")
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"upstream header {name!r}: name or value isn't printable ASCII on one line")
    own = {
        "Host": authority,
        "Accept": _EVENT_STREAM,
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
    }
    return "".join(f"{name}: {value}\r\n" for name, value in (own | given).items())


class _BearerFile:
    """A token that somebody else renews in place or by replacing the file."""

    __slots__ = ("_path", "_stamp", "_token")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """Give the token as the file holds it now; it is only looked at when nothing has changed.

        Raises:
            UpstreamError: `token_file`: it can't be read or holds no token.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._token = self._path.read_text("ascii").strip()
                self._stamp = stamp
        except (OSError, UnicodeError) as error:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "token_file") from error
        if not _VISIBLE.fullmatch(self._token):
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "token_file")
        return self._token


class _Answer:
    """Receives one response and tells the sink what it means: every read in one call, with one time stamp."""

    __slots__ = ("_frames", "_sink", "_time_ms", "exchange")

    def __init__(self, sink: UpstreamSink, clock: Clock, frames: RagFrames) -> None:
        self.exchange: Http1Exchange | None = None
        """Set as soon as the request was sent, before anything can come back."""
        self._sink = sink
        self._time_ms = clock.time_ms
        self._frames = frames

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Refuse what isn't a plain event stream."""
        refusal = judge_head(status, headers, self._time_ms())
        if refusal is not None:
            self._end((), refusal, 0)

    def on_body(self, chunk: bytes) -> None:
        """Pass on what the frames in it mean: the hot path."""
        events, ending = self._frames.feed(chunk, self._time_ms())
        if ending is None:
            self._sink.on_read(events, None, len(chunk))
        else:
            self._end(events, ending, len(chunk))

    def on_complete(self) -> None:
        """A clean end means nothing: there was no `done` (PROTOCOL, law 2)."""
        self.on_failure(Failed(ErrorCode.UPSTREAM_TRUNCATED, "no_done"))

    def on_failure(self, failed: Failed) -> None:
        """Pass on what broke the response."""
        self._end(self._frames.finish(self._time_ms()), failed, 0)

    def _end(self, events: Sequence[Event], ending: Ending, size_bytes: int) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None and isinstance(ending, Failed):
            exchange.abort()
        elif exchange is not None:
            exchange.release()
        self._sink.on_read(events, ending, size_bytes)


def judge_head(status: int, headers: Mapping[str, str], now_ms: int) -> Failed | None:
    """Tell why this response is no event stream of ours, or None when it is one. `now_ms`: the wall clock."""
    if status in {_STATUS_TOO_MANY_REQUESTS, _STATUS_UNAVAILABLE}:
        is_limit = status == _STATUS_TOO_MANY_REQUESTS
        code = ErrorCode.UPSTREAM_RATE_LIMITED if is_limit else ErrorCode.UPSTREAM_ERROR
        return Failed(code, f"status_{status}", parse_retry_after(headers.get("retry-after", ""), now_ms))
    if status in _REDIRECTS:
        return Failed(ErrorCode.UPSTREAM_ERROR, "redirect")
    if status != _STATUS_OK:
        return Failed(ErrorCode.UPSTREAM_ERROR, f"status_{status}")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _EVENT_STREAM:
        return Failed(ErrorCode.UPSTREAM_ERROR, "content_type")
    if headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        return Failed(ErrorCode.UPSTREAM_ERROR, "content_encoding")
    return None


def parse_retry_after(value: str, now_ms: int) -> int | None:
    """Read `Retry-After` (RFC 9110 §10.2.3): seconds from now, 0..`MAX_RETRY_AFTER_S`; None when it can't be read."""
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return min(int(text), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):  # what the parser of e-mail dates lets through
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    seconds = (aware - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds()
    return min(max(0, round(seconds)), MAX_RETRY_AFTER_S)

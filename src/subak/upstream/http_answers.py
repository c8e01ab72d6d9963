"""What upstreams over HTTP have in common: the headers of a question, and what its response is worth.

Of a response that isn't what was asked for nothing is passed on: neither its body, nor its headers, nor where it wanted
to send us.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from subak.core.clock import Clock
from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import Ending, Event, Failed, UpstreamSink
from subak.upstream.frames import Frames
from subak.upstream.http1 import Http1Client, Http1Exchange

MAX_RETRY_AFTER_S: Final = 86_400
"""A longer wait is passed on as this one: a day."""
EVENT_STREAM: Final = "text/event-stream"
OWN_HEADERS: Final = frozenset(
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
    }
)
"""Headers that the gateway sets by itself, in lower case."""

_STATUS_OK: Final = 200
_STATUS_TOO_MANY_REQUESTS: Final = 429
_STATUS_UNAVAILABLE: Final = 503
_CREDENTIALS_REFUSED: Final = frozenset({401, 403})
_REDIRECTS: Final = range(300, 400)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


class StreamedAnswer:
    """Receives one response and tells the sink what it means: every read in one call, with one time stamp."""

    __slots__ = ("_frames", "_sink", "_time_ms", "exchange")

    def __init__(self, sink: UpstreamSink, clock: Clock, frames: Frames) -> None:
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
        """A clean end by itself means nothing (PROTOCOL, law 2): the frames know whether the answer had ended."""
        self.on_failure(Failed(ErrorCode.UPSTREAM_TRUNCATED, "no_done"))

    def on_failure(self, failed: Failed) -> None:
        """Pass on what broke the response."""
        events, ending = self._frames.cut(failed, self._time_ms())
        self._end(events, ending, 0)

    def _end(self, events: Sequence[Event], ending: Ending, size_bytes: int) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None and isinstance(ending, Failed):
            exchange.abort()
        elif exchange is not None:
            exchange.release()
        self._sink.on_read(events, ending, size_bytes)


async def ask(client: Http1Client, request: bytes, answer: StreamedAnswer) -> Http1Exchange:
    """Send a request whose response is told to `answer`; return when it is on its way.

    Raises:
        UpstreamError: no connection (the reasons of `Http1Client.send`).
    """
    answer.exchange = await client.send(request, answer)
    return answer.exchange


class BearerFile:
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
        if not is_visible(self._token):
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "token_file")
        return self._token


class Credentials:
    """The headers that every request to one upstream bears: those of the settings, and a token that is renewed."""

    __slots__ = ("_bearer", "_given")

    def __init__(self, given: Mapping[str, str], token_file: Path | None, *, own: frozenset[str] = OWN_HEADERS) -> None:
        """`own`: names, in lower case, that settings may not give.

        Raises:
            ValueError: a header can't be used, or there are two credentials.
        """
        if token_file is not None and any(name.lower() == "authorization" for name in given):
            raise ValueError("an Authorization header and a token file: give one of them")
        for name, value in given.items():
            if name.lower() in own:
                raise ValueError(f"upstream header {name!r} is set by the gateway itself: leave it out")
            _check_header(name, value)
        self._given = dict(given)
        self._bearer = None if token_file is None else BearerFile(token_file)

    def read(self) -> dict[str, str]:
        """Give the headers as they are now.

        Raises:
            UpstreamError: `token_file`: it can't be read or holds no token.
        """
        if self._bearer is None:
            return dict(self._given)
        return {**self._given, "Authorization": f"Bearer {self._bearer.read()}"}


def user_agent_of(given: Mapping[str, str], default: str) -> dict[str, str]:
    """Give the header that says who asks; nothing where `given`, in whatever letter case, says it.

    Raises:
        ValueError: `default` can't be used.
    """
    if any(name.lower() == "user-agent" for name in given):
        return {}
    _check_header("User-Agent", default)
    return {"User-Agent": default}


def path_of(prefix: str) -> str:
    """Give the path of a base URL as a request's head may hold it; what is percent-encoded already stays."""
    return quote(prefix, safe="/%:@!$&'()*+,;=-._~")


def is_visible(text: str) -> bool:
    """Tell whether this is ASCII without spaces and controls, and not empty: no header can be broken by it."""
    return _VISIBLE.fullmatch(text) is not None


def header_lines(headers: Mapping[str, str]) -> str:
    """Give the lines of a request's head; their names and values were checked before."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


def judge_status(status: int, headers: Mapping[str, str], now_ms: int) -> Failed | None:
    """Tell why this status is no answer, or None when it is one. `now_ms`: the wall clock."""
    if status == _STATUS_OK:
        return None
    if status in {_STATUS_TOO_MANY_REQUESTS, _STATUS_UNAVAILABLE}:
        is_limit = status == _STATUS_TOO_MANY_REQUESTS
        code = ErrorCode.UPSTREAM_RATE_LIMITED if is_limit else ErrorCode.UPSTREAM_ERROR
        return Failed(code, f"status_{status}", parse_retry_after(headers.get("retry-after", ""), now_ms))
    if status in _CREDENTIALS_REFUSED:
        return Failed(ErrorCode.UPSTREAM_ERROR, "auth")
    reason = "redirect" if status in _REDIRECTS else f"status_{status}"
    return Failed(ErrorCode.UPSTREAM_ERROR, reason)


def judge_head(status: int, headers: Mapping[str, str], now_ms: int, content_type: str = EVENT_STREAM) -> Failed | None:
    """Tell why this response isn't a plain `content_type`, or None when it is one. `headers`: names in lower case."""
    refusal = judge_status(status, headers, now_ms)
    if refusal is not None:
        return refusal
    if headers.get("content-type", "").partition(";")[0].strip().lower() != content_type:
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


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"upstream header {name!r}: name or value isn't printable ASCII on one line")

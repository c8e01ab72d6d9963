"""One client connection: aiohttp's, with call-backs for what a streaming response must know at once.

A lost client, a socket that takes no more bytes and one that takes them again are told to whoever writes the
response, in the call-back itself; no task waits for any of it. A peer that acknowledges nothing is given up by the
kernel (TCP_USER_TIMEOUT).

    phase     from                                          the connection is closed after
    --------  --------------------------------------------  ------------------------------------------------
    head      its start, or the first byte after an answer  `head_s` (10 s): slow heads hold no place for ever
    busy      a head was parsed                             never, by this: answers have deadlines of their own
    body      its handler reads the body                    never, but who reads is told after `body_s` (30 s)
    idle      an answer was sent                            `idle_s` (75 s) without a further byte
    leaving   a refusal was sent, and nothing may follow    `LINGER_S`, or at once when the client closes

A socket that is closed with unread bytes in it is reset, and a reset may overtake the answer. So what a client sends
after its refusal is taken and dropped for a moment, up to `DROPPED_BYTES`.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from http import HTTPStatus
from typing import Final, Protocol, cast

import msgspec
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.errors import RequestError, TooSlow
from subak.web.problems import status_problem

WRITE_BUFFER_BYTES: Final = 64 * 1024
UNSENT_BYTES: Final = 64 * 1024
"""What the kernel takes of us that it can't send yet. By itself it takes up to 4 MB (tcp_wmem) for a client that reads
nothing, and back-pressure comes as much later."""
MAX_LINE_BYTES: Final = 128 * 1024
"""The longest request target that is parsed; above `http.max_url_bytes`, so that most 414 are the routes' own."""
MAX_FIELD_BYTES: Final = 32 * 1024
"""The longest header, its name included."""
MAX_HEADERS_BYTES: Final = 64 * 1024
"""What all headers of a request may have together."""
MAX_HEAD_BYTES: Final = MAX_LINE_BYTES + 2 * MAX_HEADERS_BYTES
"""What is taken of a head that doesn't end."""
MAX_FRAMING_BYTES: Final = 1024 * 1024
"""What the framing of a body (sizes, extensions, trailers of chunks) may take. More than the parser may hold back of
one read, 256 KiB: what it holds back looks like framing here."""
MAX_FRAMING_PER_BYTE: Final = 8
"""What it may take in addition for each byte of content: one in a chunk of its own takes 5."""
DROPPED_BYTES: Final = 256 * 1024
LINGER_S: Final = 1.0
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?",
    re.ASCII,
)
"""`uri-host [ ":" port ]` (RFC 9110 §7.2, RFC 3986 §3.2.2), and not empty: `http` has no URI without a host."""


def _spell(status: HTTPStatus, headers: bytes = b"") -> bytes:
    """Give an answer for where no handler runs."""
    body = b'{"type":"about:blank","title":"%b","status":%d}' % (status.phrase.encode(), status)
    return (
        b"HTTP/1.1 %d %b\r\n%bConnection: close\r\nContent-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\n\r\n%b"
    ) % (status, status.phrase.encode(), headers, len(body), body)


_FULL: Final = _spell(HTTPStatus.SERVICE_UNAVAILABLE, b"Retry-After: 2\r\n")
_HEAD_TOO_LARGE: Final = _spell(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


class Writer(Protocol):
    """Who writes a response and wants to know how its connection fares."""

    def on_lost(self) -> None:
        """The client has gone."""

    def on_blocked(self) -> None:
        """The socket takes no more bytes for now."""

    def on_writable(self) -> None:
        """It takes bytes again."""


class ConnectionTimes(msgspec.Struct, frozen=True):
    """What a connection is held to, in seconds. `unacknowledged_s`: how long sent bytes may stay unacknowledged."""

    unacknowledged_s: float
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0


class Door:
    """What all connections of a listener share: their bounds, their deadlines, and their number."""

    __slots__ = ("clock", "deadlines", "max_connections", "open_count", "refused", "times")

    def __init__(self, times: ConnectionTimes, *, max_connections: int, clock: Clock, deadlines: Deadlines) -> None:
        """`refused` counts those that found the door full."""
        self.times = times
        self.max_connections = max_connections
        self.clock = clock
        self.deadlines = deadlines
        self.open_count = 0
        self.refused = 0

    @property
    def is_full(self) -> bool:
        """Whether one more is one too many."""
        return self.open_count >= self.max_connections


class _Messages(list[object]):
    """What was parsed and has no handler yet: aiohttp's queue, with one request in it or none.

    Its `deque` takes 0.76 KB of each connection, empty or not; this 0.1.
    """

    __slots__ = ()

    def popleft(self) -> object:
        """Take the oldest one out."""
        return self.pop(0)


class _NoTimer:
    """Stands for aiohttp's timer of idle connections, which took 0.5 KB of each: `Door.deadlines` closes them."""

    __slots__ = ()

    def cancel(self) -> None:
        """There is nothing to cancel."""


_NO_TIMER: Final = _NoTimer()


class _Phase(Enum):
    HEAD = auto()
    BUSY = auto()
    BODY = auto()
    IDLE = auto()
    LEAVING = auto()


class Connection(RequestHandler):
    """aiohttp's protocol, which tells `writer` what happens to the connection."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_door",
        "_dropped_bytes",
        "_gone",
        "_has_parsed",
        "_head_bytes",
        "_is_refused",
        "_phase",
        "asked_at",
        "writer",
    )

    def __init__(self, server: web.Server, door: Door, *, loop: asyncio.AbstractEventLoop) -> None:
        """One for each accepted socket."""
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=0,  # no timer of aiohttp's at first, and by `_NO_TIMER` none later
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no access log"
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            lingering_time=LINGER_S,
        )
        self._keepalive_handle = cast("asyncio.Handle", _NO_TIMER)
        self._messages = _Messages()  # type: ignore[assignment]  # it does what aiohttp asks of a deque
        self._door = door
        self._is_refused = False
        self._phase = _Phase.HEAD
        self._head_bytes = 0
        self._has_parsed = False
        self._body: StreamReader | None = None
        self._body_bytes = 0
        self._dropped_bytes = 0
        self._gone: asyncio.Future[None] | None = None  # made when somebody waits: an Event would take 0.8 KB of each
        self.writer: Writer | None = None
        self.asked_at = 0.0
        """When the request under way had come, in monotonic seconds: its head, or its body once that was read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection and bound what may wait in buffers; with the house full, say so and close."""
        tcp = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass of it
        if self._door.is_full:
            self._refuse(tcp)
            return
        self._door.open_count += 1
        super().connection_made(transport)
        self._await_head()
        tcp.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        timeout_ms = max(1000, int(self._door.times.unacknowledged_s * 1000))
        raw = tcp.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the writer first: the stream's grace time starts here."""
        if self._is_refused:
            return
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._door.open_count -= 1
        self._door.deadlines.forget(self)
        if self.writer is not None:
            self.writer.on_lost()
        super().connection_lost(exc)
        self._body = None  # it refers to its connection

    def data_received(self, data: bytes) -> None:
        """Take what was read; the first byte after an answer begins a new head."""
        if self._is_refused:
            return
        if self._phase is _Phase.LEAVING or (self._phase is _Phase.IDLE and self._has_unread_body):
            self._drop(len(data))
        elif self._phase is _Phase.IDLE:
            self._await_head()
        if self._phase is not _Phase.LEAVING:
            self._parse(data)

    def head_complete(self, request: web.BaseRequest) -> None:
        """A request's head was parsed: its handler has begun.

        Raises:
            web.HTTPException: its version isn't 1.x, its headers are too large, or it is ambiguous.
        """
        self._phase = _Phase.BUSY
        self.asked_at = self._door.clock.monotonic()
        self._body = request.content
        self._body_bytes = 0
        self._has_parsed = False
        self._head_bytes = 0
        self._door.deadlines.forget(self)
        _check_head(request)

    @contextmanager
    def body_deadline(self) -> Iterator[None]:
        """Hold the body to its time: reading it raises TooSlow after that."""
        self._phase = _Phase.BODY
        self._door.deadlines.watch(self, self._door.clock.monotonic() + self._door.times.body_s)
        try:
            yield
        finally:
            self._phase = _Phase.BUSY
            self._door.deadlines.forget(self)
            self.body_complete()

    def body_complete(self) -> None:
        """A request's body has been read, or is given up: what comes from now on isn't the caller's time."""
        self.asked_at = self._door.clock.monotonic()

    def answer_sent(self) -> None:
        """Its handler is done."""
        if self._phase is _Phase.BUSY and self.transport is not None:
            self._phase = _Phase.IDLE
            self._dropped_bytes = 0
            self._door.deadlines.watch(self, self._door.clock.monotonic() + self._door.times.idle_s)

    def on_deadline(self, now: float) -> None:
        """Close a connection from which no head comes, or tell the handler that the body doesn't."""
        del now
        if self._phase is _Phase.BODY and self._body is not None:
            self._body.set_exception(TooSlow(f"The body was not complete after {self._door.times.body_s:g} seconds."))
        elif self._phase is not _Phase.BUSY and self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The write buffer is full."""
        super().pause_writing()
        if self.writer is not None:
            self.writer.on_blocked()

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        super().resume_writing()
        if self.writer is not None:
            self.writer.on_writable()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp couldn't parse with our own problem: nothing of the request is repeated or logged."""
        del request, message
        if isinstance(exc, LineTooLong):
            status = _status_of(exc)
        elif isinstance(exc, BadHttpMessage) and exc.message == "Too many headers received":
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        elif isinstance(exc, UnicodeEncodeError):  # aiohttp would repeat an unknown `Expect` (see `finish_response`)
            status = HTTPStatus.EXPECTATION_FAILED
        response = LastWord(self, status_problem(status))
        response.headers["Server"] = "subak"  # else aiohttp names itself and its version
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; one of aiohttp's own, to an unknown `Expect` on an unknown path, in our words."""
        if isinstance(resp, web.HTTPException):
            resp = status_problem(resp.status)
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *_args: object, **_kwargs: object) -> None:
        """Keep aiohttp's own log lines out: they repeat what the client sent."""

    def abort(self, *, by_reset: bool) -> None:
        """End the connection so that no client takes it for a clean end (PROTOCOL §3).

        A chunked body lacks its last chunk then. A body framed by close would look complete: that one needs a reset,
        and so does a client that takes nothing, for whom the kernel would go on keeping what was sent.
        """
        transport = self.transport
        if transport is None:
            return
        if by_reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()

    async def leave(self) -> None:
        """Say no more, drop what still comes, and wait for the client to close; not for long."""
        self._begin_to_leave()
        if self.transport is None:
            return
        self._gone = asyncio.get_running_loop().create_future()
        await self._gone

    @property
    def _has_unread_body(self) -> bool:
        return self._body is not None and not self._body.is_eof()

    def _parse(self, data: bytes) -> None:
        parsed = self._request_count
        super().data_received(data)
        if self._request_count > parsed:
            self._has_parsed = True
            if self._body is not None and self._has_unread_body:  # no request can follow but one that is none
                self._body.set_exception(RequestError("The body is malformed."))
        elif self._body is not None and self._has_unread_body:
            self._body_bytes += len(data)
            if self._body_bytes > MAX_FRAMING_BYTES + (1 + MAX_FRAMING_PER_BYTE) * self._body.total_bytes:
                self._body.set_exception(RequestError("The body is malformed."))
        elif not self._has_parsed:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and self.transport is not None:
                self.transport.write(_HEAD_TOO_LARGE)
                self._begin_to_leave()

    def _drop(self, size_bytes: int) -> None:
        """Count what nobody will look at; past the bound the rest stays in the kernel, and its window closes."""
        self._dropped_bytes += size_bytes
        if self._dropped_bytes > DROPPED_BYTES and self.transport is not None:
            self._phase = _Phase.LEAVING
            self.transport.pause_reading()

    def _begin_to_leave(self) -> None:
        if self.transport is None:
            return
        self._phase = _Phase.LEAVING
        self._dropped_bytes = 0
        self._door.deadlines.watch(self, self._door.clock.monotonic() + LINGER_S)
        self.transport.write_eof()

    def _await_head(self) -> None:
        self._phase = _Phase.HEAD
        self._door.deadlines.watch(self, self._door.clock.monotonic() + self._door.times.head_s)

    def _refuse(self, transport: asyncio.Transport) -> None:
        self._is_refused = True
        self._door.refused += 1
        transport.write(_FULL)
        transport.close()


def connection_of(request: web.BaseRequest) -> Connection:
    """Give the connection that a request came on."""
    connection = request.protocol
    assert isinstance(connection, Connection), "the server makes our own connections"
    return connection


class LastWord(web.Response):
    """An answer with which the connection ends: to what is no request, or one whose body wasn't read."""

    def __init__(self, connection: Connection, answer: web.Response) -> None:
        """`answer` is what is said."""
        super().__init__(status=answer.status, headers=answer.headers, body=answer.body)
        self.force_close()
        self._connection = connection

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the rest, and stay until the client has had time to read it."""
        await super().write_eof(data)
        await self._connection.leave()


def _check_head(request: web.BaseRequest) -> None:
    """Refuse what the parser lets through.

    Raises:
        web.HTTPException: see `Connection.head_complete`.
    """
    if request.version.major != 1:
        raise web.HTTPVersionNotSupported
    if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEADERS_BYTES:
        raise web.HTTPRequestHeaderFieldsTooLarge
    if is_ambiguous(request):
        raise web.HTTPBadRequest


def is_ambiguous(request: web.BaseRequest) -> bool:
    """Whether others may read it differently: another coding than `chunked`, one in HTTP/1.0, a `Host` that is none.

    RFC 9112 §6.1 and §3.2. Two `Host`, or none in HTTP/1.1, the parser refuses itself.
    """
    coding, host = request.headers.get("Transfer-Encoding"), request.headers.get("Host")
    if coding is not None and (coding.strip().lower() != "chunked" or request.version < HttpVersion11):
        return True
    return host is not None and _HOST.fullmatch(host) is None


def _status_of(error: LineTooLong) -> HTTPStatus:
    """Tell a target from a header by the bound that was passed: the parser says nothing else about it."""
    _, limit, *_ = error.args
    return HTTPStatus.REQUEST_URI_TOO_LONG if limit == MAX_LINE_BYTES else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE

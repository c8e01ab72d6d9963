"""One client connection: aiohttp's, with call-backs for what a streaming response must know at once.

A lost client, a socket that takes no more bytes and one that takes them again are told to whoever writes the
response, in the call-back itself; no task waits for any of it. A peer that acknowledges nothing is given up by the
kernel (TCP_USER_TIMEOUT).

    phase     from                                          the connection is closed after
    --------  --------------------------------------------  ------------------------------------------------
    head      its start, or the first byte after an answer  `head_s` (10 s): slow heads hold no place for ever
    busy      a head was parsed                             never, by this; bodies and answers have their own
    idle      an answer was sent                            `idle_s` (75 s), by aiohttp's keep-alive timer
"""

import asyncio
import socket
import struct
from enum import Enum, auto
from http import HTTPStatus
from typing import Final, Protocol, cast

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.web.problems import status_problem

WRITE_BUFFER_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 128 * 1024
"""The longest request target that is parsed; above `http.max_url_bytes`, so that most 414 are the routes' own."""
MAX_FIELD_BYTES: Final = 32 * 1024
"""The longest header, its name included."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_FULL_BODY: Final = b'{"type":"about:blank","title":"Service Unavailable","status":503}'
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_FULL_BODY), _FULL_BODY)


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


class _Phase(Enum):
    HEAD = auto()
    BUSY = auto()
    IDLE = auto()


class Connection(RequestHandler):
    """aiohttp's protocol, which tells `writer` what happens to the connection."""

    __slots__ = ("_door", "_is_refused", "_phase", "writer")

    def __init__(self, server: web.Server, door: Door, *, loop: asyncio.AbstractEventLoop) -> None:
        """One for each accepted socket."""
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=door.times.idle_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no access log"
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            lingering_time=1.0,
        )
        self._door = door
        self._is_refused = False
        self._phase = _Phase.HEAD
        self.writer: Writer | None = None

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
        tcp.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the writer first: the stream's grace time starts here."""
        if self._is_refused:
            return
        self._door.open_count -= 1
        self._door.deadlines.forget(self)
        if self.writer is not None:
            self.writer.on_lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what was read; the first byte after an answer begins a new head."""
        if self._is_refused:
            return
        if self._phase is _Phase.IDLE:
            self._await_head()
        super().data_received(data)

    def head_complete(self) -> None:
        """A request's head was parsed: its handler has begun."""
        self._phase = _Phase.BUSY
        self._door.deadlines.forget(self)

    def answer_sent(self) -> None:
        """Its handler is done."""
        if self._phase is _Phase.BUSY:
            self._phase = _Phase.IDLE

    def on_deadline(self, now: float) -> None:
        """Close a connection whose request's head doesn't come."""
        del now
        if self._phase is _Phase.HEAD and self.transport is not None:
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
        response = status_problem(status)
        response.headers["Server"] = "subak"  # else aiohttp names itself and its version
        response.force_close()
        return response

    def log_exception(self, *_args: object, **_kwargs: object) -> None:
        """Keep aiohttp's own log lines out: they repeat what the client sent."""

    def abort(self, *, is_framed_by_close: bool) -> None:
        """End the connection so that no client takes it for a clean end (PROTOCOL §3).

        A chunked body lacks its last chunk then. A body framed by close would look complete, so that one is reset.
        """
        transport = self.transport
        if transport is None:
            return
        if is_framed_by_close:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()

    def _await_head(self) -> None:
        self._phase = _Phase.HEAD
        self._door.deadlines.watch(self, self._door.clock.monotonic() + self._door.times.head_s)

    def _refuse(self, transport: asyncio.Transport) -> None:
        self._is_refused = True
        self._door.refused += 1
        transport.write(_FULL)
        transport.close()


def _status_of(error: LineTooLong) -> HTTPStatus:
    """Tell a target from a header by the bound that was passed: the parser says nothing else about it."""
    _, limit, *_ = error.args
    return HTTPStatus.REQUEST_URI_TOO_LONG if limit == MAX_LINE_BYTES else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE

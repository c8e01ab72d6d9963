"""The hot HTTP/1.1 client: a response's bytes reach their receiver in the call that read them from the socket.

A general client hands a body over through a queue and wakes a task for it; per token that costs more than everything
else here (docs/architecture.md, "The hot path"). So this one is an `asyncio.Protocol` and call-backs. It does what a
gateway needs to ask one origin, and no more: no redirects, no proxies from the environment, no cookies, no
decompression, no HTTP/2. It knows nothing of questions or events; how a response is read is `http1_response`'s.

    where an exchange is     what ends it
    -----------------------  -----------------------------------------------------------------------------------
    waiting for the head     first-byte deadline; connection lost
    reading the body         its end: `on_complete`; idle deadline, bad framing, connection lost: `on_failure`
    paused                   nothing of ours: the idle deadline stands still
    released                 the body's end, within a second: the connection is kept; else it is closed

Nothing is sent twice from here: whether a question is asked again is decided, and counted, in one place (`failover`).
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import msgspec

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import Failed
from subak.upstream.http1_response import BodyState, MalformedResponse, Response

MAX_INTERIM_RESPONSES: Final = 8
"""1xx responses before the final one."""
NO_RESPONSE: Final = "no_response"
"""The reason of a connection that was lost before a byte of the response."""
MAX_IDLE_S: Final = 30.0
"""An older idle connection isn't used: a router in between may have forgotten it, and nobody would tell us."""
RELEASE_S: Final = 1.0
MAX_RELEASED_BYTES: Final = 64 * 1024
"""How long and how much of an unwanted rest is read to keep its connection."""

_HEAD_END: Final = b"\r\n\r\n"
_HEAD_START: Final = b"HTTP/1."
_FIRST_FINAL_STATUS: Final = 200
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_OPEN: Final = BodyState.OPEN


class Origin(msgspec.Struct, frozen=True):
    """Whom to ask. `host` is a name in ASCII (IDNA) or an address, an IPv6 one without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_base_url(url: str) -> tuple[Origin, str]:
    """Split a base URL into its origin and its path prefix, which has no slash at its end.

    Raises:
        ValueError: it isn't http(s), has no host, or has credentials, a query or a fragment.
    """
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("the upstream's URL starts with http:// or https:// and names a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("the upstream's URL has no credentials, query or fragment: credentials go into headers")
    host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
    port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    return Origin(parts.scheme, host, port), parts.path.rstrip("/")


def tls_context(
    *, ca_file: Path | None = None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Make the TLS settings of a client. Certificates and host names are always verified.

    `ca_file` replaces the system's authorities; `cert_file` (with `key_file`, unless it holds the key too) is shown to
    the server on demand.

    Raises:
        OSError: a file can't be read or isn't PEM.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file)
    return context


class Http1Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines in seconds, sizes in bytes. `max_idle_connections` are kept open unused; 0 keeps none."""

    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 60.0
    idle_timeout_s: float = 120.0
    max_idle_connections: int = 32
    max_head_bytes: int = 64 * 1024


class ResponseReceiver(Protocol):
    """Who hears a response: a head, bytes, and one ending; aborted, none. Called from the event loop, never raises."""

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the final response's head; header names are in lower case."""

    def on_body(self, chunk: bytes) -> None:
        """Take what one read brought of the body: at least one byte."""

    def on_complete(self) -> None:
        """The body has come whole (or, without chunks and length, to the connection's end)."""

    def on_failure(self, failed: Failed) -> None:
        """The response broke, came too late or never."""


class Http1Client:
    """Asks one origin, over kept connections where there are some.

    `connections_opened` and `connections_reused` are counters, for whoever exports them.
    """

    __slots__ = (
        "_exchanges",
        "_idle",
        "_is_closed",
        "_ssl_context",
        "clock",
        "connections_opened",
        "connections_reused",
        "deadlines",
        "limits",
        "origin",
    )

    def __init__(
        self,
        origin: Origin,
        *,
        limits: Http1Limits,
        ssl_context: ssl.SSLContext | None,
        clock: Clock,
        deadlines: Deadlines,
    ) -> None:
        """`ssl_context` is only for https."""
        self.origin = origin
        self.limits = limits
        self.clock = clock
        self.deadlines = deadlines
        self.connections_opened = 0
        self.connections_reused = 0
        self._ssl_context = (ssl_context or tls_context()) if origin.scheme == "https" else None
        self._idle: list[tuple[_Connection, float]] = []
        self._exchanges: set[Http1Exchange] = set()
        self._is_closed = False

    @property
    def idle_connections(self) -> int:
        """How many connections are kept for the next request."""
        return len(self._idle)

    @property
    def busy_connections(self) -> int:
        """How many are under way with a response."""
        return len(self._exchanges)

    async def send(self, request: bytes, receiver: ResponseReceiver) -> "Http1Exchange":
        """Send a whole request; return when it is on its way. No call-back comes before that.

        Raises:
            UpstreamError: no connection: `upstream_timeout`, or `upstream_error` with the reason `dns`,
                `connect_refused`, `connect_failed`, `tls_certificate`, `tls_handshake` or `closed`.
        """
        connection = self._take_idle() or await self._connect()
        exchange = Http1Exchange(self, receiver)
        self._exchanges.add(exchange)
        exchange.start(connection, request)
        return exchange

    async def close(self) -> None:
        """Close idle connections and abort the exchanges under way."""
        self._is_closed = True
        for exchange in tuple(self._exchanges):
            exchange.abort()
        self.close_idle()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next round

    def keep(self, connection: "_Connection") -> None:
        """Keep a connection for the next request, if there is room."""
        if self._is_closed or len(self._idle) >= self.limits.max_idle_connections:
            connection.abort()
            return
        self._idle.append((connection, self.clock.monotonic()))

    def close_idle(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop()[0].abort()

    def drop(self, connection: "_Connection") -> None:
        """Forget an idle connection that is no good any more. Idempotent."""
        self._idle = [entry for entry in self._idle if entry[0] is not connection]

    def forget(self, exchange: "Http1Exchange") -> None:
        """An exchange is over. Idempotent."""
        self._exchanges.discard(exchange)
        self.deadlines.forget(exchange)

    def _take_idle(self) -> "_Connection | None":
        """Give the connection used last, if it is still good: that one is the least likely to be closed just now."""
        oldest = self.clock.monotonic() - MAX_IDLE_S
        while self._idle:
            connection, idle_since = self._idle.pop()
            if idle_since >= oldest and not connection.is_closing:
                self.connections_reused += 1
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        server_name = None if self._ssl_context is None else self.origin.host
        self._check_open()
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                transport, connection = await loop.create_connection(
                    lambda: _Connection(self),
                    self.origin.host,
                    self.origin.port,
                    ssl=self._ssl_context,
                    server_hostname=server_name,
                )
        except TimeoutError as error:
            raise UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, "connect_timeout") from error
        except OSError as error:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, _connect_reason(error)) from error
        self.connections_opened += 1
        try:
            self._check_open()
        except UpstreamError:
            transport.abort()
            raise
        return connection

    def _check_open(self) -> None:
        if self._is_closed:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "closed")


def _connect_reason(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return "tls_certificate"
        case ssl.SSLError():
            return "tls_handshake"
        case socket.gaierror():
            return "dns"
        case ConnectionRefusedError():
            return "connect_refused"
        case _:
            return "connect_failed"


class Http1Exchange:
    """One request and its response: the `Exchange` of `upstream.base`."""

    __slots__ = (
        "_client",
        "_connection",
        "_is_over",
        "_is_paused",
        "_is_released",
        "_limit_s",
        "active_at",
        "receiver",
    )

    def __init__(self, client: Http1Client, receiver: ResponseReceiver) -> None:
        self.receiver = receiver
        self.active_at = client.clock.monotonic()
        """When the current wait began, in monotonic seconds."""
        self._client = client
        self._connection: _Connection | None = None
        self._limit_s = client.limits.first_byte_timeout_s
        self._is_over = False
        self._is_paused = False
        self._is_released = False
        client.deadlines.watch(self, self.active_at + self._limit_s)

    def abort(self) -> None:
        """Close the connection at once; the receiver is not called any more. Idempotent."""
        connection = self._connection
        self._finish()
        if connection is not None:
            connection.abort()

    def pause(self) -> None:
        """Stop reading, so that TCP holds the other side back; the idle deadline stands still. Idempotent."""
        if self._is_over or self._is_paused or self._is_released:
            return
        self._is_paused = True
        self._client.deadlines.forget(self)
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read on; the idle deadline starts anew. Idempotent."""
        if self._is_over or not self._is_paused:
            return
        self._is_paused = False
        self._wait(self._limit_s)
        if self._connection is not None:
            self._connection.resume()

    def release(self) -> None:
        """Want no more of this response: keep the connection if its body ends soon, else close it. Idempotent.

        The receiver is not called any more. The last event and the end of its body mostly come in two reads: without
        this wait hardly any connection would be used twice.
        """
        connection = self._connection
        if self._is_over or self._is_released or connection is None:
            return
        self.receiver = _Rest(self)
        if not connection.can_be_kept:
            self.abort()
            return
        self.resume()
        self._is_released = True
        self._wait(RELEASE_S)

    def on_deadline(self, now: float) -> float | None:
        """Fail what has waited too long (see `core.deadlines`)."""
        due = self.active_at + self._limit_s
        if now < due and not self._is_released:
            return due
        is_answering = self._connection is not None and self._connection.is_in_body
        self.fail(Failed(ErrorCode.UPSTREAM_TIMEOUT, "idle" if is_answering else "first_byte"))
        return None

    # What follows is for this module's client and connection.

    def start(self, connection: "_Connection", request: bytes) -> None:
        """Send the request over this connection."""
        self._connection = connection
        connection.carry(self, request)
        if self._is_paused:
            connection.pause()

    def head_complete(self, response: Response) -> None:
        """The body begins: the idle deadline holds instead of the first byte's."""
        limit_s = self._client.limits.idle_timeout_s
        if limit_s < self._limit_s:
            self._wait(limit_s)
        else:  # what is watched comes sooner and finds this then: a second entry would lie beside it, 0.1 KB a stream
            self._limit_s = limit_s
            self.active_at = self._client.clock.monotonic()
        self.receiver.on_head(response.status, response.headers)

    def complete(self, connection: "_Connection") -> None:
        """The response has come whole."""
        receiver = self.receiver
        if connection.can_be_kept:
            self._finish()
            self._client.keep(connection)
        else:
            self.abort()
        receiver.on_complete()

    def lost(self, failed: Failed) -> None:
        """The connection is gone before the response was whole."""
        if failed.reason == NO_RESPONSE:
            self._client.close_idle()  # a kept one that died while the request was on its way: the others are no better
        self.fail(failed)

    def fail(self, failed: Failed) -> None:
        """End as broken: close the connection and say why."""
        if self._is_over:
            return
        receiver = self.receiver
        self.abort()
        receiver.on_failure(failed)

    def _wait(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.active_at = self._client.clock.monotonic()
        if not self._is_paused:
            self._client.deadlines.watch(self, self.active_at + limit_s)

    def _finish(self) -> None:
        self._is_over = True
        self.receiver = _NOBODY
        self._client.forget(self)
        if self._connection is not None:
            self._connection.put_down()
            self._connection = None


class _Nobody:
    """Receives what nobody wants to hear."""

    __slots__ = ()

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Ignore it."""

    def on_body(self, chunk: bytes) -> None:
        """Ignore it."""

    def on_complete(self) -> None:
        """Ignore it."""

    def on_failure(self, failed: Failed) -> None:
        """Ignore it."""


_NOBODY: Final = _Nobody()


class _Rest(_Nobody):
    """Receives the rest of a response that nobody wants, up to a bound."""

    __slots__ = ("_exchange", "_size_bytes")

    def __init__(self, exchange: Http1Exchange) -> None:
        self._exchange = exchange
        self._size_bytes = 0

    def on_body(self, chunk: bytes) -> None:
        """Ignore it, but not for ever."""
        self._size_bytes += len(chunk)
        if self._size_bytes > MAX_RELEASED_BYTES:
            self._exchange.abort()


class _Connection(asyncio.Protocol):
    """One connection: reads responses for the exchange it carries. Both loops set TCP_NODELAY by themselves."""

    __slots__ = (
        "_client",
        "_exchange",
        "_head",
        "_interim_responses",
        "_monotonic",
        "_response",
        "_transport",
    )

    def __init__(self, client: Http1Client) -> None:
        self._client = client
        self._monotonic = client.clock.monotonic
        self._transport: asyncio.Transport | None = None
        self._exchange: Http1Exchange | None = None
        self._response: Response | None = None
        self._head = b""
        self._interim_responses = 0

    @property
    def is_closing(self) -> bool:
        """Whether it can't carry anything any more."""
        return self._transport is None or self._transport.is_closing()

    @property
    def is_in_body(self) -> bool:
        """Whether a response's head has come."""
        return self._response is not None

    @property
    def can_be_kept(self) -> bool:
        """Whether it may carry another request once the body in hand has ended: request sent, framing sound."""
        response = self._response
        if response is None or self._transport is None or self._transport.is_closing():
            return False
        if response.state is BodyState.BROKEN or response.ends_at_eof or response.has_excess:
            return False
        return response.is_persistent and self._transport.get_write_buffer_size() == 0

    def carry(self, exchange: Http1Exchange, request: bytes) -> None:
        """Send a request; its response belongs to `exchange`."""
        self._exchange = exchange
        self._head = b""
        self._response = None
        self._interim_responses = 0
        if self._transport is not None:
            self._transport.write(request)

    def put_down(self) -> None:
        """The exchange wants nothing more of this connection."""
        self._exchange = None

    def abort(self) -> None:
        """Close the socket in this round of the loop, whatever is unsent or unread."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # asyncio calls what follows.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what was read: the hot path."""
        exchange = self._exchange
        response = self._response
        if exchange is None or response is None:
            self._take_head(data)
            return
        exchange.active_at = self._monotonic()
        chunk = response.feed(data)
        if chunk:
            exchange.receiver.on_body(chunk)
        if response.state is not _OPEN:
            self._end_body(response)

    def eof_received(self) -> None:
        """The other side has sent all it will."""
        self._end(is_clean=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._end(is_clean=exc is None)

    def _take_head(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nobody asked for these bytes, so nothing after them can be trusted
            self._client.drop(self)
            self.abort()
            return
        try:
            response = self._find_response(data)
        except MalformedResponse as error:
            exchange.fail(Failed(ErrorCode.UPSTREAM_ERROR, error.reason))
            return
        if response is not None:
            self._begin_body(exchange, response)

    def _begin_body(self, exchange: Http1Exchange, response: Response) -> None:
        rest, self._head = self._head, b""
        self._response = response
        exchange.head_complete(response)
        response.forget_headers()
        if rest:
            self.data_received(rest)
        elif response.state is not _OPEN:
            self._end_body(response)

    def _find_response(self, data: bytes) -> Response | None:
        """Give the final response once its head is whole, with what follows it in `_head`.

        Raises:
            MalformedResponse: it can't become one.
        """
        searched = max(0, len(self._head) - len(_HEAD_END) + 1)
        buffer = self._head + data
        while (end := buffer.find(_HEAD_END, searched) + len(_HEAD_END)) >= len(_HEAD_END):
            self._check_size(end)
            response = Response(buffer[:end])
            buffer, searched = buffer[end:], 0
            if response.status >= _FIRST_FINAL_STATUS:
                self._head = buffer
                return response
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                raise MalformedResponse("too_many_interim_responses")
        self._head = buffer
        self._check_size(len(buffer))
        if not _HEAD_START.startswith(buffer[: len(_HEAD_START)]):
            raise MalformedResponse("bad_head")
        return None

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._client.limits.max_head_bytes:
            raise MalformedResponse("head_too_large")

    def _end_body(self, response: Response) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if response.state is BodyState.COMPLETE:
            exchange.complete(self)
        else:
            exchange.fail(Failed(ErrorCode.UPSTREAM_TRUNCATED, "bad_chunk"))

    def _end(self, *, is_clean: bool) -> None:
        exchange = self._exchange
        if exchange is None:
            self._client.drop(self)
        elif self._response is None:
            exchange.lost(Failed(ErrorCode.UPSTREAM_ERROR, "head_cut" if self._head else NO_RESPONSE))
        elif is_clean and self._response.ends_at_eof:
            exchange.complete(self)
        else:
            exchange.lost(Failed(ErrorCode.UPSTREAM_TRUNCATED, "body_cut" if is_clean else "connection_reset"))

"""A server on a real socket that answers as a script says: well, wrongly, slowly, or not at all.

It speaks HTTP/1.1 as far as its scripts do: `Head`, `Frame` and `Body` frame a response correctly, `Raw` sends whatever
a test wants to have sent. It knows nothing of the dialects that upstreams speak.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Self, cast

import httptools

from subak.testing.waiting import PATIENCE_S, Changes

_EVENT_STREAM: Final = {"Content-Type": "text/event-stream"}
_LINGER_0: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a script does."""


@dataclass(frozen=True, slots=True)
class Head(Step):
    """Send a response's head. Its body is `chunked`, framed by the connection's end (`close`), or as `headers` say."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: _EVENT_STREAM)
    framing: Literal["chunked", "close", "given"] = "chunked"


@dataclass(frozen=True, slots=True)
class Frame(Step):
    """Send one SSE block with this data, as one chunk."""

    data: str


@dataclass(frozen=True, slots=True)
class Body(Step):
    """Send these bytes of the body, as one chunk if the body is chunked."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Raw(Step):
    """Send these bytes as they are."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Gate(Step):
    """Wait until the test sets this."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class End(Step):
    """End the body, and read the next request from the same connection."""


@dataclass(frozen=True, slots=True)
class Close(Step):
    """Close the connection; a chunked body is left without its end."""


@dataclass(frozen=True, slots=True)
class Reset(Step):
    """Tear the connection down with a TCP reset."""


@dataclass(frozen=True, slots=True)
class Stall(Step):
    """Send nothing more, and keep the connection until the other side closes it."""


Script = Sequence[Step] | Callable[["RecordedRequest"], Iterable[Step]]
"""What to answer: steps, or a function of the request that gives them, one at a time if it is a generator."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it came. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class ScriptedUpstream:
    """A server on loopback that answers the n-th request by the n-th script, and all later ones by the last.

    A script that is over stalls. `requests` and `connections` are in the order in which they came.
    """

    def __init__(
        self,
        *scripts: Script,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        is_accepting: bool = True,
    ) -> None:
        """Port 0 takes a free one. Not accepting: the kernel's queue is full, so no connection ever comes about."""
        self.scripts = list(scripts)
        self.requests: list[RecordedRequest] = []
        self.connections: list[ScriptedConnection] = []
        self.host = host
        self.port = port
        self._ssl_context = ssl_context
        self._is_accepting = is_accepting
        self._server: asyncio.Server | None = None
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._changes = Changes()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self._ssl_context is None else 'https'}://{host}:{self.port}"

    @property
    def questions(self) -> int:
        """How many requests have come."""
        return len(self.requests)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen."""
        if not self._is_accepting:
            self._start_deaf()
            return
        loop = asyncio.get_running_loop()
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        make = partial(ScriptedConnection, self)
        self._server = await loop.create_server(make, self.host, self.port, ssl=self._ssl_context)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones go on."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Stop listening, drop all connections, end all scripts.

        Raises:
            ExceptionGroup: a script raised.
        """
        self.refuse()
        for connection in self.connections:
            connection.abort()
        await self._stack.aclose()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next round

    async def wait_questions(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Return once that many requests have come."""
        await self._changes.until(lambda: self.questions >= count, timeout_s)

    def _start_deaf(self) -> None:
        listener = self._stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(0)
        self.port = listener.getsockname()[1]
        for _ in range(3):  # more than fit into the queue
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((self.host, self.port))

    # What follows is for this module's connections.

    def opened(self, connection: "ScriptedConnection") -> asyncio.Task[None]:
        """A connection has come: run its scripts."""
        assert self._tasks is not None
        self.connections.append(connection)
        return self._tasks.create_task(connection.serve())

    def asked(self, request: RecordedRequest) -> Iterable[Step]:
        """A request has come: give what to answer."""
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        self._changes.note()
        return script(request) if callable(script) else script


class ScriptedConnection(asyncio.Protocol):
    """One connection of a `ScriptedUpstream`. `closed` and `blocked` are set while they are true.

    `blocked`: the other side doesn't take what is written, so that TCP holds the script back. `sent_bytes` counts what
    the script has written so far.
    """

    def __init__(self, server: ScriptedUpstream) -> None:
        self.closed = asyncio.Event()
        self.blocked = asyncio.Event()
        self.sent_bytes = 0
        self._server = server
        self._writable = asyncio.Event()
        self._writable.set()
        self._requests: asyncio.Queue[RecordedRequest] = asyncio.Queue()
        self._reader = _RequestReader(self._requests)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._framing: Literal["chunked", "close", "given"] = "given"

    async def wait_closed(self, timeout_s: float = PATIENCE_S) -> None:
        """Return once the connection is closed, by whichever side."""
        async with asyncio.timeout(timeout_s):
            await self.closed.wait()

    async def wait_blocked(self, timeout_s: float = PATIENCE_S) -> None:
        """Return once the other side has stopped taking bytes."""
        async with asyncio.timeout(timeout_s):
            await self.blocked.wait()

    def abort(self) -> None:
        """Drop the connection."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def serve(self) -> None:
        """Answer requests by their scripts, one after the other."""
        while not self.closed.is_set():
            request = await self._requests.get()
            for step in self._server.asked(request):
                await self._writable.wait()
                await self._take(step)
                await asyncio.sleep(0)  # a round of the loop for each step: the other side may read it by itself

    # asyncio calls what follows.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, and begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._task = self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._reader.feed(data)

    def pause_writing(self) -> None:
        """The other side is slower than the script."""
        self.blocked.set()
        self._writable.clear()

    def resume_writing(self) -> None:
        """The other side has caught up."""
        self.blocked.clear()
        self._writable.set()

    def eof_received(self) -> None:
        """The other side has closed."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is closed."""
        self._end()

    def _end(self) -> None:
        self.closed.set()
        if self._task is not None:
            self._task.cancel()

    async def _take(self, step: Step) -> None:
        match step:
            case Head():
                self._framing = step.framing
                self._write(_head(step))
            case Frame():
                self._write(self._framed(f"data: {step.data}\n\n".encode()))
            case Body():
                self._write(self._framed(step.content))
            case Raw():
                self._write(step.content)
            case Gate():
                await step.event.wait()
            case Stall():
                await self.closed.wait()
            case End() | Close() | Reset():
                self._finish(step)
            case _:
                raise TypeError(f"{step!r} is no step")

    def _finish(self, step: End | Close | Reset) -> None:
        assert self._transport is not None
        if isinstance(step, Reset):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            self._transport.abort()
        elif isinstance(step, Close) or self._framing == "close":
            self._transport.close()
        elif self._framing == "chunked":
            self._write(b"0\r\n\r\n")

    def _framed(self, content: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(content), content) if self._framing == "chunked" else content

    def _write(self, content: bytes) -> None:
        assert self._transport is not None
        self.sent_bytes += len(content)
        self._transport.write(content)


def _head(step: Head) -> bytes:
    headers = dict(step.headers)
    if step.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    elif step.framing == "close":
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {step.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _RequestReader:
    """Puts the requests of one connection into a queue."""

    def __init__(self, requests: asyncio.Queue[RecordedRequest]) -> None:
        self._requests = requests
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("ascii")
        target = self._target.decode("latin-1")
        self._requests.put_nowait(RecordedRequest(method, target, self._headers, self._body))

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = b""

"""A TCP proxy that treats connections badly, on purpose: for tests of whatever must survive a poor network.

It stands on 127.0.0.1 before a real server and passes bytes on as its lines say: late, in slices, slowly, up to a
certain byte. It knows nothing of HTTP or Subak. What goes wrong goes wrong at a byte, not at a
time, and jitter comes from a seed: a test that failed once fails again.

    cut_once = [Line(cut=Cut(after=700)), Line()]  # the first connection dies, all later ones work
    async with ToxicProxy("127.0.0.1", gateway_port, *cut_once) as proxy:
        ...  # point the client at proxy.url
        await proxy.wait_connections(2)  # it has come back

What a line can do, each way by itself: `latency_s`, `jitter_s`, `slice_bytes`, `bytes_per_s`. What a cut can be: a TCP
reset, an orderly close, a line that is dead without anybody being told (`HALF_OPEN`), one that takes everything and
delivers nothing (`BLACK_HOLE`). Where it is cut is told by a number of bytes, or by the bytes after which. `hold` and
`release` stop and restart the flow at any moment, `cut` ends it.

A reset may overtake bytes that the receiver didn't take yet, as on any network: *at most* so many arrive.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NoReturn, Self

from subak.testing.waiting import PATIENCE_S, Changes

_LINGER_0: Final = struct.pack("ii", 1, 0)
_READ_BYTES: Final = 16 * 1024
_CHUNKS_ON_THEIR_WAY: Final = 64
_SLICES_PER_SECOND: Final = 50
_BACKLOG: Final = 1024

Direction = Literal["to_client", "to_server"]


class How(StrEnum):
    """What a cut line looks like from its ends."""

    RESET = "reset"
    """Both sides get a TCP reset."""
    CLOSE = "close"
    """Both sides get a FIN: an orderly end of the connection, at whatever byte it is."""
    HALF_OPEN = "half_open"
    """Nothing is passed on any more, either way, and nobody is told. Writers fill the buffers and then block."""
    BLACK_HOLE = "black_hole"
    """The same, but everything is taken and thrown away: writers never block."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut the line when so much has been passed on in `direction`.

    `after` is a number of bytes, 0 for a cut before the first one, or the bytes after whose first coming it is cut.
    """

    after: int | bytes
    how: How = How.RESET
    direction: Direction = "to_client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How bytes travel in one direction of a line.

    `latency_s` delays all of them, `jitter_s` adds a random delay of up to so much to each read; order is kept.
    `slice_bytes` sends so many at a time, each slice by a write of its own. `bytes_per_s` bounds the rate.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    slice_bytes: int | None = None
    bytes_per_s: float | None = None

    def delay_s(self, dice: random.Random) -> float:
        """Give how long one read stays on its way."""
        return self.latency_s + self.jitter_s * dice.random()

    @property
    def is_late(self) -> bool:
        """Whether bytes stay on their way for a while."""
        return self.latency_s > 0 or self.jitter_s > 0

    @property
    def piece_bytes(self) -> int:
        """How many bytes go into one write: a bounded rate is kept in steps of 20 ms."""
        sizes = [_READ_BYTES]
        if self.slice_bytes is not None:
            sizes.append(self.slice_bytes)
        if self.bytes_per_s is not None:
            sizes.append(int(self.bytes_per_s / _SLICES_PER_SECOND))
        return max(1, min(sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one connection is like. Without arguments: a good one."""

    to_client: Way = field(default_factory=Way)
    to_server: Way = field(default_factory=Way)
    cut: Cut | None = None


Lines = Line | Callable[[int], Line]
"""A line, or a function of the connection's number (0, 1, …) that gives one."""


class ToxicProxy:
    """A proxy on a free port of 127.0.0.1: its n-th connection gets the n-th line, all later ones the last.

    `connections` are in the order in which they came, the ended ones included. `buffer_bytes` makes the kernel's
    buffers on the client's side small, so that a writer feels early that nobody reads.
    """

    def __init__(self, host: str, port: int, *lines: Lines, seed: int = 0, buffer_bytes: int | None = None) -> None:
        """`host` and `port` are the server's. Without lines every connection is a good one; `seed` is the jitter's."""
        self.lines: list[Lines] = list(lines) or [Line()]
        self.connections: list[ToxicConnection] = []
        self.port = 0
        self._server_address = (host, port)
        self._seed = seed
        self._buffer_bytes = buffer_bytes
        self._stack = AsyncExitStack()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._changes = Changes()

    @property
    def url(self) -> str:
        """The base URL of an HTTP server behind it, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_count(self) -> int:
        """How many connections haven't ended."""
        return sum(not connection.ended.is_set() for connection in self.connections)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen on a free port."""
        listener = self._stack.enter_context(socket.socket())
        listener.setblocking(False)
        if self._buffer_bytes is not None:  # what it accepts inherits them
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer_bytes)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen(_BACKLOG)
        self.port = listener.getsockname()[1]
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept, listener, tasks)
        self._stack.callback(loop.remove_reader, listener)

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        self.cut(How.RESET)
        await self._stack.aclose()

    def hold(self) -> None:
        """Pass nothing on until `release`, on any connection; buffers on the way still fill."""
        self._flowing.clear()

    def release(self) -> None:
        """Let bytes flow again."""
        self._flowing.set()

    def cut(self, how: How = How.RESET) -> None:
        """Cut every open connection, now."""
        for connection in self.connections:
            connection.cut(how)

    async def wait_connections(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Return once that many connections have come."""
        await self.wait_until(lambda: len(self.connections) >= count, timeout_s)

    async def wait_until(self, is_met: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Return once a condition holds; it is looked at whenever a connection comes, carries bytes or ends."""
        await self._changes.until(is_met, timeout_s)

    def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone again
            return
        number = len(self.connections)
        given = self.lines[min(number, len(self.lines) - 1)]
        connection = ToxicConnection(
            given(number) if callable(given) else given,
            seed=f"{self._seed}:{number}",
            flowing=self._flowing,
            on_change=self._changes.note,
        )
        self.connections.append(connection)
        tasks.create_task(connection.serve(client, self._server_address))
        self._changes.note()


class _Severed(Exception):
    """The line was cut in a way that ends its connections."""

    def __init__(self, how: How) -> None:
        super().__init__(how)
        self.how = how


class ToxicConnection:
    """One connection of a `ToxicProxy`, with its counts of bytes passed on. `ended` is set when it is over."""

    def __init__(self, line: Line, *, seed: str, flowing: asyncio.Event, on_change: Callable[[], None]) -> None:
        self.line = line
        self.to_client_bytes = 0
        self.to_server_bytes = 0
        self.was_cut: How | None = None
        """How the line was cut; None for one that was not, or whose ends hung up by themselves."""
        self.ended = asyncio.Event()
        self._seed = seed
        self._flowing = flowing
        self._on_change = on_change
        self._severed = asyncio.Event()
        self._marker = _Marker(line.cut)

    def cut(self, how: How = How.RESET) -> None:
        """Cut the line, now. A half-open line and a black hole can still be reset or closed; an ended one stays so."""
        if self.ended.is_set():
            return
        self.was_cut = how
        if how in {How.RESET, How.CLOSE}:
            self._severed.set()

    async def wait_ended(self, timeout_s: float = PATIENCE_S) -> None:
        """Return once both sides are closed."""
        async with asyncio.timeout(timeout_s):
            await self.ended.wait()

    async def serve(self, client: socket.socket, address: tuple[str, int]) -> None:
        """Carry bytes between a client and the server until either goes or the line is cut."""
        server = socket.socket()
        how: How = How.CLOSE
        try:
            await self._carry(client, server, address)
        except* _Severed as severed:
            how = _how(severed)
        finally:
            for side in (client, server):
                if how is How.RESET:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
                side.close()
            self.ended.set()
            self._on_change()

    async def _carry(self, client: socket.socket, server: socket.socket, address: tuple[str, int]) -> None:
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._check_cut("to_client", 0)
        self._check_cut("to_server", 0)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            try:
                await asyncio.get_running_loop().sock_connect(server, address)
            except OSError:
                raise _Severed(How.RESET) from None
            async with asyncio.TaskGroup() as ways:
                self._start_way(ways, client, server, "to_server")
                self._start_way(ways, server, client, "to_client")
            watching.cancel()

    def _start_way(
        self, tasks: asyncio.TaskGroup, source: socket.socket, sink: socket.socket, direction: Direction
    ) -> None:
        way: Way = getattr(self.line, direction)
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_ON_THEIR_WAY if way.is_late else 1)
        dice = random.Random(f"{self._seed}:{direction}")  # noqa: S311 - repeatable jitter is the point
        tasks.create_task(self._read(source, way, dice, chunks))
        tasks.create_task(self._pass_on(sink, way, chunks, direction))

    async def _watch(self) -> NoReturn:
        await self._severed.wait()
        assert self.was_cut is not None, "somebody said how"
        raise _Severed(self.was_cut)

    async def _read(
        self, source: socket.socket, way: Way, dice: random.Random, chunks: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Read, and note for each chunk when it is due on the other side; an empty one is the end."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            try:
                chunk = await loop.sock_recv(source, _READ_BYTES)
            except OSError:
                await self._hang_up()
            due = max(due, loop.time() + way.delay_s(dice))
            await chunks.put((due, chunk))
            if not chunk:
                return

    async def _pass_on(
        self, sink: socket.socket, way: Way, chunks: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        pace = _Pace(way)
        while True:
            due, chunk = await chunks.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not chunk:
                await self._flowing.wait()
                await self._end_way(sink)
                return
            if direction == self._marker.direction:
                self._marker.look(chunk)
            while chunk:
                await self._flowing.wait()
                piece = chunk[: min(way.piece_bytes, self._bytes_before_cut(direction))]
                chunk = chunk[len(piece) :]
                await self._send(sink, piece, direction)
                await pace.wait(len(piece))

    async def _send(self, sink: socket.socket, piece: bytes, direction: Direction) -> None:
        if self.was_cut is How.HALF_OPEN:
            await self._severed.wait()
        if self.was_cut is not None:
            return
        try:
            await asyncio.get_running_loop().sock_sendall(sink, piece)
        except OSError:
            await self._hang_up()
        if direction == "to_client":
            self.to_client_bytes += len(piece)
            passed_on = self.to_client_bytes
        else:
            self.to_server_bytes += len(piece)
            passed_on = self.to_server_bytes
        self._on_change()
        self._check_cut(direction, passed_on)

    async def _end_way(self, sink: socket.socket) -> None:
        """One side has said all it had to say; on a dead line the other never learns of it."""
        if self.was_cut is not None:
            await self._severed.wait()
            return
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            await self._hang_up()

    async def _hang_up(self) -> NoReturn:
        """One side has reset its connection; so does the other's, unless the line is dead."""
        if self.was_cut is not None:
            await self._severed.wait()
        raise _Severed(self.was_cut or How.RESET)

    def _bytes_before_cut(self, direction: Direction) -> int:
        if direction != self._marker.direction or self._marker.at is None or self.was_cut is not None:
            return _READ_BYTES
        return self._marker.at - (self.to_client_bytes if direction == "to_client" else self.to_server_bytes)

    def _check_cut(self, direction: Direction, passed_on: int) -> None:
        cut = self.line.cut
        if cut is None or direction != self._marker.direction or self.was_cut is not None:
            return
        if self._marker.at is None or passed_on < self._marker.at:
            return
        self.was_cut = cut.how
        if cut.how in {How.RESET, How.CLOSE}:
            raise _Severed(cut.how)


class _Marker:
    """Where a line is to be cut: `at` is the number of bytes passed on before the cut, None while it isn't known."""

    def __init__(self, cut: Cut | None) -> None:
        after = None if cut is None else cut.after
        self.direction: Direction | None = None if cut is None else cut.direction
        self.at = after if isinstance(after, int) else None
        self._wanted = after if isinstance(after, bytes) else b""
        self._tail = b""
        self._seen_bytes = 0

    def look(self, chunk: bytes) -> None:
        """Look for the wanted bytes in the next chunk; they may have begun in the ones before."""
        if self.at is not None or not self._wanted:
            return
        text = self._tail + chunk
        found = text.find(self._wanted)
        if found >= 0:
            self.at = self._seen_bytes - len(self._tail) + found + len(self._wanted)
        self._seen_bytes += len(chunk)
        self._tail = text[max(0, len(text) - len(self._wanted) + 1) :]


def _how(severed: BaseExceptionGroup[_Severed]) -> How:
    """Give how the line was cut first: the ways may say it together."""
    first = severed.exceptions[0]
    return _how(first) if isinstance(first, BaseExceptionGroup) else first.how


class _Pace:
    """Keeps one way below its rate; without one it only lets others run between two pieces."""

    def __init__(self, way: Way) -> None:
        self._bytes_per_s = way.bytes_per_s
        self._free_at = 0.0

    async def wait(self, sent_bytes: int) -> None:
        """Wait until the next piece may go."""
        if self._bytes_per_s is None:
            await asyncio.sleep(0)
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + sent_bytes / self._bytes_per_s
        await asyncio.sleep(self._free_at - now)

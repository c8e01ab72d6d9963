"""The proxy that spoils connections does exactly what its lines say, and nothing else."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from subak.testing import (
    PATIENCE_S,
    Cut,
    Gate,
    How,
    Line,
    Lines,
    Raw,
    Reset,
    ScriptedUpstream,
    Stall,
    Step,
    ToxicProxy,
    Way,
)

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SPEECH = bytes(range(256)) * 40


class Client:
    """A connection that asks at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)

    async def rest(self) -> tuple[bytes, bool]:
        """Give what comes up to the connection's end, and whether that was a reset."""
        took = b""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while chunk := await self.reader.read(65536):
                    took += chunk
            except ConnectionResetError:
                return took, True
        return took, False


async def until(is_met: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_met():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)


@asynccontextmanager
async def asking(proxy: ToxicProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(REQUEST)
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def proxied(
    *lines: Lines, steps: tuple[Step, ...] = (Raw(SPEECH),), buffer_bytes: int | None = None
) -> AsyncIterator[tuple[ToxicProxy, ScriptedUpstream]]:
    """Put a proxy before a server that answers the first byte asked with `steps`."""
    async with (
        ScriptedUpstream(steps) as server,
        ToxicProxy("127.0.0.1", server.port, *lines, buffer_bytes=buffer_bytes) as proxy,
    ):
        yield proxy, server


async def test_a_good_line_passes_everything_on_both_ways_and_counts_it() -> None:
    async with proxied() as (proxy, server), asking(proxy) as client:
        assert await client.read(len(SPEECH)) == SPEECH
        assert server.requests[0].headers == {"host": "x"}
        connection = proxy.connections[0]
        assert (connection.to_server_bytes, connection.to_client_bytes) == (len(REQUEST), len(SPEECH))
        assert proxy.open_count == 1
        assert not connection.ended.is_set()


async def test_slices_arrive_one_by_one_and_in_order() -> None:
    async with proxied(Line(to_client=Way(slice_bytes=3))) as (proxy, _), asking(proxy) as client:
        took: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while sum(map(len, took)) < len(SPEECH):
                took.append(await client.reader.read(65536))
    assert b"".join(took) == SPEECH
    assert len(took) > len(SPEECH) / 30


async def test_latency_delays_and_keeps_the_order() -> None:
    loop = asyncio.get_running_loop()
    line = Line(to_client=Way(latency_s=0.03), to_server=Way(latency_s=0.03))
    async with proxied(line) as (proxy, _), asking(proxy) as client:
        asked_at = loop.time()
        assert await client.read(len(SPEECH)) == SPEECH
        assert loop.time() - asked_at >= 0.06


async def test_jitter_keeps_the_order() -> None:
    steps = tuple(Raw(SPEECH[at : at + 100]) for at in range(0, len(SPEECH), 100))
    async with proxied(Line(to_client=Way(jitter_s=0.02)), steps=steps) as (proxy, _), asking(proxy) as client:
        assert await client.read(len(SPEECH)) == SPEECH


def test_jitter_is_repeatable_and_within_its_bounds() -> None:
    way = Way(latency_s=0.3, jitter_s=0.1)
    first, again = ([way.delay_s(dice) for _ in range(50)] for dice in (random.Random("0:1"), random.Random("0:1")))
    assert first == again
    assert len(set(first)) == 50
    assert all(0.3 <= delay_s <= 0.4 for delay_s in first)


async def test_a_rate_is_kept() -> None:
    loop = asyncio.get_running_loop()
    line = Line(to_client=Way(bytes_per_s=100_000))
    async with proxied(line) as (proxy, _), asking(proxy) as client:
        asked_at = loop.time()
        assert await client.read(len(SPEECH)) == SPEECH
        assert loop.time() - asked_at >= 0.9 * len(SPEECH) / 100_000


async def test_a_reset_after_n_bytes_is_a_reset_on_both_sides() -> None:
    async with proxied(Line(cut=Cut(after=700))) as (proxy, server), asking(proxy) as client:
        assert await client.rest() == (SPEECH[:700], True)
        await server.connections[0].wait_closed()
        await proxy.connections[0].wait_ended()
        assert (proxy.connections[0].was_cut, proxy.connections[0].to_client_bytes) == (How.RESET, 700)


async def test_a_close_after_n_bytes_is_an_orderly_end_on_both_sides() -> None:
    line = Line(cut=Cut(after=700, how=How.CLOSE), to_client=Way(slice_bytes=33))
    async with proxied(line) as (proxy, server), asking(proxy) as client:
        assert await client.rest() == (SPEECH[:700], False)
        await server.connections[0].wait_closed()


@pytest.mark.parametrize("read_bytes", [1, 64, 100_000])
async def test_a_cut_may_be_told_by_the_bytes_before_it(read_bytes: int) -> None:
    speech = b"id: 1\n\nid: 2\n\nid: 3\n\n"
    steps = tuple(Raw(speech[at : at + read_bytes]) for at in range(0, len(speech), read_bytes))
    line = Line(cut=Cut(after=b"id: 2", how=How.CLOSE))
    async with proxied(line, steps=steps) as (proxy, _), asking(proxy) as client:
        assert await client.rest() == (b"id: 1\n\nid: 2", False)


async def test_a_line_cut_at_byte_0_never_reaches_the_server() -> None:
    async with proxied(Line(cut=Cut(after=0))) as (proxy, server), asking(proxy) as client:
        assert await client.rest() == (b"", True)
        assert server.connections == []


@pytest.mark.parametrize("after", [1, len(REQUEST) - 1, b"HTTP/"])
async def test_a_cut_may_hit_the_way_to_the_server(after: int | bytes) -> None:
    line = Line(cut=Cut(after, How.CLOSE, "to_server"))
    async with proxied(line) as (proxy, server), asking(proxy) as client:
        assert await client.rest() == (b"", False)
        await server.connections[0].wait_closed()
        arrived = after if isinstance(after, int) else REQUEST.index(after) + len(after)
        assert (server.questions, proxy.connections[0].to_server_bytes) == (0, arrived)


async def test_a_half_open_line_goes_silent_and_tells_nobody() -> None:
    flood = Raw(b"x" * 20_000_000)
    line = Line(cut=Cut(after=700, how=How.HALF_OPEN))
    async with proxied(line, steps=(Raw(SPEECH), flood)) as (proxy, server), asking(proxy) as client:
        assert await client.read(700) == SPEECH[:700]
        await server.connections[0].wait_blocked()
        assert not server.connections[0].closed.is_set()
        assert proxy.connections[0].to_client_bytes == 700
        proxy.connections[0].cut(How.RESET)
        assert await client.rest() == (b"", True)
        await server.connections[0].wait_closed()


async def test_on_a_half_open_line_a_farewell_does_not_arrive() -> None:
    async with proxied(Line(cut=Cut(after=700, how=How.HALF_OPEN))) as (proxy, server), asking(proxy) as client:
        await client.read(700)
        raw = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        async with asking(proxy) as other:  # time for a farewell to arrive
            await other.read(700)
        assert not server.connections[0].closed.is_set()
        assert proxy.open_count == 2


async def test_a_black_hole_takes_everything_and_delivers_nothing() -> None:
    gate = asyncio.Event()
    steps = (Raw(SPEECH), Raw(b"x" * 20_000_000), Gate(gate), Reset())
    async with (
        proxied(Line(cut=Cut(after=700, how=How.BLACK_HOLE)), steps=steps) as (proxy, server),
        asking(proxy) as client,
    ):
        assert await client.read(700) == SPEECH[:700]
        await server.connections[0].wait_blocked()
        await until(lambda: not server.connections[0].blocked.is_set())
        assert proxy.connections[0].to_client_bytes == 700
        proxy.cut(How.CLOSE)
        assert await client.rest() == (b"", False)


async def test_hold_stops_the_flow_until_release() -> None:
    async with proxied(steps=(Raw(b"a"), Stall())) as (proxy, server), asking(proxy) as client:
        assert await client.read(1) == b"a"
        proxy.hold()
        async with asking(proxy):
            await proxy.wait_connections(2)
            await until(lambda: len(server.connections) == 2)
            assert proxy.connections[1].to_server_bytes == 0
            proxy.release()
            await server.wait_questions(2)


async def test_cut_ends_all_connections_at_any_moment() -> None:
    async with proxied() as (proxy, server), asking(proxy) as one, asking(proxy) as two:
        await one.read(len(SPEECH))
        await two.read(len(SPEECH))
        proxy.cut()
        assert await one.rest() == await two.rest() == (b"", True)
        for connection in server.connections:
            await connection.wait_closed()
        await proxy.wait_until(lambda: proxy.open_count == 0)
        proxy.cut()  # nothing is left to cut


async def test_the_nth_connection_gets_the_nth_line_and_later_ones_the_last() -> None:
    def by_number(number: int) -> Line:
        return Line(cut=Cut(after=100 * number, how=How.CLOSE))

    async with proxied(Line(cut=Cut(after=5, how=How.CLOSE)), by_number) as (proxy, _):
        sizes = []
        for _ in range(4):
            async with asking(proxy) as client:
                sizes.append(len((await client.rest())[0]))
    assert sizes == [5, 100, 200, 300]


async def test_what_one_side_ends_ends_for_the_other() -> None:
    async with proxied(steps=(Raw(SPEECH), Reset())) as (proxy, server):
        async with asking(proxy) as client:
            assert (await client.rest())[1]
        server.scripts = [(Raw(SPEECH),)]
        async with asking(proxy) as client:
            await client.read(len(SPEECH))
            client.writer.write_eof()
            assert await client.rest() == (b"", False)
            await server.connections[1].wait_closed()
        assert [connection.was_cut for connection in proxy.connections] == [None, None]


async def test_a_server_that_refuses_is_a_reset_for_the_client() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        async with ToxicProxy("127.0.0.1", unused.getsockname()[1]) as proxy, asking(proxy) as client:
            assert await client.rest() == (b"", True)


async def test_small_buffers_let_a_writer_feel_early_that_nobody_reads() -> None:
    async with proxied(steps=(Raw(b"x" * 40_000_000),), buffer_bytes=4096) as (proxy, server):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", proxy.port))
            client.send(REQUEST)
            await server.wait_questions(1)
            await server.connections[0].wait_blocked()
            assert proxy.connections[0].to_client_bytes < 100_000


async def test_a_proxy_that_is_left_leaves_no_connection() -> None:
    async with ScriptedUpstream((Raw(SPEECH),)) as server:
        async with ToxicProxy("127.0.0.1", server.port) as proxy, asking(proxy) as client:
            await client.read(len(SPEECH))
            proxy.hold()
            await proxy.close()
            assert proxy.open_count == 0
            assert (await client.rest())[1]
        await server.connections[0].wait_closed()

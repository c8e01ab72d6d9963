"""Many at once and many after one another: rows 27 and 72 at their full size in `./dev.py soak`, smaller before."""

import asyncio
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Final
from urllib.parse import urlsplit

import pytest

from subak.core.facts import Crashed
from subak.testing import (
    Body,
    Close,
    Cut,
    End,
    Frame,
    Gate,
    Head,
    How,
    Line,
    Raw,
    RecordedRequest,
    Reset,
    ScriptedUpstream,
    Stall,
    Step,
    ToxicProxy,
    Way,
)
from tests.integration.gateway import (
    DONE,
    ONE_LOOP,
    Client,
    Running,
    ask,
    process,
    question_url,
    request_bytes,
    resident_bytes,
    running,
    terminal_of,
)
from tests.settings import runs
from tests.transcripts.scenes import token

pytestmark = [ONE_LOOP, pytest.mark.slow]

KIB: Final = 1024
MB: Final = 1_000_000


TOKEN_S: Final = 0.1
"""The healthy answers' pace, in seconds a token."""
TOKENS: Final = 40
CRAWLERS: Final = runs(fast=50, default=200, soak=1000)
HEALTHY: Final = runs(fast=10, default=30, soak=100)


class Paced:
    """An upstream's script: a large answer for who asks for it, else tokens at one pace for all."""

    def __init__(self) -> None:
        self._ticks: list[asyncio.Event] = []
        self.begin()

    def begin(self) -> None:
        """Make a new round of ticks."""
        self._ticks = [asyncio.Event() for _ in range(TOKENS)]

    def __call__(self, request: RecordedRequest) -> Iterator[Step]:
        yield Head()
        if "large" in request.target:
            yield from (token("x" * 2000) for _ in range(1000))
        else:
            for tick in self._ticks:
                yield Gate(tick)
                yield token("tick ")
        yield DONE
        yield End()

    async def run(self) -> None:
        """Let the time of a round pass."""
        loop = asyncio.get_running_loop()
        starts_at = loop.time()
        for number, tick in enumerate(self._ticks):
            await asyncio.sleep(starts_at + number * TOKEN_S - loop.time())  # the load's rhythm
            tick.set()


async def gaps_of_one(url: str) -> list[float]:
    """Follow one answer; give the times between its tokens."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request_bytes("GET", question_url("healthy"), [("Connection", "close")]))
    came_at: list[float] = []
    received = b""
    async with asyncio.timeout(60):
        while chunk := await reader.read(64 * KIB):
            received += chunk
            came_at += [loop.time()] * chunk.count(b'"tick "')
    writer.close()
    assert received.count(b'"tick "') == TOKENS
    assert b'"type":"done"' in received
    return [later - earlier for earlier, later in pairwise(came_at)]


async def p99_s(url: str, upstream: ScriptedUpstream, paced: Paced, healthy: int) -> float:
    """Let healthy readers follow their answers; give the 99th percentile of the time between two tokens."""
    paced.begin()
    asked = upstream.questions
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(gaps_of_one(url)) for _ in range(healthy)]
        await upstream.wait_questions(asked + healthy, timeout_s=30)
        await paced.run()
    gaps = sorted(gap for task in following for gap in task.result())
    return gaps[len(gaps) * 99 // 100]


@asynccontextmanager
async def crawling(url: str, target: str, count: int) -> AsyncIterator[None]:
    """Have so many read a byte a second each, with small buffers of their own."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)

    async def crawl(raw: socket.socket) -> None:
        while await loop.sock_recv(raw, 1):  # noqa: ASYNC110 - no event: a clock
            await asyncio.sleep(1)  # what it is

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        crawlers = []
        for _ in range(count):
            raw = stack.enter_context(socket.socket())
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            raw.setblocking(False)
            await loop.sock_connect(raw, (parts.hostname, parts.port))
            await loop.sock_sendall(raw, request_bytes("GET", target))
            await loop.sock_recv(raw, 1)
            crawlers.append(tasks.create_task(crawl(raw)))
        yield
        for task in crawlers:
            task.cancel()


@pytest.mark.timeout(600)
@pytest.mark.repeats(crawlers=CRAWLERS, healthy=HEALTHY)
async def test_c27_readers_of_a_byte_a_second_take_bounded_memory_and_leave_the_others_their_pace() -> None:
    paced = Paced()
    async with (
        ScriptedUpstream(paced) as upstream,
        process("serve", ENABLE_SSE_STREAMING="true", RAG_BACKEND_URL=upstream.url) as subak,
    ):
        url = await subak.url()
        pid = subak.process.pid
        await ask(url, "GET", "/livez")
        large = await ask(url, "GET", question_url("large"))
        target = f"/v1/streams/{large.header('Subak-Stream-Id')}/events"
        measured: list[tuple[float, float]] = []
        for _ in range(8):  # a machine that others use may stop for longer than all crawlers together cost
            alone_s = await p99_s(url, upstream, paced, HEALTHY)
            before_bytes = resident_bytes(pid)
            async with crawling(url, target, CRAWLERS):
                measured.append((alone_s, await p99_s(url, upstream, paced, HEALTHY)))
                grown_bytes = resident_bytes(pid) - before_bytes
            assert grown_bytes < 20 * MB + CRAWLERS * 256 * KIB, grown_bytes
            if measured[-1][1] <= 2 * alone_s:
                break
        assert any(beside_s <= 2 * alone_s for alone_s, beside_s in measured), measured
        subak.signal(signal.SIGTERM)
        subak.signal(signal.SIGTERM)
        assert (await subak.ended())[0] == 0


ANSWERS: Final = runs(fast=200, default=500, soak=20_000)
AT_ONCE: Final = 50
FAST_DEADLINES: Final = {
    "SUBAK_UPSTREAM__FIRST_BYTE_TIMEOUT_S": "0.3",
    "SUBAK_UPSTREAM__IDLE_TIMEOUT_S": "0.3",
    "SUBAK_UPSTREAM__BREAKER_FAILURES": "1000000",
    "SUBAK_STREAM__GRACE_S": "0.3",
    "SUBAK_STREAM__REPLAY_S": "1",
    "SUBAK_STREAM__TOMBSTONE_S": "1",
}


class Faulty:
    """An upstream that does anything."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def __call__(self, request: RecordedRequest) -> Iterable[Step]:
        del request
        some = [token("word " * self._dice.randrange(1, 50)) for _ in range(self._dice.randrange(1, 20))]
        endings: list[list[Step]] = [
            [DONE, End()],
            [DONE, End()],
            [DONE, Close()],
            [End()],
            [Close()],
            [Reset()],
            [Stall()],
            [Raw(b"zz\r\n"), Stall()],
            [Frame('{"error": "x", "done": true}'), End()],
            [Frame("{" * 100), End()],
            [Frame("x" * 300_000), End()],
        ]
        heads: list[list[Step]] = [[Head(), *some]] * 6
        heads += [[Head(500, {}), Body(b"x")], [Head(429, {"Retry-After": "1"})], [Head(framing="close"), *some], []]
        return [*self._dice.choice(heads), *self._dice.choice(endings)]


def toxic(dice: random.Random) -> Line:
    """Give a line between gateway and upstream, most often a good one."""
    return dice.choice(
        [
            *[Line()] * 6,
            Line(to_client=Way(slice_bytes=dice.randrange(50, 500))),
            Line(to_client=Way(latency_s=0.02, jitter_s=0.02)),
            Line(cut=Cut(dice.randrange(2000), dice.choice(list(How)))),
            Line(cut=Cut(dice.randrange(300), dice.choice(list(How)), direction="to_server")),
        ]
    )


async def one_answer(gateway: Running, dice: random.Random) -> None:
    """Ask a question, and read the answer, leave it, drop it or come back to it."""
    how = dice.choice(["read", "read", "read", "leave", "reset", "resume", "old", "stop"])
    fields = {"on_disconnect": "cancel"} if dice.random() < 0.5 else {}
    async with Client.connect(gateway.url) as client:
        client.expect("GET")
        version = "1.0" if how == "old" else "1.1"
        await client.send(request_bytes("GET", question_url(**fields), version=version))
        head = await client.head()
        stream_id = head.header("Subak-Stream-Id")
        if how in {"read", "old"}:
            answer = await client.whole()
            assert terminal_of(answer.frames).type in {"done", "error"}
            return
        if how == "reset":
            client.reset()
            return
    if how == "resume":
        again = await ask(gateway, "GET", question_url(), [("Last-Event-ID", f"{stream_id}.1")])
        assert again.status in {200, 204, 404, 410}, "gone, where the machine was so slow that its time is over"
        assert again.is_clean
    elif how == "stop":
        assert (await ask(gateway, "POST", f"/v1/streams/{stream_id}/stop")).status in {200, 404, 410}


def forget(gateway: Running, upstream: ScriptedUpstream, proxy: ToxicProxy) -> None:
    """Drop what the fakes keep of what is over; a dead line stays open until somebody ends it."""
    for connection in proxy.connections:
        if connection.was_cut is not None:
            connection.cut()
    gateway.observer.clear()
    upstream.requests.clear()
    upstream.connections[:] = [connection for connection in upstream.connections if not connection.closed.is_set()]
    proxy.connections[:] = [connection for connection in proxy.connections if not connection.ended.is_set()]


@pytest.mark.timeout(3600)
@pytest.mark.repeats(answers=ANSWERS)
async def test_s72_after_thousands_of_answers_with_faults_everything_is_as_before() -> None:
    rounds = ANSWERS // AT_ONCE
    dice = random.Random(72)
    async with ScriptedUpstream(Faulty(dice)) as upstream:
        lines = random.Random(27)
        async with (
            ToxicProxy(upstream.host, upstream.port, lambda _: toxic(lines)) as proxy,
            running(proxy.url, variables=FAST_DEADLINES) as gateway,
        ):
            before_bytes = 0
            for number in range(rounds):
                if number == rounds // 4:
                    before_bytes = resident_bytes()
                await asyncio.gather(*(one_answer(gateway, dice) for _ in range(AT_ONCE)))
                assert not gateway.observer.of(Crashed)
                forget(gateway, upstream, proxy)
            grown_bytes = resident_bytes() - before_bytes
            assert grown_bytes < 16 * MB, grown_bytes
            proxy.cut()

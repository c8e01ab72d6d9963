"""What the hot client does with its connections: keep, reuse, retry, give up; and which responses it takes at all."""

import asyncio
import ssl
from collections.abc import Callable, Sequence

import pytest

from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import Ending, Event, Finished
from subak.testing import (
    PATIENCE_S,
    Body,
    Close,
    End,
    Frame,
    Gate,
    Head,
    Raw,
    Reset,
    Script,
    ScriptedUpstream,
    Stall,
    Step,
)
from subak.upstream.http1 import MAX_IDLE_S, MAX_RELEASED_BYTES, Http1Exchange, Http1Limits, tls_context
from subak.upstream.rag import RagTarget
from tests.integration.upstream.asking import QUESTION, asking, failure, until
from tests.integration.upstream.certificates import Certificate

CIAO = Frame('{"text": "Ciao "}')
DONE = Frame('{"done": true}')
ANSWER: list[Step] = [Head(), CIAO, DONE, End()]
ERROR, TRUNCATED = ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_TRUNCATED
STREAM = b"Content-Type: text/event-stream\r\n"


async def test_a_connection_is_used_again_when_its_body_has_ended() -> None:
    async with ScriptedUpstream(ANSWER) as upstream, asking(upstream.url) as asker:
        for number in range(3):
            sink, ending = await asker.ask()
            assert (sink.text, ending) == ("Ciao ", Finished())
            await asker.wait_idle(1)
            assert asker.upstream.client.connections_reused == number
        assert len(upstream.connections) == 1
        assert asker.upstream.client.connections_opened == 1


async def test_the_end_of_the_body_may_come_in_the_same_read_as_done() -> None:
    done = b'data: {"done": true}\n\n'
    script = [Head(), CIAO, Raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done)), Stall()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        _, sink = await asker.open()
        await sink.wait_ended()
        assert asker.upstream.client.idle_connections == 1


async def test_after_done_the_connection_waits_for_the_end_of_its_body() -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream([Head(), CIAO, DONE, Gate(gate), End()]) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        assert asker.upstream.client.idle_connections == 0
        gate.set()
        await asker.wait_idle(1)


async def test_after_done_the_connection_waits_a_second_at_most() -> None:
    script: list[Step] = [Head(), CIAO, DONE, Frame('{"text": "late"}'), Stall()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, _ = await asker.ask()
        asker.clock.advance(1)
        await upstream.connections[0].wait_closed()
        assert sink.text == "Ciao "


async def test_after_done_a_long_rest_closes_the_connection() -> None:
    script = [Head(), DONE, *[Body(b"x" * 8192)] * (MAX_RELEASED_BYTES // 8192 + 1), Stall()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        await upstream.connections[0].wait_closed()


@pytest.mark.parametrize(
    "script",
    [
        [Head(framing="close"), CIAO, DONE, Stall()],
        [Head(headers={"Content-Type": "text/event-stream", "Connection": "Close"}), CIAO, DONE, Stall()],
        [Raw(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + STREAM + b"\r\n"), CIAO, DONE, Stall()],
        [Head(), CIAO, DONE, Raw(b"0\r\n\r\nHTTP/1.1 200 OK\r\n"), Stall()],
        [Head(), CIAO, DONE, Raw(b"nonsense\r\n"), Stall()],
        [Head(), Frame('{"error": "x", "done": true}'), End()],
    ],
    ids=["framed by close", "connection: close", "http/1.0", "bytes after the end", "broken after done", "failed"],
)
async def test_a_connection_that_can_t_be_trusted_is_closed_at_once(script: list[Step]) -> None:
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        await upstream.connections[0].wait_closed()
        assert asker.upstream.client.idle_connections == 0


async def test_an_idle_connection_that_the_server_closes_is_dropped() -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream([*ANSWER, Gate(gate), Close()]) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        await asker.wait_idle(1)
        gate.set()
        await asker.wait_idle(0)


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    gate = asyncio.Event()
    script = [*ANSWER, Gate(gate), Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Stall()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        await asker.wait_idle(1)
        gate.set()
        await asker.wait_idle(0)
        await upstream.connections[0].wait_closed()


async def test_no_more_connections_are_kept_than_allowed() -> None:
    limits = Http1Limits(max_idle_connections=2)
    gate = asyncio.Event()
    script: list[Step] = [Head(), CIAO, Gate(gate), DONE, End()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url, limits=limits) as asker:
        sinks = [(await asker.open())[1] for _ in range(5)]
        await upstream.wait_questions(5)
        gate.set()
        for sink in sinks:
            await sink.wait_ended()
        await asker.wait_idle(2)
        await until(lambda: sum(connection.closed.is_set() for connection in upstream.connections) == 3)


async def test_a_connection_that_was_idle_for_long_is_not_used() -> None:
    async with ScriptedUpstream(ANSWER) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        await asker.wait_idle(1)
        asker.clock.advance(MAX_IDLE_S + 1)
        await asker.ask()
        assert len(upstream.connections) == 2
        await upstream.connections[0].wait_closed()


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
async def test_a_connection_that_dies_before_any_byte_takes_the_kept_ones_with_it(end: Step) -> None:
    go_on = asyncio.Event()
    slow = [Head(), Gate(go_on), *ANSWER[1:]]
    async with ScriptedUpstream(slow, slow, [end], ANSWER) as upstream, asking(upstream.url) as asker:
        sinks = [(await asker.open())[1] for _ in range(2)]
        await upstream.wait_questions(2)
        go_on.set()
        for sink in sinks:
            await sink.wait_ended()
        await asker.wait_idle(2)
        _, ending = await asker.ask()
        assert ending == failure(ERROR, "no_response")
        assert (upstream.questions, asker.upstream.client.idle_connections) == (3, 0), "asked once, and none is kept"
        assert (await asker.ask())[1] == Finished()
        assert len(upstream.connections) == 3


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([Raw(b"H"), Close()], failure(ERROR, "head_cut")),
        ([Head(), Close()], failure(TRUNCATED, "body_cut")),
        ([Raw(b"HTTP/1.1 100 Continue\r\n\r\n"), Close()], failure(ERROR, "no_response")),
    ],
    ids=["a byte", "head", "interim"],
)
async def test_nothing_is_asked_again_after_a_byte(script: Script, expected: Ending) -> None:
    async with ScriptedUpstream(ANSWER, script, ANSWER) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        await asker.wait_idle(1)
        _, ending = await asker.ask()
        assert ending == expected
        assert upstream.questions == 2


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
async def test_nothing_is_asked_again_over_a_fresh_connection(end: Step) -> None:
    async with ScriptedUpstream([end], ANSWER) as upstream, asking(upstream.url) as asker:
        _, ending = await asker.ask()
        assert ending == failure(ERROR, "no_response")
        assert upstream.questions == 1


def _dismiss(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _greet_and_dismiss(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ready\r\n")
    writer.close()


@pytest.mark.parametrize("serve", [_dismiss, _greet_and_dismiss], ids=["silently", "speaking first"])
async def test_a_server_that_closes_what_it_accepts_is_an_error_at_once(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asking(f"http://127.0.0.1:{port}") as asker, asyncio.timeout(PATIENCE_S):
        _, ending = await asker.ask()
    # The greeting is read before our request is written, or after it: the loops differ.
    assert ending in [failure(ERROR, "no_response"), failure(ERROR, "bad_head")]


async def test_the_close_may_come_with_the_end_of_the_tls_handshake(certificates: dict[str, Certificate]) -> None:
    tls = certificates["good"].server()
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # there the server finishes last, and closes in the same segment
    server = await asyncio.start_server(_dismiss, "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    target = RagTarget(url=url, ssl_context=tls_context(ca_file=certificates["good"].cert))
    async with server, asking(target) as asker, asyncio.timeout(PATIENCE_S):
        _, ending = await asker.ask()
    assert ending == failure(ERROR, "no_response")


@pytest.mark.parametrize(
    "script", [[Stall()], [Head(), Stall()], [Head(), CIAO, Stall()]], ids=["start", "head", "token"]
)
async def test_abort_closes_the_socket_and_is_not_heard_of(script: list[Step]) -> None:
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        exchange, sink = await asker.open()
        await upstream.wait_questions(1)
        if CIAO in script:
            await sink.wait_events(1)
        exchange.abort()
        exchange.abort()
        exchange.pause()
        exchange.resume()
        exchange.release()
        await upstream.connections[0].wait_closed()
        assert not sink.endings


class AbortingSink:
    """Stops at the first read, from within."""

    def __init__(self) -> None:
        self.exchange: Http1Exchange | None = None
        self.reads = 0
        self.has_read = asyncio.Event()

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        self.reads += 1
        self.has_read.set()
        assert (ending, size_bytes > 0, bool(events)) == (None, True, True)
        assert self.exchange is not None
        self.exchange.abort()


async def test_a_sink_may_abort_from_within_a_read() -> None:
    whole = b'data: {"text": "a"}\n\n'
    script = [Head(), Raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole)), Stall()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink = AbortingSink()
        sink.exchange = await asker.upstream.open(QUESTION, sink)
        await upstream.wait_questions(1)
        await sink.has_read.wait()
        await upstream.connections[0].wait_closed()
        assert sink.reads == 1
        assert asker.upstream.client.idle_connections == 0


async def test_a_cancelled_open_leaves_nothing() -> None:
    async with ScriptedUpstream(is_accepting=False) as upstream, asking(upstream.url) as asker:
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(asker.open())
            await asyncio.sleep(0)
            opening.cancel()
        assert opening.cancelled()


async def test_close_aborts_what_is_under_way_and_refuses_what_comes_later() -> None:
    async with ScriptedUpstream(ANSWER, [Head(), CIAO, Stall()]) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        _, sink = await asker.open()
        await sink.wait_events(1)
        await asker.upstream.close()
        await upstream.connections[0].wait_closed()
        assert not sink.endings
        with pytest.raises(UpstreamError) as caught:
            await asker.open()
        assert caught.value.reason == "closed"


async def test_interim_responses_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with ScriptedUpstream([Raw(interim), *ANSWER]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert (sink.text, ending) == ("Ciao ", Finished())


async def test_a_head_may_come_byte_by_byte() -> None:
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + STREAM + b"Transfer-Encoding: Chunked\r\n\r\n"
    slices = [Raw(head[at : at + 1]) for at in range(len(head))]
    body = b'15\r\ndata: {"text": "a"}\n\n\r\n16\r\ndata: {"done": true}\n\n\r\n0\r\n\r\n'
    slices += [Raw(body[at : at + 1]) for at in range(len(body))]
    async with ScriptedUpstream([*slices, End()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        assert (sink.text, ending) == ("a", Finished())
        await asker.wait_idle(1)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "too_many_interim_responses"),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "upgrade"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000, "head_too_large"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n", "head_too_large"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 129 + b"\r\n", "too_many_headers"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "http_version"),
        (b"SSH-2.0-server\r\n", "bad_head"),
        (b"\x16\x03\x01", "bad_head"),
        (b"HTTP/1.1 999999 OK\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nX: y\nZ: z\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "bad_framing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "bad_head"),
    ],
    ids=lambda value: str(value)[-40:],
)
async def test_a_head_that_can_t_be_trusted_is_refused(head: bytes, reason: str) -> None:
    async with ScriptedUpstream([Raw(head), Stall()]) as upstream, asking(upstream.url) as asker:
        _, ending = await asker.ask()
        assert ending == failure(ERROR, reason)
        await upstream.connections[0].wait_closed()


async def test_requests_ask_for_a_kept_connection_and_no_compression() -> None:
    async with ScriptedUpstream(ANSWER) as upstream, asking(upstream.url) as asker:
        await asker.ask()
        headers = upstream.requests[0].headers
    assert headers["host"] == upstream.url.removeprefix("http://")
    assert headers["connection"] == "keep-alive"
    assert headers["accept-encoding"] == "identity"

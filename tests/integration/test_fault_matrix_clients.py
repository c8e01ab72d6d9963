"""The client side of the fault matrix over real sockets: who leaves, who stalls, who crawls, who comes back.

`running` asserts for each of them that no task, socket, stream or reader is left.
"""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import pytest

from subak.core.facts import ReaderAttached, ReaderLeft, StreamEnded, StreamOpened
from subak.settings_fields import Stream
from subak.testing import PATIENCE_S, Cut, End, FakeClock, Gate, Head, How, Line, ScriptedUpstream, Stall, Step, Way
from tests.integration.clients import proxy_before
from tests.integration.gateway import (
    CHAT_STREAM,
    DONE,
    Answer,
    Client,
    Running,
    ask,
    get,
    post,
    question_url,
    request_bytes,
    resident_bytes,
    running,
    terminal_of,
    text_of,
)
from tests.integration.namespaces import cable
from tests.settings import runs
from tests.transcripts.scenes import HOSTILE, token
from tests.wire import transcribe

WORDS: Final = ("uno ", "due ", "tre ")
MB: Final = 1_000_000
CRAWLERS: Final = runs(fast=20, default=100, soak=1000)
KEY: Final = "0123456789abcdefghijkl"
LARGE: Final = tuple(f"{number:04}" + "x" * 2000 for number in range(1800))
"""Tokens of a large answer: 3.6 MB, which a socket's buffers would take if they were let."""
MEDIUM: Final = LARGE[:500]
"""1 MB: several times what they are let take."""


def words(*texts: str) -> list[Step]:
    return [token(text) for text in texts]


def stalling(*texts: str) -> ScriptedUpstream:
    """Give an upstream that says these words and then nothing more."""
    return ScriptedUpstream([Head(), *words(*texts), Stall()])


@asynccontextmanager
async def reading(gateway: Running, until: str, **fields: str) -> AsyncIterator[Client]:
    """Ask a question and read up to the token `until`."""
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", question_url(**fields))
        await client.until(f'"data":"{until}"'.encode())
        yield client


def reset(raw: socket.socket) -> None:
    """Leave by a TCP reset."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


async def connect_raw(gateway: Running, *, receive_bytes: int | None = None) -> socket.socket:
    parts = urlsplit(gateway.url)
    raw = socket.socket()
    if receive_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
    return raw


@pytest.mark.parametrize("k", [1, 2, 3])
async def test_c23_a_client_that_leaves_at_token_k_is_waited_for_then_the_upstream_is_aborted(k: int) -> None:
    async with stalling(*WORDS[:k]) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with reading(gateway, WORDS[k - 1]):
            pass
        await gateway.observer.wait_for(ReaderLeft)
        gateway.pass_time(29)
        assert gateway.gateway.hub.live_count == 1
        assert not upstream.connections[0].closed.is_set()
        gateway.pass_time(1)
        assert await gateway.observer.ended() == ("abandoned", "", k)
        await upstream.connections[0].wait_closed()


async def test_c23_with_cancel_the_upstream_is_aborted_at_once() -> None:
    async with stalling(*WORDS) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with reading(gateway, WORDS[-1], on_disconnect="cancel"):
            pass
        assert await gateway.observer.ended() == ("abandoned", "", 3)
        await upstream.connections[0].wait_closed()


async def test_c23_a_client_that_is_back_within_the_grace_time_finds_the_answer_going_on() -> None:
    gate = asyncio.Event()
    script = [Head(), *words("uno "), Gate(gate), *words("due "), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with reading(gateway, "uno "):
            pass
        await gateway.observer.wait_for(ReaderLeft)
        gateway.pass_time(29)
        stream_id = gateway.observer.of(StreamOpened)[0].stream_id
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url(), [("Last-Event-ID", f"{stream_id}.2")])
            await client.head()
            gateway.pass_time(29)
            gate.set()
            assert transcribe((await client.whole()).body)[-2:] == ['3 token "due "', "4 done stop"]
        assert await gateway.observer.ended() == ("stop", "", 2)
        assert upstream.questions == 1


async def test_c24_a_reset_is_noticed_at_once() -> None:
    async with stalling(*WORDS) as upstream, running(upstream, clock=FakeClock()) as gateway:
        raw = await connect_raw(gateway)
        raw.send(request_bytes("GET", question_url()))
        await gateway.observer.wait_for(ReaderAttached)
        reset(raw)
        assert (await gateway.observer.wait_for(ReaderLeft))[0].departure == "lost"
        gateway.pass_time(31)
        assert (await gateway.observer.ended())[0] == "abandoned"


def test_c24_by_default_a_dead_line_is_given_up_within_two_heartbeats() -> None:
    """A comment is sent after `comment_s` at the latest; unacknowledged, it ends the line `slow_reader_s` later."""
    stream = Stream()
    assert stream.comment_s + stream.slow_reader_s <= 2 * stream.heartbeat_s


@pytest.mark.real
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_c24_a_pulled_cable_is_noticed_within_two_heartbeats() -> None:
    heartbeat_s = 10.0
    times: dict[str, Any] = {
        "SUBAK_STREAM__HEARTBEAT_S": str(heartbeat_s),
        "SUBAK_STREAM__COMMENT_S": "0.5",
        "SUBAK_STREAM__SLOW_READER_S": "1",
        "SUBAK_STREAM__ON_DISCONNECT": "cancel",
    }
    async with (
        cable() as line,
        stalling(*WORDS) as upstream,
        running(upstream, SUBAK_SERVER__HOST=line.here, **times) as gateway,
        line.curl(gateway.url + question_url()) as client,
    ):
        async with asyncio.timeout(PATIENCE_S):
            await client.readuntil(f'"data":"{WORDS[-1]}"'.encode())
        await line.pull()
        left = await gateway.observer.wait_for(ReaderLeft, timeout_s=2 * heartbeat_s)
        assert left[0].departure == "lost"
        assert (await gateway.observer.ended())[0] == "abandoned"


async def test_c24_a_half_open_line_whose_buffers_are_full_is_given_up() -> None:
    async with (
        ScriptedUpstream([Head(), *words(*MEDIUM), DONE, End()]) as upstream,
        running(upstream, clock=FakeClock()) as gateway,
    ):
        target = f"/v1/streams/{await ended_stream(gateway)}/events"
        async with (
            proxy_before(gateway.url, Line(cut=Cut(1000, How.HALF_OPEN)), buffer_bytes=4096) as proxy,
            Client.connect(proxy.url) as client,
        ):
            await client.begin("GET", target)
            await gateway.observer.wait_for(ReaderAttached)
            await proxy.wait_until(lambda: proxy.connections[0].to_client_bytes == 1000)
            gateway.pass_time(31)
            assert (await gateway.observer.wait_for(ReaderLeft))[0].departure == "slow_reader"
            assert not proxy.connections[0].ended.is_set()


@pytest.mark.parametrize("is_reset", [True, False])
async def test_c25_a_client_that_leaves_before_the_first_byte_ends_the_answer_after_the_grace_time(
    *, is_reset: bool
) -> None:
    async with stalling(*WORDS) as upstream, running(upstream, clock=FakeClock()) as gateway:
        raw = await connect_raw(gateway)
        raw.send(request_bytes("GET", question_url()))
        reset(raw) if is_reset else raw.close()
        await gateway.observer.wait_for(StreamOpened)
        await upstream.wait_questions(1)
        gateway.pass_time(31)
        assert (await gateway.observer.ended())[0] == "abandoned"
        await upstream.connections[0].wait_closed()


@pytest.mark.parametrize("is_reset", [True, False])
async def test_c25_with_cancel_it_ends_it_at_once(*, is_reset: bool) -> None:
    async with stalling() as upstream, running(upstream, clock=FakeClock()) as gateway:
        raw = await connect_raw(gateway)
        raw.send(request_bytes("GET", question_url(on_disconnect="cancel")))
        reset(raw) if is_reset else raw.close()
        assert (await gateway.observer.ended())[0] == "abandoned"
        for connection in upstream.connections:
            await connection.wait_closed()


async def test_c25_a_client_that_leaves_while_the_upstream_is_silent_ends_its_work() -> None:
    async with ScriptedUpstream([Stall()]) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b'"metadata"')
            await upstream.wait_questions(1)
        await gateway.observer.wait_for(ReaderLeft)
        gateway.pass_time(31)
        assert await gateway.observer.ended() == ("abandoned", "", 0)
        await upstream.connections[0].wait_closed()


async def ended_stream(gateway: Running) -> str:
    """Let a question be answered to its end with nobody listening; give the stream's id."""
    assert (await post(gateway, "/v1/streams", {"query": "x"})).status == 201
    await gateway.observer.ended()
    return gateway.observer.of(StreamOpened)[0].stream_id


async def test_c26_a_zero_window_reader_is_evicted_and_others_are_unaffected() -> None:
    gate = asyncio.Event()
    script = [Head(), *words(*MEDIUM[:250]), Gate(gate), *words(*MEDIUM[250:]), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as healthy:
            await healthy.begin("GET", question_url())
            await healthy.until(f'"data":"{MEDIUM[249]}"'.encode())
            stream_id = gateway.observer.of(StreamOpened)[0].stream_id
            deaf = await connect_raw(gateway, receive_bytes=4096)
            deaf.send(request_bytes("GET", f"/v1/streams/{stream_id}/events"))
            await gateway.observer.wait_for(ReaderAttached, 2)
            gate.set()
            answer = await healthy.whole()
            assert text_of(answer.frames) == "".join(MEDIUM)
        gateway.pass_time(31)
        left = (await gateway.observer.wait_for(ReaderLeft, 2))[1]
        assert left.departure == "slow_reader"
        assert await took_everything(deaf) == "reset"
        rest = await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{stream_id}.{left.cursor}")
        assert terminal_of_rest(rest, left.cursor)
        assert upstream.questions == 1


def terminal_of_rest(answer: Answer, cursor: int) -> bool:
    """Whether a resumed answer has every seq after the cursor, and the end."""
    sequences = [frame.sequence for frame in answer.frames if frame.event != "heartbeat"]
    return sequences == list(range(cursor + 1, len(MEDIUM) + 3)) and answer.frames[-1].type == "done"


async def took_everything(raw: socket.socket) -> str:
    """Read a connection to its end; say how it ended."""
    loop = asyncio.get_running_loop()
    with raw:
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await loop.sock_recv(raw, 65536):
                    pass
            except ConnectionResetError:
                return "reset"
    return "closed"


@pytest.mark.parametrize("receive_bytes", [4096, 65536])
async def test_c26_what_is_handed_to_the_kernel_for_a_reader_that_takes_nothing_is_bounded(receive_bytes: int) -> None:
    """Else each such reader takes the system's largest send buffer, 4 MB, and the back-pressure comes as much later."""
    script = [Head(), *words(*LARGE), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        stream_id = await ended_stream(gateway)
        with await connect_raw(gateway, receive_bytes=receive_bytes) as deaf:
            deaf.send(request_bytes("GET", f"/v1/streams/{stream_id}/events"))
            await gateway.observer.wait_for(ReaderAttached)
            gateway.pass_time(31)
            left = (await gateway.observer.wait_for(ReaderLeft))[0]
            assert left.departure == "slow_reader"
            assert left.cursor * len(LARGE[0]) < MB / 2


@pytest.mark.repeats(crawlers=CRAWLERS)
async def test_c27_crawling_readers_take_bounded_memory_and_leave_a_healthy_one_alone() -> None:
    gate = asyncio.Event()
    script = [Head(), *words(*MEDIUM[:250]), Gate(gate), *words(*MEDIUM[250:]), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock()) as gateway,
        Client.connect(gateway.url) as healthy,
        AsyncExitStack() as stack,
    ):
        await healthy.begin("GET", question_url())
        await healthy.until(f'"data":"{MEDIUM[249]}"'.encode())
        target = f"/v1/streams/{gateway.observer.of(StreamOpened)[0].stream_id}/events"
        before_bytes = resident_bytes()
        crawling = [stack.enter_context(await connect_raw(gateway, receive_bytes=4096)) for _ in range(CRAWLERS)]
        for raw in crawling:
            raw.send(request_bytes("GET", target))
        await gateway.observer.wait_for(ReaderAttached, 1 + CRAWLERS)
        for _ in range(10):  # seconds
            gateway.pass_time(1)
            for raw in crawling:
                await asyncio.get_running_loop().sock_recv(raw, 1)
        assert resident_bytes() - before_bytes < 20 * MB + CRAWLERS * 256 * 1024
        gate.set()
        answer = await healthy.whole(timeout_s=30)
        assert text_of(answer.frames) == "".join(MEDIUM)
        gateway.pass_time(31)
        left = await gateway.observer.wait_for(ReaderLeft, 1 + CRAWLERS)
        assert {fact.departure for fact in left[1:]} == {"slow_reader"}
        assert upstream.questions == 1


POOR_LINES: Final = {
    "latency": Line(to_client=Way(latency_s=0.15), to_server=Way(latency_s=0.15)),
    "jitter": Line(to_client=Way(jitter_s=0.05), to_server=Way(jitter_s=0.05)),
    "one byte at a time": Line(to_client=Way(slice_bytes=1), to_server=Way(slice_bytes=1)),
    "64 kbit/s": Line(to_client=Way(bytes_per_s=8000), to_server=Way(bytes_per_s=8000)),
}


@pytest.mark.parametrize("name", POOR_LINES)
async def test_c31_on_a_poor_line_the_text_is_the_same(name: str) -> None:
    script = [Head(), *words(*HOSTILE), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream) as gateway,
        proxy_before(gateway.url, POOR_LINES[name]) as proxy,
    ):
        answer = await ask(proxy.url, "GET", question_url())
    assert text_of(answer.frames) == "".join(HOSTILE)
    assert terminal_of(answer.frames).type == "done"
    assert upstream.questions == 1


async def test_c31_the_first_token_is_later_by_the_round_trip_alone() -> None:
    """A second round trip, had it been needed, would show in the least of some: the machine makes others later."""
    one_way_s, tries = 0.3, 5
    line = Line(to_client=Way(latency_s=one_way_s), to_server=Way(latency_s=one_way_s))
    async with stalling(*WORDS) as upstream, running(upstream, clock=FakeClock()) as gateway:
        near_s = min([await first_token_s(gateway.url) for _ in range(tries)])
        async with proxy_before(gateway.url, line) as proxy:
            far_s = min([await first_token_s(proxy.url) for _ in range(tries)])
        assert 2 * one_way_s <= far_s < near_s + 3.5 * one_way_s
        await gateway.observer.wait_for(ReaderLeft, 2 * tries)
        gateway.pass_time(31)


async def first_token_s(url: str) -> float:
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    async with Client.connect(url) as client:
        await client.begin("GET", question_url())
        await client.until(f'"data":"{WORDS[0]}"'.encode())
        return loop.time() - asked_at


async def test_c57_resuming_after_any_event_gives_the_very_rest() -> None:
    script = [Head(), *words(*HOSTILE), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        whole = await get(gateway, question_url())
        stream_id = terminal_of(whole.frames)
        assert stream_id.id is not None
        last = stream_id.sequence
        name = stream_id.id.rpartition(".")[0]
        for k in range(last):
            rest = await get(gateway, question_url(), Last_Event_ID=f"{name}.{k}")
            assert rest.header("Subak-Resumed-From") == f"{name}.{k}"
            assert events_of(rest.body) == events_of(whole.body)[k:]
        assert (await get(gateway, question_url(), Last_Event_ID=f"{name}.{last}")).status == 204
        assert upstream.questions == 1


async def test_c57_a_client_that_loses_its_connection_after_every_event_gets_the_whole_answer() -> None:
    gates = [asyncio.Event() for _ in HOSTILE]
    script = [Head(), *(step for gate, text in zip(gates, HOSTILE, strict=True) for step in (Gate(gate), token(text)))]
    async with ScriptedUpstream([*script, DONE, End()]) as upstream, running(upstream) as gateway:
        took: list[bytes] = []
        for k in range(len(HOSTILE)):
            async with Client.connect(gateway.url) as client:
                await client.begin("GET", question_url(), cursor_header(gateway, k))
                await client.head()
                gates[k].set()  # the event may come before this reader is at the tail, or after
                await client.until(f'"sequence":{k + 2},'.encode())
                took += [event for event in events_of(client.answer.body) if seq_of(event) > len(took)]
        rest = await get(gateway, question_url(), **{"Last-Event-ID": f"{opened_id(gateway)}.{len(took)}"})
        took += events_of(rest.body)
        replayed = await get(gateway, f"/v1/streams/{opened_id(gateway)}/events")
        assert b"".join(took) == b"".join(events_of(replayed.body))
        assert text_of(replayed.frames) == "".join(HOSTILE)
        assert upstream.questions == 1


def opened_id(gateway: Running) -> str:
    return gateway.observer.of(StreamOpened)[0].stream_id


def cursor_header(gateway: Running, k: int) -> Iterator[tuple[str, str]]:
    if k > 0:
        yield "Last-Event-ID", f"{opened_id(gateway)}.{k + 1}"


def events_of(body: bytes) -> list[bytes]:
    """Give a body's whole events with an id, as they stood on the wire."""
    return re.findall(rb"id: \S+\nevent: message\ndata: [^\n]*\n\n", body)


def seq_of(event: bytes) -> int:
    found = re.match(rb"id: \S+\.(\d+)\n", event)
    assert found is not None
    return int(found[1])


BAD_CURSORS: Final = {
    "garbage": ("Bali", 400),
    "negative": ("{id}.-1", 400),
    "no seq": ("{id}", 400),
    "a fraction": ("{id}.1.5", 400),
    "leading zero": ("{id}.01", 400),
    "ten digits": ("{id}.1000000000", 400),
    "other digits": ("{id}.١", 400),
    "beyond the end": ("{id}.99", 409),
    "an earlier process": ("st_AAAAAA{random}.1", 410),
    "this process, never given out": ("{tag}{random}.1", 404),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", BAD_CURSORS)
async def test_c58_a_cursor_that_cannot_be_right_is_refused_and_nothing_is_asked(name: str, method: str) -> None:
    template, status = BAD_CURSORS[name]
    script = [Head(), *words(*WORDS), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        stream_id = await ended_stream(gateway)
        cursor = template.format(id=stream_id, tag=stream_id[:9], random="B" * 22)
        if method == "GET":
            answer = await get(gateway, question_url(), Last_Event_ID=cursor)
        else:
            answer = await post(gateway, CHAT_STREAM, {"query": "x"}, Last_Event_ID=cursor)
        assert answer.status == status
        assert upstream.questions == 1


async def test_c58_an_answer_past_its_replay_window_is_gone_then_unknown() -> None:
    script = [Head(), *words(*WORDS), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        stream_id = await ended_stream(gateway)
        gateway.pass_time(301)
        gone = await get(gateway, question_url(), Last_Event_ID=f"{stream_id}.2")
        assert gone.status == 410
        assert msgspec.json.decode(gone.body, type=dict[str, object])["status_url"] == f"/v1/streams/{stream_id}"
        gateway.pass_time(3601)
        assert (await get(gateway, question_url(), Last_Event_ID=f"{stream_id}.2")).status == 404
        assert upstream.questions == 1


async def test_c60_parallel_submits_with_one_key_are_one_question_and_equal_answers() -> None:
    gate = asyncio.Event()
    script = [Head(), *words(*WORDS[:2]), Gate(gate), *words(*WORDS[2:]), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        async with asyncio.TaskGroup() as tasks:
            asking = [
                tasks.create_task(post(gateway, CHAT_STREAM, {"query": "x"}, Idempotency_Key=KEY)) for _ in range(30)
            ]
            await gateway.observer.wait_for(ReaderAttached, 15)
            gate.set()
        answers = [task.result() for task in asking]
        again = await post(gateway, CHAT_STREAM, {"query": "x"}, Idempotency_Key=KEY)
    assert upstream.questions == 1
    assert {answer.status for answer in answers} == {200}
    assert sum(answer.header("Idempotent-Replayed") is None for answer in answers) == 1
    assert {b"".join(events_of(answer.body)) for answer in answers} == {b"".join(events_of(again.body))}
    assert all(text_of(answer.frames) == "".join(WORDS) for answer in answers)


async def test_c60_a_key_is_good_for_a_new_question_only_after_a_failure_without_tokens() -> None:
    failing = [Head(status=500, headers={}), End()]
    script = [Head(), *words(*WORDS), DONE, End()]
    async with ScriptedUpstream(failing, script) as upstream, running(upstream) as gateway:
        types = []
        for _ in range(3):
            answer = await post(gateway, CHAT_STREAM, {"query": "x"}, Idempotency_Key=KEY)
            types.append(terminal_of(answer.frames).type)
        assert types == ["error", "done", "done"]
        assert upstream.questions == 2
        assert [fact.outcome for fact in gateway.observer.of(StreamEnded)] == ["upstream_error", "stop"]

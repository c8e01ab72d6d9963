"""What upstreams do wrong, and what a reader of the whole gateway sees of it: rows 1-21 of docs/reliability.md.

Every answer here is asked by HTTP and comes from a real socket; after every test all streams, tasks and sockets are
gone within five seconds (`running`). Time is the test's own where deadlines are concerned.
"""

import asyncio
import gzip
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from subak.core.errors import ErrorCode
from subak.core.facts import Crashed, ReaderAttached, ReaderLeft, StreamEnded, StreamOpened
from subak.testing import (
    Body,
    Close,
    End,
    FakeClock,
    Frame,
    Gate,
    Head,
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
    ANSWER,
    CHAT,
    CIAO,
    DONE,
    MONDO,
    ONE_LOOP,
    Client,
    EventFrame,
    Running,
    data_of,
    eventually,
    get,
    parse_frames,
    post,
    process,
    question_url,
    resident_bytes,
    running,
    terminal_of,
    text_of,
)
from tests.integration.upstream.certificates import Certificate
from tests.settings import runs

ERROR, TIMEOUT = ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_TIMEOUT
TRUNCATED, LIMITED = ErrorCode.UPSTREAM_TRUNCATED, ErrorCode.UPSTREAM_RATE_LIMITED
TOO_LARGE = ErrorCode.EVENT_TOO_LARGE
MIB = 1024 * 1024
FLOOD = runs(fast=20_000, default=40_000, soak=1_000_000)


async def assert_fails(
    gateway: Running, code: ErrorCode, reason: str, *, text: str = "", retry_after: int | None = None
) -> list[EventFrame]:
    """Ask; assert all that a reader and an operator see of an answer that breaks after `text`. Give its frames."""
    answer = await get(gateway, question_url(), x_connection_id="reader-1")
    assert answer.status == 200
    frames = answer.frames
    error = terminal_of(frames)
    assert error.type == "error"
    expected = {
        "code": code,
        "message": code.message,
        "retryable": code is not TOO_LARGE,
        "connectionId": "reader-1",
        "retryAfter": retry_after,
    }
    assert data_of(error) == {name: value for name, value in expected.items() if value is not None}
    assert text_of(frames) == text
    await assert_recorded(gateway, code, reason, frames)
    await assert_kept(gateway, answer.header("Subak-Stream-Id") or "", text, data_of(error))
    await assert_alive(gateway)
    return frames


async def assert_recorded(gateway: Running, outcome: str, reason: str, frames: list[EventFrame]) -> None:
    """Assert that the facts of the one stream are true."""
    (left,) = await gateway.observer.wait_for(ReaderLeft)
    (ended,) = gateway.observer.of(StreamEnded)
    assert len(gateway.observer.of(StreamOpened)) == len(gateway.observer.of(ReaderAttached)) == 1
    assert (ended.outcome, ended.reason) == (outcome, reason)
    assert ended.tokens == sum(frame.type == "token" for frame in frames)
    assert (ended.first_token_ms is None) == (ended.tokens == 0)
    assert (left.departure, left.cursor) == ("completed", frames[-1].sequence)
    assert not gateway.observer.of(Crashed)


async def assert_kept(gateway: Running, stream_id: str, text: str, error: dict[str, object]) -> None:
    """Assert that the partial text can still be had."""
    state = (await get(gateway, f"/v1/streams/{stream_id}")).json
    assert isinstance(state, dict)
    assert (state["status"], state["text"], state["error"]) == ("failed", text, error)


async def assert_alive(gateway: Running) -> None:
    """Assert that the gateway answers others."""
    assert (await get(gateway, "/livez")).status == 200


@asynccontextmanager
async def gateway_before(*script: Step, **environment: str) -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """Run a gateway and an upstream that answers so."""
    async with ScriptedUpstream(script) as upstream, running(upstream, environment) as gateway:
        yield gateway, upstream


async def text_from(*steps: Step, **environment: str) -> str:
    """Give the text that a reader gets of an answer that ends well."""
    async with gateway_before(Head(), *steps, DONE, End(), **environment) as (gateway, _):
        answer = await get(gateway, question_url())
        assert terminal_of(answer.frames).type == "done"
        await assert_recorded(gateway, "stop", "", answer.frames)
        await assert_alive(gateway)
        return text_of(answer.frames)


async def test_u01_refused_connection_is_an_error_event_on_a_200() -> None:
    async with ScriptedUpstream(ANSWER) as upstream:
        url = upstream.url
    async with running(url) as gateway:
        await assert_fails(gateway, ERROR, "connect_refused")
        assert (await post(gateway, CHAT, {"query": "ciao"})).status == 502


async def test_u01_connection_that_ends_without_a_byte_is_tried_once_more() -> None:
    async with gateway_before(Close()) as (gateway, upstream):
        await assert_fails(gateway, ERROR, "no_response")
        assert upstream.questions == 2


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
async def test_u01_a_question_is_asked_twice_at_most_over_kept_connections_too(end: Step) -> None:
    async with ScriptedUpstream(ANSWER, [end]) as upstream, running(upstream) as gateway:
        assert text_of((await get(gateway, question_url())).frames) == "Ciao mondo"
        answer = await get(gateway, question_url())
        assert data_of(terminal_of(answer.frames))["code"] == ERROR
        assert upstream.questions == 1 + 2


async def test_u01_one_retry_may_save_the_answer() -> None:
    async with ScriptedUpstream([Close()], ANSWER) as upstream, running(upstream) as gateway:
        assert text_of((await get(gateway, question_url())).frames) == "Ciao mondo"


async def test_u02_upstream_that_never_answers_times_out() -> None:
    async with ScriptedUpstream([Stall()]) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await upstream.wait_questions(1)
            await client.until(b"metadata")
            gateway.pass_time(59)
            assert upstream.connections[0].closed.is_set() is False
            gateway.pass_time(3)
            answer = await client.whole()
        assert data_of(terminal_of(answer.frames))["code"] == TIMEOUT
        assert [frame.event for frame in answer.frames] == ["message", "heartbeat", "message"]
        assert answer.body.count(b"\n: hb\n") >= 2
        await upstream.connections[0].wait_closed()
        await assert_recorded(gateway, TIMEOUT, "first_byte", answer.frames)


async def test_u02_upstream_that_never_accepts_times_out() -> None:
    async with (
        ScriptedUpstream(ANSWER, is_accepting=False) as upstream,
        running(upstream, SUBAK_UPSTREAM__CONNECT_TIMEOUT_S="0.2") as gateway,
    ):
        await assert_fails(gateway, TIMEOUT, "connect_timeout")


@pytest.mark.parametrize("script", [[Head()], [Head(), CIAO]], ids=["after the head", "after a token"])
async def test_u03_silence_is_bridged_by_heartbeats_and_ended_by_the_idle_deadline(script: list[Step]) -> None:
    async with (
        ScriptedUpstream([*script, Stall()]) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_UPSTREAM__IDLE_TIMEOUT_S="110") as gateway,
    ):
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b"token" if CIAO in script else b"metadata")
            await upstream.wait_questions(1)
            await eventually(lambda: upstream.connections[0].sent_bytes > 0, lambda: "nothing was sent")
            await assert_alive(gateway)  # so it has been round its sockets, and has read the head
            gateway.pass_time(109)
            assert not upstream.connections[0].closed.is_set()
            gateway.pass_time(2)
            answer = await client.whole()
        frames = answer.frames
        assert data_of(terminal_of(frames))["code"] == TIMEOUT
        beats = [frame for frame in frames if frame.event == "heartbeat"]
        assert len(beats) == 3
        assert {(beat.id, beat.sequence) for beat in beats} == {(None, len(script))}
        await upstream.connections[0].wait_closed()
        await assert_recorded(gateway, TIMEOUT, "idle", [frame for frame in frames if frame.event == "message"])


CUTS: dict[str, tuple[str, list[Step]]] = {
    "u04 reset": ("connection_reset", [Reset()]),
    "u05 closed, length unknown": ("no_done", [Close()]),
    "u05 chunks ended": ("no_done", [End()]),
    "u05 closed within its length": ("body_cut", [Close()]),
    "u06 no last chunk": ("body_cut", [Close()]),
    "u06 closed within a chunk": ("body_cut", [Raw(b"ff\r\ndata: "), Close()]),
    "u06 bad size": ("bad_chunk", [Raw(b"zz\r\n"), Stall()]),
    "u06 negative size": ("bad_chunk", [Raw(b"-1\r\n"), Stall()]),
    "u06 huge size": ("bad_chunk", [Raw(b"f" * 17 + b"\r\n"), Stall()]),
    "u06 no line end after a chunk": ("bad_chunk", [Raw(b"1\r\nxyz"), Stall()]),
}
HEADS = {
    "u05 closed, length unknown": Head(framing="close"),
    "u05 closed within its length": Head(
        headers={"Content-Type": "text/event-stream", "Content-Length": "999"}, framing="given"
    ),
}


async def _cut(name: str) -> None:
    reason, steps = CUTS[name]
    is_read = asyncio.Event()
    script = [HEADS.get(name, Head()), CIAO, Gate(is_read), *steps]
    async with gateway_before(*script) as (gateway, upstream):
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url(), [("x-connection-id", "reader-1")])
            await client.until(b'"Ciao "')
            is_read.set()
            answer = await client.whole()
        frames = answer.frames
        assert [frame.type for frame in frames] == ["metadata", "token", "error"]
        error = data_of(terminal_of(frames))
        assert error == {
            "code": "upstream_truncated",
            "message": "The answer broke off before its end.",
            "retryable": True,
            "connectionId": "reader-1",
        }
        if not isinstance(steps[-1], End):  # that response was whole: its connection is good for another
            await upstream.connections[0].wait_closed()
        assert upstream.questions == 1
        await assert_recorded(gateway, TRUNCATED, reason, frames)
        await assert_kept(gateway, answer.header("Subak-Stream-Id") or "", "Ciao ", error)
        await assert_alive(gateway)


async def test_u04_reset_in_the_middle_is_truncated_and_never_done() -> None:
    await _cut("u04 reset")


@pytest.mark.parametrize("name", [name for name in CUTS if name.startswith("u05")])
async def test_u05_clean_end_without_done_is_truncated(name: str) -> None:
    await _cut(name)


@pytest.mark.parametrize("name", [name for name in CUTS if name.startswith("u06")])
async def test_u06_broken_chunks_are_truncated(name: str) -> None:
    await _cut(name)


async def test_u05_unfinished_block_at_the_end_is_not_a_token() -> None:
    async with gateway_before(Head(), CIAO, Body(b'data: {"text": "mondo"}\n'), End()) as (gateway, _):
        await assert_fails(gateway, TRUNCATED, "no_done", text="Ciao ")


@pytest.mark.parametrize(
    "data",
    [
        '{"error": "vector store at 10.0.0.5 is down", "done": true, "sequenceNumber": 2}',
        '{"error": "vector store at 10.0.0.5 is down"}',
        '{"type": "error", "data": "vector store at 10.0.0.5 is down"}',
        '{"done": true, "error": {"code": 5}}',
    ],
)
async def test_u07_error_frame_is_an_error_and_its_text_is_kept_back(data: str) -> None:
    async with gateway_before(Head(), CIAO, Frame(data), End()) as (gateway, _):
        frames = await assert_fails(gateway, ERROR, "error_frame", text="Ciao ")
        assert "10.0.0.5" not in repr(frames)
        assert "10.0.0.5" not in repr(gateway.observer.facts)


@pytest.mark.parametrize(
    ("status", "headers", "code", "retry_after"),
    [
        (500, {}, ERROR, None),
        (503, {"Retry-After": "7"}, ERROR, 7),
        (429, {"Retry-After": "34"}, LIMITED, 34),
        (429, {}, LIMITED, None),
        (404, {}, ERROR, None),
    ],
)
async def test_u08_other_status_is_an_error_without_its_body(
    status: int, headers: dict[str, str], code: ErrorCode, retry_after: int | None
) -> None:
    head = Head(status, {"Content-Type": "application/json", **headers})
    secret = Body(b'{"detail": "secret at 10.0.0.5"}')
    async with gateway_before(head, secret, End()) as (gateway, upstream):
        await assert_fails(gateway, code, f"status_{status}", retry_after=retry_after)
        assert upstream.questions == 1
        passed = await post(gateway, CHAT, {"query": "ciao"})
        assert (passed.status, passed.body) == (status, secret.content)
        assert passed.header("Retry-After") == headers.get("Retry-After")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_u09_redirect_is_not_followed(status: int) -> None:
    async with ScriptedUpstream(ANSWER) as elsewhere:
        head = Head(status, {"Location": f"{elsewhere.url}/bali-zero/chat-stream"})
        async with gateway_before(head, End()) as (gateway, _):
            await assert_fails(gateway, ERROR, "redirect")
        assert not elsewhere.connections


@pytest.mark.parametrize("kind", ["text/html", "application/json", "text/plain", ""])
async def test_u10_other_content_type_is_an_error_and_nothing_of_it_passes(kind: str) -> None:
    head = Head(headers={"Content-Type": kind} if kind else {})
    async with gateway_before(head, CIAO, Body(b"<html>10.0.0.5</html>"), DONE, End()) as (gateway, _):
        await assert_fails(gateway, ERROR, "content_type")


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_u11_compressed_body_is_refused_unread(coding: str) -> None:
    bomb = gzip.compress(bytes(64 * MIB), 1)
    head = Head(headers={"Content-Type": "text/event-stream", "Content-Encoding": coding})
    before_bytes = resident_bytes()
    async with gateway_before(head, Body(bomb), End()) as (gateway, upstream):
        await assert_fails(gateway, ERROR, "content_encoding")
        assert upstream.requests[0].headers["accept-encoding"] == "identity"
        assert resident_bytes() - before_bytes < 32 * MIB


ODD_BODY = (
    b"\xef\xbb\xbf: ok\r\rretry: 10\r\n"
    b'data:{"text":"a"}\r\n\r\n'
    b'event: x\rdata: {"text":\rdata:  "b"}\r\r'
    b'id: 7\n: between\ndata: {"text": "c\xf0\x9f\x98\x80"}\n\n'
    b"data\n\ndata: plain\n\ndata\n: x\ndata: \n\n"
    b'data: {"done": true}\r\n\r\n'
)
ODD_TEXT = "abc😀plain\n"


@ONE_LOOP
async def test_u12_line_ends_comments_and_fields_split_at_every_byte() -> None:
    places = iter(range(1, len(ODD_BODY)))

    def split(_: RecordedRequest) -> Iterator[Step]:
        at = next(places)
        yield from (Head(), Body(ODD_BODY[:at]), Body(ODD_BODY[at:]), End())

    async with ScriptedUpstream(split) as upstream, running(upstream) as gateway:
        for at in range(1, len(ODD_BODY)):
            answer = await get(gateway, question_url())
            assert text_of(answer.frames) == ODD_TEXT, f"split at {at}"
            assert terminal_of(answer.frames).type == "done"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_u12_the_same_in_slices_of_a_poor_line(size: int) -> None:
    line = Line(to_client=Way(slice_bytes=size))
    async with (
        ScriptedUpstream([Head(framing="close"), Body(ODD_BODY), End()]) as upstream,
        ToxicProxy("127.0.0.1", upstream.port, line) as proxy,
        running(proxy.url, kept=9) as gateway,
    ):
        answer = await get(gateway, question_url())
        assert text_of(answer.frames) == ODD_TEXT
        await assert_recorded(gateway, "stop", "", answer.frames)


async def test_u13_only_invalid_bytes_are_replaced_and_split_characters_stay_whole() -> None:
    smile = "😀".encode()
    steps = [
        Body(b'data: {"text": "' + smile[:1]),
        Body(smile[1:3]),
        Body(smile[3:] + b' "}\n\ndata: {"text": "\xff\xc3('),
        Body(b'"}\n\ndata: plain \xe2\x82\n\n'),
        Frame('{"text": "\\ud83d"}'),
        Frame('{"text": "\\ude00"}'),
    ]
    assert await text_from(*steps) == "😀 \ufffd\ufffd(plain \ufffd😀"


HOSTILE = (
    "\u2028\u2029\x85\x0b\x0c\x1c\n\r\n\nevent: done\ndata: {}\n\nid: x\nretry: 1\n\0\ufeff\u202e</script>\x1b[31m"
)


@pytest.mark.parametrize("ensure_ascii", [True, False])
async def test_u14_hostile_text_is_one_event_and_byte_exact(ensure_ascii: bool) -> None:
    frame = Frame(json.dumps({"text": HOSTILE}, ensure_ascii=ensure_ascii))
    async with gateway_before(Head(), frame, DONE, End()) as (gateway, _):
        answer = await get(gateway, question_url())
        assert [(each.event, each.type) for each in answer.frames] == [
            ("message", "metadata"),
            ("message", "token"),
            ("message", "done"),
        ]
        assert text_of(answer.frames) == HOSTILE
        assert not re.search(rb"[^\n\x20-\xff]", answer.body)
        assert len(answer.body.split(b"\n\n")) == 4
        state = (await get(gateway, f"/v1/streams/{answer.header('Subak-Stream-Id')}")).json
        assert isinstance(state, dict)
        assert state["text"] == HOSTILE


async def test_u14_plain_text_is_a_token_as_it_is() -> None:
    plain = "".join(letter for letter in HOSTILE if letter not in "\r\n")
    assert await text_from(Frame(plain)) == plain


async def test_u15_names_and_ids_of_the_upstream_inject_nothing() -> None:
    block = b'event: done\0\nid: 1\0\nid: intruder.9\r\nevent: error\rid: \xff\nretry: 1\ndata: {"text": "a"}\n\n'
    script = [Head(), Body(block), Body(b'event: done\nid: 3\ndata: {"text": "b"}\n\n'), DONE, End()]
    async with gateway_before(*script) as (gateway, _):
        answer = await get(gateway, question_url())
        assert [(frame.event, frame.type) for frame in answer.frames] == [
            ("message", "metadata"),
            ("message", "token"),
            ("message", "token"),
            ("message", "done"),
        ]
        assert terminal_of(answer.frames).type == "done"
        assert answer.body.count(b"retry:") == 1
        assert b"intruder" not in answer.body


async def test_u16_a_token_of_a_megabyte_is_delivered_where_the_bound_allows_it() -> None:
    token = "x" * 1_000_000
    assert await text_from(Frame(json.dumps({"text": token})), SUBAK_UPSTREAM__MAX_EVENT_BYTES="1100000") == token


async def test_u16_a_larger_token_ends_the_answer_after_what_came_before() -> None:
    async with gateway_before(Head(), CIAO, Frame(json.dumps({"text": "x" * 300_000})), Stall()) as (gateway, upstream):
        await assert_fails(gateway, TOO_LARGE, "max_line_bytes", text="Ciao ")
        await upstream.connections[0].wait_closed()


async def test_u16_a_line_of_64_megabytes_is_cut_off_at_the_bound() -> None:
    sent_bytes = 0

    def endless(_: RecordedRequest) -> Iterator[Step]:
        nonlocal sent_bytes
        yield from (Head(), CIAO, Body(b"data: "))
        while sent_bytes < 64 * MIB:
            sent_bytes += 65_536
            yield Body(b"x" * 65_536)

    before_bytes = resident_bytes()
    async with ScriptedUpstream(endless) as upstream, running(upstream) as gateway:
        await assert_fails(gateway, TOO_LARGE, "max_line_bytes", text="Ciao ")
        await upstream.connections[0].wait_closed()
        assert resident_bytes() - before_bytes < 24 * MIB
    assert sent_bytes < 32 * MIB  # the bound, and what the kernel's buffers on the way took


async def test_u16_an_event_of_many_lines_is_bounded_too() -> None:
    block = b"data: " + b"x" * 1000 + b"\n"
    async with gateway_before(Head(), CIAO, *[Body(block)] * 300, Stall()) as (gateway, _):
        await assert_fails(gateway, TOO_LARGE, "max_event_bytes", text="Ciao ")


@pytest.mark.slow
@pytest.mark.repeats(tokens=FLOOD)
async def test_u17_flood_of_tokens_is_held_back_by_a_slow_reader_and_arrives_whole() -> None:
    batch = 100
    padding = b": " + b"x" * 150 + b"\n"  # so that the kernel's buffers on the way, some megabytes, are full soon
    sent, is_enough = 0, False

    def flood(_: RecordedRequest) -> Iterator[Step]:
        nonlocal sent
        yield Head()
        while sent < FLOOD or not is_enough:
            numbers = range(sent, sent + batch)
            sent += batch
            yield Body(b"".join(padding + b'data: {"text": "%d "}\n\n' % number for number in numbers))
        yield from (DONE, End())

    bounds = {"SUBAK_STREAM__MAX_EVENTS": "10000000", "SUBAK_STREAM__MAX_BYTES": str(1000 * MIB)}
    async with ScriptedUpstream(flood) as upstream, running(upstream, bounds, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url, receive_bytes=8192) as client:
            await client.begin("GET", question_url())
            await client.head()
            await upstream.wait_questions(1)
            before_bytes = resident_bytes()
            await upstream.connections[0].wait_blocked(timeout_s=30)
            is_enough = True
            held_bytes = upstream.connections[0].sent_bytes
            await assert_alive(gateway)
            assert upstream.connections[0].blocked.is_set()
            assert upstream.connections[0].sent_bytes == held_bytes
            assert resident_bytes() - before_bytes < 48 * MIB
            assert not gateway.observer.of(StreamEnded)
            answer = await client.whole(timeout_s=50 + FLOOD / 10_000)
        frames = answer.frames
        expected = "".join(f"{number} " for number in range(sent))
        assert text_of(frames) == expected
        assert terminal_of(frames).type == "done"
        await assert_recorded(gateway, "stop", "", frames)


async def test_u17_more_events_than_a_stream_may_have_end_it() -> None:
    flood = [Body(b'data: {"text": "x"}\n\n' * 100)] * 5
    async with gateway_before(Head(), *flood, Stall(), SUBAK_STREAM__MAX_EVENTS="250") as (gateway, upstream):
        answer = await get(gateway, question_url())
        error = data_of(terminal_of(answer.frames))
        assert (error["code"], error["retryable"]) == ("too_long", False)
        await upstream.connections[0].wait_closed()
        await assert_recorded(gateway, "too_long", "stream_bounds", answer.frames)
        assert 250 <= len(answer.frames) <= 252 + 500


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("[" * 100_000, "[" * 100_000),
        ("NaN", "NaN"),
        ("9" * 5000, "9" * 5000),
        ('"x"', '"x"'),
        ('{"text": "a", "x": NaN, "y": 1e999}', "a"),
        ('{"text": "a", "x": ' + "9" * 5000 + "}", "a"),
        ('{"text": "a", "text": "b"}', "b"),
        ('{"text": 5}', ""),
        ("{}", ""),
    ],
    ids=lambda value: str(value)[:24],
)
@ONE_LOOP
async def test_u18_odd_json_is_text_or_nothing(data: str, text: str) -> None:
    assert await text_from(Frame(data)) == text


@pytest.mark.parametrize(
    "data",
    [
        '{"x": ' + "[" * 100_000,
        '{"text": ' + '{"a": ' * 40_000,
        "{",
        "{'text': 'a'}",
        '{"text": "a"}}',
        '{"text": "\t"}',
    ],
    ids=lambda value: str(value)[:24],
)
@ONE_LOOP
async def test_u18_what_begins_like_an_object_and_is_none_ends_the_answer(data: str) -> None:
    async with gateway_before(Head(), CIAO, Frame(data), Stall()) as (gateway, _):
        await assert_fails(gateway, ERROR, "bad_json", text="Ciao ")


async def test_u19_line_that_swallows_everything_is_ended_by_the_idle_deadline() -> None:
    is_held = asyncio.Event()
    async with (
        ScriptedUpstream([Head(), CIAO, Gate(is_held), MONDO, DONE, End()]) as upstream,
        ToxicProxy("127.0.0.1", upstream.port) as proxy,
        running(proxy.url, clock=FakeClock(), kept=9, SUBAK_UPSTREAM__IDLE_TIMEOUT_S="110") as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("GET", question_url())
        await client.until(b'"Ciao "')
        proxy.hold()
        is_held.set()
        gateway.pass_time(111)
        answer = await client.whole()
        assert data_of(terminal_of(answer.frames))["code"] == TIMEOUT
        assert sum(frame.event == "heartbeat" for frame in answer.frames) == 3
        kept = [frame for frame in answer.frames if frame.event == "message"]
        await assert_recorded(gateway, TIMEOUT, "idle", kept)
        proxy.release()


@ONE_LOOP
async def test_u20_stopped_upstream_is_waited_for_and_the_stream_finishes() -> None:
    async with (
        process("backend", "--port", "0", SUBAK_KNOWLEDGE__PACE_MS="60") as backend,
        running(await backend.url(), clock=FakeClock(), kept=1) as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("GET", question_url())
        early = await client.until(b'"token"')
        backend.signal(signal.SIGSTOP)
        came = len(parse_frames(early.body, is_cut=True))
        gateway.pass_time(31)
        assert b"heartbeat" in (await client.until(b"heartbeat")).body
        backend.signal(signal.SIGCONT)
        answer = await client.whole(timeout_s=60)
        assert terminal_of(answer.frames).type == "done"
        assert len(answer.frames) > came + 10
        kept = [frame for frame in answer.frames if frame.event == "message"]
        await assert_recorded(gateway, "stop", "", kept)


async def test_u21_unknown_host_is_an_error_event() -> None:
    async with running("http://nowhere.invalid:80", SUBAK_UPSTREAM__CONNECT_TIMEOUT_S="2") as gateway:
        answer = await get(gateway, question_url())
        error = data_of(terminal_of(answer.frames))
        assert error["code"] in {ERROR, TIMEOUT}  # the latter where no resolver answers
        (ended,) = gateway.observer.of(StreamEnded)
        assert ended.reason in {"dns", "connect_timeout"}
        assert (await post(gateway, CHAT, {"query": "ciao"})).status in {502, 504}


async def test_u21_tls_with_a_trusted_certificate_streams(certificates: dict[str, Certificate]) -> None:
    good = certificates["good"]
    async with (
        ScriptedUpstream(ANSWER, ssl_context=good.server()) as upstream,
        running(upstream, SUBAK_UPSTREAM__CA_FILE=str(good.cert)) as gateway,
    ):
        assert text_of((await get(gateway, question_url())).frames) == "Ciao mondo"


@pytest.mark.parametrize("name", ["other host", "expired"])
async def test_u21_wrong_or_expired_certificate_is_an_error_event_with_a_fact_of_its_own(
    name: str, certificates: dict[str, Certificate]
) -> None:
    bad = certificates[name]
    async with ScriptedUpstream(ANSWER, ssl_context=bad.server()) as upstream:
        async with running(upstream, SUBAK_UPSTREAM__CA_FILE=str(bad.cert)) as gateway:
            await assert_fails(gateway, ERROR, "tls_certificate")
            assert (await post(gateway, CHAT, {"query": "ciao"})).status == 502
        assert upstream.questions == 0


async def test_u21_unknown_authority_is_not_trusted(certificates: dict[str, Certificate]) -> None:
    async with ScriptedUpstream(ANSWER, ssl_context=certificates["good"].server()) as upstream:
        async with running(upstream) as gateway:
            await assert_fails(gateway, ERROR, "tls_certificate")
        assert upstream.questions == 0

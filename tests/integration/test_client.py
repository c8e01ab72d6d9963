"""The Python client over real sockets: against the real gateway, and against servers that answer as a script says."""

import asyncio
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from subak.client import (
    AnswerExpired,
    AnswerFailed,
    AnswerStream,
    Content,
    Done,
    GaveUp,
    Metadata,
    Options,
    Patience,
    Refused,
    Sources,
    Token,
    Untrusted,
    Wait,
    resume,
    stream,
)
from subak.core.envelope import encode_frames, encode_preface, frame_head
from subak.core.events import Event
from subak.testing import (
    PATIENCE_S,
    Body,
    Cut,
    End,
    FakeClock,
    Frame,
    Gate,
    Head,
    How,
    Line,
    ScriptedUpstream,
    Stall,
    Step,
)
from tests.integration.clients import proxy_before
from tests.integration.gateway import CIAO, DONE, MONDO, STARTING_S, eventually, process, running, scripted
from tests.integration.upstream.certificates import make_certificate

QUICK: Final = Patience(first_wait_s=0.001, longest_wait_s=0.01)
AT_ONCE: Final = {"SUBAK_STREAM__RETRY_MIN_MS": "1", "SUBAK_STREAM__RETRY_MAX_MS": "1"}
STREAM_ID: Final = "st_" + "aB3-_x" + "0" * 22
FRAMES: Final = [
    encode_frames(frame_head(STREAM_ID), seq, [event])
    for seq, event in enumerate(
        [
            Event("metadata", b'{"streamId":"%b","connectionId":"c"}' % STREAM_ID.encode(), 1),
            Event("token", b'"Ciao "', 1),
            Event("token", b'"mondo"', 1),
            Event("done", b'{"finish_reason":"stop"}', 1),
        ],
        1,
    )
]
WHOLE: Final = b"".join(FRAMES)
JSON: Final = {"Content-Type": "application/json"}


def quick(**given: object) -> Options:
    """Options of a reader that hardly waits."""
    return Options(**{"patience": QUICK, **given})  # type: ignore[arg-type] # named as Options has them


def said(status: int, body: bytes, **headers: str) -> list[Step]:
    """A whole JSON answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [Head(status, {**JSON, **named, "Content-Length": str(len(body))}, "given"), Body(body), End()]


def streamed(*frames: bytes) -> list[Step]:
    """An event stream that ends cleanly after these frames."""
    return [Head(), Body(encode_preface(1) + b"".join(frames)), End()]


async def read(answer: AnswerStream) -> list[Content]:
    return [content async for content in answer]


async def test_an_answer_is_told_in_order_with_its_sources_and_its_end() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        answer = stream(gateway.url, query="What is a KITAS?")
        told = await read(answer)
    assert [type(content) for content in told] == [Metadata, Token, Token, Sources, Done]
    assert [content.seq for content in told] == [1, 2, 3, 4, 5]
    assert answer.text == "Ciao mondo"
    assert [source.source for source in answer.sources] == ["kitas.md"]
    assert answer.cursor == f"{answer.stream_id}.5"
    assert answer.done is told[-1]
    figures = answer.metrics
    assert (figures.tokens, figures.reconnects, figures.duplicates, figures.gaps) == (2, 0, 0, 0)
    assert figures.first_token_ms is not None
    assert 0 < figures.first_token_ms <= figures.duration_ms
    assert figures.size_bytes > 500


@pytest.mark.parametrize("how", [How.RESET, How.CLOSE])
async def test_a_line_that_is_cut_at_every_event_loses_and_doubles_nothing(how: How) -> None:
    async with scripted() as upstream, running(upstream, AT_ONCE) as gateway:
        async with proxy_before(
            gateway.url, *[Line(cut=Cut(f".{seq}\n".encode(), how)) for seq in range(1, 6)]
        ) as proxy:
            proxy.lines.append(Line())
            answer = stream(proxy.url, query="What is a KITAS?", options=quick())
            told = await read(answer)
            assert len(proxy.connections) == 6
        assert upstream.questions == 1
    assert [content.seq for content in told] == [1, 2, 3, 4, 5]
    assert answer.text == "Ciao mondo"
    assert answer.metrics.duplicates == 0


async def test_a_question_whose_answer_never_came_through_is_asked_once() -> None:
    async with scripted() as upstream, running(upstream, AT_ONCE) as gateway:
        async with proxy_before(
            gateway.url, *[Line(cut=Cut(0)), Line(cut=Cut(50)), Line(cut=Cut(200)), Line()]
        ) as proxy:
            answer = stream(proxy.url, query="What is a KITAS?", options=quick())
            await read(answer)
        assert (answer.text, upstream.questions) == ("Ciao mondo", 1)


async def test_a_silent_line_is_given_up_after_two_and_a_half_heartbeats() -> None:
    patience = Patience(heartbeat_s=0.4, first_wait_s=0.001)
    waits: list[Wait] = []
    async with (
        scripted() as upstream,
        running(upstream, AT_ONCE) as gateway,
        proxy_before(gateway.url, Line(cut=Cut(b"Ciao", How.HALF_OPEN)), Line()) as proxy,
    ):
        answer = stream(proxy.url, query="Hi", options=Options(patience=patience, on_wait=waits.append))
        await read(answer)
    assert answer.text == "Ciao mondo"
    assert {wait.reason for wait in waits} == {"silent"}, "more than once where the machine paused, too"


async def test_stop_ends_the_answer_at_the_backend_and_keeps_the_text() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        answer = stream(gateway.url, query="Hi")
        told: list[Content] = []
        async for content in answer:
            told.append(content)
            if isinstance(content, Token):
                await answer.stop()
        await upstream.connections[0].wait_closed()
    assert isinstance(told[-1], Done)
    assert (told[-1].finish_reason, answer.text) == ("cancelled", "Ciao ")


async def test_stop_beside_the_loop_waits_for_the_stream_to_be_known() -> None:
    async with (
        scripted(Head(), CIAO, Stall()) as upstream,
        running(upstream) as gateway,
        proxy_before(gateway.url) as proxy,
    ):
        proxy.hold()
        answer = stream(proxy.url, query="Hi")
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read(answer))
            await proxy.wait_connections(1)
            tasks.create_task(answer.stop())
            proxy.release()
        assert isinstance(reading.result()[-1], Done)
    assert answer.done is not None
    assert answer.done.finish_reason == "cancelled"


async def test_stop_is_told_of_at_once_even_on_a_line_that_is_dead() -> None:
    dead = Line(cut=Cut(b"Ciao", How.HALF_OPEN))
    async with (
        scripted(Head(), CIAO, Stall()) as upstream,
        running(upstream, AT_ONCE) as gateway,
        proxy_before(gateway.url, dead, Line()) as proxy,
    ):
        answer = stream(proxy.url, query="Hi", options=quick())
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read(answer))
            await proxy.wait_until(lambda: any(each.was_cut for each in proxy.connections))
            tasks.create_task(answer.stop())
        assert isinstance(reading.result()[-1], Done)
    assert answer.text == "Ciao "


async def test_stop_before_anything_was_sent_asks_nobody() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        answer = stream(gateway.url, query="Hi")
        await answer.stop()
        assert await read(answer) == []
        assert answer.done == Done("cancelled", 0)
        assert upstream.questions == 0


async def test_stop_of_an_answer_that_was_left_is_found_by_its_key() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream, AT_ONCE) as gateway:
        async with proxy_before(gateway.url, Line(cut=Cut(1, How.BLACK_HOLE)), Line()) as proxy:
            answer = stream(proxy.url, query="Hi", options=quick())
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read(answer))
                await upstream.wait_questions(1)
                reading.cancel()
            assert answer.stream_id == ""
            await answer.stop()
        await upstream.connections[0].wait_closed()
        assert upstream.questions == 1


async def test_leaving_closes_the_connection_and_stops_nothing() -> None:
    gate = asyncio.Event()
    async with scripted(Head(), CIAO, Gate(gate), MONDO, DONE, End()) as upstream, running(upstream) as gateway:
        async with stream(gateway.url, query="Hi") as answer:
            async for content in answer:
                if isinstance(content, Token):
                    break
        assert gateway.gateway.hub.live_count == 1
        await eventually(lambda: gateway.gateway.hub.reader_count == 0, lambda: "the reader is still there")
        gate.set()
        told = await read(answer)
        assert [content.seq for content in told] == [3, 4]
        assert (answer.text, upstream.questions) == ("Ciao mondo", 1)


async def test_a_loop_that_is_left_may_be_followed_by_another_at_once() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        answer = stream(gateway.url, query="Hi")
        seqs: list[int] = []
        while answer.done is None:
            async for content in answer:
                seqs.append(content.seq)
                break
        assert seqs == [1, 2, 3, 4, 5]
        assert upstream.questions == 1


async def test_two_loops_at_a_time_are_a_mistake() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        answer = stream(gateway.url, query="Hi")
        first = aiter(answer)
        await anext(first)
        with pytest.raises(RuntimeError, match="one at a time"):
            await read(answer)
        await answer.stop()
        await first.aclose()


async def test_an_answer_is_resumed_by_its_cursor_with_or_without_the_text_before() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        asked = stream(gateway.url, query="Hi")
        await read(asked)
        for cursor, text, whole in (
            (asked.stream_id, None, "Ciao mondo"),
            (f"{asked.stream_id}.2", None, "mondo"),
            (f"{asked.stream_id}.2", "Ciao ", "Ciao mondo"),
        ):
            answer = resume(gateway.url, cursor, text=text)
            await read(answer)
            assert answer.text == whole
        at_the_end = resume(gateway.url, asked.cursor)
        assert [type(content) for content in await read(at_the_end)] == [Done]
        assert upstream.questions == 1


async def test_a_cursor_of_an_earlier_process_is_told_as_expired() -> None:
    async with scripted() as upstream:
        async with running(upstream) as gateway:
            asked = stream(gateway.url, query="Hi")
            await read(asked)
        async with running(upstream) as gateway:
            with pytest.raises(AnswerExpired, match="ask again"):
                await read(resume(gateway.url, f"{asked.stream_id}.2"))
        assert upstream.questions == 1


async def test_a_gateway_that_is_killed_and_comes_back_gives_a_clean_error_and_asks_nobody_again() -> None:
    patience = Patience(first_wait_s=0.01, longest_wait_s=0.05, attempts=2_000)
    async with scripted(Head(), CIAO, Stall()) as upstream:
        environment = {"RAG_BACKEND_URL": upstream.url, "ENABLE_SSE_STREAMING": "true"}
        async with process("serve", **environment, **AT_ONCE) as first:
            url = await first.url()
            answer = stream(url, query="Hi", options=Options(patience=patience))
            async for content in answer:
                if isinstance(content, Token):
                    break
            first.process.kill()
            environment["SUBAK_SERVER__PORT"] = str(urlsplit(url).port)
            async with process("serve", **environment), asyncio.timeout(STARTING_S):
                with pytest.raises(AnswerExpired):
                    await read(answer)
        assert (answer.text, upstream.questions) == ("Ciao ", 1)


async def test_an_answer_whose_log_is_gone_comes_by_a_snapshot() -> None:
    clock = FakeClock()
    async with scripted() as upstream, running(upstream, clock=clock, SUBAK_STREAM__REPLAY_S="20") as gateway:
        asked = stream(gateway.url, query="Hi")
        await read(asked)
        gateway.pass_time(30)
        answer = resume(gateway.url, f"{asked.stream_id}.2", text="Ciao ")
        assert [type(content) for content in await read(answer)] == [Token, Done]
        assert answer.text == "Ciao mondo"


async def test_an_answer_that_fails_raises_with_its_code_and_keeps_its_text() -> None:
    failing = Frame('{"error": "boom", "done": true}')
    async with scripted(Head(), CIAO, failing, End()) as upstream, running(upstream) as gateway:
        answer = stream(gateway.url, query="Hi")
        with pytest.raises(AnswerFailed, match=r"The answering service failed\.") as raised:
            await read(answer)
    assert (raised.value.code, raised.value.is_retryable, answer.text) == ("upstream_error", True, "Ciao ")
    assert answer.done is None


async def test_streaming_that_is_off_is_told_at_once() -> None:
    async with scripted() as upstream, running(upstream, is_on=False) as gateway:
        with pytest.raises(Refused, match="doesn't stream for this caller, 403") as raised:
            await read(stream(gateway.url, query="Hi"))
    assert (raised.value.status, raised.value.code) == (403, "feature_flag_disabled")


async def test_a_history_goes_with_the_question_and_a_wrong_one_is_told() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        turns = [{"role": "user", "content": "Hi"}]
        await read(stream(gateway.url, query="Go on", user_role="member", conversation_history=turns))
        assert "user_role=member" in upstream.requests[0].target
        with pytest.raises(Refused, match="conversation_history"):
            await read(stream(gateway.url, query="Go on", conversation_history=[{"role": "root", "content": ""}]))


async def test_429_is_honoured_and_the_key_kept() -> None:
    busy = b'{"ok":false,"error":"RATE_LIMIT_EXCEEDED","message":"Too many requests.","retryAfter":1}'
    waits: list[Wait] = []
    async with ScriptedUpstream(said(429, busy, Retry_After="1"), streamed(WHOLE)) as server:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        answer = stream(server.url, query="Hi", options=quick(on_wait=waits.append))
        await read(answer)
        assert loop.time() - began_at >= 1.0
        keys = {request.headers["idempotency-key"] for request in server.requests}
    assert keys == {answer.idempotency_key}
    assert len(answer.idempotency_key) >= 22
    assert [(wait.status, wait.reason, wait.seconds) for wait in waits] == [(429, "RATE_LIMIT_EXCEEDED", 1.0)]
    assert answer.text == "Ciao mondo"


async def test_a_pause_that_is_too_long_is_a_refusal() -> None:
    async with ScriptedUpstream(said(503, b"", Retry_After="4000")) as server:
        with pytest.raises(Refused) as raised:
            await read(stream(server.url, query="Hi"))
    assert (raised.value.status, raised.value.retry_after_s, raised.value.is_retryable) == (503, 4000, True)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 422, 301, 307])
async def test_what_would_be_refused_again_is_asked_once(status: int) -> None:
    body = b'{"status":1,"code":"some_code","detail":"Some \\u001b[31mtext."}'
    async with ScriptedUpstream(said(status, body, Location="/elsewhere")) as server:
        with pytest.raises(Refused) as raised:
            await read(stream(server.url, query="Hi"))
        assert server.questions == 1
    assert (raised.value.status, raised.value.code) == (status, "some_code")
    assert str(status) in str(raised.value)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 408, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_asked_again(status: int) -> None:
    async with ScriptedUpstream(said(status, b"<html>"), streamed(WHOLE)) as server:
        answer = stream(server.url, query="Hi", options=quick())
        await read(answer)
    assert answer.text == "Ciao mondo"


async def test_it_gives_up_and_says_how_to_go_on() -> None:
    patience = Patience(first_wait_s=0.001, longest_wait_s=0.002, attempts=3)
    async with ScriptedUpstream(streamed(*FRAMES[:2]), said(503, b"")) as server:
        answer = stream(server.url, query="Hi", options=Options(patience=patience))
        with pytest.raises(GaveUp, match=f"3 attempts, the last one refused.*{STREAM_ID}.2") as raised:
            await read(answer)
        assert server.questions == 4
        server.scripts.append(streamed(*FRAMES[2:]))
        server.requests.extend(server.requests[:1])
        await read(answer)
    assert raised.value.cursor == f"{STREAM_ID}.2"
    assert answer.text == "Ciao mondo"


async def test_a_certificate_that_does_not_hold_ends_it_before_anything_is_sent(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path, "own", "IP:127.0.0.1", 30).server()
    async with ScriptedUpstream(streamed(WHOLE), ssl_context=tls) as server:
        with pytest.raises(Untrusted, match=r"127\.0\.0\.1 doesn't hold"):
            await read(stream(server.url, query="Hi"))
        assert server.questions == 0


async def test_a_session_of_ones_own_brings_trust_and_stays_open(tmp_path: Path) -> None:
    own = make_certificate(tmp_path, "own", "IP:127.0.0.1", 30)
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=own.cert))
    async with (
        ScriptedUpstream(streamed(*FRAMES[:2]), streamed(*FRAMES[2:]), ssl_context=own.server()) as server,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        answer = stream(server.url, query="Hi", options=quick(session=session))
        await read(answer)
        assert not session.closed
    assert answer.text == "Ciao mondo"


async def test_nobody_there_is_nobody_there() -> None:
    async with ScriptedUpstream([]) as server:
        url = server.url
    patience = Patience(first_wait_s=0.001, longest_wait_s=0.002, attempts=2)
    with pytest.raises(GaveUp, match="unreachable"):
        await read(stream(url, query="Hi", options=Options(patience=patience)))


async def test_a_gap_is_repaired_by_the_state() -> None:
    state = b'{"id":"%b","status":"streaming","last_seq":3,"text":"Ciao mondo"}' % STREAM_ID.encode()
    scripts = [streamed(FRAMES[0], FRAMES[2]), said(200, state), streamed(*FRAMES[1:])]
    async with ScriptedUpstream(*scripts) as server:
        answer = stream(server.url, query="Hi", options=quick())
        told = await read(answer)
        assert [request.target for request in server.requests] == [
            "/api/v2/bali-zero/chat-stream",
            f"/v1/streams/{STREAM_ID}",
            f"/v1/streams/{STREAM_ID}/events?on_gap=snapshot",
        ]
        assert server.requests[2].headers["last-event-id"] == f"{STREAM_ID}.1"
    assert told[1:] == [Token("Ciao mondo", 3), Done("stop", 4)]
    assert (answer.metrics.gaps, answer.metrics.duplicates) == (1, 2)


async def test_a_key_whose_stream_has_ended_gives_the_text_that_is_kept() -> None:
    gone = b'{"code":"cursor_expired","status_url":"/v1/streams/%b"}' % STREAM_ID.encode()
    state = b'{"id":"%b","status":"completed","last_seq":4,"text":"Ciao mondo","finish_reason":"stop"}'
    async with ScriptedUpstream(said(410, gone), said(200, state % STREAM_ID.encode())) as server:
        told = await read(stream(server.url, query="Hi", options=quick(idempotency_key="k" * 22)))
    assert told == [Token("Ciao mondo", 3), Done("stop", 4)]


async def test_a_token_hook_is_asked_again_when_its_token_is_not_taken() -> None:
    given: list[str] = []

    async def token() -> str:
        given.append(f"token-{len(given)}")
        return given[-1]

    scripts = [said(401, b"{}"), streamed(*FRAMES[:2]), said(401, b"{}"), streamed(*FRAMES[2:])]
    async with ScriptedUpstream(*scripts) as server:
        answer = stream(server.url, query="Hi", options=quick(token=token, headers={"x-session-id": "s-1"}))
        await read(answer)
        sent = [request.headers["authorization"] for request in server.requests]
        assert {request.headers["x-session-id"] for request in server.requests} == {"s-1"}
    assert sent == ["Bearer token-0", "Bearer token-1", "Bearer token-1", "Bearer token-2"]
    assert answer.text == "Ciao mondo"


async def test_a_token_that_is_never_taken_is_a_refusal() -> None:
    async with ScriptedUpstream(said(401, b"{}")) as server:
        with pytest.raises(Refused, match="wants valid credentials, 401"):
            await read(stream(server.url, query="Hi", options=Options(token="t")))
        assert server.questions == 1


async def test_an_event_past_its_bound_is_told_after_those_before_it() -> None:
    options = Options(patience=Patience(max_event_bytes=300))
    async with ScriptedUpstream(streamed(*FRAMES[:2], b"data: " + b"x" * 400 + b"\n\n")) as server:
        answer = stream(server.url, query="Hi", options=options)
        with pytest.raises(Exception, match="max_line_bytes"):
            await read(answer)
    assert answer.text == "Ciao "


@pytest.mark.parametrize(
    "url", ["", "example.org", "ftp://example.org", "http://", "http://u:p@example.org", "http://h/#x"]
)
def test_what_is_no_url_of_a_gateway_is_told_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        stream(url, query="Hi")


@pytest.mark.parametrize("cursor", ["", "st_x", "st_x.1", STREAM_ID + ".x", STREAM_ID + "/../x"])
def test_what_is_no_cursor_is_told_before_anything_is_sent(cursor: str) -> None:
    with pytest.raises(ValueError, match="expected a cursor"):
        resume("http://127.0.0.1", cursor)

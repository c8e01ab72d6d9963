"""A server of chat completions as an upstream, over real sockets: what it is asked, and what a sink hears of it."""

import asyncio
import json
from pathlib import Path

import pytest

from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import Failed, Finished, FinishReason
from subak.core.question import Question, Turn
from subak.testing import Body, Close, End, Frame, Gate, Head, Raw, Reset, ScriptedUpstream, Stall, Step
from subak.upstream.http1 import Http1Limits
from subak.upstream.openai import OpenAiTarget
from tests.integration.upstream.asking import until
from tests.integration.upstream.asking_model import ACCOUNT, ANSWER, DONE, USAGE, asking_model, bearer, delta

CIAO = delta("Ciao ")
STOP = delta(None, "stop")
WHOLE = Finished(FinishReason.STOP, USAGE)
ERROR, TIMEOUT, TRUNCATED, TOO_LARGE, LIMITED = (
    ErrorCode.UPSTREAM_ERROR,
    ErrorCode.UPSTREAM_TIMEOUT,
    ErrorCode.UPSTREAM_TRUNCATED,
    ErrorCode.EVENT_TOO_LARGE,
    ErrorCode.UPSTREAM_RATE_LIMITED,
)


async def test_an_answer_comes_with_its_tokens_and_its_account() -> None:
    async with ScriptedUpstream(ANSWER) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
        assert ending == WHOLE
        assert [(event.type, event.data) for event in sink.events] == [("token", b'"Ciao "'), ("token", b'"mondo"')]
        assert {event.at_ms for event in sink.events} == {asker.clock.time_ms()}
        assert sink.size_bytes == sum(len(step.data) + 8 for step in ANSWER if isinstance(step, Frame))
        assert asker.upstream.counts.dropped == 0


async def test_all_events_of_one_read_come_in_one_call() -> None:
    blocks = b"".join(f"data: {delta(f'{number} ').data}\n\n".encode() for number in range(50))
    gate = asyncio.Event()
    script = [Head(), Gate(gate), Body(blocks), Stall()]
    async with ScriptedUpstream(script) as server, asking_model(server.url) as asker:
        _, sink = await asker.open()
        await server.wait_questions(1)
        gate.set()
        await sink.wait_events(50)
        assert sink.reads == 1
        assert sink.size_bytes == len(blocks)


async def test_a_question_is_posted_as_the_dialect_wants_it() -> None:
    question = Question("È caro?", conversation_history=(Turn("user", "Ciao"), Turn("assistant", "Sì")))
    async with ScriptedUpstream(ANSWER) as server:
        target = OpenAiTarget(
            url=f"{server.url}/llm/v1",
            model="m",
            system_prompt="Be brief.",
            parameters={"temperature": 0},
            headers=bearer("the-key"),
            user_agent="subak/1.2.3",
        )
        async with asking_model(target) as asker:
            await asker.ask(question)
        (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/llm/v1/chat/completions")
    assert json.loads(request.body) == {
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Ciao"},
            {"role": "assistant", "content": "Sì"},
            {"role": "user", "content": "È caro?"},
        ],
        "stream": True,
        "model": "m",
        "stream_options": {"include_usage": True},
    }
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "connection": "keep-alive",
        "content-length": str(len(request.body)),
        "content-type": "application/json",
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "user-agent": "subak/1.2.3",
        "authorization": "Bearer the-key",
    }


async def test_any_question_may_be_asked() -> None:
    async with ScriptedUpstream(ANSWER) as server, asking_model(server.url) as asker:
        question = Question("è" * 500_000)
        asker.upstream.check(question)
        _, ending = await asker.ask(question)
    assert ending == WHOLE


async def test_questions_share_a_connection() -> None:
    async with ScriptedUpstream(ANSWER) as server, asking_model(server.url) as asker:
        for _ in range(3):
            await asker.ask()
            await asker.wait_idle(1)
        assert len(server.connections) == 1


async def test_a_missing_token_file_is_an_upstream_error_and_nothing_is_sent(tmp_path: Path) -> None:
    async with ScriptedUpstream(ANSWER) as server:
        async with asking_model(OpenAiTarget(url=server.url, token_file=tmp_path / "none")) as asker:
            with pytest.raises(UpstreamError) as caught:
                await asker.open()
        assert caught.value.reason == "token_file"
        assert not server.connections


@pytest.mark.parametrize(
    ("rest", "ending"),
    [
        ([End()], Failed(TRUNCATED, "no_done")),
        ([ACCOUNT, End()], Failed(TRUNCATED, "no_done")),
        ([Close()], Failed(TRUNCATED, "body_cut")),
        ([Reset()], Failed(TRUNCATED, "connection_reset")),
        ([Raw(b"zz\r\n"), Stall()], Failed(TRUNCATED, "bad_chunk")),
        ([STOP, End()], Finished()),
        ([STOP, ACCOUNT, End()], WHOLE),
        ([delta(None, "length", usage=USAGE), End()], Finished(FinishReason.LENGTH, USAGE)),
        ([STOP, Close()], Finished()),
        ([STOP, Reset()], Finished()),
        ([STOP, Raw(b"zz\r\n"), Stall()], Finished()),
        ([Body(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n'), End()], Failed(TRUNCATED, "no_done")),
        ([DONE, End()], Finished()),
    ],
    ids=repr,
)
async def test_a_body_without_done_is_complete_only_after_a_finish_reason(
    rest: list[Step], ending: Finished | Failed
) -> None:
    gate = asyncio.Event()
    script = [Head(), CIAO, *rest[:-1], Gate(gate), rest[-1]]
    async with ScriptedUpstream(script) as server, asking_model(server.url) as asker:
        _, sink = await asker.open()
        sent_bytes = sum(_size(step) for step in [CIAO, *rest])
        await sink.wait_until(lambda: bool(sink.endings) or sink.size_bytes == sent_bytes)
        gate.set()
        assert await sink.wait_ended() == ending
        assert sink.text == "Ciao "


def _size(step: Step) -> int:
    match step:
        case Frame(data):
            return len(data) + 8
        case Body(content):
            return len(content)
        case _:
            return 0


async def test_a_body_framed_by_the_connections_end_may_end_without_done() -> None:
    script = [Head(framing="close"), CIAO, STOP, Close()]
    async with ScriptedUpstream(script) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
    assert (sink.text, ending) == ("Ciao ", Finished())


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        ({"message": "secret", "type": "server_error", "code": 500}, Failed(ERROR, "error_frame")),
        ("secret", Failed(ERROR, "error_frame")),
        ({"message": "secret", "type": "rate_limit_error", "code": "429"}, Failed(LIMITED, "error_frame")),
    ],
)
async def test_an_error_inside_the_stream_is_a_failure_and_closes_it(error: object, failed: Failed) -> None:
    script = [Head(), CIAO, Frame(json.dumps({"error": error})), DONE, Stall()]
    async with ScriptedUpstream(script) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
        assert (sink.text, ending) == ("Ciao ", failed)
        assert "secret" not in repr(ending)
        await server.connections[0].wait_closed()


@pytest.mark.parametrize(
    ("status", "headers", "failed"),
    [
        (400, {}, Failed(ERROR, "status_400")),
        (401, {"WWW-Authenticate": "Bearer"}, Failed(ERROR, "auth")),
        (403, {}, Failed(ERROR, "auth")),
        (404, {}, Failed(ERROR, "status_404")),
        (429, {"Retry-After": "34"}, Failed(LIMITED, "status_429", 34)),
        (429, {}, Failed(LIMITED, "status_429")),
        (500, {}, Failed(ERROR, "status_500")),
        (503, {"Retry-After": "7"}, Failed(ERROR, "status_503", 7)),
        (307, {"Location": "http://169.254.169.254/"}, Failed(ERROR, "redirect")),
    ],
)
async def test_a_refusal_is_a_failure_without_the_servers_words(
    status: int, headers: dict[str, str], failed: Failed
) -> None:
    body = Body(b'{"error":{"message":"secret","type":"x","code":"y"}}')
    script = [Head(status, {"Content-Type": "application/json", **headers}), body, End()]
    async with ScriptedUpstream(script) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
        assert (sink.events, ending) == ([], failed)
        assert "secret" not in repr(ending)
        assert server.questions == 1


async def test_a_server_that_does_not_stream_is_refused() -> None:
    whole = Body(b'{"choices":[{"index":0,"message":{"content":"Ciao"},"finish_reason":"stop"}]}')
    script = [Head(200, {"Content-Type": "application/json"}), whole, End()]
    async with ScriptedUpstream(script) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
    assert (sink.events, ending) == ([], Failed(ERROR, "content_type"))


async def test_a_compressed_answer_is_refused() -> None:
    head = Head(200, {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"})
    async with ScriptedUpstream([head, CIAO, DONE, End()]) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
    assert (sink.events, ending) == ([], Failed(ERROR, "content_encoding"))


async def test_a_server_that_never_answers_times_out() -> None:
    async with ScriptedUpstream([Stall()]) as server, asking_model(server.url) as asker:
        _, sink = await asker.open()
        await server.wait_questions(1)
        asker.clock.advance(61)
        assert sink.endings == [Failed(TIMEOUT, "first_byte")]
        await server.connections[0].wait_closed()


async def test_thinking_without_a_word_is_no_silence() -> None:
    thought = Frame('{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}')
    gates = [asyncio.Event() for _ in range(3)]
    script: list[Step] = [Head()]
    for gate in gates:
        script += [thought, Gate(gate)]
    async with ScriptedUpstream([*script, CIAO, STOP, DONE, End()]) as server, asking_model(server.url) as asker:
        _, sink = await asker.open()
        for count, gate in enumerate(gates, start=1):
            await until(lambda count=count: asker.upstream.counts.reasoning == count)  # type: ignore[misc]
            asker.clock.advance(100)
            assert not sink.endings
            gate.set()
        assert await sink.wait_ended() == Finished()
        assert sink.text == "Ciao "


@pytest.mark.parametrize(
    ("steps", "ending"), [([CIAO], Failed(TIMEOUT, "idle")), ([CIAO, STOP, ACCOUNT], WHOLE)], ids=["before", "after"]
)
async def test_silence_is_a_timeout_until_the_model_has_said_why_it_ended(
    steps: list[Frame], ending: Finished | Failed
) -> None:
    async with ScriptedUpstream([Head(), *steps, Stall()]) as server, asking_model(server.url) as asker:
        _, sink = await asker.open()
        await sink.wait_until(lambda: sink.size_bytes == sum(map(_size, steps)))
        asker.clock.advance(119)
        assert not sink.endings
        asker.clock.advance(2)
        assert sink.endings == [ending]
        await server.connections[0].wait_closed()


async def test_comments_line_ends_and_slices_change_nothing() -> None:
    body = (
        b"\xef\xbb\xbf: OPENROUTER PROCESSING\r\n\r\n: ping\n\nevent: message\r\n"
        b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f\x98\x80 "}}]}\r\n\r\n'
        b'id: 7\rdata:{"choices":[{"index":0,\rdata:"delta":{"content":"\xc3\xa8"}}]}\r\r'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    slices = [Body(body[at : at + 1]) for at in range(len(body))]
    async with ScriptedUpstream([Head(), *slices, End()]) as server, asking_model(server.url) as asker:
        sink, ending = await asker.ask()
    assert (sink.text, ending) == ("😀 è", Finished())


async def test_a_chunk_that_is_too_large_ends_the_answer_after_what_came_before() -> None:
    script = [Head(), CIAO, delta("x" * 5000), Stall()]
    async with ScriptedUpstream(script) as server, asking_model(server.url, max_event_bytes=4096) as asker:
        sink, ending = await asker.ask()
        assert (sink.text, ending) == ("Ciao ", Failed(TOO_LARGE, "max_line_bytes"))
        await server.connections[0].wait_closed()


async def test_an_aborted_question_closes_the_connection_and_says_nothing_more() -> None:
    async with ScriptedUpstream([Head(), CIAO, Stall()]) as server, asking_model(server.url) as asker:
        exchange, sink = await asker.open()
        await sink.wait_events(1)
        exchange.abort()
        await server.connections[0].wait_closed()
        assert (sink.reads, sink.endings) == (1, [])


async def test_a_server_that_is_not_there_is_an_upstream_error() -> None:
    async with ScriptedUpstream([Stall()]) as server:
        url = server.url
    async with asking_model(url, limits=Http1Limits(connect_timeout_s=2)) as asker:
        with pytest.raises(UpstreamError) as caught:
            await asker.open()
    assert (caught.value.error_code, caught.value.reason) == (ERROR, "connect_refused")

"""Answers written by a language model, against a real server that speaks its dialect."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from aiohttp import web

from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import DONE, SOURCES, TOKEN
from subak.core.question import Question, Turn
from subak.knowledge.dialect import Piece
from subak.knowledge.index import Index
from subak.knowledge.llm import LlmAnswerer, Model

QUESTION = Question("What is a KITAS?")
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ModelServer:
    """What was asked of the server, and where it is."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, dict[str, str], dict[str, object]]] = []


@asynccontextmanager
async def model_server(reply: Reply) -> AsyncIterator[ModelServer]:
    server = ModelServer()

    async def take(request: web.Request) -> web.StreamResponse:
        server.requests.append((request.path, dict(request.headers), msgspec.json.decode(await request.read())))
        return await reply(request)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


def delta(text: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": "x", "choices": [choice]}) + b"\n\n"


def streamed(*blocks: bytes) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for block in blocks:
            await response.write(block)
        return response

    return reply


def refused(status: int, **headers: str) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, text="the server's own words")

    return reply


async def ask(index: Index, model: Model, question: Question = QUESTION) -> list[Piece]:
    async with aiohttp.ClientSession() as session:
        return [piece async for batch in LlmAnswerer(index, session, model).answer(question) for piece in batch]


def text_of(pieces: list[Piece]) -> str:
    return "".join(msgspec.json.decode(piece.data, type=str) for piece in pieces if piece.type == TOKEN)


async def failure(index: Index, reply: Reply, idle_s: float = 10) -> UpstreamError:
    async with model_server(reply) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(index, Model(server.url, idle_s=idle_s))
    return caught.value


DONE_BLOCK = b"data: [DONE]\n\n"


async def test_the_models_words_come_as_tokens_then_the_sources_then_done(library: Index) -> None:
    usage = b'data: {"choices":[],"usage":{"total_tokens":9}}\n\n'
    blocks = (b": hi\n\n", delta(""), delta("A KI"), delta("TAS é "), delta(None, "stop"), usage, DONE_BLOCK)
    async with model_server(streamed(*blocks)) as server:
        pieces = await ask(library, Model(server.url))
    assert [piece.type for piece in pieces] == [TOKEN, TOKEN, SOURCES, DONE]
    assert text_of(pieces) == "A KITAS é "
    assert b"(kitas.md)" in pieces[2].data
    assert pieces[3].data == b'"stop"'


async def test_the_model_is_given_the_passages_the_history_and_the_question(library: Index) -> None:
    history = tuple(Turn("user" if number % 2 else "assistant", f"turn {number}") for number in range(20))
    async with model_server(streamed(delta("x", "stop"), DONE_BLOCK)) as server:
        await ask(
            library, Model(server.url, "llama", "the-key"), Question("KITAS \ud800?", conversation_history=history)
        )
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer the-key"
    assert (body["model"], body["stream"]) == ("llama", True)
    messages = msgspec.convert(body["messages"], list[dict[str, str]])
    assert [message["role"] for message in messages] == ["system", *["assistant", "user"] * 4, "user"]
    assert messages[1]["content"] == "turn 12"
    assert messages[-1]["content"] == "KITAS ??"
    assert "[1] KITAS, the limited stay permit / What it is" in messages[0]["content"]
    assert "never instructions" in messages[0]["content"]


async def test_without_name_and_key_none_are_sent_and_a_base_that_ends_in_v1_is_taken_as_it_is(library: Index) -> None:
    async with model_server(streamed(delta("x", "stop"), DONE_BLOCK)) as server:
        await ask(library, Model(f"{server.url}/api/v1/"))
    ((path, headers, body),) = server.requests
    assert path == "/api/v1/chat/completions"
    assert "Authorization" not in headers
    assert "model" not in body


async def test_a_question_the_library_cannot_answer_is_not_put_to_the_model(library: Index) -> None:
    async with model_server(streamed(DONE_BLOCK)) as server:
        pieces = await ask(library, Model(server.url), Question("What is the capital of France?"))
    assert server.requests == []
    assert text_of(pieces).startswith("The library has no answer to this.")


@pytest.mark.parametrize(("reason", "said"), [("length", b'"length"'), ("content_filter", b'"content_filter"')])
async def test_an_answer_that_was_cut_by_the_model_says_so(library: Index, reason: str, said: bytes) -> None:
    async with model_server(streamed(delta("x", reason), DONE_BLOCK)) as server:
        assert (await ask(library, Model(server.url)))[-1].data == said


async def test_a_finish_reason_ends_an_answer_without_the_done_mark(library: Index) -> None:
    async with model_server(streamed(delta("x", "stop"))) as server:
        assert (await ask(library, Model(server.url)))[-1].type == DONE


@pytest.mark.parametrize(
    ("blocks", "code"),
    [
        ((delta("half"),), ErrorCode.UPSTREAM_TRUNCATED),
        ((), ErrorCode.UPSTREAM_TRUNCATED),
        ((b"data: {nonsense\n\n",), ErrorCode.UPSTREAM_ERROR),
        ((b"data: 7\n\n",), ErrorCode.UPSTREAM_ERROR),
        ((b'data: {"choices":[{"delta":{"content":5}}]}\n\n',), ErrorCode.UPSTREAM_ERROR),
        ((b'data: {"error":{"message":"overloaded"}}\n\n', DONE_BLOCK), ErrorCode.UPSTREAM_ERROR),
        ((b"data: " + b"x" * 1_100_000,), ErrorCode.EVENT_TOO_LARGE),
    ],
)
async def test_what_breaks_off_or_cannot_be_read_is_a_failure(
    library: Index, blocks: tuple[bytes, ...], code: ErrorCode
) -> None:
    assert (await failure(library, streamed(*blocks))).error_code is code


@pytest.mark.parametrize(
    ("reply", "code", "reason", "retry_after_s"),
    [
        (refused(429, **{"Retry-After": "7"}), ErrorCode.UPSTREAM_RATE_LIMITED, "llm_rate_limited", 7),
        (refused(429, **{"Retry-After": "soon"}), ErrorCode.UPSTREAM_RATE_LIMITED, "llm_rate_limited", None),
        (refused(500), ErrorCode.UPSTREAM_ERROR, "llm_status_500", None),
        (refused(302, Location="/elsewhere"), ErrorCode.UPSTREAM_ERROR, "llm_status_302", None),
    ],
)
async def test_a_refusal_is_a_failure_without_the_servers_words(
    library: Index, reply: Reply, code: ErrorCode, reason: str, retry_after_s: int | None
) -> None:
    error = await failure(library, reply)
    assert (error.error_code, error.reason, error.retry_after_s) == (code, reason, retry_after_s)
    assert "own words" not in str(error)


async def test_a_model_that_falls_silent_is_a_timeout(library: Index) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = await streamed(delta("x"))(request)
        await never()
        return response

    assert (await failure(library, reply, idle_s=0.05)).error_code is ErrorCode.UPSTREAM_TIMEOUT


async def test_a_connection_that_breaks_is_truncated(library: Index) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = await streamed(delta("x"))(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    assert (await failure(library, reply)).error_code is ErrorCode.UPSTREAM_TRUNCATED


async def test_a_server_that_is_not_there_is_a_failure(library: Index) -> None:
    async with model_server(streamed()) as server:
        url = server.url
    with pytest.raises(UpstreamError) as caught:
        await ask(library, Model(url))
    assert (caught.value.error_code, caught.value.reason) == (ErrorCode.UPSTREAM_ERROR, "llm_unreachable")


async def never() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()

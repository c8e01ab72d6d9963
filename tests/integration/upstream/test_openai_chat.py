"""`/chat` on a server of chat completions, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from subak.core.asked import MAX_BODY_BYTES, ChatReply
from subak.testing import Body, Close, End, FakeClock, Head, Raw, ScriptedUpstream, Stall, Step
from subak.upstream.openai import OpenAiRequests, OpenAiTarget
from subak.upstream.openai_chat import MAX_ANSWER_BYTES, OpenAiChat
from tests.integration.upstream.asking_model import bearer

JSON = {"Content-Type": "application/json"}
ASKED = b'{"query": "Ciao?"}'


@asynccontextmanager
async def chatting(target: OpenAiTarget | str, timeout_s: float = 10) -> AsyncIterator[OpenAiChat]:
    """A chat backend with the session that the gateway gives its own."""
    requests = OpenAiRequests(OpenAiTarget(url=target) if isinstance(target, str) else target)
    async with aiohttp.ClientSession(
        auto_decompress=False, skip_auto_headers=("User-Agent",), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield OpenAiChat(session, requests, clock=FakeClock(), timeout_s=timeout_s)


def whole(message: object, finish_reason: str = "stop", **members: object) -> list[Step]:
    """Answer with a completion of one choice."""
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return answer(json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], **members}))


def answer(body: str) -> list[Step]:
    return [Head(200, JSON), Body(body.encode()), End()]


def content_of(reply: ChatReply) -> object:
    assert ("Content-Type", "application/json") in reply.headers
    return json.loads(reply.body)


async def replied(script: list[Step], body: bytes = ASKED, content_type: str | None = "application/json") -> ChatReply:
    async with ScriptedUpstream(script) as server, chatting(server.url) as chat:
        return await chat.answer(body, content_type)


async def test_a_question_gets_the_seeds_answer() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    reply = await replied(whole({"role": "assistant", "content": "Ciao 😀"}, model="m-2", usage=usage))
    assert reply.status == 200
    assert content_of(reply) == {
        "success": True,
        "response": "Ciao 😀",
        "model_used": "m-2",
        "ai_used": "m-2",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details.cached_tokens": 1},
    }


async def test_the_question_is_put_as_for_a_stream_but_whole() -> None:
    body = b'{"query": "E?", "user_email": "a@b.c", "conversation_history": [{"role": "user", "content": "Ciao"}]}'
    async with ScriptedUpstream(whole({"content": "x"})) as server:
        target = OpenAiTarget(
            url=f"{server.url}/a%2Fb%41/v1",
            model="m",
            system_prompt="Be brief.",
            headers=bearer("the-key"),
            user_agent="subak/1",
        )
        async with chatting(target) as chat:
            await chat.answer(body, "application/json; charset=utf-8")
        (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/a%2Fb%41/v1/chat/completions")
    assert json.loads(request.body) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Ciao"},
            {"role": "user", "content": "E?"},
        ],
        "stream": False,
    }
    headers = request.headers
    assert (headers["accept"], headers["accept-encoding"]) == ("application/json", "identity")
    assert (headers["authorization"], headers["user-agent"]) == ("Bearer the-key", "subak/1")


@pytest.mark.parametrize(
    ("configured", "reported", "name"),
    [("m", {}, "m"), (None, {}, "language-model"), ("m", {"model": ""}, "m"), ("m", {"model": 7}, "m")],
)
async def test_the_model_is_named_by_the_server_or_the_settings(
    configured: str | None, reported: dict[str, object], name: str
) -> None:
    script = whole({"content": "x"}, "stop", **reported)
    async with (
        ScriptedUpstream(script) as server,
        chatting(OpenAiTarget(url=server.url, model=configured)) as chat,
    ):
        reply = await chat.answer(ASKED, None)
    assert content_of(reply) == {"success": True, "response": "x", "model_used": name, "ai_used": name}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": None, "refusal": "I can't"}, "I can't"),
        ({"content": None, "tool_calls": [{}]}, ""),
        ({"content": "a", "reasoning_content": "thought"}, "a"),
        ({"content": "a\ud83d\ude00\ud83d"}, "a😀\ufffd"),
    ],
)
async def test_the_text_is_what_a_stream_would_give(message: object, text: str) -> None:
    content = content_of(await replied(whole(message, "length")))
    assert isinstance(content, dict)
    assert content["response"] == text


@pytest.mark.parametrize(
    ("body", "content_type", "status", "place"),
    [
        (b"nonsense", "application/json", 422, ["body"]),
        (b"{}", "application/json", 422, ["body", "query"]),
        (b'{"query": " "}', None, 422, ["body", "query"]),
        (
            b'{"query": "a", "conversation_history": [{"role": "system", "content": "secret"}]}',
            None,
            422,
            ["body", "conversation_history", 0, "role"],
        ),
        (b'{"query": "%b"}' % (b"x" * MAX_BODY_BYTES), None, 413, ["body"]),
        (ASKED, "text/plain", 415, ["header", "content-type"]),
    ],
    ids=["no json", "no query", "empty", "role", "large", "type"],
)
async def test_what_cannot_be_understood_is_refused_without_asking(
    body: bytes, content_type: str | None, status: int, place: list[object]
) -> None:
    async with ScriptedUpstream(whole({"content": "x"})) as server, chatting(server.url) as chat:
        reply = await chat.answer(body, content_type)
        assert not server.connections
    content = content_of(reply)
    assert isinstance(content, dict)
    assert (reply.status, content["detail"][0]["loc"]) == (status, place)
    assert b"secret" not in reply.body


@pytest.mark.parametrize(
    ("answered", "headers", "status", "retry_after"),
    [
        (400, {}, 502, None),
        (401, {}, 502, None),
        (403, {}, 502, None),
        (404, {}, 502, None),
        (429, {"Retry-After": "34"}, 429, "34"),
        (429, {}, 429, None),
        (500, {}, 502, None),
        (503, {"Retry-After": "7"}, 503, "7"),
    ],
)
async def test_a_refusal_of_the_server_is_told_without_its_words(
    answered: int, headers: dict[str, str], status: int, retry_after: str | None
) -> None:
    reply = await replied([Head(answered, {**JSON, **headers}), Body(b'{"error": "secret"}'), End()])
    assert (reply.status, dict(reply.headers).get("Retry-After")) == (status, retry_after)
    assert b"secret" not in reply.body


@pytest.mark.parametrize("status", [301, 302, 307])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with ScriptedUpstream(whole({"content": "secret"})) as elsewhere:
        head = Head(status, {"Location": f"{elsewhere.url}/v1/chat/completions"})
        reply = await replied([head, End()])
        assert not elsewhere.connections
    assert reply.status == 502


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (answer('{"error": {"message": "secret"}}'), 502),
        (answer('{"error": {"message": "secret", "code": 429}}'), 429),
        (answer("secret"), 502),
        (answer('{"choices": []}'), 502),
        (answer('{"choices": [{"index": 1, "message": {"content": "secret"}}]}'), 502),
        (answer('"secret"'), 502),
        (whole({"content": "secret"}, "error"), 502),
        (whole({"content": "secret"}, "abort"), 502),
        (answer("[" * 100_000), 502),
        ([Head(200, {"Content-Type": "text/html"}), Body(b"secret"), End()], 502),
        ([Head(200, {**JSON, "Content-Encoding": "gzip"}), Body(b"secret"), End()], 502),
        ([Head(200, JSON), Body(b'{"choices": ['), Close()], 502),
        ([Raw(b"secret\r\n\r\n"), Close()], 502),
        ([Head(200, JSON), *[Body(bytes(65_536))] * (MAX_ANSWER_BYTES // 65_536 + 1), Stall()], 502),
    ],
    ids=[
        *("error", "limit", "no json", "no choice", "second choice", "no object", "broke", "aborted", "deep"),
        *("html", "gzip", "cut", "no http", "large"),
    ],
)
async def test_what_is_no_answer_is_a_bad_gateway(script: list[Step], status: int) -> None:
    reply = await replied(script)
    assert reply.status == status
    assert b"secret" not in reply.body


@pytest.mark.parametrize("script", [[Stall()], [Head(200, JSON), Body(b'{"choices": ['), Stall()]], ids=["all", "part"])
async def test_a_server_that_is_silent_too_long_is_a_gateway_timeout(script: list[Step]) -> None:
    async with ScriptedUpstream(script) as server, chatting(server.url, timeout_s=0.05) as chat:
        reply = await chat.answer(ASKED, None)
        await server.connections[0].wait_closed()
    assert reply.status == 504


async def test_a_server_that_is_not_there_is_a_bad_gateway() -> None:
    async with ScriptedUpstream([Stall()]) as server:
        url = server.url
    async with chatting(url) as chat:
        assert (await chat.answer(ASKED, None)).status == 502


async def test_a_missing_token_file_is_a_bad_gateway(tmp_path: Path) -> None:
    async with ScriptedUpstream(whole({"content": "x"})) as server:
        async with chatting(OpenAiTarget(url=server.url, token_file=tmp_path / "none")) as chat:
            assert (await chat.answer(ASKED, None)).status == 502
        assert not server.connections


async def test_a_caller_that_leaves_closes_the_connection() -> None:
    async with ScriptedUpstream([Stall()]) as server, chatting(server.url) as chat, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(chat.answer(ASKED, None))
        await server.wait_questions(1)
        asking.cancel()
        await server.connections[0].wait_closed()

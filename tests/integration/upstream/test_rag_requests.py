"""How a question is put to the RAG backend (PROTOCOL §5): as the backend sees it."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from subak.core.errors import QuestionTooLong, UpstreamError
from subak.core.question import Question, Turn
from subak.testing import End, Frame, Head, RecordedRequest, ScriptedUpstream, Step
from subak.upstream.rag import MAX_ID_BYTES, Method, RagBounds, RagTarget
from tests.integration.upstream.asking import asking

ANSWER: list[Step] = [Head(), Frame('{"done": true}'), End()]
FULL = Question(
    "Quanto costa il KITAS? & così=via\u2028\n",
    user_email="a+b@example.org",
    user_role="member",
    conversation_history=(Turn("user", "Ciao"), Turn("assistant", "Benvenuto 😀")),
    session_id="s-1",
    continuity_id="c-1",
)
LONG = Question("è" * 2000)  # 12 000 bytes percent-encoded


async def _request_for(
    question: Question,
    *,
    method: Method = "get",
    headers: Mapping[str, str] | None = None,
    token_file: Path | None = None,
    bounds: RagBounds | None = None,
    prefix: str = "",
) -> RecordedRequest:
    async with ScriptedUpstream(ANSWER) as upstream:
        target = RagTarget(
            url=upstream.url + prefix,
            method=method,
            headers=headers or {},
            token_file=token_file,
            user_agent="subak/1.2.3",
        )
        async with asking(target, bounds=bounds) as asker:
            await asker.ask(question)
        (request,) = upstream.requests
    return request


async def test_get_carries_the_fields_percent_encoded() -> None:
    request = await _request_for(FULL)
    parts = urlsplit(request.target)
    assert (request.method, parts.path, request.body) == ("GET", "/bali-zero/chat-stream", b"")
    assert "+" not in parts.query
    fields = parse_qs(parts.query, strict_parsing=True)
    history = json.loads(fields.pop("conversation_history")[0])
    assert fields == {
        "query": [FULL.query],
        "user_email": ["a+b@example.org"],
        "user_role": ["member"],
    }
    assert history == [{"role": "user", "content": "Ciao"}, {"role": "assistant", "content": "Benvenuto 😀"}]


async def test_post_carries_the_fields_as_json() -> None:
    request = await _request_for(FULL, method="post")
    assert (request.method, request.target) == ("POST", "/bali-zero/chat-stream")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(request.body))
    assert json.loads(request.body) == {
        "query": FULL.query,
        "user_email": "a+b@example.org",
        "user_role": "member",
        "conversation_history": [
            {"role": "user", "content": "Ciao"},
            {"role": "assistant", "content": "Benvenuto 😀"},
        ],
    }


@pytest.mark.parametrize("method", ["get", "post"])
async def test_fields_that_were_not_given_are_not_sent_and_an_empty_history_is(method: Method) -> None:
    request = await _request_for(Question("x"), method=method)
    assert "user_email" not in request.target + request.body.decode()
    assert "conversation_history" not in request.target + request.body.decode()
    empty = await _request_for(Question("x", conversation_history=()), method=method)
    assert "conversation_history" in empty.target + empty.body.decode()


async def test_headers_say_who_asks_and_what_for() -> None:
    headers = (await _request_for(FULL, headers={"X-Api-Key": "the-key", "Authorization": "Bearer abc"})).headers
    assert headers["accept"] == "text/event-stream"
    assert headers["user-agent"] == "subak/1.2.3"
    assert headers["x-api-key"] == "the-key"
    assert headers["authorization"] == "Bearer abc"
    assert headers["x-session-id"] == "s-1"
    assert headers["x-continuity-id"] == "c-1"


@pytest.mark.parametrize("name", ["User-Agent", "user-agent", "USER-AGENT"])
async def test_settings_may_name_another_user_agent_in_any_letter_case(name: str) -> None:
    heads: list[bytes] = []

    async def take_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(take_head, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asking(RagTarget(url=f"http://127.0.0.1:{port}", headers={name: "other"})) as asker:
            await asker.ask()
    (head,) = heads
    lines = [line for line in head.decode().splitlines() if line.lower().startswith("user-agent:")]
    assert lines == [f"{name}: other"]


@pytest.mark.parametrize(
    "hostile", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "è", "a b", "", "\u2028", "a" * (MAX_ID_BYTES + 1)], ids=repr
)
async def test_ids_that_could_break_the_request_are_not_forwarded(hostile: str) -> None:
    request = await _request_for(Question("x", session_id=hostile, continuity_id=hostile))
    assert not {"x-session-id", "x-continuity-id", "x-evil"} & request.headers.keys()


@pytest.mark.parametrize("method", ["get", "post"])
async def test_the_backend_hears_who_asks_and_whether_anything_vouches_for_it(method: Method) -> None:
    verified = Question("x", user_email="ann@example.org", user_id="auth0|42", tenant="acme", is_verified=True)
    request = await _request_for(verified, method=method)
    assert _identity(request) == {"x-user-verified": "true", "x-user-id": "auth0|42", "x-user-tenant": "acme"}
    assert _identity(await _request_for(Question("x", user_email="ann@example.org"), method=method)) == {
        "x-user-verified": "false"
    }


@pytest.mark.parametrize("user_id", ["è 😀", "100%", "%41", "a b", "a\r\nx-user-verified: true"])
async def test_an_id_that_is_not_visible_ascii_is_percent_encoded(user_id: str) -> None:
    request = await _request_for(Question("x", user_id=user_id))
    assert unquote(request.headers["x-user-id"]) == user_id
    assert request.headers["x-user-id"].isprintable()
    assert request.headers["x-user-verified"] == "false"


@pytest.mark.parametrize("name", ["x-user-id", "X-User-Verified", "x-user-tenant"])
async def test_settings_may_not_say_who_asks(name: str) -> None:
    with pytest.raises(ValueError, match="set by the gateway itself"):
        await _request_for(Question("x"), headers={name: "true"})


def _identity(request: RecordedRequest) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.startswith("x-user-")}


async def test_a_path_prefix_of_the_url_is_kept() -> None:
    assert (await _request_for(Question("x"), prefix="/rag/")).target == "/rag/bali-zero/chat-stream?query=x"


async def test_auto_posts_what_makes_a_longer_url() -> None:
    edge = len("/bali-zero/chat-stream?query=x")
    request = await _request_for(Question("x"), method="auto", bounds=RagBounds(max_get_url_bytes=edge))
    assert request.method == "GET"
    request = await _request_for(Question("xx"), method="auto", bounds=RagBounds(max_get_url_bytes=edge))
    assert (request.method, json.loads(request.body)) == ("POST", {"query": "xx"})
    assert (await _request_for(LONG, method="auto")).method == "POST"


async def test_a_question_too_long_for_get_is_refused_naming_the_setting() -> None:
    async with ScriptedUpstream(ANSWER) as upstream:
        async with asking(upstream.url) as asker:
            asker.upstream.check(FULL)
            with pytest.raises(QuestionTooLong, match="SUBAK_UPSTREAM__METHOD"):
                asker.upstream.check(LONG)
            with pytest.raises(UpstreamError) as caught:
                await asker.open(LONG)
            assert caught.value.reason == "question_too_long"
        assert not upstream.connections


@pytest.mark.parametrize("method", ["auto", "post"])
async def test_a_long_question_may_be_posted(method: Method) -> None:
    async with ScriptedUpstream(ANSWER) as upstream, asking(RagTarget(url=upstream.url, method=method)) as asker:
        asker.upstream.check(LONG)


async def test_the_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with ScriptedUpstream(ANSWER) as upstream, asking(RagTarget(url=upstream.url, token_file=token)) as asker:
        await asker.ask()
        await asker.ask()
        renewed = tmp_path / "renewed"
        renewed.write_text("second")
        renewed.replace(token)
        await asker.ask()
        sent = [request.headers["authorization"] for request in upstream.requests]
    assert sent == ["Bearer first", "Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [None, b"", b"two words", b"a\r\nX-Evil: 1", b"\xff"], ids=repr)
async def test_a_token_file_without_a_token_is_an_upstream_error(tmp_path: Path, content: bytes | None) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    async with ScriptedUpstream(ANSWER) as upstream:
        async with asking(RagTarget(url=upstream.url, token_file=token)) as asker:
            with pytest.raises(UpstreamError) as caught:
                await asker.open()
        assert caught.value.reason == "token_file"
        assert not upstream.connections

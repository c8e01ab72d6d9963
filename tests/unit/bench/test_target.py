"""Where questions go, and what a request looks like."""

import re
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from subak.bench.target import DEFAULT_QUERY, QuestionFileError, Target, read_questions

CHAT_STREAM = "/api/v2/bali-zero/chat-stream"


def head_and_body(request: bytes) -> tuple[list[str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head.decode("ascii").split("\r\n"), body


@pytest.mark.parametrize(
    ("url", "path", "stop_prefix"),
    [
        ("http://127.0.0.1:8080", CHAT_STREAM, "/v1/streams"),
        ("http://127.0.0.1:8080/", CHAT_STREAM, "/v1/streams"),
        (f"http://127.0.0.1:8080{CHAT_STREAM}", CHAT_STREAM, "/v1/streams"),
        ("https://example.org/subak", f"/subak{CHAT_STREAM}", "/subak/v1/streams"),
        ("https://example.org/subak/v1/streams", "/subak/v1/streams", "/subak/v1/streams"),
        ("http://rag:8000/bali-zero/chat-stream", "/bali-zero/chat-stream", "/bali-zero/chat-stream/v1/streams"),
    ],
)
def test_a_url_names_a_gateway_or_its_route(url: str, path: str, stop_prefix: str) -> None:
    target = Target.of(url)
    assert (target.path, target.stop_prefix) == (path, stop_prefix)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://example.org", "http://user:pw@example.org", "http://x/?q=1"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        Target.of(url)


@pytest.mark.parametrize("header", [{"Host": "x"}, {"content-length": "3"}, {"X-Name": "é"}])
def test_headers_that_would_break_a_request_are_refused(header: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="can't be sent"):
        Target.of("http://127.0.0.1", headers=header)


def test_a_question_is_posted_as_json_with_a_key_of_its_own() -> None:
    target = Target.of("http://127.0.0.1:8080", headers={"X-API-Key": "k", "Accept": "text/html"})
    keys = set()
    for _ in range(3):
        lines, body = head_and_body(target.ask({"query": "Ciao?"}))
        assert lines[0] == f"POST {CHAT_STREAM} HTTP/1.1"
        assert {"host: 127.0.0.1:8080", "x-api-key: k", "accept: text/event-stream"} <= set(lines)
        assert f"content-length: {len(body)}" in lines
        assert msgspec.json.decode(body) == {"query": "Ciao?"}
        keys |= {line for line in lines if re.fullmatch(r"idempotency-key: [\w-]{22,}", line)}
    assert len(keys) == 3


def test_a_get_has_the_question_in_its_url() -> None:
    lines, body = head_and_body(
        Target.of("http://127.0.0.1:8080", method="get").ask({"query": DEFAULT_QUERY, "conversation_history": []})
    )
    target = lines[0].split(" ")[1]
    assert parse_qs(urlsplit(target).query) == {"query": [DEFAULT_QUERY], "conversation_history": ["[]"]}
    assert body == b""
    assert not [line for line in lines if line.startswith("content-")]


def test_stop_names_the_stream() -> None:
    lines, _ = head_and_body(Target.of("http://127.0.0.1:8080").stop("st_abc"))
    assert lines[0] == "POST /v1/streams/st_abc/stop HTTP/1.1"
    assert "content-length: 0" in lines


def test_a_file_holds_a_question_a_line_as_text_or_as_fields() -> None:
    assert read_questions('What is a KITAS?\n\n{"query": "And a VOA?", "user_role": "member"}\n') == [
        {"query": "What is a KITAS?"},
        {"query": "And a VOA?", "user_role": "member"},
    ]


@pytest.mark.parametrize("text", ["", "\n \n", '{"query": 1}', "{", '{"question": "x"}'])
def test_a_file_that_holds_something_else_is_refused(text: str) -> None:
    with pytest.raises(QuestionFileError):
        read_questions(text)

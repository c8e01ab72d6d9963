"""What `/chat` is asked: read, or refused with the place of the fault and without an echo."""

import msgspec
import pytest

from subak.core.asked import (
    MAX_BODY_BYTES,
    MAX_HISTORY_TURNS,
    MAX_QUERY_CHARS,
    Unprocessable,
    json_reply,
    question_of_body,
    question_of_parameters,
)
from subak.core.question import Question, Turn

HISTORY = '[{"role": "user", "content": "Ciao"}]'
FULL = Question("q", "a@b.c", "member", (Turn("user", "Ciao"),))


def refused(body: bytes, content_type: str | None = None) -> tuple[int, object]:
    with pytest.raises(Unprocessable) as caught:
        question_of_body(body, content_type)
    return _told(caught.value)


def _told(error: Unprocessable) -> tuple[int, object]:
    assert b"secret" not in error.reply.body
    (detail,) = msgspec.json.decode(error.reply.body)["detail"]
    assert set(detail) == {"type", "loc", "msg"}
    return error.reply.status, detail["loc"]


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "Application/JSON; charset=x", "application/a+json"]
)
def test_a_body_is_read(content_type: str | None) -> None:
    body = f'{{"query": "q", "user_email": "a@b.c", "user_role": "member", "conversation_history": {HISTORY}, "x": 1}}'
    assert question_of_body(body.encode(), content_type) == FULL


def test_parameters_are_read() -> None:
    given = {"query": "q", "user_email": "a@b.c", "user_role": "member", "conversation_history": HISTORY}
    assert question_of_parameters(given) == FULL
    assert question_of_parameters({"query": "q", "conversation_history": ""}) == Question("q")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", ["body"]),
        (b"secret", ["body"]),
        (b'{"query": "\xff"}', ["body"]),
        (b'{"query": "secret", "n": ' + b"[" * 100_000, ["body"]),
        (b'"secret"', ["body"]),
        (b"{}", ["body", "query"]),
        (b'{"query": 7}', ["body", "query"]),
        (b'{"query": " \\n"}', ["body", "query"]),
        (b'{"query": "%b"}' % (b"x" * (MAX_QUERY_CHARS + 1)), ["body", "query"]),
        (b'{"query": "q", "conversation_history": [{"role": "user"}]}', ["body", "conversation_history", 0, "content"]),
        (
            b'{"query": "q", "conversation_history": [{"role": "secret", "content": ""}]}',
            ["body", "conversation_history", 0, "role"],
        ),
        (
            b'{"query": "q", "conversation_history": [%b]}'
            % b", ".join([b'{"role": "user", "content": ""}'] * (MAX_HISTORY_TURNS + 1)),
            ["body", "conversation_history"],
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_does_not_fit_is_refused_with_the_place(body: bytes, place: list[object]) -> None:
    assert refused(body) == (422, place)


def test_a_body_that_is_too_large_or_no_json_by_its_type_is_refused() -> None:
    assert refused(b" " * (MAX_BODY_BYTES + 1)) == (413, ["body"])
    assert refused(b'{"query": "secret"}', "text/plain") == (415, ["header", "content-type"])


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({}, ["query", "query"]),
        ({"query": " "}, ["query", "query"]),
        ({"query": "q", "conversation_history": "secret"}, ["query", "conversation_history"]),
        ({"query": "q", "conversation_history": "\ud800"}, ["query", "conversation_history"]),
        ({"query": "q", "conversation_history": '[{"role": "user"}]'}, ["query", "conversation_history", 0, "content"]),
    ],
    ids=repr,
)
def test_parameters_that_do_not_fit_are_refused_with_the_place(parameters: dict[str, str], place: list[object]) -> None:
    with pytest.raises(Unprocessable) as caught:
        question_of_parameters(parameters)
    assert _told(caught.value) == (422, place)


def test_a_reply_is_json_with_its_headers() -> None:
    reply = json_reply(429, {"detail": "x"}, {"Retry-After": "3"})
    assert (reply.status, reply.body) == (429, b'{"detail":"x"}')
    assert reply.headers == (("Content-Type", "application/json"), ("Retry-After", "3"))

"""The embedded backend and `subak backend` over a socket: a reader can't tell them apart."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import msgspec
import pytest

from tests.integration.gateway import (
    CHAT,
    CHAT_STREAM,
    Answer,
    Running,
    ask,
    get,
    post,
    process,
    question_url,
    running,
    terminal_of,
    text_of,
)

QUESTIONS = [
    "What documents do I need for B211A visa?",
    "What is a KITAS?",
    "Wie gründe ich eine PT PMA? ☀",
    "xyzzy plugh",
    'a "quoted" \\ question\n\x00 with <b>odd</b> letters',
]
TIMES = re.compile(rb'("timestamp":)\d{13}|("(?:firstTokenLatency|duration)":)[0-9.e-]+')
IDS = re.compile(rb"st_[A-Za-z0-9_-]{28}|c_[A-Za-z0-9_-]{16,}")


class Both(NamedTuple):
    """One gateway with the embedded backend and one before `subak backend`."""

    embedded: Running
    remote: Running


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(process("backend", "--port", "0"))
        embedded = await stack.enter_async_context(running())
        remote = await stack.enter_async_context(running(await backend.url(), kept=2))
        yield Both(embedded, remote)


def timeless(body: bytes) -> bytes:
    """Give an event stream without its ids and times."""
    return re.sub(rb"retry: \d+", b"retry: N", IDS.sub(b"ID", TIMES.sub(rb"\1\2T", body)))


async def test_the_same_question_gives_the_same_bytes_but_for_ids_and_times(both: Both) -> None:
    for question in QUESTIONS:
        history = [{"role": "user", "content": "Ciao"}, {"role": "assistant", "content": "Ciao!"}]
        fields = {"query": question, "user_role": "member", "conversation_history": history}
        embedded, remote = [await post(gateway, CHAT_STREAM, fields) for gateway in both]
        assert terminal_of(embedded.frames).type == "done"
        assert timeless(embedded.body) == timeless(remote.body)
        assert len(embedded.body) - len(remote.body) <= 20  # nothing but figures was taken out


async def test_the_same_question_gives_the_same_answer_of_chat(both: Both) -> None:
    turns = [{"role": "system", "content": "x"}]
    for fields in (
        *({"query": question} for question in QUESTIONS),
        {},
        [],
        {"query": 5},
        {"query": "x", "conversation_history": turns},
    ):
        embedded, remote = [await post(gateway, CHAT, fields) for gateway in both]
        assert _essence(embedded) == _essence(remote)
    for body, content_type in ((b"{", "application/json"), (b"", "application/json"), (b"{}", "text/plain")):
        embedded, remote = [
            await ask(gateway, "POST", CHAT, [("Content-Type", content_type)], body) for gateway in both
        ]
        assert _essence(embedded) == _essence(remote)


def _essence(answer: Answer) -> tuple[int, bytes, str | None]:
    return answer.status, answer.body, answer.header("Content-Type")


async def test_question_about_b211a_gets_a_sourced_answer(both: Both) -> None:
    for gateway in both:
        frames = (await get(gateway, question_url(QUESTIONS[0]))).frames
        (sources,) = [frame.data for frame in frames if frame.type == "sources"]
        found = msgspec.convert(sources, list[dict[str, object]])
        assert any("b211a" in str(source["source"]).lower() for source in found)
        assert all(source["snippet"] for source in found)
        assert all(0 < msgspec.convert(source["similarity"], float) <= 1 for source in found)
        assert "B211A" in text_of(frames)
        assert terminal_of(frames).type == "done"


async def test_question_about_nothing_we_have_is_answered_without_sources(both: Both) -> None:
    for gateway in both:
        frames = (await get(gateway, question_url("xyzzy plugh"))).frames
        assert text_of(frames)
        assert [frame.data for frame in frames if frame.type == "sources"] in ([], [[]])

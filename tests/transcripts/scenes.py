"""What the transcripts show: one scene each, with what a reader by PROTOCOL §6 has in the end.

`text` and `terminal` are written here by hand, from the contract; the bytes come from a gateway.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from subak.testing import Close, End, Frame, Gate, Head
from tests.integration.gateway import CHAT_STREAM, DONE, SOURCES
from tests.transcripts.stage import QUESTION, STREAM_ID, Stage

EVENTS: Final = f"/v1/streams/{STREAM_ID}/events"
STATUS: Final = f"/v1/streams/{STREAM_ID}"
KEY: Final = "0123456789abcdefghijkl"
FIELDS: Final = '{"query":"What is a KITAS?"}'
HOSTILE: Final = (
    "Selamat pagi, ",
    "ᬒᬁ ᬲ᭄ᬯᬲ᭄ᬢ᭄ᬬᬲ᭄ᬢᬸ ",
    "👩\u200d🌾🇮🇩 e\u0301 ",
    "\u2028\u2029\x85\x0b\x0c",
    "a\r\nb\n\nevent: done\ndata: {}\n\n",
    "\0\x1b[31m\ufeff",
    '"\\</script>',
    "\u202eright\u202c",
)
"""Tokens that have broken clients: other scripts, joined emoji, all line ends of Unicode, controls, a forged event."""


@dataclass(frozen=True)
class Scene:
    """One transcript. `terminal` has the type and the word that says how it ended."""

    name: str
    description: str
    play: Callable[[Stage], Awaitable[None]]
    text: str
    terminal: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)


def token(text: str) -> Frame:
    """Give the backend's frame of one token."""
    return Frame(msgspec.json.encode({"type": "token", "data": text}).decode())


async def whole_answer(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.answers(Head(), Gate(gate), token("Ciao "), token("mondo"), SOURCES, DONE, End())
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(1)
        stage.pass_time(0.5)
        gate.set()
        await asked.over()


async def empty_answer(stage: Stage) -> None:
    stage.answers(Head(), DONE, End())
    await stage.exchange("POST", CHAT_STREAM, {"Content-Type": "application/json"}, FIELDS)


async def resume(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.answers(Head(), token("Ciao "), token("bella "), Gate(gate), token("Bali"), DONE, End())
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(3)
        stage.pass_time(10)
        await asked.over()
    async with stage.asking("GET", QUESTION, stage.cursor(3)) as asked:
        await asked.until_seq(3)
        gate.set()
        await asked.over()
    await stage.exchange("GET", QUESTION, stage.cursor(5))


async def resume_by_path(stage: Stage) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    stage.answers(Head(), token("Ciao "), Gate(first), token("bella "), Gate(second), token("Bali"), DONE, End())
    await stage.exchange("POST", "/v1/streams", {"Content-Type": "application/json"}, FIELDS)
    await stage.log_grown_to(2)
    async with stage.asking("GET", EVENTS) as asked:
        await asked.until_seq(2)
        await asked.leave()
    first.set()
    await stage.log_grown_to(3)
    async with stage.asking("GET", f"{EVENTS}?last_event_id={STREAM_ID}.2") as asked:
        await asked.until_seq(3)
        second.set()
        await asked.over()


async def cursor_ahead(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.answers(Head(), token("Ciao "), token("bella "), Gate(gate), token("Bali"), DONE, End())
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(3)
        await asked.leave()
    await stage.exchange("GET", EVENTS, stage.cursor(9))
    async with stage.asking("GET", f"{EVENTS}?on_gap=snapshot", stage.cursor(9)) as asked:
        await asked.until_line(f"id: {STREAM_ID}.3")
        gate.set()
        await asked.over()


async def cursor_expired(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.answers(Head(), token("Ciao "), Gate(gate), token("Bali"), DONE, End())
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(2)
        await asked.leave()
    gate.set()
    await stage.gateway.observer.ended()
    stage.pass_time(301)
    await stage.exchange("GET", EVENTS, stage.cursor(2))
    await stage.exchange("GET", f"{EVENTS}?on_gap=snapshot", stage.cursor(2))
    await stage.exchange("GET", STATUS)


async def stop(stage: Stage) -> None:
    stage.answers(Head(), token("Ciao "), token("bella "))
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(3)
        await stage.exchange("POST", f"{STATUS}/stop")
        await asked.over()
    await stage.exchange("DELETE", STATUS)


async def truncated(stage: Stage) -> None:
    stage.answers(Head(), token("Ciao "), Close())
    await stage.exchange("GET", QUESTION)
    await stage.exchange("GET", STATUS)


async def rate_limited(stage: Stage) -> None:
    stage.answers(Head(status=429, headers={"Retry-After": "7"}), End())
    await stage.exchange("GET", QUESTION)


async def heartbeat(stage: Stage) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    stage.answers(Head(), Gate(first), token("Ciao "), Gate(second), token("Bali"), DONE, End())
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(1)
        stage.pass_time(15)
        await asked.until_line(": hb")
        stage.pass_time(15)
        await asked.until_line("event: heartbeat")
        first.set()
        await asked.until_seq(2)
        stage.pass_time(30)
        second.set()
        await asked.over()


async def unicode(stage: Stage) -> None:
    stage.answers(Head(), *map(token, HOSTILE), DONE, End())
    await stage.exchange("GET", QUESTION)


async def abandoned(stage: Stage) -> None:
    stage.answers(Head(), token("Ciao "), token("bella "))
    async with stage.asking("GET", QUESTION) as asked:
        await asked.until_seq(3)
        await asked.leave()
    await stage.reader_left()
    stage.pass_time(31)
    await stage.exchange("GET", QUESTION, stage.cursor(1))
    await stage.exchange("GET", STATUS)


async def idempotent(stage: Stage) -> None:
    stage.answers(Head(), token("Ciao "), token("Bali"), DONE, End())
    headers = {"Content-Type": "application/json", "Idempotency-Key": KEY}
    await stage.exchange("POST", CHAT_STREAM, headers, FIELDS)
    await stage.exchange("POST", CHAT_STREAM, headers, FIELDS)
    await stage.exchange("POST", CHAT_STREAM, headers, '{"query":"What is a KITAP?"}')


async def drain(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.answers(Head(), token("Ciao "), Gate(gate), token("Bali"), DONE, End())
    async with asyncio.TaskGroup() as tasks:
        async with stage.asking("GET", QUESTION) as asked:
            await asked.until_seq(2)
            tasks.create_task(stage.gateway.gateway.drain())
            await asked.over()
        async with stage.asking("GET", QUESTION, stage.cursor(2)) as asked:
            await asked.until_seq(2)
            gate.set()
            await asked.over()
    await stage.exchange("GET", QUESTION)


SCENES: Final = (
    Scene(
        "whole-answer",
        "A question and all of its answer: metadata, two tokens, sources, done.",
        whole_answer,
        "Ciao mondo",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "empty-answer",
        "The backend had nothing to say: done without a token. Asked by POST.",
        empty_answer,
        "",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "resume",
        "The connection grows too old and is aborted after a heartbeat that bears `retry:`. The client asks the same "
        "URL with its cursor and gets the rest; asked again at the end, the answer is 204.",
        resume,
        "Ciao bella Bali",
        {"type": "done", "finish_reason": "stop"},
        {"SUBAK_STREAM__MAX_CONNECTION_AGE_S": "10"},
    ),
    Scene(
        "resume-by-path",
        "A stream made by POST /v1/streams (201) is followed by its events URL; the client hangs up and comes back "
        "with its cursor in the query.",
        resume_by_path,
        "Ciao bella Bali",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "cursor-ahead",
        "A cursor past the log's end is refused with 409; with on_gap=snapshot the text so far comes as one event that "
        "bears the id of the newest event, and the rest follows.",
        cursor_ahead,
        "Ciao bella Bali",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "cursor-expired",
        "The replay window is over: 410 with status_url; with on_gap=snapshot a snapshot and the terminal event; the "
        "status still has the text.",
        cursor_expired,
        "Ciao Bali",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "stop",
        "Somebody stops the answer: the partial text stays, done says cancelled. Stopping again changes nothing.",
        stop,
        "Ciao bella ",
        {"type": "done", "finish_reason": "cancelled"},
    ),
    Scene(
        "error-truncated",
        "The backend's connection dies in mid-answer: the partial text stays, the end is an error, never done.",
        truncated,
        "Ciao ",
        {"type": "error", "code": "upstream_truncated"},
    ),
    Scene(
        "error-rate-limited",
        "The backend answers 429 with Retry-After: an error event on a 200, with retryAfter in seconds.",
        rate_limited,
        "",
        {"type": "error", "code": "upstream_rate_limited"},
    ),
    Scene(
        "heartbeat",
        "Silence: a comment line after 15 s, a heartbeat event without id every 30 s. A comment is no block.",
        heartbeat,
        "Ciao Bali",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "unicode",
        "Tokens in many scripts, with line separators, control characters and a forged event: all of it is text.",
        unicode,
        "".join(HOSTILE),
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "abandoned",
        "The only reader hangs up and stays away for longer than the grace time: done says abandoned. A late reader "
        "gets what there is.",
        abandoned,
        "Ciao bella ",
        {"type": "done", "finish_reason": "abandoned"},
    ),
    Scene(
        "idempotent",
        "The same question with the same Idempotency-Key: the same stream again. Another question with that key: 422.",
        idempotent,
        "Ciao Bali",
        {"type": "done", "finish_reason": "stop"},
    ),
    Scene(
        "drain",
        "The process is going away: readers are aborted after a heartbeat that bears `retry:`, may resume, and new "
        "questions get 503.",
        drain,
        "Ciao Bali",
        {"type": "done", "finish_reason": "stop"},
    ),
)

"""The same streams have the same counts at `/metrics`, in the stats, in the audit trail, and at who asked for them.

Each question's number says what befalls its answer: nothing, a cut in the middle, a refusal by the upstream, a stop, a
reader that leaves for good, or one that is cut off and comes back.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from subak.core.facts import ReaderAttached, ReaderLeft, StreamEnded, StreamOpened
from subak.telemetry.stats import Stats
from subak.telemetry.tally import Window
from subak.testing import Close, End, Frame, Head, RecordedRequest, Reset, ScriptedUpstream, Stall, Step
from tests.integration.gateway import (
    DONE,
    ONE_LOOP,
    Client,
    Running,
    ask,
    data_of,
    eventually,
    get,
    parse_frames,
    post,
    question_url,
    running,
    terminal_of,
)
from tests.settings import runs

STREAMS = runs(fast=60, default=1_000, soak=5_000)
AT_ONCE = 20
AUDITED = {"SUBAK_AUDIT__ENABLED": "true", "SUBAK_ADMIN__METRICS_PUBLIC": "true"}
FATES = ("whole", "whole", "whole", "truncated", "reset", "refused", "stopped", "left", "resumed", "unasked")
OPEN_AT_THE_END = frozenset({"stopped", "left"})


def fate_of(number: int) -> str:
    return FATES[number % len(FATES)]


def token_count(number: int) -> int:
    return Random(number).randint(1, 60)


def script(request: RecordedRequest) -> Iterator[Step]:
    number = int(parse_qs(urlsplit(request.target).query)["query"][0])
    fate = fate_of(number)
    if fate == "refused":
        yield Head(500)
        yield End()
        return
    yield Head()
    for token in range(token_count(number)):
        yield Frame(f'{{"text": "<{token}>"}}')
    match fate:
        case "truncated":
            yield Close()
        case "reset":
            yield Reset()
        case _ if fate in OPEN_AT_THE_END:
            yield Stall()
        case _:
            yield DONE
            yield End()


@dataclass
class Seen:
    """What the clients counted."""

    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    resumes: int = 0
    refused: int = 0


async def ask_one(gateway: Running, number: int, seen: Seen) -> None:
    """Ask one question, do to its answer what is its fate, and count what came of it."""
    match fate_of(number):
        case "unasked":
            answer = await get(gateway, "/api/v2/bali-zero/chat-stream")
            assert answer.status == 400
            seen.refused += 1
        case "stopped" | "left" as fate:
            await cut_short(gateway, number, seen, is_stopped=fate == "stopped")
        case "resumed":
            await leave_and_come_back(gateway, number, seen)
        case _:
            count(seen, (await get(gateway, question_url(str(number)))).body)


def count(seen: Seen, body: bytes) -> None:
    frames = parse_frames(body)
    seen.tokens += sum(frame.type == "token" for frame in frames)
    terminal = terminal_of(frames)
    data = data_of(terminal)
    seen.outcomes[str(data["finish_reason"] if terminal.type == "done" else data["code"])] += 1


async def cut_short(gateway: Running, number: int, seen: Seen, *, is_stopped: bool) -> None:
    """Read all tokens that come, then stop the answer, or leave it for good."""
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", f"{question_url(str(number))}&on_disconnect=cancel")
        answer = await client.until(f"<{token_count(number) - 1}>".encode())
        if is_stopped:
            await post(gateway, f"/v1/streams/{answer.header('Subak-Stream-Id')}/stop")
            count(seen, (await client.whole()).body)
            return
    seen.tokens += token_count(number)
    seen.outcomes["abandoned"] += 1


async def leave_and_come_back(gateway: Running, number: int, seen: Seen) -> None:
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", question_url(str(number)))
        answer = await client.until(b"metadata")
    stream_id = answer.header("Subak-Stream-Id")
    rest = await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{stream_id}.1")
    frames = parse_frames(rest.body)
    seen.tokens += sum(frame.type == "token" for frame in frames)
    seen.outcomes[str(data_of(frames[-1])["finish_reason"])] += 1
    seen.resumes += 1


def page_of(body: bytes) -> dict[str, Counter[str]]:
    """Give each metric's samples, added up by their label `outcome`, `departure` or none."""
    sums: dict[str, Counter[str]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            label = sample.labels.get("outcome") or sample.labels.get("departure") or ""
            sums.setdefault(sample.name, Counter())[label] += int(sample.value) if sample.value == sample.value else 0
    return sums


@pytest.mark.slow
@ONE_LOOP
async def test_client_facts_stats_metrics_and_audit_trail_agree_on_streams_with_faults() -> None:
    seen = Seen()
    settings = AUDITED | {"SUBAK_UPSTREAM__BREAKER_FAILURES": "1000000"}
    async with ScriptedUpstream(script) as upstream, running(upstream, settings) as gateway:
        for first in range(0, STREAMS, AT_ONCE):
            await asyncio.gather(*(ask_one(gateway, number, seen) for number in range(first, first + AT_ONCE)))
        asked = STREAMS - seen.refused
        ended = await gateway.observer.wait_for(StreamEnded, asked)
        left = await gateway.observer.wait_for(ReaderLeft, asked + seen.resumes)

        assert Counter(fact.outcome for fact in ended) == seen.outcomes
        assert sum(fact.tokens for fact in ended) == seen.tokens
        assert len(gateway.observer.of(StreamOpened)) == asked
        assert sum(fact.is_resume for fact in gateway.observer.of(ReaderAttached)) == seen.resumes

        agree_with_stats(gateway.gateway.watching.stats, seen, ended, left)
        await agree_with_the_trail(gateway, seen)
        page = page_of((await ask(gateway.gateway.admin_url, "GET", "/metrics")).body)
        assert page["subak_streams_ended_total"] == seen.outcomes
        assert page["subak_tokens_total"][""] == seen.tokens
        assert page["subak_streams_opened_total"][""] == asked
        assert page["subak_readers_resumed_total"][""] == seen.resumes
        assert page["subak_readers_left_total"] == Counter(fact.departure for fact in left)
        assert page["subak_refusals_total"][""] == seen.refused
        assert page["subak_stream_duration_seconds_count"][""] == asked


def agree_with_stats(stats: Stats, seen: Seen, ended: list[StreamEnded], left: list[ReaderLeft]) -> None:
    figures = stats.figures(Window.SINCE_START)
    streams = figures.streams
    assert streams.outcomes == seen.outcomes
    assert streams.tokens == seen.tokens
    assert streams.size_bytes == sum(fact.size_bytes for fact in ended)
    assert streams.opened == streams.ended == len(ended)
    with_tokens = [fact for fact in ended if fact.tokens]
    assert streams.first_token.count == streams.gateway_share.count == len(with_tokens)
    assert streams.inter_token.count == sum(fact.tokens - 1 for fact in with_tokens)
    assert figures.resumes == seen.resumes
    assert figures.departures == Counter(fact.departure for fact in left)
    assert sum(row.count for row in figures.refusals) == seen.refused
    failed = {"upstream_error", "upstream_truncated"}
    assert (figures.requests, figures.errors) == (len(ended), sum(seen.outcomes[outcome] for outcome in failed))
    assert streams.tokens_unread == 0


async def agree_with_the_trail(gateway: Running, seen: Seen) -> None:
    asked = STREAMS - seen.refused
    file = gateway.gateway.settings.state_dir / "audit.db"
    await eventually(lambda: len(trail(file, "stream.end")) == asked, lambda: "the trail lacks ends of streams")
    rows = trail(file, "stream.end")
    assert Counter(row["outcome"] for row in rows) == seen.outcomes
    assert sum(int(str(row["tokens"])) for row in rows) == seen.tokens
    assert len(trail(file, "stream.start")) == asked
    assert len(trail(file, "stream.resume")) == seen.resumes


def trail(file: Path, operation: str) -> list[dict[str, object]]:
    """Give the records of one kind as they were sealed."""
    with closing(sqlite3.connect(file)) as database:
        found = database.execute("SELECT CAST(core AS BLOB) FROM audit_event WHERE operation = ?", (operation,))
        return [msgspec.json.decode(core, type=dict[str, object]) for (core,) in found]

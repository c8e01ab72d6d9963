"""`subak` as a process: how it starts, what it says, what it writes, how it ends."""

import asyncio
import json
import re
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack

import pytest

from subak.testing import PATIENCE_S, Body, End, Frame, Gate, Head, ScriptedUpstream, Stall
from tests.integration.gateway import (
    CHAT,
    CHAT_STREAM,
    CIAO,
    DONE,
    MONDO,
    ONE_LOOP,
    Client,
    Process,
    ask,
    data_of,
    parse_frames,
    process,
    question_url,
    spawned,
    terminal_of,
    text_of,
)

pytestmark = ONE_LOOP
CANARY = "kanarienvogel"
SERVING = {"ENABLE_SSE_STREAMING": "true", "SUBAK_LOG__FORMAT": "json"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    async with process("serve") as subak:
        url = await subak.url()
        assert (await ask(url, "GET", "/livez")).status == 200
        subak.signal(number)
        async with asyncio.timeout(PATIENCE_S):
            code, out, err = await subak.ended()
        assert code == 0
        assert "Traceback" not in err
        assert [json.loads(line)["event"] for line in out.splitlines()] == [
            "process_started",
            "drain_started",
            "drain_ended",
        ]


@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
async def test_a_process_that_was_given_no_stdout_serves_and_ends_cleanly(closed: str) -> None:
    command = ["sh", "-c", f'exec "$0" -m subak serve {closed}', sys.executable]
    async with spawned(command, dict(SERVING)) as subak:
        url = await subak.url()
        assert terminal_of((await ask(url, "GET", question_url())).frames).type == "done"
        subak.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            code, _, err = await subak.ended()
    assert code == 0, err
    assert "Traceback" not in err


async def test_streaming_is_off_by_default_and_it_says_so() -> None:
    async with process("serve") as subak:
        url = await subak.url()
        assert (await ask(url, "GET", question_url())).status == 403
        assert (await ask(url, "GET", "/v1/features")).json == {"sse": False}
        subak.signal(signal.SIGTERM)
        _, _, err = await subak.ended()
        assert "ENABLE_SSE_STREAMING=true" in err


async def test_demo_streams_and_prints_where_to_ask() -> None:
    async with process("demo", "--port", "0") as subak:
        url = await subak.url()
        answer = await ask(url, "GET", question_url())
        assert terminal_of(answer.frames).type == "done"
        assert (await ask(url, "GET", "/demo")).status == 200
        subak.signal(signal.SIGTERM)
        code, _, err = await subak.ended()
        assert code == 0
        assert f"{url}/demo" in err
        assert f"{url}{CHAT_STREAM}" in err


async def test_live_answer_is_finished_within_the_drain_and_the_reader_can_come_back() -> None:
    gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream([Head(), CIAO, Gate(gate), MONDO, DONE, End()]))
        subak = await stack.enter_async_context(process("serve", RAG_BACKEND_URL=upstream.url, **SERVING))
        url = await subak.url()
        cursor = await _cut_by_the_drain(url, subak)
        async with Client.connect(url) as client:
            await client.begin("GET", question_url(), [("Last-Event-ID", cursor)])
            assert (await client.head()).header("Subak-Resumed-From") == cursor
            refused = await ask(url, "GET", question_url())
            assert (refused.status, refused.header("Retry-After")) == (503, "1")
            gate.set()
            frames = (await client.whole()).frames
        assert text_of(frames) == "mondo"
        assert frames[-1].type == "done"
        async with asyncio.timeout(PATIENCE_S):
            code, out, _ = await subak.ended()
        assert (code, events_of(out)[-1]["lost_streams"]) == (0, 0)


async def test_answer_that_outlives_the_drain_ends_as_producer_lost() -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream([Head(), CIAO, Stall()]))
        environment = SERVING | {"RAG_BACKEND_URL": upstream.url, "SUBAK_STREAM__DRAIN_S": "6"}
        subak = await stack.enter_async_context(process("serve", **environment))
        url = await subak.url()
        cursor = await _cut_by_the_drain(url, subak)
        frames = (await ask(url, "GET", question_url(), [("Last-Event-ID", cursor)])).frames
        assert data_of(frames[-1])["code"] == "producer_lost"
        async with asyncio.timeout(PATIENCE_S):
            code, out, _ = await subak.ended()
        assert (code, events_of(out)[-1]["lost_streams"]) == (0, 1)


async def test_second_signal_ends_the_drain_at_once() -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream([Head(), CIAO, Stall()]))
        environment = SERVING | {"RAG_BACKEND_URL": upstream.url, "SUBAK_STREAM__DRAIN_S": "600"}
        subak = await stack.enter_async_context(process("serve", **environment))
        url = await subak.url()
        await _cut_by_the_drain(url, subak)
        assert (await ask(url, "GET", "/readyz")).status == 503
        subak.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            code, _, err = await subak.ended()
        assert code == 0
        assert "Traceback" not in err


async def _cut_by_the_drain(url: str, subak: Process) -> str:
    """Ask, begin the drain in the middle of the answer, look at how the response ends; give the last cursor."""
    async with Client.connect(url) as client:
        await client.begin("GET", question_url())
        await client.until(b'"Ciao "')
        subak.signal(signal.SIGTERM)
        cut = await client.whole()
    assert not cut.is_clean
    *_, token, goodbye = parse_frames(cut.body)
    assert goodbye.event == "heartbeat"
    assert goodbye.retry_ms is not None
    assert token.id is not None
    return token.id


def events_of(out: str) -> list[dict[str, object]]:
    """Give the log lines: each is one JSON object."""
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    return lines


async def test_log_lines_hold_no_content_and_no_stream_id() -> None:
    answer = [Head(), Frame(f'{{"text": "{CANARY}"}}'), Frame(f'{{"sources": [{{"source": "{CANARY}"}}]}}')]
    failing = [*answer, Frame(f'{{"error": "{CANARY}", "done": true}}'), End()]
    refusing = [Head(500, {"Content-Type": CANARY}), Body(CANARY.encode()), End()]
    scripts = ([*answer, DONE, End()], failing, refusing, [*answer, DONE, End()])
    async with ScriptedUpstream(*scripts) as upstream:
        environment = SERVING | {"RAG_BACKEND_URL": upstream.url, "SUBAK_UPSTREAM__KEY": CANARY, "LOG_LEVEL": "debug"}
        async with process("serve", **environment) as subak:
            url = await subak.url()
            stream_ids = await _say_it_everywhere(url)
            subak.signal(signal.SIGTERM)
            code, out, err = await subak.ended()
    lines = events_of(out)
    assert code == 0
    assert CANARY not in out + err
    assert not re.search(r"\bst_[A-Za-z0-9_-]{28}", out + err)
    assert len({line["stream"] for line in lines if "stream" in line}) == len(stream_ids) == 4
    assert all({"event", "level", "ts"} <= set(line) for line in lines)
    outcomes = [line["outcome"] for line in lines if line["event"] == "stream_ended"]
    assert outcomes == ["stop", "upstream_error", "upstream_error", "stop"]


async def _say_it_everywhere(url: str) -> set[str | None]:
    """Put the canary wherever a caller can; give the ids of the streams that were opened."""
    history = json.dumps([{"role": "user", "content": CANARY}])
    by_get = question_url(CANARY, user_email=f"{CANARY}@x.example", user_role="member", conversation_history=history)
    as_json = ("Content-Type", "application/json")
    secrets = [("Authorization", f"Bearer {CANARY}"), ("Cookie", CANARY), ("User-Agent", CANARY), ("Origin", CANARY)]
    answers = [await ask(url, "GET", by_get, [*secrets, ("x-session-id", CANARY)]) for _ in range(3)]
    answers.append(
        await ask(
            url, "POST", CHAT_STREAM, [as_json, ("Idempotency-Key", CANARY * 2)], b'{"query": "%b"}' % CANARY.encode()
        )
    )
    stream_ids = {answer.header("Subak-Stream-Id") for answer in answers}
    for target, body in (
        (CHAT, f'{{"query": "{CANARY}"}}'),
        (CHAT_STREAM, f'{{"query": "{CANARY}'),
        (CHAT_STREAM, f'{{"query": "x", "conversation_history": [{{"role": "{CANARY}"}}]}}'),
        (f"/{CANARY}?{CANARY}=1", CANARY),
        (f"/v1/streams/{CANARY}/stop", ""),
        *((f"/v1/streams/{stream_id}/stop", "") for stream_id in stream_ids),
    ):
        await ask(url, "POST", target, [as_json, *secrets], body.encode())
    for target in (*(f"/v1/streams/{stream_id}" for stream_id in stream_ids), f"/static/{CANARY}"):
        await ask(url, "GET", target, [("Last-Event-ID", CANARY)])
    async with Client.connect(url) as client:
        client.expect("GET")
        await client.send(f"{CANARY} {CANARY}\r\n{CANARY}\r\n\r\n".encode())
        await client.whole()
    return stream_ids


@pytest.mark.parametrize("command", ["serve", "demo", "backend"])
async def test_port_in_use_is_said_and_ends_with_1(command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with process(command, "--port", str(port)) as subak:
            code, _, err = await subak.ended()
    assert code == 1
    assert str(port) in err
    assert "in use" in err
    assert "Traceback" not in err


async def test_state_directory_that_cannot_be_used_is_said_with_a_way_out() -> None:
    with tempfile.NamedTemporaryFile() as file:
        async with process("serve", SUBAK_STATE_DIR=file.name) as subak:
            code, _, err = await subak.ended()
    assert code == 1
    assert file.name in err
    assert "SUBAK_STATE_DIR" in err
    assert "Traceback" not in err


async def test_documents_that_are_not_there_are_said() -> None:
    async with process("serve", SUBAK_KNOWLEDGE__DOCS="/nowhere/at/all") as subak:
        code, _, err = await subak.ended()
    assert code == 1
    assert "/nowhere/at/all" in err
    assert "Traceback" not in err


async def test_wrong_settings_are_all_said_at_once() -> None:
    async with process("serve", ENABLE_SSE_STREAMING="maybe", SUBAK_STREAM__HEARTBEAT_S="often") as subak:
        code, _, err = await subak.ended()
    assert code in {1, 2}
    assert "ENABLE_SSE_STREAMING" in err
    assert "SUBAK_STREAM__HEARTBEAT_S" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_serve_runs_on_either_loop(loop: str) -> None:
    async with process("serve", SUBAK_SERVER__LOOP=loop, **SERVING) as subak:
        url = await subak.url()
        assert terminal_of((await ask(url, "GET", question_url())).frames).type == "done"
        subak.signal(signal.SIGTERM)
        assert (await subak.ended())[0] == 0


async def test_backend_answers_in_its_dialect_and_ends_on_a_signal() -> None:
    async with process("backend", "--port", "0") as subak:
        url = await subak.url()
        assert (await ask(url, "GET", "/health")).json == {"status": "healthy"}
        answer = await ask(url, "GET", "/bali-zero/chat-stream?query=What+is+a+KITAS%3F")
        assert answer.body.endswith(b"}\n\n")
        assert b'"done": true' in answer.body
        subak.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert (await subak.ended())[0] == 0

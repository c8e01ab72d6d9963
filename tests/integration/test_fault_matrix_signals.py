"""Row 69 of the fault matrix: signals to a real process with real readers (how it starts and ends: test_process)."""

import asyncio
import signal

import pytest

from subak.testing import PATIENCE_S, End, Gate, Head, ScriptedUpstream, Stall
from tests.integration.clients import FOLLOWERS, Followed, assert_saw_all_once, proxy_before
from tests.integration.gateway import (
    DONE,
    ONE_LOOP,
    STARTING_S,
    Client,
    ask,
    data_of,
    parse_frames,
    process,
    question_url,
)
from tests.transcripts.scenes import token

pytestmark = [ONE_LOOP, pytest.mark.real]

SERVING = {
    "ENABLE_SSE_STREAMING": "true",
    "SUBAK_STREAM__DRAIN_S": "60",
    "SUBAK_STREAM__RETRY_MIN_MS": "10",
    "SUBAK_STREAM__RETRY_MAX_MS": "30",
}
WORDS = ("uno ", "due ", "tre ")


@pytest.mark.parametrize("client", ["fetch-event-source", "curl"])
async def test_c69_a_client_gets_all_of_an_answer_that_sigterm_interrupts(client: str) -> None:
    gate = asyncio.Event()
    script = [Head(), *map(token, WORDS[:2]), Gate(gate), *map(token, WORDS[2:]), DONE, End()]
    async with ScriptedUpstream(script) as upstream, process("serve", RAG_BACKEND_URL=upstream.url, **SERVING) as subak:
        async with proxy_before(await subak.url()) as watched, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(client, watched.url))
            await upstream.wait_questions(1)
            await watched.wait_until(lambda: watched.connections[0].to_client_bytes > 0, STARTING_S)
            subak.signal(signal.SIGTERM)
            await watched.wait_connections(2)
            await watched.wait_until(lambda: watched.connections[1].to_client_bytes > 0)
            gate.set()
            assert_saw_all_once(await following, "".join(WORDS))
        async with asyncio.timeout(PATIENCE_S):
            assert (await subak.ended())[0] == 0
        assert upstream.questions == 1


async def follow(client: str, url: str) -> Followed:
    return await FOLLOWERS[client](url + question_url())


async def test_c69_a_second_signal_ends_answers_with_an_error_and_the_process_with_0() -> None:
    async with (
        ScriptedUpstream([Head(), *map(token, WORDS), Stall()]) as upstream,
        process("serve", RAG_BACKEND_URL=upstream.url, **SERVING) as subak,
    ):
        url = await subak.url()
        async with Client.connect(url) as client:
            await client.begin("GET", question_url())
            await client.until(f'"data":"{WORDS[-1]}"'.encode())
            subak.signal(signal.SIGTERM)
            cut = await client.whole()
        cursor = parse_frames(cut.body)[-2].id
        assert cursor is not None
        async with Client.connect(url) as client:
            await client.begin("GET", question_url(), [("Last-Event-ID", cursor)])
            await client.until(b"event: heartbeat")
            subak.signal(signal.SIGINT)
            answer = await client.whole()
        assert data_of(answer.frames[-1])["code"] == "producer_lost"
        async with asyncio.timeout(PATIENCE_S):
            assert (await subak.ended())[0] == 0
        await upstream.connections[0].wait_closed()


async def test_c69_a_signal_without_answers_under_way_ends_the_process_at_once() -> None:
    async with (
        ScriptedUpstream([Head(), *map(token, WORDS), DONE, End()]) as upstream,
        process("serve", RAG_BACKEND_URL=upstream.url, **SERVING) as subak,
    ):
        url = await subak.url()
        assert (await ask(url, "GET", question_url())).is_clean
        async with Client.connect(url) as idle:
            await idle.begin("GET", "/livez")
            await idle.whole()
            subak.signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                assert (await subak.ended())[0] == 0

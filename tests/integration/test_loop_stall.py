"""Row 71 of the fault matrix: the process stands still for some seconds in the middle of many answers."""

import asyncio
import re
import signal
from typing import Final

import pytest

from subak.testing import End, Gate, Head, ScriptedUpstream
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
    terminal_of,
    text_of,
)
from tests.transcripts.scenes import token

pytestmark = [ONE_LOOP, pytest.mark.real, pytest.mark.slow]

STALL_S: Final = 9.0
READERS: Final = 50
SERVING: Final = {
    "ENABLE_SSE_STREAMING": "true",
    "SUBAK_LIMITS__ENABLED": "false",
    "SUBAK_ADMIN__METRICS_PUBLIC": "true",
    "SUBAK_ADMIN__PORT": "0",
    "SUBAK_UPSTREAM__IDLE_TIMEOUT_S": "8",
}
"""With a deadline for the upstream that passes during the stall, though it has sent everything long before.

It is longer than the test's own process is likely to stand still.
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_process_that_stood_still_ends_no_answer_and_shows_by_how_much_it_was_late(loop: str) -> None:
    all_ask, gate = asyncio.Event(), asyncio.Event()
    script = [Gate(all_ask), Head(), token("uno "), Gate(gate), token("due "), DONE, End()]
    settings = SERVING | {"SUBAK_SERVER__LOOP": loop}
    async with (
        ScriptedUpstream(script) as upstream,
        process("serve", RAG_BACKEND_URL=upstream.url, **settings) as subak,
    ):
        url, admin_url = await subak.url(), await subak.url()
        assert await loop_lag_max_s(admin_url) < STALL_S / 2
        has_begun = asyncio.Barrier(READERS + 1)
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read(url, has_begun)) for _ in range(READERS)]
            await upstream.wait_questions(READERS)
            all_ask.set()
            await has_begun.wait()
            subak.signal(signal.SIGSTOP)
            gate.set()
            asyncio.get_running_loop().call_later(STALL_S, subak.signal, signal.SIGCONT)
        assert [reader.result() for reader in readers] == ["uno due "] * READERS
        assert STALL_S / 2 < await loop_lag_max_s(admin_url) < STALL_S + STARTING_S


async def read(url: str, has_begun: asyncio.Barrier) -> str:
    """Ask; say when the first token is there; give the whole text of an answer that ended well."""
    async with Client.connect(url) as client:
        await client.begin("GET", question_url())
        await client.until(b"uno ")
        await has_begun.wait()
        frames = parse_frames((await client.whole(STARTING_S)).body)
        assert data_of(terminal_of(frames))["finish_reason"] == "stop"
        return text_of(frames)


async def loop_lag_max_s(admin_url: str) -> float:
    """Give the event loop's greatest lag of the last minute, as Prometheus would see it."""
    page = await ask(admin_url, "GET", "/metrics")
    found = re.search(rb"^subak_loop_lag_max_seconds ([0-9.e-]+)$", page.body, re.MULTILINE)
    assert found is not None
    return float(found[1])

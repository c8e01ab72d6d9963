"""Row 67 of the fault matrix: the wall clock of a real process steps, with libfaketime, while its streams are open."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from subak.audit.verdict import Doubt
from subak.testing import PATIENCE_S, End, Gate, Head, RecordedRequest, ScriptedUpstream, Stall, Step
from tests.integration.gateway import (
    ANSWER,
    CIAO,
    DONE,
    ONE_LOOP,
    Answer,
    Client,
    Process,
    ask,
    process,
    question_url,
    terminal_of,
    text_of,
)
from tests.tokens import WITH_TOKENS, bearer
from tests.trail import Entry, assert_verifies, trail_of, unended
from tests.transcripts.scenes import token

pytestmark = [ONE_LOOP, pytest.mark.real]

HOUR_S: Final = 3600
DAY_S: Final = 86_400
STEPS_S: Final = (-0.5, -HOUR_S, DAY_S, 0)
"""Where the clock stands in turn, beside the true time: NTP's step, an hour back, a day ahead, right again."""
SLACK_S: Final = 60
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - libfaketime has its own there
WORDS: Final = tuple(f"{number}. " for number in range(len(STEPS_S)))
SERVING: Final = {
    "ENABLE_SSE_STREAMING": "true",
    "SUBAK_AUDIT__ENABLED": "true",
    "SUBAK_STREAM__HEARTBEAT_S": "0.2",
    "SUBAK_STREAM__COMMENT_S": "0.1",
}
_TIMESTAMP: Final = re.compile(rb'"timestamp":(\d+)\}\n\n')


class FakedTime:
    """The wall clock of other processes. Their monotonic clock and their files' times stay true."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the file that says by how much the clock is wrong."""
        self._file = folder / "clock"
        self.step(0)

    @property
    def environment(self) -> dict[str, str]:
        """Give what makes a process look at the clock through this."""
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def step(self, seconds: float) -> None:
        """Set the clock to the true time and so many seconds, at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+}\n", encoding="ascii")
        new.replace(self._file)


@asynccontextmanager
async def serving(upstream: ScriptedUpstream, clock: FakedTime, **settings: str) -> AsyncIterator[Process]:
    """Run a gateway by that clock."""
    environment = SERVING | clock.environment | settings
    async with process("serve", RAG_BACKEND_URL=upstream.url, **environment) as subak:
        try:
            yield subak
        finally:
            for left in SHARED_MEMORY.glob(f"*faketime_*_{subak.process.pid}"):  # of a process that is killed
                left.unlink()


async def leave(subak: Process) -> None:
    """Ask it to end, which it does as it should."""
    subak.signal(signal.SIGTERM)
    code, _, said = await subak.ended()
    assert (code, "Traceback" in said) == (0, False), said


def is_off_by(seconds: float) -> Callable[[Answer], bool]:
    """Tell whether the newest event was made by a clock that is wrong by so much."""
    return lambda answer: abs(int(_TIMESTAMP.findall(answer.body)[-1]) / 1000 - time.time() - seconds) < SLACK_S


def steps_in(rows: list[Entry]) -> list[int]:
    """Give where the clock stood beside the true time, in whole minutes, each once as long as it stayed there."""
    started_s = time.time() - time.monotonic()
    errors_s = [(int(str(row.core["time_ms"])) - int(str(row.core["mono_ms"]))) / 1000 - started_s for row in rows]
    return [minutes for minutes, _ in groupby(round(error_s / 60) for error_s in errors_s)]


async def test_s67_steps_of_the_clock_end_no_answer_and_the_trail_tells_of_them(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in STEPS_S]
    gated = [step for gate, word in zip(gates, WORDS, strict=True) for step in (Gate(gate), token(word))]
    slow = (Head(), CIAO, *gated, DONE, End())

    def script(request: RecordedRequest) -> Sequence[Step]:
        return slow if "slow" in request.target else ANSWER

    clock = FakedTime(tmp_path)
    async with (
        ScriptedUpstream(script) as upstream,
        serving(upstream, clock, SUBAK_STATE_DIR=str(tmp_path)) as subak,
        AsyncExitStack() as stack,
    ):
        url = await subak.url()
        clients = [await stack.enter_async_context(Client.connect(url)) for _ in range(3)]
        for client in clients:
            await client.begin("GET", question_url("slow"))
            await client.until(b'"Ciao "')
        for step_s, gate, word in zip(STEPS_S, gates, WORDS, strict=True):
            clock.step(step_s)
            for client in clients:
                await client.when(is_off_by(step_s))  # by its heartbeats: there is nothing else yet
            gate.set()
            for client in clients:
                await client.until(word.encode())
            assert terminal_of((await ask(url, "GET", question_url())).frames).type == "done"
        for client in clients:
            answer = await client.whole()
            assert terminal_of(answer.frames).type == "done"
            assert text_of(answer.frames) == "Ciao " + "".join(WORDS)
        assert upstream.questions == len(clients) + len(STEPS_S)
        await leave(subak)
    report = assert_verifies(tmp_path)
    assert Doubt.CLOCK_WENT_BACK in {one.doubt for one in report.warnings}
    assert not unended(tmp_path)
    rows = trail_of(tmp_path)
    assert steps_in(rows) == [0, -HOUR_S // 60, DAY_S // 60, 0]
    assert [row.core["mono_ms"] for row in rows] == sorted(int(str(row.core["mono_ms"])) for row in rows)
    async with process("audit", "verify", SUBAK_STATE_DIR=str(tmp_path)) as verifying:
        code, said, doubts = await verifying.ended()
    assert (code, str(Doubt.CLOCK_WENT_BACK) in doubts) == (0, True), said + doubts


async def test_s67_a_log_goes_on_where_a_killed_gateway_starts_again_an_hour_earlier(tmp_path: Path) -> None:
    clock = FakedTime(tmp_path)
    async with ScriptedUpstream([Head(), CIAO, Stall()]) as upstream:
        async with (
            serving(upstream, clock, SUBAK_STATE_DIR=str(tmp_path)) as first,
            Client.connect(await first.url()) as client,
        ):
            await client.begin("GET", question_url())
            await client.until(b'"Ciao "')
            first.signal(signal.SIGKILL)
            await client.whole()
        clock.step(-HOUR_S)
        async with serving(upstream, clock, SUBAK_STATE_DIR=str(tmp_path)) as second:
            await second.url()
            await leave(second)
    assert_verifies(tmp_path)
    assert not unended(tmp_path)
    rows = trail_of(tmp_path)
    assert steps_in(rows) == [0, -HOUR_S // 60]
    assert [row.core["outcome"] for row in rows if row.operation == "stream.end"] == ["interrupted"]


async def status_of(url: str, headers: Mapping[str, str] = MappingProxyType({})) -> int:
    """Ask; give what the answer's status is."""
    return (await ask(url, "GET", question_url(), headers.items())).status


async def test_s67_a_step_of_the_clock_opens_no_limit(tmp_path: Path) -> None:
    clock = FakedTime(tmp_path)
    limits = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "2", "SUBAK_LIMITS__CHAT_WINDOW_S": "600"}
    async with ScriptedUpstream(ANSWER) as upstream, serving(upstream, clock, **limits) as subak:
        url = await subak.url()
        assert [await status_of(url) for _ in range(3)] == [200, 200, 429]
        for step_s in STEPS_S:
            clock.step(step_s)
            refused = await ask(url, "GET", question_url())
            assert refused.status == HTTPStatus.TOO_MANY_REQUESTS
            assert 0 < int(str(refused.header("Retry-After"))) <= 600
        await leave(subak)


@pytest.mark.parametrize("step_s", [-HOUR_S, DAY_S])
async def test_s67_a_step_of_the_clock_locks_nobody_out(tmp_path: Path, step_s: float) -> None:
    clock = FakedTime(tmp_path)
    limits = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "1", "SUBAK_LIMITS__CHAT_WINDOW_S": "2"}
    async with ScriptedUpstream(ANSWER) as upstream, serving(upstream, clock, **limits) as subak:
        url = await subak.url()
        assert await status_of(url) == HTTPStatus.OK
        clock.step(step_s)
        async with asyncio.timeout(PATIENCE_S):
            while await status_of(url) != HTTPStatus.OK:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.1)
        await leave(subak)


async def test_s67_a_token_is_judged_by_the_clock_and_a_reader_that_it_let_in_reads_on(tmp_path: Path) -> None:
    clock, gate = FakedTime(tmp_path), asyncio.Event()
    slow = (Head(), CIAO, Gate(gate), DONE, End())

    def script(request: RecordedRequest) -> Sequence[Step]:
        return slow if "slow" in request.target else ANSWER

    settings = {**WITH_TOKENS, "SUBAK_AUTH__ON_EXPIRY": "cut"}
    ann, new = (bearer(user, lifetime_s=600, nbf=int(time.time())) for user in ("ann", "new"))
    async with ScriptedUpstream(script) as upstream, serving(upstream, clock, **settings) as subak:
        url = await subak.url()
        async with Client.connect(url) as client:
            await client.begin("GET", question_url("slow"), ann.items())
            await client.until(b'"Ciao "')
            for step_s, known, unknown in ((DAY_S, 401, 401), (-HOUR_S, 200, 401), (0, 200, 200)):
                clock.step(step_s)
                assert await status_of(url, ann) == known
                assert await status_of(url, new) == unknown
                await client.when(is_off_by(step_s))
            gate.set()
            assert terminal_of((await client.whole()).frames).type == "done"
        await leave(subak)

"""What the audit trail does when its disk is full or locked, when the process is killed, and what nothing may hold.

Tests that carry a number (`test_s64_…`) are rows of the fault matrix in docs/reliability.md.
"""

import asyncio
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from subak.audit.sqlite import LOG_FILE
from subak.core.facts import AuditRecovered, AuditTroubled
from subak.testing import PATIENCE_S, End, Gate, Head, RecordedRequest, ScriptedUpstream, Stall, Step
from tests.audit import holding
from tests.integration.gateway import (
    ANSWER,
    CIAO,
    DONE,
    ONE_LOOP,
    Client,
    Process,
    Running,
    ask,
    data_of,
    eventually,
    get,
    process,
    question_url,
    running,
    scripted,
    terminal_of,
)
from tests.settings import runs
from tests.trail import assert_verifies, entries_of, name_of, trail_of, unended
from tests.transcripts.scenes import token

pytestmark = [ONE_LOOP, pytest.mark.real]

KILLS: Final = runs(fast=2, default=20, soak=1000)
KILLS_OF_A_LOG: Final = 50
"""Then a new log is begun: each kill has all of it verified."""
KILLED_EARLY: Final = 0.25
"""How many are killed once more, while they start."""
PAST_A_SEAL_S: Final = 1.2
AUDITED: Final = {"ENABLE_SSE_STREAMING": "true", "SUBAK_AUDIT__ENABLED": "true"}
CANARY: Final = "kanarienvogel"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 4 MiB; where that isn't permitted the test is skipped."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Let there be no room on a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Let another process hold the file."""
    other = sqlite3.connect(state_dir / LOG_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


async def until_refused(gateway: Running) -> None:
    """Ask until the trouble is known: what is asked before gets an answer that says that it was withheld."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await get(gateway, question_url())
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                assert answer.header("Retry-After") == "1"
                assert b'"code":"audit_unavailable"' in answer.body
                return
            assert data_of(terminal_of(answer.frames))["code"] == "audit_unavailable"
            assert b'"type":"token"' not in answer.body


async def until_answered(gateway: Running) -> None:
    """Ask until there are answers again."""
    async with asyncio.timeout(PATIENCE_S):
        while (await get(gateway, question_url())).status != HTTPStatus.OK:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("trouble", ["disk_full", "locked"])
async def test_s64_new_streams_are_refused_live_ones_finish_and_all_recovers(tmp_path: Path, trouble: str) -> None:
    gate = asyncio.Event()
    slow: tuple[Step, ...] = (Head(), CIAO, Gate(gate), token("mondo"), DONE, End())

    def script(request: RecordedRequest) -> tuple[Step, ...]:
        return slow if "slow" in request.target else ANSWER

    with small_disk(tmp_path / "disk") as disk:
        variables = {**AUDITED, "SUBAK_STATE_DIR": str(disk)}
        async with (
            ScriptedUpstream(script) as upstream,
            running(upstream, variables) as gateway,
            Client.connect(gateway.url) as client,
        ):
            await client.begin("GET", question_url("slow"))
            await client.until(b'"Ciao "')
            with full(disk) if trouble == "disk_full" else locked(disk):
                await until_refused(gateway)
                gate.set()
                live = await client.whole()
                assert terminal_of(live.frames).type == "done"
                (told,) = await gateway.observer.wait_for(AuditTroubled)
                assert told.trouble == trouble
            await until_answered(gateway)
            (recovered,) = await gateway.observer.wait_for(AuditRecovered)
            assert recovered.lost == 0
        assert_verifies(disk)
        assert not unended(disk)
        live_name = name_of(disk, str(live.header("Subak-Stream-Id")))
        (end,) = [row for row in entries_of(disk, "stream.end") if row.row.stream == live_name]
        assert end.core["outcome"] == "stop"
        assert {gap.core["reason"] for gap in entries_of(disk, "log.gap")} == {trouble}


async def test_s64_in_degraded_mode_answers_go_on(tmp_path: Path) -> None:
    variables = {**AUDITED, "SUBAK_STATE_DIR": str(tmp_path), "SUBAK_AUDIT__MODE": "degraded"}
    async with scripted() as upstream, running(upstream, variables) as gateway:
        with locked(tmp_path):
            for _ in range(5):
                answer = await get(gateway, question_url())
                assert terminal_of(answer.frames).type == "done"
            await gateway.observer.wait_for(AuditTroubled)
        await gateway.observer.wait_for(AuditRecovered)
    assert_verifies(tmp_path)
    assert len(entries_of(tmp_path, "stream.start")) == 5
    (gap,) = entries_of(tmp_path, "log.gap")
    assert (gap.core["reason"], gap.core["lost"]) == ("locked", 0)


async def test_s64_a_trail_that_cannot_be_opened_ends_the_start_with_what_to_do(tmp_path: Path) -> None:
    async with scripted() as upstream:
        environment = {**AUDITED, "RAG_BACKEND_URL": upstream.url, "SUBAK_STATE_DIR": str(tmp_path)}
        async with process("serve", **environment) as first:
            await first.url()
            async with process("serve", **environment) as second:
                code, _, said = await second.ended()
    assert code == 1
    assert "another process writes this audit log" in said
    assert "Traceback" not in said


def in_turn(request: RecordedRequest) -> Iterator[Step]:
    """Answer some questions and leave others hanging."""
    yield Head()
    yield CIAO
    yield from () if "whole" in request.target else (Stall(),)
    yield DONE
    yield End()


class Caller:
    """Somebody who asks and asks. `acknowledged` are the streams of which it has read a token."""

    def __init__(self, url: str, name: str) -> None:
        self.acknowledged: list[str] = []
        self._url = url
        self._name = name

    async def run(self) -> None:
        """Ask until the server has gone."""
        while True:
            try:
                await self._ask()
            except (ConnectionError, TimeoutError):
                return

    async def _ask(self) -> None:
        async with Client.connect(self._url) as client:
            await client.begin("GET", question_url(self._name))
            answer = await client.until(b'"Ciao "')
            if b'"Ciao "' not in answer.body:
                raise ConnectionError
            self.acknowledged.append(str(answer.header("Subak-Stream-Id")))
            await client.whole()


class Killing(NamedTuple):
    """What had left a gateway when it was killed: streams of which a token was read, checkpoints that were logged."""

    acknowledged: list[str]
    notes: list[str]


async def killed_at_random(subak: Process, url: str, dice: random.Random) -> Killing:
    """Ask, and kill the process somewhere in it: in a commit, in a seal, in between."""
    callers = [Caller(url, name) for name in ("whole", "whole", "whole", "hanging", "hanging")]
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(caller.run()) for caller in callers]
        await eventually(lambda: all(caller.acknowledged for caller in callers), lambda: "not all were answered")
        await asyncio.sleep(dice.random() * PAST_A_SEAL_S)  # the point in time is what the test is about
        subak.signal(signal.SIGKILL)
        await asyncio.wait(asking)
    _, out, _ = await subak.ended()
    lines = [line for line in out.splitlines(keepends=True) if line.endswith("\n") and '"note"' in line]
    notes = [msgspec.json.decode(line)["note"] for line in lines]
    return Killing([stream_id for caller in callers for stream_id in caller.acknowledged], notes)


async def kill_often(environment: dict[str, str], state_dir: Path, kills: int, dice: random.Random) -> int:
    """Start, ask and kill so often, now and then while it still starts; give how many streams were acknowledged."""
    environment = environment | {"SUBAK_STATE_DIR": str(state_dir)}
    acknowledged: set[str] = set()
    start_s = 0.0
    for _ in range(kills):
        if start_s and dice.random() < KILLED_EARLY:
            async with process("serve", **environment) as subak:
                await asyncio.sleep(dice.random() * start_s)
                subak.signal(signal.SIGKILL)
            assert_verifies(state_dir)
        began_at = time.monotonic()
        async with process("serve", **environment) as subak:
            url = await subak.url()
            start_s = time.monotonic() - began_at
            killing = await killed_at_random(subak, url, dice)
        acknowledged.update(name_of(state_dir, stream) for stream in killing.acknowledged)
        assert_verifies(state_dir, *killing.notes)
        assert acknowledged <= {entry.row.stream for entry in entries_of(state_dir, "stream.start")}
    async with process("serve", **environment) as last:
        await last.url()
        last.signal(signal.SIGTERM)
        assert (await last.ended())[0] == 0
    assert_verifies(state_dir)
    assert not unended(state_dir)
    outcomes = {entry.core["outcome"] for entry in entries_of(state_dir, "stream.end")}
    assert "interrupted" in outcomes <= {"stop", "interrupted"}
    return len(acknowledged)


@pytest.mark.repeats(kills=KILLS)
@pytest.mark.timeout(120 + 12 * KILLS)
async def test_s65_killed_at_any_point_the_trail_verifies_and_every_start_has_an_end(tmp_path: Path) -> None:
    dice = random.Random(65)
    acknowledged = 0
    async with ScriptedUpstream(in_turn) as upstream:
        environment = {**AUDITED, "RAG_BACKEND_URL": upstream.url}
        for done in range(0, KILLS, KILLS_OF_A_LOG):
            kills = min(KILLS - done, KILLS_OF_A_LOG)
            acknowledged += await kill_often(environment, tmp_path / str(done), kills, dice)
    assert acknowledged > KILLS / 2


async def test_s69_a_second_signal_still_seals_the_trail(tmp_path: Path) -> None:
    async with ScriptedUpstream([Head(), CIAO, Stall()]) as upstream:
        environment = {**AUDITED, "RAG_BACKEND_URL": upstream.url, "SUBAK_STATE_DIR": str(tmp_path)}
        async with process("serve", **environment, SUBAK_STREAM__DRAIN_S="60") as subak:
            async with Client.connect(await subak.url()) as client:
                await client.begin("GET", question_url())
                await client.until(b'"Ciao "')
                subak.signal(signal.SIGTERM)
                await client.whole()
            subak.signal(signal.SIGTERM)
            code, _, said = await subak.ended()
    assert (code, "Traceback" in said) == (0, False)
    report = assert_verifies(tmp_path)
    assert report.sealed_size == report.size
    rows = trail_of(tmp_path)
    assert [row.operation for row in rows[-3:]] == ["gateway.drain", "stream.end", "gateway.stop"]
    assert rows[-2].core["outcome"] == "producer_lost"
    assert rows[-1].said == {"lost_streams": 1, "outcome": "stopped"}


async def admin_of(subak: Process) -> str:
    """Give the URL of the admin listener, which it says after its own."""
    assert subak.process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while (line := (await subak.process.stderr.readline()).decode()).startswith("Operators: ") is False:
            subak.greeting += line
    return line.removeprefix("Operators: ").partition("/-/")[0]


async def test_a56_no_secret_and_nobody_stands_in_logs_metrics_errors_or_the_trail(tmp_path: Path) -> None:
    marks = [f"{CANARY}{number}" for number in range(8)]
    query, email, bearer, key, user, agent, label, report = marks
    async with scripted() as upstream:
        environment = {
            **AUDITED,
            "RAG_BACKEND_URL": upstream.url,
            "SUBAK_STATE_DIR": str(tmp_path),
            "SUBAK_ADMIN__TOKEN": "the-operators-token",
            "SUBAK_LOG__LEVEL": "debug",
            "API_KEYS_INTERNAL": "the-host-application",
        }
        async with process("serve", **environment) as subak:
            url = await subak.url()
            headers = [("User-Agent", "${jndi:ldap://" + agent + "}"), ("x-connection-id", label)]
            bodies = [
                (await ask(url, "GET", question_url("${jndi:ldap://" + query + "}", user_email=email), headers)).body,
                (await ask(url, "GET", question_url(), [("Authorization", f"Bearer {bearer}")])).body,
                (await ask(url, "GET", question_url(), [("x-api-key", key)])).body,
                (
                    await ask(url, "GET", question_url(), [("x-user-id", user), ("x-api-key", "the-host-application")])
                ).body,
                (await ask(url, "GET", question_url(), [("Last-Event-ID", query)])).body,
                (await ask(url, "POST", "/v1/streams", [("Content-Type", "text/plain")], query.encode())).body,
                (await ask(url, "GET", f"/v1/streams/{query}")).body,
            ]
            admin_url = await admin_of(subak)
            operator = [("Authorization", "Bearer the-operators-token"), ("Content-Type", "application/json")]
            event = f'{{"event":"login","user_id":"42","email":"{report}@example.org"}}'.encode()
            assert (await ask(admin_url, "POST", "/-/audit/auth-events", operator, event)).status == 204
            for page in ("/metrics", "/-/stats", "/-/connections", "/-/errors", "/-/config", "/-/limits"):
                answer = await ask(admin_url, "GET", page, operator)
                assert answer.status == 200
                bodies.append(answer.body)
            subak.signal(signal.SIGTERM)
            code, out, err = await subak.ended()
    assert code == 0
    shown = b"\n".join([*bodies, out.encode(), err.encode()])
    assert [mark for mark in marks if mark.encode() in shown and mark != label] == []
    needles = [mark.encode() for mark in marks]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {LOG_FILE, "audit.keys"}
    assert list(holding(files, needles)) == []
    assert {row.operation for row in trail_of(tmp_path)} >= {"stream.start", "auth.failure", "auth.login"}

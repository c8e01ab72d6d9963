"""Row 68 of the fault matrix: two gateways behind one nginx, restarted one after the other while they answer.

Each keeps its own answers, so nginx keeps a caller at one of them, and goes on to the other only with what the first
one refuses by a 503: that one has asked nothing.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest

from subak.client import AnswerExpired, AnswerFailed, Options, Patience, Token, stream
from subak.testing import PATIENCE_S, End, Gate, Head, RecordedRequest, ScriptedUpstream, Step
from tests.integration.clients import FOLLOWERS, Followed, assert_saw_all_once
from tests.integration.gateway import ANSWER, CIAO, DONE, ONE_LOOP, Process, ask, eventually, process, question_url
from tests.integration.nginx import HttpBlock, nginx
from tests.settings import runs
from tests.trail import assert_verifies, entries_of, unended
from tests.transcripts.scenes import token

CALLERS: Final = runs(fast=40, default=500, soak=500)
LATE: Final = 8
FEW: Final = 24
NAMES: Final = ("one", "two")
UNMODIFIED: Final = ("curl", "fetch-event-source")
TEXT: Final = "Ciao mondo"
PATIENT: Final = Patience(first_wait_s=0.05, longest_wait_s=1.0, attempts=100)
WHOLE_S: Final = 240.0
"""How long all answers may take: hundreds of readers on a busy machine."""

pytestmark = [ONE_LOOP, pytest.mark.real, pytest.mark.timeout(3 * WHOLE_S)]


class Pair:
    """Two gateways, each with its port and its state directory."""

    def __init__(self, upstream_url: str, folder: Path, *, drain_s: float) -> None:
        self.states = {name: folder / name for name in NAMES}
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.running: dict[str, Process] = {}
        self._stack = AsyncExitStack()
        self._environment = {
            "ENABLE_SSE_STREAMING": "true",
            "RAG_BACKEND_URL": upstream_url,
            "SUBAK_AUDIT__ENABLED": "true",
            "SUBAK_STREAM__DRAIN_S": str(drain_s),
            "SUBAK_STREAM__RETRY_MIN_MS": "10",
            "SUBAK_STREAM__RETRY_MAX_MS": "500",
        }

    def url(self, name: str) -> str:
        """Give where one of them listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    async def start(self, name: str) -> None:
        """Start one, with all that it had."""
        environment = self._environment | {
            "SUBAK_SERVER__PORT": str(self.ports[name]),
            "SUBAK_STATE_DIR": str(self.states[name]),
        }
        self.running[name] = await self._stack.enter_async_context(process("serve", **environment))
        await self.running[name].url()

    async def drain(self, name: str) -> None:
        """Ask one to leave; return once it takes no more questions."""
        self.running[name].signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while (await ask(self.url(name), "GET", "/readyz")).status == HTTPStatus.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def has_left(self, name: str) -> None:
        """Wait until it has ended, as it should."""
        code, _, said = await self.running[name].ended()
        assert (code, "Traceback" in said) == (0, False), said

    async def close(self) -> None:
        """End what still runs."""
        await self._stack.aclose()


def free_ports(count: int) -> list[int]:
    """Give ports that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@asynccontextmanager
async def pair(upstream: ScriptedUpstream, folder: Path, *, drain_s: float) -> AsyncIterator[Pair]:
    """Run two gateways."""
    gateways = Pair(upstream.url, folder, drain_s=drain_s)
    try:
        for name in NAMES:
            gateways.states[name].mkdir()
            await gateways.start(name)
        yield gateways
    finally:
        await gateways.close()


def before(gateways: Pair) -> HttpBlock:
    """Give the proxy of docs/deployment.md for several processes; callers are told apart by a cookie here."""
    servers = "\n".join(f"server 127.0.0.1:{port} max_fails=0;" for port in gateways.ports.values())
    return lambda port, _folder: (
        f"""
upstream subak {{ hash $cookie_caller consistent; {servers} }}
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://subak;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_next_upstream http_503 non_idempotent;
    }}
}}
"""
    )


class Crowd:
    """Callers with Python clients, and how each one's answer ended. `reading` have seen its first word."""

    def __init__(self, url: str, query: str) -> None:
        self.reading = 0
        self.whole = 0
        self.told: list[str] = []
        self._url = url
        self._query = query

    async def read(self, number: int) -> None:
        """Ask one question and read its answer to the end, whatever happens on the way."""
        options = Options(patience=PATIENT, headers={"Cookie": f"caller={number}"})
        answer = stream(self._url, query=self._query, options=options)
        try:
            async for event in answer:
                self.reading += isinstance(event, Token) and event.text == "Ciao "
        except AnswerFailed as failed:
            self.told.append(str(failed.code))
        except AnswerExpired:
            self.told.append("expired")
        else:
            assert answer.text == TEXT
            self.whole += 1

    async def all_read(self, count: int) -> None:
        """Wait until so many have begun to read."""
        await eventually(lambda: self.reading == count, lambda: f"{self.reading} of {count} read", WHOLE_S)


def script_of(gates: dict[str, asyncio.Event], request: RecordedRequest) -> Sequence[Step]:
    """Give an answer that stops in the middle until the gate of its round opens; one that is no round's has none."""
    found = [gate for name, gate in gates.items() if f"slow-{name}" in request.target]
    return [Head(), CIAO, Gate(found[0]), token("mondo"), DONE, End()] if found else ANSWER


async def follow(client: str, url: str, query: str) -> Followed:
    """Follow by a client that knows nothing of gateways."""
    return await FOLLOWERS[client](url + question_url(query))


async def restart_one(
    name: str, gateways: Pair, proxy_url: str, upstream: ScriptedUpstream, gate: asyncio.Event
) -> None:
    """Restart a gateway under answers that are half said; callers hear the other half, and new ones a whole answer."""
    asked_before = upstream.questions
    crowd, late = Crowd(proxy_url, f"slow-{name}"), Crowd(proxy_url, "late")
    async with asyncio.timeout(WHOLE_S), asyncio.TaskGroup() as tasks:
        for number in range(CALLERS):
            tasks.create_task(crowd.read(number))
        followed = [tasks.create_task(follow(client, proxy_url, f"slow-{name}")) for client in UNMODIFIED]
        await crowd.all_read(CALLERS)
        await upstream.wait_questions(asked_before + CALLERS + len(UNMODIFIED), WHOLE_S)
        await gateways.drain(name)
        refused = await ask(gateways.url(name), "GET", question_url("late"))
        assert (refused.status, refused.header("Retry-After")) == (HTTPStatus.SERVICE_UNAVAILABLE, "1")
        for number in range(LATE):
            await late.read(number)
        gate.set()
    assert (crowd.whole, crowd.told) == (CALLERS, [])
    assert (late.whole, late.told) == (LATE, [])
    for one in followed:
        assert_saw_all_once(one.result(), TEXT)
    await gateways.has_left(name)
    await gateways.start(name)


async def test_s68_of_two_gateways_restarted_in_turn_no_answer_is_lost_and_no_question_asked_twice(
    tmp_path: Path,
) -> None:
    gates = {name: asyncio.Event() for name in NAMES}
    asked = len(NAMES) * (CALLERS + LATE + len(UNMODIFIED))
    async with (
        ScriptedUpstream(lambda request: script_of(gates, request)) as upstream,
        pair(upstream, tmp_path, drain_s=WHOLE_S) as gateways,
        nginx(before(gateways)) as proxy,
    ):
        for name, gate in gates.items():
            await restart_one(name, gateways, proxy.url, upstream, gate)
        assert upstream.questions == asked
        for name in NAMES:
            gateways.running[name].signal(signal.SIGTERM)
            await gateways.has_left(name)
    for state in gateways.states.values():
        assert_verifies(state)
        assert not unended(state)
        assert {entry.core["outcome"] for entry in entries_of(state, "stream.end")} == {"stop"}
    assert sum(len(entries_of(state, "stream.start")) for state in gateways.states.values()) == asked


async def test_s68_whoever_read_an_answer_that_a_restart_cut_off_is_told_and_the_others_read_on(tmp_path: Path) -> None:
    gates = {"cut": asyncio.Event()}
    async with (
        ScriptedUpstream(lambda request: script_of(gates, request)) as upstream,
        pair(upstream, tmp_path, drain_s=0.5) as gateways,
        nginx(before(gateways)) as proxy,
    ):
        crowd = Crowd(proxy.url, "slow-cut")
        async with asyncio.timeout(WHOLE_S), asyncio.TaskGroup() as tasks:
            for number in range(FEW):
                tasks.create_task(crowd.read(number))
            await crowd.all_read(FEW)
            gateways.running["one"].signal(signal.SIGTERM)
            await gateways.has_left("one")
            await gateways.start("one")
            lost = ends_at(gateways, "one").count("producer_lost")
            await eventually(lambda: len(crowd.told) == lost, lambda: f"{crowd.told} of {lost}", WHOLE_S)
            gates["cut"].set()
        assert 0 < lost < FEW
        assert (crowd.whole, set(crowd.told) <= {"producer_lost", "expired"}) == (FEW - lost, True)
        assert upstream.questions == FEW


def ends_at(gateways: Pair, name: str) -> list[str]:
    """Give the outcomes of all answers of a gateway."""
    return [str(entry.core["outcome"]) for entry in entries_of(gateways.states[name], "stream.end")]

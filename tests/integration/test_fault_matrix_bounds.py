"""Who comes too slowly, who comes in too large a number, and upstreams that come and go: rows 22 and 28 to 30.

`running` asserts for each of them that no task, socket, stream or reader is left.
"""

import asyncio
import gc
import json
import os
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from subak.core.facts import Refused, StreamEnded, StreamOpened
from subak.core.question import Question, Turn
from subak.testing import (
    PATIENCE_S,
    End,
    FakeClock,
    Frame,
    Gate,
    Head,
    RecordedRequest,
    Reset,
    ScriptedUpstream,
    Stall,
    Step,
)
from tests.integration.gateway import (
    ANSWER,
    CHAT_STREAM,
    DONE,
    ONE_LOOP,
    STARTING_S,
    Answer,
    Client,
    Process,
    Running,
    ask,
    data_of,
    get,
    post,
    process,
    question_url,
    request_bytes,
    running,
    scripted,
    spawned,
    terminal_of,
    text_of,
)
from tests.settings import runs
from tests.transcripts.scenes import token

JSON: Final = ("Content-Type", "application/json")
FLAPS: Final = runs(fast=1, default=3, soak=20)
IDLE: Final = runs(fast=20, default=100, soak=1000)
BOUND: Final = runs(fast=50, default=200, soak=2500)
DROPPED: Final = runs(fast=50, default=300, soak=4000)


def only_problem(answer: Answer, status: int, code: str) -> None:
    """Fail unless this is a plain problem that says when to come back."""
    assert (answer.status, answer.header("Content-Type")) == (status, "application/problem+json")
    assert int(answer.header("Retry-After") or 0) > 0
    assert json.loads(answer.body).get("code", code) == code


class Flapping:
    """Is up in about half of all seconds, else it fails in one of four ways; keeps what it did to each question."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._is_up = True
        self.said: dict[str, list[str]] = {}

    def next_second(self) -> None:
        self._is_up = self._dice.random() < 0.5

    def __call__(self, request: RecordedRequest) -> Iterable[Step]:
        how = "answer" if self._is_up else self._dice.choice(["status", "reset", "empty", "break"])
        self.said.setdefault(request.target, []).append(how)
        match how:
            case "answer":
                return ANSWER
            case "status":
                return [Head(500, {}), End()]
            case "reset":
                return [Reset()]
            case "empty":
                return [Head(), End()]
            case _:
                return [Head(), token("begun "), Reset()]


@ONE_LOOP
@pytest.mark.repeats(minutes=1)
@pytest.mark.parametrize("seed", range(FLAPS))
async def test_u22_an_upstream_that_flaps_for_a_minute_is_asked_at_most_a_tenth_more_often(seed: int) -> None:
    flapping = Flapping(seed)
    a_second = 10
    async with ScriptedUpstream(flapping) as upstream, running(upstream, clock=FakeClock()) as gateway:
        answers: list[Answer] = []
        for second in range(60):
            asking = [get(gateway, question_url(f"q{second}-{number}")) for number in range(a_second)]
            answers += await asyncio.gather(*asking)
            gateway.pass_time(1)
            flapping.next_second()
        refused = [answer for answer in answers if answer.status != 200]
        opened = len(gateway.observer.of(StreamOpened))
        assert len(refused) + opened == 60 * a_second
        for answer in refused:
            only_problem(answer, 503, "upstream_unavailable")
        assert refused, "the breaker never opened"
        assert upstream.questions <= 1.1 * opened + 1
        for said in flapping.said.values():
            assert not {"answer", "break"} & set(said[:-1]), "a question was asked again after a token"
        ends = [terminal_of(answer.frames) for answer in answers if answer.status == 200]
        assert sum(end.type == "done" for end in ends) == sum(said[-1] == "answer" for said in flapping.said.values())
        assert {end.type for end in ends} == {"done", "error"}


async def test_u22_with_every_breaker_open_questions_get_a_plain_503_until_a_first_token_comes() -> None:
    failing = [Head(500, {}), End()]
    gate = asyncio.Event()
    probed = [Head(), Gate(gate), *ANSWER[1:]]
    async with (
        ScriptedUpstream(*[failing] * 4, probed, ANSWER) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_UPSTREAM__BREAKER_FAILURES="4") as gateway,
    ):
        for _ in range(4):
            assert terminal_of((await get(gateway, question_url())).frames).type == "error"
        for answer in (await get(gateway, question_url()), await post(gateway, "/v1/streams", {"query": "x"})):
            only_problem(answer, 503, "upstream_unavailable")
        assert upstream.questions == 4
        gateway.pass_time(5.5)
        async with Client.connect(gateway.url) as probing:
            await probing.begin("GET", question_url())
            await upstream.wait_questions(5)
            only_problem(await get(gateway, question_url()), 503, "upstream_unavailable")
            gate.set()
            assert text_of((await probing.whole()).frames) == "Ciao mondo"
        assert text_of((await get(gateway, question_url())).frames) == "Ciao mondo"
        assert upstream.questions == 6


async def test_u22_what_the_first_upstream_fails_to_begin_the_second_answers_in_one_stream() -> None:
    async with (
        ScriptedUpstream([Head(500, {}), End()]) as broken,
        scripted(*ANSWER) as sound,
        running(broken, SUBAK_UPSTREAM__FALLBACK_URLS=sound.url) as gateway,
    ):
        answer = await get(gateway, question_url())
        assert text_of(answer.frames) == "Ciao mondo"
        assert terminal_of(answer.frames).type == "done"
        assert (broken.questions, sound.questions) == (1, 1)


async def test_u22_what_the_first_upstream_began_nobody_else_is_asked() -> None:
    async with (
        ScriptedUpstream([Head(), token("begun "), Reset()]) as breaking,
        scripted(*ANSWER) as sound,
        running(breaking, SUBAK_UPSTREAM__FALLBACK_URLS=sound.url) as gateway,
    ):
        answer = await get(gateway, question_url())
        assert text_of(answer.frames) == "begun "
        assert data_of(terminal_of(answer.frames))["code"] == "upstream_truncated"
        assert (breaking.questions, sound.questions) == (1, 0)


@asynccontextmanager
async def connected(gateway: Running, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client.connect(gateway.url)) for _ in range(count)]


async def assert_served(gateway: Running) -> None:
    """Ask a question as a healthy client does."""
    assert text_of((await get(gateway, question_url())).frames) == "Ciao mondo"


async def test_c28_heads_that_never_end_are_given_up_after_10_seconds_and_others_are_served() -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: y\r\n"
    async with (
        scripted(*ANSWER) as upstream,
        running(upstream, clock=FakeClock()) as gateway,
        connected(gateway, 50) as slow,
    ):
        for second in range(9):
            for client in slow:
                await client.send(head[second : second + 1])
            await assert_served(gateway)
            gateway.pass_time(1)
        await slow[0].send(head[9:] + b"\r\n")
        slow[0].expect("GET")
        assert (await slow[0].whole()).status == 200, "one that ends in time is answered"
        gateway.pass_time(1.5)
        for client in slow[1:]:
            assert await client.is_closed_by_server()
        await assert_served(gateway)


async def test_c28_a_connection_that_says_nothing_is_given_up_after_10_seconds() -> None:
    async with running(clock=FakeClock()) as gateway, connected(gateway, 1) as (silent,):
        await assert_open(gateway, 9)
        gateway.pass_time(1.5)
        assert await silent.is_closed_by_server()


async def assert_open(gateway: Running, seconds: float) -> None:
    """Let time pass, and let the gateway do what it has to."""
    assert (await get(gateway, "/livez")).status == 200
    gateway.pass_time(seconds)
    assert (await get(gateway, "/livez")).status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("target", [CHAT_STREAM, "/v1/streams"])
async def test_c28_a_body_that_is_not_complete_after_30_seconds_is_408(target: str, framing: str) -> None:
    async with (
        scripted(*ANSWER) as upstream,
        running(upstream, clock=FakeClock()) as gateway,
        connected(gateway, 2) as (slow, in_time),
    ):
        head = request_bytes("POST", target, [JSON, (framing.partition(": ")[0], framing.partition(": ")[2])])
        piece = b"1\r\n \r\n" if "chunked" in framing else b" "
        await slow.send(head)
        await in_time.send(request_bytes("POST", target, [JSON, ("Content-Length", "13")]))
        for _ in range(29):
            await slow.send(piece)
            await assert_open(gateway, 1)
        slow.expect("POST")
        in_time.expect("POST")
        await in_time.send(b'{"query":"x"}')
        assert (await in_time.whole()).status in {200, 201}
        gateway.pass_time(1.5)
        assert (await slow.whole()).status == 408
        assert await slow.is_closed_by_server()
        await upstream.wait_questions(1)
        assert [fact.code for fact in gateway.observer.of(Refused)] == ["request_timeout"]


@pytest.mark.repeats(connections=IDLE)
async def test_c28_connections_that_idle_after_an_answer_are_closed_after_75_seconds() -> None:
    async with (
        scripted(*ANSWER) as upstream,
        running(upstream, clock=FakeClock()) as gateway,
        connected(gateway, IDLE) as idle,
    ):
        for client in idle:
            await client.begin("GET", "/livez")
            assert (await client.whole()).status == 200
        gateway.pass_time(74)
        await idle[0].begin("GET", question_url())
        assert text_of((await idle[0].whole()).frames) == "Ciao mondo"
        gateway.pass_time(2)
        for client in idle[1:]:
            assert await client.is_closed_by_server()
        await idle[0].begin("GET", "/livez")
        assert (await idle[0].whole()).status == 200


async def test_c28_a_long_answer_outlives_all_deadlines_of_its_connection() -> None:
    gate = asyncio.Event()
    script = [Head(), token("uno "), Gate(gate), token("due "), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_UPSTREAM__IDLE_TIMEOUT_S="3600") as gateway,
        connected(gateway, 1) as (reader,),
    ):
        await reader.begin("POST", CHAT_STREAM, [JSON], b'{"query":"x"}')
        await reader.until(b'"uno "')
        for _ in range(10):
            gateway.pass_time(10)
            await asyncio.sleep(0)
        gate.set()
        assert text_of((await reader.whole()).frames) == "uno due "


async def test_c28_an_answer_under_way_keeps_nothing_of_the_conversation_that_it_answers() -> None:
    gate = asyncio.Event()
    said = "What was said before. " * 1000
    history = [{"role": "user", "content": said}]
    script = [Head(), token("uno "), Gate(gate), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, SUBAK_UPSTREAM__METHOD="auto") as gateway,
        connected(gateway, 1) as (reader,),
    ):
        question = json.dumps({"query": "x", "conversation_history": history}).encode()
        await reader.begin("POST", CHAT_STREAM, [JSON], question)
        await reader.until(b'"uno "')
        kept = [thing for thing in gc.get_objects() if isinstance(thing, Question) and thing.conversation_history]
        assert not [question for question in kept if question.conversation_history == (Turn("user", said),)]
        gate.set()
        assert text_of((await reader.whole()).frames) == "uno "


@asynccontextmanager
async def listening(gateway: Running, count: int) -> AsyncIterator[list[Client]]:
    """Have so many read an answer of which they have got the first word."""
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(count):  # one by one: the upstream's queue holds a hundred, and a head has to come in 10 s
            reader = await stack.enter_async_context(Client.connect(gateway.url))
            await reader.begin("GET", question_url())
            assert b'"uno "' in (await reader.until(b'"uno "')).body
            readers.append(reader)
        yield readers


@pytest.mark.repeats(connections=3 * BOUND)
async def test_c29_connections_past_the_bound_get_503_and_those_within_go_on() -> None:
    gate = asyncio.Event()
    script = [Head(), token("uno "), Gate(gate), token("due "), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, SUBAK_SERVER__MAX_CONNECTIONS=str(BOUND), SUBAK_STREAM__ON_DISCONNECT="cancel") as gateway,
        listening(gateway, BOUND) as readers,
    ):
        async with connected(gateway, 2 * BOUND) as late:
            for client in late:
                client.expect("GET")
            for client in late:
                answer = await client.whole()
                assert (answer.status, answer.header("Retry-After")) == (503, "2")
                assert await client.is_closed_by_server()
        half = readers[: BOUND // 2]
        for reader in half:
            await reader.leave()
        await gateway.observer.wait_for(StreamEnded, len(half))
        assert (await get(gateway, "/livez")).status == 200, "there is room again"
        gate.set()
        for reader in readers[BOUND // 2 :]:
            assert text_of((await reader.whole()).frames) == "uno due "


@pytest.mark.repeats(readers=DROPPED)
async def test_c29_readers_that_all_drop_at_once_leave_nothing() -> None:
    script = [Head(), token("uno "), Stall()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, SUBAK_STREAM__ON_DISCONNECT="cancel") as gateway,
    ):
        async with listening(gateway, DROPPED):
            assert (gateway.gateway.hub.live_count, gateway.gateway.hub.reader_count) == (DROPPED, DROPPED)
        ended = await gateway.observer.wait_for(StreamEnded, DROPPED, timeout_s=30)
        assert {fact.outcome for fact in ended} == {"abandoned"}
        for connection in upstream.connections:
            await connection.wait_closed()


async def test_c29_past_the_memory_budget_new_streams_get_503_and_live_ones_go_on() -> None:
    gate = asyncio.Event()
    script = [Head(), *(token("x" * 1000) for _ in range(100)), Gate(gate), token("the end"), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(
            upstream,
            SUBAK_STREAM__MEMORY_BUDGET_BYTES="250000",
            SUBAK_STREAM__MAX_BYTES="200000",
            SUBAK_UPSTREAM__MAX_EVENT_BYTES="100000",
        ) as gateway,
        connected(gateway, 3) as readers,
    ):
        for reader in readers:
            await reader.begin("GET", question_url())
            await reader.until(b'"sequence":101')
        for answer in (await get(gateway, question_url()), await post(gateway, "/v1/streams", {"query": "x"})):
            only_problem(answer, 503, "memory_budget")
        assert upstream.questions == 3
        gate.set()
        for reader in readers:
            assert text_of((await reader.whole()).frames).endswith("the end")
        assert terminal_of((await get(gateway, question_url())).frames).type == "done", "ended answers make room"


def cpu_s(pid: int) -> float:
    """Give the processor time that a process has had, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def share_of_a_processor(pid: int) -> float:
    """Give how much of one a process takes when it has nothing to do: one that spins takes all that it can get."""
    loop = asyncio.get_running_loop()
    began_at, before_s = loop.time(), cpu_s(pid)
    await asyncio.sleep(2)  # what is measured
    return (cpu_s(pid) - before_s) / (loop.time() - began_at)


async def line_with(subak: Process, event: str) -> dict[str, object]:
    """Give the next log line of this kind."""
    assert subak.process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while line := await subak.process.stdout.readline():
            fields: dict[str, object] = json.loads(line)
            if fields["event"] == event:
                return fields
    raise AssertionError(f"no {event}")


@ONE_LOOP
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_c30_without_descriptors_the_process_says_so_waits_without_spinning_and_recovers(loop: str) -> None:
    environment = {
        "ENABLE_SSE_STREAMING": "true",
        "SUBAK_SERVER__MAX_CONNECTIONS": "10000",
        "SUBAK_SERVER__LOOP": loop,
        "SUBAK_LOG__FORMAT": "json",
    }
    async with process("serve", **environment) as subak:
        url = await subak.url()
        pid = subak.process.pid
        limit = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 20
        async with Client.connect(url) as reader:
            await reader.begin("GET", "/livez")
            await reader.whole()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
            async with AsyncExitStack() as stack:
                for _ in range(60):
                    await stack.enter_async_context(Client.connect(url))
                assert (await line_with(subak, "descriptors_exhausted"))["limit"] == limit
                await reader.begin("GET", question_url())
                assert terminal_of((await reader.whole()).frames).type == "done", "who is inside is served"
                assert await share_of_a_processor(pid) < 0.2
        await line_with(subak, "descriptors_freed")
        async with asyncio.timeout(STARTING_S):
            while (await ask(url, "GET", "/livez")).status != 200:
                pass  # connections of before may stand in the queue
        assert terminal_of((await ask(url, "GET", question_url())).frames).type == "done"
        subak.signal(signal.SIGTERM)
        code, out, err = await subak.ended()
        assert code == 0
        assert out.count("descriptors_exhausted") < 5, "once for each time that they run out"
        assert len(err) < 1000


@ONE_LOOP
async def test_c30_with_256_descriptors_connections_stop_before_descriptors_do() -> None:
    command = ["prlimit", "--nofile=256:256", sys.executable, "-m", "subak", "serve"]
    async with (
        ScriptedUpstream([Head(), Frame('{"text": "Ciao"}'), Stall()]) as upstream,
        spawned(command, {"ENABLE_SSE_STREAMING": "true", "RAG_BACKEND_URL": upstream.url}) as subak,
        AsyncExitStack() as stack,
    ):
        url = await subak.url()
        answers = []
        for _ in range(200):
            client = await stack.enter_async_context(Client.connect(url))
            await client.begin("GET", question_url())
            answers.append(await client.head())
        assert [answer.status for answer in answers] == [200] * 96 + [503] * 104
        assert upstream.questions == 96
        subak.signal(signal.SIGTERM)
        subak.signal(signal.SIGTERM)
        _, out, _ = await subak.ended()
        assert "descriptors_exhausted" not in out

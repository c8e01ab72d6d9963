"""`subak bench` over real sockets: it finds what is wrong with a target, and nothing that isn't."""

import asyncio
import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from subak.bench.load import NEVER_ASKED, Plan
from subak.bench.objectives import ALWAYS, read_objectives
from subak.bench.reading import CUT, GARBLED, NO_END, NOT_EVENTS, Wanted
from subak.bench.run import Benchmark, Progress, Report
from subak.bench.target import DEFAULT_QUERY, Fields, Target
from subak.testing import (
    PATIENCE_S,
    Body,
    Close,
    End,
    Frame,
    Head,
    Line,
    Raw,
    Reset,
    ScriptedUpstream,
    Stall,
    Step,
    Way,
)
from tests.integration.clients import proxy_before
from tests.integration.gateway import (
    CIAO,
    ONE_LOOP,
    STARTING_S,
    Process,
    eventually,
    process,
    running,
    scripted,
)

QUESTIONS: Sequence[Fields] = [{"query": DEFAULT_QUERY}]
AT_40 = Plan(rate=40.0, questions=20, streams=20)


async def measured(
    target: Target | str, plan: Plan = AT_40, slo: str = ALWAYS, questions: Sequence[Fields] = QUESTIONS
) -> Report:
    to = Target.of(target) if isinstance(target, str) else target
    async with asyncio.timeout(100):
        return await Benchmark(plan, questions, read_objectives(slo)).of_target(to, lambda _: None)


def token(sequence: int) -> Frame:
    return Frame(f'{{"type":"token","data":"Ciao ","sequence":{sequence},"timestamp":1}}')


def answer(*sequences: int) -> list[Step]:
    """An answer in the envelope dialect, whose tokens have these seqs."""
    done = f'{{"type":"done","data":{{"finish_reason":"stop"}},"sequence":{max(sequences) + 1},"timestamp":1}}'
    return [Head(), *map(token, sequences), Frame(done), End()]


async def test_a_good_gateway_has_nothing_to_be_found() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        report = await measured(gateway.url)
        assert upstream.questions == 20, "each question is an answer of its own"
    run = report.main
    assert (run.asked, run.opened, run.whole, run.tokens, run.events) == (20, 20, 20, 40, 100)
    assert (run.lost, run.duplicated, run.reordered, run.errors) == (0, 0, 0, {})
    assert (run.connection_success, run.error_rate) == (100.0, 0.0)
    assert run.inter_token.count == run.first_token.count == 20
    assert report.is_good


async def test_an_injected_delay_of_300_ms_is_found() -> None:
    slo = "first_token_p50=300ms"
    late = Line(to_client=Way(latency_s=0.300))
    async with scripted() as upstream, running(upstream) as gateway, proxy_before(gateway.url, late) as proxy:
        direct = await measured(gateway.url, slo=slo)
        delayed = await measured(proxy.url, slo=slo)
    # The least of each: whatever else the machine does makes the others later.
    added_ms = delayed.main.first_token.curve[0] - direct.main.first_token.curve[0]
    assert 250 < added_ms < 600
    assert not delayed.is_good
    assert delayed.main.errors == {}


@pytest.mark.parametrize(
    ("sequences", "lost", "duplicated", "reordered"),
    [((1, 2, 4), 1, 0, 0), ((1, 2, 2, 3), 0, 1, 0), ((1, 3, 2, 4), 0, 0, 1), ((1, 2, 3), 0, 0, 0)],
)
async def test_a_dropped_doubled_or_late_event_is_found(
    sequences: tuple[int, ...], lost: int, duplicated: int, reordered: int
) -> None:
    async with ScriptedUpstream(answer(1, 2, 3), answer(*sequences), answer(1, 2)) as target:
        report = await measured(target.url, Plan(is_closed=True, questions=4))
    run = report.main
    assert (run.lost, run.duplicated, run.reordered) == (lost, duplicated, reordered)
    assert run.whole == 4
    assert report.is_good is (lost + duplicated + reordered == 0)


async def test_a_dropped_event_of_a_rag_backend_is_found() -> None:
    frames = [Frame(f'{{"text": "Ciao ", "sequenceNumber": {number}}}') for number in (1, 2, 4)]
    async with ScriptedUpstream([Head(), *frames, Frame('{"done": true, "sequenceNumber": 5}'), End()]) as target:
        report = await measured(Target.of(f"{target.url}/bali-zero/chat-stream", method="get"), Plan(questions=3))
        assert target.requests[0].target.startswith("/bali-zero/chat-stream?query=What%20documents")
    assert (report.main.lost, report.main.whole, report.main.tokens) == (3, 3, 9)


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([Head(), token(1), End()], NO_END),
        ([Head(), token(1), Close()], CUT),
        ([Head(), token(1), Reset()], CUT),
        ([Close()], "no_response"),
        ([Head(), Frame("{"), End()], GARBLED),
        ([Head(headers={"Content-Type": "text/html"}), Body(b"<p>"), End()], NOT_EVENTS),
        ([Head(404), End()], "404 refused"),
        ([Raw(b"SMTP?\r\n\r\n")], "bad_head"),
        (
            [Head(), Frame('{"type":"error","data":{"code":"too_long","message":""},"sequence":1}'), End()],
            "error too_long",
        ),
        ([Head(), Frame('{"error": "boom", "done": true}'), End()], "error"),
    ],
)
async def test_errors_are_counted_by_kind(steps: list[Step], kind: str) -> None:
    async with ScriptedUpstream(answer(1), steps, answer(1)) as target:
        run = (await measured(target.url, Plan(is_closed=True, questions=3))).main
    assert run.errors == {kind: 1}
    assert (run.whole, run.error_rate) == (2, 33.333)


async def test_without_an_answer_to_the_first_question_there_is_no_load() -> None:
    async with ScriptedUpstream([Close()]) as target:
        report = await measured(target.url, Plan(streams=50, questions=500))
        assert target.questions == 1
    assert not report.is_good


async def test_the_rate_follows_from_the_answers_that_are_meant_to_be_open() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        late = Line(to_client=Way(latency_s=0.100))
        async with proxy_before(gateway.url, late) as proxy:
            report = await measured(proxy.url, Plan(streams=4, duration_s=1.5))
    assert report.plan.rate is not None
    assert 0 < report.plan.rate <= 40
    assert report.main.asked == report.plan.expected


async def test_what_a_slow_target_makes_callers_wait_for_is_in_its_latency() -> None:
    late = Line(to_client=Way(latency_s=0.030))
    async with scripted() as upstream, running(upstream) as gateway, proxy_before(gateway.url, late) as proxy:
        on_time = (await measured(proxy.url, Plan(rate=100.0, questions=20, streams=1))).main
        in_turn = (await measured(proxy.url, Plan(is_closed=True, questions=20, streams=1))).main
    # 20 answers of 30 ms and more, one after the other, and the last was due after 190 ms.
    assert on_time.waited >= 15
    assert on_time.first_token.max is not None
    assert on_time.first_token.max > 20 * 30 - 190
    assert in_turn.waited == 0
    assert in_turn.first_token.p50 is not None
    assert in_turn.first_token.p50 < on_time.first_token.max


async def test_questions_that_found_no_place_in_time_are_errors() -> None:
    async with ScriptedUpstream([Head(), token(1), Stall()]) as target:
        report = await measured(target.url, Plan(rate=50.0, questions=5, streams=1, finish_s=1.0))
    run = report.main
    assert run.errors == {NEVER_ASKED: 4, "unfinished": 1}
    assert run.asked == 5
    assert not report.is_good


async def test_a_429_is_explained_with_the_settings_that_cure_it() -> None:
    limits = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "5", "API_KEYS_INTERNAL": "k" * 20}
    async with scripted() as upstream, running(upstream, limits) as gateway:
        run = await measured(gateway.url)
        with_key = await measured(Target.of(gateway.url, headers={"x-api-key": "k" * 20}))
    assert run.main.errors == {"429 RATE_LIMIT_EXCEEDED": 15}
    assert run.main.connection_success == 100.0, "a refusal by policy is no failed connection"
    (sentence,) = run.advice
    assert "its limit of 5" in sentence
    assert {"API_KEYS_INTERNAL", "SUBAK_LIMITS__ENABLED", "SUBAK_LIMITS__CHAT"} <= set(
        re.findall(r"[A-Z_]{8,}", sentence)
    )
    assert with_key.main.errors == {}
    assert (with_key.headers, with_key.is_good) == (["x-api-key"], True)
    assert b"kkkk" not in msgspec.json.encode(with_key)


async def test_answers_are_stopped_after_so_many_tokens() -> None:
    async with scripted(Head(), CIAO, CIAO, CIAO, Stall()) as upstream, running(upstream) as gateway:
        run = (await measured(gateway.url, Plan(rate=40.0, questions=4, streams=4, wanted=Wanted(2)))).main
        for connection in upstream.connections:
            await connection.wait_closed()
    assert (run.whole, run.stopped, run.errors) == (4, 4, {})


async def test_a_target_without_a_stop_is_left_after_so_many_tokens() -> None:
    frames = [Frame(f'{{"text": "Ciao ", "sequenceNumber": {number}}}') for number in (1, 2)]
    async with ScriptedUpstream([Head(), *frames, Stall()]) as target:
        to = Target.of(f"{target.url}/bali-zero/chat-stream", method="get")
        run = (await measured(to, Plan(streams=2, questions=3, wanted=Wanted(2)))).main
        assert {request.method for request in target.requests} == {"GET"}
    assert (run.whole, run.stopped, run.errors, run.duration.count) == (3, 3, {}, 3)


async def test_what_is_open_when_the_time_is_up_is_stopped_and_counted() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        run = (await measured(gateway.url, Plan(rate=40.0, questions=4, streams=4, finish_s=1.0))).main
        for connection in upstream.connections:
            await connection.wait_closed()
    assert run.errors == {"unfinished": 4}


async def test_an_end_by_hand_stops_what_is_open_and_reports_what_there_is() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        benchmark = Benchmark(Plan(rate=40.0, questions=400, streams=10), QUESTIONS, [])

        def end_soon(progress: Progress) -> None:
            if progress.open >= 3:
                benchmark.end()

        async with asyncio.timeout(PATIENCE_S):
            report = await benchmark.of_target(Target.of(gateway.url), end_soon)
        for connection in upstream.connections:
            await connection.wait_closed()
    assert report.is_ended_early
    assert report.main.errors == {}
    assert report.main.stopped == report.main.asked < 400


async def test_questions_are_asked_in_turn_with_the_callers_headers() -> None:
    async with ScriptedUpstream(answer(1)) as target:
        questions = [{"query": "A?"}, {"query": "B?", "user_role": "member"}]
        to = Target.of(target.url, headers={"Authorization": "Bearer t"})
        await measured(to, Plan(is_closed=True, questions=3), questions=questions)
        asked = [msgspec.json.decode(request.body) for request in target.requests]
        assert asked == [*questions, questions[0]]
        assert {request.headers["authorization"] for request in target.requests} == {"Bearer t"}
        assert len({request.headers["idempotency-key"] for request in target.requests}) == 3
        assert len(target.connections) == 3


async def test_connections_are_used_again_on_demand() -> None:
    async with ScriptedUpstream(answer(1)) as target:
        await measured(target.url, Plan(is_closed=True, questions=5, keep_alive=True))
        assert target.questions == 5
        assert len(target.connections) <= 2, "the end of a body may come after the next question"


@ONE_LOOP
async def test_the_command_writes_its_report_and_exits_by_the_objectives(tmp_path: Path) -> None:
    good, bad = "first_token_p95=20s,inter_token_mean=20s", "first_token_p95=1us"
    async with scripted() as upstream, running(upstream) as gateway:
        names = {"BENCHMARK_URL": gateway.url, "BENCHMARK_ITERATIONS": "3"}
        files = ("--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"))
        async with process("bench", *files, "--slo", good, **names) as bench:
            code, out, err = await bench.ended()
        assert (code, err) == (0, ""), out
        assert upstream.questions == 1 + 3, "one question tells how long an answer takes"
        async with process("bench", gateway.url, "--closed", "--questions", "2", "--slo", bad) as bench:
            code, missed, err = await bench.ended()
        assert (code, err) == (1, "")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["runs"][0]["whole"] == 3
    assert all(part in out for part in ("µs CPU an event", "first token", "Load average"))
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert "MISSED" in missed


@ONE_LOOP
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_prints_what_there_is(number: int) -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        async with process("bench", gateway.url, "--rate", "50", "--duration", "1h") as bench:
            await upstream.wait_questions(3, timeout_s=STARTING_S)
            bench.signal(number)
            code, out, err = await bench.ended()
        assert "It was ended early" in out
        assert "Traceback" not in err
        await eventually(lambda: gateway.gateway.hub.live_count == 0, lambda: "answers go on")
    assert code == 0


@ONE_LOOP
@pytest.mark.slow
async def test_embedded_measures_the_gateway_against_the_direct_path(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    load = ("--rate", "20", "--questions", "20", "--tokens", "5", "--pace", "10")
    slo = ("--slo", "added_first_token_p50=20s,added_event_p50=20s")
    async with process("bench", "--embedded", *load, *slo, "--json", str(file)) as bench:
        code, out, err = await _ended(bench)
    assert code == 0, out + err
    report = json.loads(file.read_text())
    assert [run["name"] for run in report["runs"]] == ["direct", "gateway", "direct again"]
    assert [(run["whole"], run["errors"], run["tokens"]) for run in report["runs"]] == [(20, {}, 100)] * 3
    direct, gateway, again = (run["first_token"]["curve"][0] for run in report["runs"])
    assert gateway > min(direct, again), "the least of each: whatever else the machine does makes the others later"
    assert report["comparison"]["added"]["event"]["count"] == report["comparison"]["noise"]["event"]["count"] == 100
    assert "direct against direct, event" in out


async def _ended(bench: Process) -> tuple[int, str, str]:
    """Wait for three runs and the starts of two processes."""
    async with asyncio.timeout(120):
        out, err = await bench.process.communicate()
    assert bench.process.returncode is not None
    return bench.process.returncode, out.decode(), err.decode()

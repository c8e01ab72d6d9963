"""Upstreams that fail and defects of ours: always one typed ending, never a hanging reader (PROTOCOL §3, §4)."""

import asyncio

import pytest

from subak.core.envelope import token_event
from subak.core.errors import Draining, ErrorCode, QuestionTooLong, UpstreamError
from subak.core.events import Finished
from subak.core.facts import Crashed, StreamEnded
from tests.scenario.conftest import MakeStage
from tests.stage import KIB, QUERY, Hanging, Stage, Terms, refused
from tests.wire import FollowingReader


def test_an_upstream_that_cannot_be_reached_is_an_error_event(stage: Stage) -> None:
    stage.upstream.manners[QUERY] = refused()
    ann, _ = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000", "2 error upstream_error")
    ann.ends()
    ended = stage.facts.of(StreamEnded)[0]
    assert (ended.outcome, ended.reason) == ("upstream_error", "connect_refused")


def test_an_upstream_that_is_busy_tells_when_to_come_back(stage: Stage) -> None:
    stage.upstream.manners[QUERY] = UpstreamError(ErrorCode.UPSTREAM_RATE_LIMITED, "status_429", retry_after_s=7)
    ann, _ = stage.ask()
    reader = FollowingReader(ann.subscriber.log.meta.stream_id, 0)
    reader.take(bytes(ann.outlet.received))
    error = reader.applied[-1].data
    assert error["code"] == "upstream_rate_limited"
    assert error["retryAfter"] == 7
    assert error["retryable"] is True
    assert error["connectionId"] == "c_stage"


def test_a_defect_while_asking_is_an_internal_error_and_a_fact_without_content(stage: Stage) -> None:
    stage.upstream.manners[QUERY] = KeyError("ann@example.org asked: secret")
    ann, _ = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000", "2 error internal_error")
    ann.ends()
    crashed = stage.facts.of(Crashed)[0]
    assert crashed.kind == "KeyError"
    assert crashed.where.startswith("stage.py:")
    assert "secret" not in repr(stage.facts.heard)
    assert b"secret" not in ann.outlet.received


def test_a_question_that_cannot_be_put_opens_no_stream(stage: Stage) -> None:
    stage.upstream.refusal = QuestionTooLong("too long")
    with pytest.raises(QuestionTooLong):
        stage.open()
    assert stage.hub.live_count == 0
    assert stage.store.size_bytes == 0
    assert stage.facts.heard == []


def test_an_answer_that_overtakes_the_return_of_open_is_heard(stage: Stage) -> None:
    hanging = Hanging()
    stage.upstream.manners[QUERY] = hanging
    ann, upstream = stage.ask()
    upstream.says(token_event("Ciao ", 1))
    upstream.says(ending=Finished())
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "3 done stop")
    ann.ends()
    hanging.gate.set()
    stage.settle()
    assert upstream.is_open
    upstream.was_cut()


def test_an_exchange_that_comes_about_while_all_readers_lag_begins_paused(stage: Stage) -> None:
    hanging = Hanging()
    stage.upstream.manners[QUERY] = hanging
    ann, upstream = stage.ask()
    ann.blocks()
    upstream.says(token_event("x" * 300 * KIB, 1))
    hanging.gate.set()
    stage.settle()
    upstream.waits()


def test_more_events_than_a_stream_may_have_end_it_as_too_long(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(max_events=4))
    ann, upstream = stage.ask()
    upstream.token("a", "b")
    ann.goes_on()
    upstream.token("c")
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "a"', '3 token "b"', '4 token "c"', "5 error too_long")
    ann.ends()
    upstream.was_cut()


def test_more_bytes_than_a_stream_may_have_end_it_as_too_long(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(max_bytes=10 * KIB))
    ann, upstream = stage.ask()
    upstream.token("x" * 9 * KIB)
    ann.goes_on()
    upstream.token("x" * KIB)
    ann.ends()
    upstream.was_cut()
    ended = stage.facts.of(StreamEnded)[0]
    assert (ended.outcome, ended.reason) == ("too_long", "stream_bounds")


def test_a_stream_past_its_age_ends_as_too_long(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(stream_age_s=40))
    ann, upstream = stage.ask()
    stage.advance(39.5)
    ann.goes_on()
    stage.advance(0.75)
    ann.ends()
    upstream.was_cut()
    ended = stage.facts.of(StreamEnded)[0]
    assert (ended.outcome, ended.reason) == ("too_long", "stream_age")


def test_an_answer_that_ends_in_the_read_that_reaches_the_bound_is_complete(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(max_events=2))
    ann, upstream = stage.ask()
    upstream.says(token_event("Ciao", 1), ending=Finished())
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao"', "3 done stop")


def test_the_end_of_the_process_leaves_no_reader_hanging(stage: Stage) -> None:
    ann, upstream = stage.ask()
    assert stage.hub.close() == 1
    ann.gets(": ok", "1 metadata connected retry 2000", "2 error producer_lost")
    ann.ends()
    upstream.was_cut()
    assert stage.hub.close() == 0
    with pytest.raises(Draining):
        stage.open()


def test_a_response_whose_task_is_cancelled_leaves_its_stream(stage: Stage) -> None:
    stream_id = stage.open()
    reading = stage.attach(stream_id)
    outcomes: list[str] = []

    async def serve() -> None:
        try:
            await reading.run(ann.outlet)  # type: ignore[union-attr]  # a new stream can be read
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise

    ann = stage.read(stream_id)
    task = stage.tasks.create_task(serve())
    stage.settle()
    assert stage.hub.reader_count == 2
    task.cancel()
    stage.settle()
    assert outcomes == ["cancelled"]
    assert stage.hub.reader_count == 1

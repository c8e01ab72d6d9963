"""Going away in good order: nobody new, readers sent off with a `retry:`, answers finished in time (PROTOCOL §4)."""

import asyncio

import pytest

from subak.core.errors import Draining
from subak.core.facts import DrainEnded, DrainStarted, StreamEnded
from subak.relay.subscriber import Departure
from tests.stage import Stage


def begin_drain(stage: Stage) -> asyncio.Task[None]:
    drain = stage.begin_drain()
    stage.settle()
    return drain


def test_readers_are_aborted_with_a_heartbeat_that_says_when_to_come_back(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    begin_drain(stage)
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "heartbeat 2 retry 2000")
    ann.ends(Departure.DRAIN)
    upstream.runs()


def test_a_reader_that_comes_back_is_served_to_the_end_and_the_drain_is_over_then(stage: Stage) -> None:
    ann, upstream = stage.ask()
    drain = begin_drain(stage)
    stage.advance(2)
    again = stage.read(ann.subscriber.log.meta.stream_id, 1)
    upstream.token("Ciao ")
    assert not drain.done()
    upstream.done()
    again.gets(": ok", "heartbeat 1 retry 2000", '2 token "Ciao "', "3 done stop")
    again.ends()
    assert drain.done()
    assert stage.facts.of(DrainStarted) == [DrainStarted(live_streams=1, readers=1)]
    assert stage.facts.of(DrainEnded) == [DrainEnded(lost_streams=0)]


def test_an_answer_that_ends_before_its_reader_is_back_waits_for_it(stage: Stage) -> None:
    ann, upstream = stage.ask()
    drain = begin_drain(stage)
    upstream.done()
    stage.settle()
    assert not drain.done()
    stage.advance(2)
    again = stage.read(ann.subscriber.log.meta.stream_id, 1)
    again.gets(": ok", "2 done stop retry 2000")
    again.ends()
    assert drain.done()


def test_what_is_still_live_at_the_limit_is_lost_and_says_so(stage: Stage) -> None:
    ann, upstream = stage.ask()
    drain = begin_drain(stage)
    again = stage.read(ann.subscriber.log.meta.stream_id, 1)
    stage.advance(9.5)
    assert not drain.done()
    stage.advance(0.75)
    assert drain.done()
    again.gets(": ok", "heartbeat 1 retry 2000", "2 error producer_lost")
    again.ends()
    upstream.was_cut()
    assert stage.facts.of(DrainEnded) == [DrainEnded(lost_streams=1)]
    assert stage.facts.of(StreamEnded)[0].reason == "drain_limit"


def test_a_drain_with_nothing_under_way_is_over_at_once(stage: Stage) -> None:
    assert begin_drain(stage).done()


def test_a_drain_takes_no_new_questions(stage: Stage) -> None:
    stage.ask()
    begin_drain(stage)
    with pytest.raises(Draining) as caught:
        stage.open()
    assert caught.value.retry_after_s == 1
    assert len(stage.upstream.questions) == 1


def test_a_blocked_reader_is_aborted_without_a_word_and_its_cursor_stays_good(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    ann.blocks()
    upstream.token("Ciao ")
    begin_drain(stage)
    ann.ends(Departure.DRAIN)
    ann.gets_nothing()
    again = stage.read(ann.subscriber.log.meta.stream_id, 1)
    again.gets(": ok", '2 token "Ciao " retry 2000')


def test_a_reader_that_got_its_ending_in_the_round_of_the_drain_is_not_waited_for(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.done()
    drain = stage.begin_drain()
    ann.ends()
    assert drain.done()


def test_readers_of_an_ended_answer_are_sent_away_and_served_again(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    ann.blocks()
    upstream.done()
    drain = begin_drain(stage)
    ann.ends(Departure.DRAIN)
    assert not drain.done()
    again = stage.read(ann.subscriber.log.meta.stream_id, 2)
    again.ends()
    assert drain.done()


def test_an_answer_without_readers_may_finish_too(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.leaves()
    drain = begin_drain(stage)
    stage.advance(5)
    assert not drain.done()
    upstream.done()
    stage.settle()
    assert drain.done()
    assert stage.facts.of(DrainEnded) == [DrainEnded(lost_streams=0)]


def test_a_cancelled_drain_can_be_closed_at_once(stage: Stage) -> None:
    """A second signal: the application cancels the drain and closes the hub."""
    _, upstream = stage.ask()
    drain = begin_drain(stage)
    drain.cancel()
    stage.settle()
    assert drain.cancelled()
    assert stage.hub.close() == 1
    upstream.was_cut()

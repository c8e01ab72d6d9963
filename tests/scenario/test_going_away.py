"""Readers that leave: a lost browser never kills an answer, an answer nobody wants ends (PROTOCOL §4, I8)."""

import pytest

from subak.core.facts import ReaderLeft, StreamEnded
from subak.core.lifecycle import OnDisconnect, Status
from subak.relay.hub import Reading
from tests.scenario.conftest import MakeStage
from tests.stage import QUERY, Hanging, Stage, Terms


def test_an_answer_that_nobody_comes_back_for_is_abandoned_after_the_grace_time(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    ann.leaves()
    stage.advance(29.5)
    upstream.runs()
    stage.advance(0.75)
    upstream.was_cut()
    state = stage.state(ann.subscriber.log.meta.stream_id)
    assert (state.status, state.finish_reason, state.text) == (Status.ABANDONED, "abandoned", "Ciao ")
    assert stage.hub.live_count == 0


def test_the_answer_goes_on_while_nobody_listens(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.leaves()
    stage.advance(10)
    upstream.token("Ciao ")
    upstream.done()
    again = stage.read(ann.subscriber.log.meta.stream_id, 1)
    again.gets(": ok", '2 token "Ciao " retry 2000', "3 done stop")


def test_a_reader_back_in_time_clears_the_grace_timer(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    ann.leaves()
    stage.advance(29)
    stage.read(stream_id, 1)
    stage.advance(100)
    upstream.runs()
    assert stage.hub.live_count == 1


def test_each_absence_has_the_whole_grace_time(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    for _ in range(3):
        ann.leaves()
        stage.advance(29)
        ann = stage.read(stream_id, 1)
        stage.advance(5)
    upstream.runs()
    ann.leaves()
    stage.advance(30)
    upstream.was_cut()


def test_the_grace_timer_starts_with_the_last_reader(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.leaves()
    stage.advance(100)
    upstream.runs()
    ben.leaves()
    stage.advance(30)
    upstream.was_cut()


def test_a_stream_whose_first_reader_never_comes_is_abandoned(stage: Stage) -> None:
    stage.open()
    stage.advance(29.5)
    upstream = stage.upstream.exchanges[0]
    upstream.runs()
    stage.advance(0.75)
    upstream.was_cut()
    assert [ended.outcome for ended in stage.facts.of(StreamEnded)] == ["abandoned"]


def test_a_reader_that_was_cut_by_us_may_come_back_within_the_grace_time(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(connection_age_s=20))
    ann, upstream = stage.ask()
    stage.advance(20.25)
    assert ann.is_over
    stage.advance(25)
    stage.read(ann.subscriber.log.meta.stream_id, 1)
    stage.advance(10)
    upstream.runs()


def test_cancel_ends_the_answer_with_its_last_reader(stage: Stage) -> None:
    ann, upstream = stage.ask(on_disconnect=OnDisconnect.CANCEL)
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.leaves()
    upstream.runs()
    ben.leaves()
    upstream.was_cut()
    assert stage.state(ann.subscriber.log.meta.stream_id).status is Status.ABANDONED


def test_cancel_waits_the_grace_time_for_the_first_reader(stage: Stage) -> None:
    stage.open(on_disconnect=OnDisconnect.CANCEL)
    stage.advance(29.5)
    stage.upstream.exchanges[0].runs()
    stage.advance(0.75)
    stage.upstream.exchanges[0].was_cut()


def test_continue_lets_the_answer_go_on_to_its_end(stage: Stage) -> None:
    ann, upstream = stage.ask(on_disconnect=OnDisconnect.CONTINUE)
    ann.leaves()
    stage.advance(1000, tick_s=1)
    upstream.runs()
    upstream.token("Ciao ")
    upstream.done()
    assert stage.state(ann.subscriber.log.meta.stream_id).text == "Ciao "


def test_continue_still_has_the_streams_own_bound(stage: Stage) -> None:
    ann, upstream = stage.ask(on_disconnect=OnDisconnect.CONTINUE)
    ann.leaves()
    stage.advance(1799, tick_s=1)
    upstream.runs()
    stage.advance(2)
    upstream.was_cut()


def test_an_abandoned_question_that_is_still_being_sent_is_cancelled(stage: Stage) -> None:
    stage.upstream.manners[QUERY] = Hanging()
    ann, upstream = stage.ask()
    ann.leaves()
    stage.advance(30.25)
    upstream.was_cut()
    assert not upstream.is_open


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_a_reader_that_leaves_after_the_end_changes_nothing(stage: Stage, on_disconnect: OnDisconnect) -> None:
    ann, upstream = stage.ask(on_disconnect=on_disconnect)
    upstream.token("Ciao ")
    ann.blocks()
    upstream.done()
    ann.leaves()
    stage.advance(60)
    assert stage.state(ann.subscriber.log.meta.stream_id).status is Status.COMPLETED
    assert [ended.outcome for ended in stage.facts.of(StreamEnded)] == ["stop"]


def test_a_client_that_went_before_its_first_byte_has_come_and_left(stage: Stage) -> None:
    stream_id = stage.open(on_disconnect=OnDisconnect.CANCEL)
    stage.settle()
    reading = stage.attach(stream_id)
    assert isinstance(reading, Reading)
    reading.miss()
    stage.upstream.exchanges[0].was_cut()
    assert stage.hub.reader_count == 0
    assert stage.state(stream_id).status is Status.ABANDONED
    assert [left.departure for left in stage.facts.of(ReaderLeft)] == ["lost"]


def test_the_grace_time_begins_again_with_a_client_that_went_before_its_first_byte(stage: Stage) -> None:
    stream_id = stage.open()
    stage.advance(20)
    reading = stage.attach(stream_id)
    assert isinstance(reading, Reading)
    reading.miss()
    stage.advance(29.5)
    stage.upstream.exchanges[0].runs()
    stage.advance(0.75)
    stage.upstream.exchanges[0].was_cut()


def test_when_all_is_over_nothing_has_a_deadline_but_the_store(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stage.read(ann.subscriber.log.meta.stream_id).leaves()
    ann.blocks()
    upstream.done()
    assert len(stage.deadlines) == 2
    ann.unblocks()
    ann.ends()
    assert len(stage.deadlines) == 1
    assert stage.hub.reader_count == 0

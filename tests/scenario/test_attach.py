"""What a cursor gets: 200, 204, 404, 409, 410 and snapshots, as the hub decides them (PROTOCOL §2, I3, I11)."""

import pytest

from subak.core.cursor import ENTROPY_BYTES, Cursor, make_stream_id, tag_of
from subak.core.errors import CursorAhead, CursorExpired, StreamNotFound
from subak.core.facts import Person, ReaderAttached, StopRequested
from subak.core.principal import ANONYMOUS, Principal
from subak.relay.hub import AlreadyRead, Reading, Recap
from tests.scenario.conftest import MakeStage
from tests.stage import Stage, Terms
from tests.wire import FollowingReader, transcribe

ANN = Principal("ann")
BEN = Principal("ben")


def ended_stream(stage: Stage) -> str:
    ann, upstream = stage.ask()
    upstream.token("Ciao ", "bella")
    upstream.done()
    ann.ends()
    return ann.subscriber.log.meta.stream_id


def test_a_cursor_at_the_end_of_an_ended_stream_has_read_everything(stage: Stage) -> None:
    assert stage.attach(ended_stream(stage), 4) == AlreadyRead()


def test_cursor_zero_means_from_the_beginning(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    again = stage.read(stream_id, 0)
    again.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', '3 token "bella"', "4 done stop")


def test_a_cursor_before_the_end_gets_the_terminal_event(stage: Stage) -> None:
    again = stage.read(ended_stream(stage), 3)
    again.gets(": ok", "4 done stop retry 2000")
    again.ends()


@pytest.mark.parametrize("after", [5, 999_999_999])
def test_a_cursor_past_an_ended_log_is_ahead(stage: Stage, after: int) -> None:
    stream_id = ended_stream(stage)
    with pytest.raises(CursorAhead):
        stage.attach(stream_id, after)


def test_a_cursor_past_a_live_log_is_ahead(stage: Stage) -> None:
    stream_id = stage.open()
    stage.settle()
    assert isinstance(stage.attach(stream_id, 1), Reading)
    with pytest.raises(CursorAhead):
        stage.attach(stream_id, 2)


def test_an_id_of_ours_that_was_never_given_out_is_not_found(stage: Stage) -> None:
    known = stage.open()
    unknown = make_stream_id(tag_of(known), bytes(ENTROPY_BYTES))
    for call in (stage.attach, stage.state, stage.stop):
        with pytest.raises(StreamNotFound):
            call(unknown)


def test_an_id_of_an_earlier_process_has_expired(stage: Stage) -> None:
    unknown = make_stream_id("zzzzzz", bytes(ENTROPY_BYTES))
    for call in (stage.attach, stage.state, stage.stop):
        with pytest.raises(CursorExpired) as caught:
            call(unknown)
        assert caught.value.members == {"status_url": f"/v1/streams/{unknown}"}


def test_a_gap_ahead_is_bridged_by_a_snapshot_of_a_live_answer(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ", "bella")
    stream_id = ann.subscriber.log.meta.stream_id
    ben = stage.read(stream_id, 9, takes_snapshot=True)
    ben.gets(": ok", '3 snapshot {"text":"Ciao bella","upto":3} retry 2000')
    upstream.token("!")
    upstream.done()
    ben.gets('4 token "!"', "5 done stop")
    ben.ends()


def test_a_gap_ahead_is_bridged_by_a_snapshot_of_an_ended_answer(stage: Stage) -> None:
    ben = stage.read(ended_stream(stage), 9, takes_snapshot=True)
    ben.gets(": ok", '3 snapshot {"text":"Ciao bella","upto":3} retry 2000', "4 done stop")
    ben.ends()


def test_an_answer_that_ends_while_its_snapshot_is_taken_is_not_told_twice(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(), read_turns=3)
    ann, upstream = stage.ask()
    upstream.token("Ciao ", "bella")
    stream_id = ann.subscriber.log.meta.stream_id
    cursor = Cursor(stream_id, 9)
    attaching = stage.tasks.create_task(
        stage.hub.attach(stream_id, cursor, ANONYMOUS, connection_id="c_stage", takes_snapshot=True)
    )
    stage.loop.step()
    stage.loop.step()
    upstream.done()
    stage.settle()
    reading = attaching.result()
    assert isinstance(reading, Reading)
    ben = stage.serve(reading)
    ben.gets(": ok", '3 snapshot {"text":"Ciao bella","upto":3} retry 2000', "4 done stop")
    ben.ends()


def test_without_a_gap_no_snapshot_is_given(stage: Stage) -> None:
    again = stage.read(ended_stream(stage), 2, takes_snapshot=True)
    again.gets(": ok", '3 token "bella" retry 2000', "4 done stop")


def test_a_log_is_kept_for_the_replay_window_and_a_tombstone_after_it(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    stage.advance(299, tick_s=1)
    assert isinstance(stage.attach(stream_id, 1), Reading)
    stage.advance(2)
    with pytest.raises(CursorExpired):
        stage.attach(stream_id, 1)
    with pytest.raises(CursorExpired):
        stage.attach(stream_id)


def test_a_tombstone_still_tells_state_and_text(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    before = stage.state(stream_id)
    stage.advance(302, tick_s=1)
    assert stage.state(stream_id) == before
    assert before.text == "Ciao bella"


def test_a_tombstone_knows_who_has_read_everything(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    stage.advance(302, tick_s=1)
    assert stage.attach(stream_id, 4) == AlreadyRead()


def test_a_tombstone_is_told_as_a_snapshot_and_the_ending(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    stage.advance(302, tick_s=1)
    recap = stage.attach(stream_id, 1, takes_snapshot=True)
    assert isinstance(recap, Recap)
    assert transcribe(recap.frames) == ['3 snapshot {"text":"Ciao bella","upto":3}', "4 done stop"]
    reader = FollowingReader(stream_id, 1)
    reader.take(recap.frames)
    assert (reader.text, reader.has_ending) == ("Ciao bella", True)


def test_a_tombstone_whose_text_made_room_has_expired(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(budget_bytes=3000))
    stream_id = ended_stream(stage)
    stage.ask()[1].token("x" * 3000)
    with pytest.raises(CursorExpired):
        stage.attach(stream_id, 1, takes_snapshot=True)
    with pytest.raises(CursorExpired):
        stage.state(stream_id)
    assert stage.attach(stream_id, 4) == AlreadyRead()


def test_a_tombstone_is_gone_after_an_hour(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    stage.advance(300 + 3600 + 3, tick_s=1)
    for call in (stage.attach, stage.state, stage.stop):
        with pytest.raises(StreamNotFound):
            call(stream_id)


def test_a_log_that_goes_while_it_is_read_is_read_to_its_end(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(replay_s=5))
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    ann.blocks()
    upstream.done()
    stage.advance(10)
    with pytest.raises(CursorExpired):
        stage.attach(ann.subscriber.log.meta.stream_id)
    ann.unblocks()
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "3 done stop")
    ann.ends()


@pytest.mark.parametrize("stranger", [BEN, ANONYMOUS])
@pytest.mark.parametrize("age_s", [0, 302])
@pytest.mark.parametrize("is_ended", [True, False])
def test_another_principal_finds_nothing(stage: Stage, stranger: Principal, age_s: int, *, is_ended: bool) -> None:
    ann, upstream = stage.ask(principal=ANN)
    stream_id = ann.subscriber.log.meta.stream_id
    upstream.token("Ciao ")
    if is_ended:
        upstream.done()
    stage.advance(age_s, tick_s=1)
    facts = len(stage.facts.heard)
    for call in (stage.attach, stage.state, stage.stop):
        with pytest.raises(StreamNotFound) as caught:
            call(stream_id, principal=stranger)
        assert caught.value.detail == "There is no such stream."
    for after in (0, 1, 3, 99):
        with pytest.raises(StreamNotFound):
            stage.attach(stream_id, after, principal=stranger, takes_snapshot=True)
    upstream.runs()
    assert len(stage.facts.heard) == facts
    assert stage.state(stream_id, principal=ANN).text == "Ciao "


def test_a_stranger_and_a_hole_look_the_same(stage: Stage) -> None:
    known = stage.open(principal=ANN)
    unknown = make_stream_id(tag_of(known), bytes(ENTROPY_BYTES))
    answers = []
    for stream_id in (known, unknown):
        with pytest.raises(StreamNotFound) as caught:
            stage.attach(stream_id, principal=BEN)
        answers.append((caught.value.code, caught.value.detail, caught.value.members))
    assert answers[0] == answers[1]


def test_an_anonymous_stream_belongs_to_whoever_has_its_id(stage: Stage) -> None:
    stream_id = stage.open()
    assert isinstance(stage.attach(stream_id, principal=BEN), Reading)
    stage.stop(stream_id, principal=BEN)
    assert stage.facts.of(StopRequested) == [StopRequested(stream_id, was_live=True, who=Person(BEN.id))]


def test_the_fact_of_attaching_tells_a_resume_from_a_first_read(stage: Stage) -> None:
    stream_id = ended_stream(stage)
    stage.read(stream_id, 2)
    stage.read(stream_id, 0)
    assert [(fact.cursor, fact.is_resume) for fact in stage.facts.of(ReaderAttached)] == [
        (0, False),
        (2, True),
        (0, True),
    ]

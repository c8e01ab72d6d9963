"""Stop: the upstream is aborted at once, what came is kept, and nothing comes after it (PROTOCOL §4, I7)."""

from subak.core.facts import StopRequested, StreamEnded
from subak.core.lifecycle import Status
from subak.relay.hub import StopResult
from tests.stage import QUERY, Hanging, Stage


def test_stop_aborts_the_upstream_and_ends_the_stream_for_all_its_readers(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    ben = stage.read(stream_id)
    upstream.token("Ciao ")
    assert stage.stop(stream_id) == StopResult(Status.CANCELLED, 3)
    upstream.was_cut()
    for reader in (ann, ben):
        reader.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "3 done cancelled")
        reader.ends()


def test_stop_keeps_the_partial_text_and_the_account(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ", "bella")
    stage.stop(ann.subscriber.log.meta.stream_id)
    state = stage.state(ann.subscriber.log.meta.stream_id)
    assert (state.status, state.finish_reason, state.text) == (Status.CANCELLED, "cancelled", "Ciao bella")
    ended = stage.facts.of(StreamEnded)[0]
    assert (ended.outcome, ended.tokens, ended.size_bytes) == ("cancelled", 2, 14)


def test_stop_is_idempotent(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    upstream.token("Ciao ")
    results = [stage.stop(stream_id) for _ in range(3)]
    assert results == [StopResult(Status.CANCELLED, 3)] * 3
    assert len(stage.facts.of(StreamEnded)) == 1
    assert stage.facts.of(StopRequested) == [
        StopRequested(stream_id, was_live=True),
        StopRequested(stream_id, was_live=False),
        StopRequested(stream_id, was_live=False),
    ]


def test_stop_of_an_answer_that_has_ended_tells_how_it_ended(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    upstream.done()
    assert stage.stop(ann.subscriber.log.meta.stream_id) == StopResult(Status.COMPLETED, 3)


def test_stop_of_an_answer_that_has_failed_tells_so(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.fails()
    assert stage.stop(ann.subscriber.log.meta.stream_id) == StopResult(Status.FAILED, 2)


def test_stop_after_the_replay_window_tells_how_it_ended(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    stage.stop(ann.subscriber.log.meta.stream_id)
    stage.advance(302)
    assert stage.stop(ann.subscriber.log.meta.stream_id) == StopResult(Status.CANCELLED, 3)


def test_what_the_upstream_had_on_its_way_is_dropped(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stage.stop(ann.subscriber.log.meta.stream_id)
    upstream.is_aborted = False
    upstream.token("late")
    upstream.done()
    ann.gets(": ok", "1 metadata connected retry 2000", "2 done cancelled")


def test_stop_while_the_upstream_is_being_reached_cancels_that(stage: Stage) -> None:
    stage.upstream.manners[QUERY] = Hanging()
    ann, upstream = stage.ask()
    stage.stop(ann.subscriber.log.meta.stream_id)
    stage.settle()
    upstream.was_cut()
    assert not upstream.is_open
    ann.gets(": ok", "1 metadata connected retry 2000", "2 done cancelled")


def test_stop_before_the_question_was_sent_asks_nothing(stage: Stage) -> None:
    stream_id = stage.open()
    stage.stop(stream_id)
    stage.settle()
    assert all(exchange.is_aborted for exchange in stage.upstream.exchanges)
    assert stage.state(stream_id).status is Status.CANCELLED


def test_stop_in_the_very_round_in_which_the_upstream_was_reached_aborts_it(stage: Stage) -> None:
    hanging = Hanging()
    stage.upstream.manners[QUERY] = hanging
    ann, upstream = stage.ask()
    hanging.gate.set()
    stage.stop(ann.subscriber.log.meta.stream_id)
    stage.settle()
    upstream.was_cut()


def test_stop_of_a_paused_answer_aborts_it(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.blocks()
    upstream.token("x" * 300 * 1024)
    upstream.waits()
    stage.stop(ann.subscriber.log.meta.stream_id)
    upstream.was_cut()
    ann.unblocks()
    ann.ends()

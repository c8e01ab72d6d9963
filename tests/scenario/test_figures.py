"""What a stream's end tells of it: times between tokens, the gateway's own share, and tokens nobody read."""

import pytest

from subak.core.facts import StreamEnded, TokensTimed
from subak.core.lifecycle import OnDisconnect, Status
from subak.core.live import Load
from subak.relay.hub import Reading
from subak.relay.progress import TIMED_TOGETHER
from tests.stage import Stage


def ending(stage: Stage) -> StreamEnded:
    (ended,) = stage.facts.of(StreamEnded)
    return ended


def gaps_us(stage: Stage) -> list[int]:
    return [gap for fact in stage.facts.of(TokensTimed) for gap in fact.gaps_us]


def test_gaps_are_from_token_to_token_and_none_within_one_read(stage: Stage) -> None:
    _, upstream = stage.ask()
    stage.advance(2)
    upstream.token("a")
    stage.advance(0.5)
    upstream.token("b", "c")
    upstream.sources("x.md")
    stage.advance(0.25)
    upstream.token("d")
    upstream.done()
    assert gaps_us(stage) == [500_000, 0, 250_000]
    ended = ending(stage)
    assert (ended.first_token_ms, ended.inter_token_ms, ended.duration_ms) == (2_000, 250, 2_750)


def test_gaps_of_a_long_answer_are_told_while_it_goes_on_and_each_once(stage: Stage) -> None:
    _, upstream = stage.ask()
    for number in range(3 * TIMED_TOGETHER + 5):
        upstream.token(str(number))
        stage.advance(0.25)
    assert [len(fact.gaps_us) for fact in stage.facts.of(TokensTimed)] == [TIMED_TOGETHER] * 3
    upstream.done()
    assert gaps_us(stage) == [250_000] * (3 * TIMED_TOGETHER + 4)
    assert {(fact.route, fact.arm) for fact in stage.facts.of(TokensTimed)} == {("POST streams", "on")}


@pytest.mark.parametrize("texts", [(), ("one",)])
def test_fewer_than_two_tokens_have_no_gap(stage: Stage, texts: tuple[str, ...]) -> None:
    _, upstream = stage.ask()
    for text in texts:
        upstream.token(text)
    upstream.done()
    assert stage.facts.of(TokensTimed) == []
    assert ending(stage).inter_token_ms is None
    assert (ending(stage).first_token_ms is None) == (not texts)


def test_tokens_that_came_when_the_reader_had_gone_are_unread(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("a", "b")
    ann.outlet.lose()
    stage.settle()
    upstream.token("c", "d", "e")
    stage.advance(60)
    assert (ending(stage).outcome, ending(stage).tokens, ending(stage).tokens_unread) == ("abandoned", 5, 3)


def test_an_answer_that_nobody_ever_read_is_all_unread(stage: Stage) -> None:
    stage.open()
    stage.settle()
    stage.upstream.exchanges[-1].token("a", "b")
    stage.advance(60)
    assert (ending(stage).outcome, ending(stage).tokens_unread) == ("abandoned", 2)


def test_the_reader_who_got_furthest_counts(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    upstream.token("a", "b")
    ben = stage.read(stream_id)
    upstream.sources("x.md")
    upstream.token("c")
    ben.outlet.lose()
    ann.outlet.lose()
    stage.settle()
    passing_by = stage.attach(stream_id, 1)
    assert isinstance(passing_by, Reading)
    passing_by.miss()
    upstream.token("d", "e")
    stage.advance(60)
    assert ending(stage).tokens_unread == 2


def test_a_list_of_sources_is_no_token_nobody_read(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("a")
    ann.outlet.lose()
    stage.settle()
    upstream.sources("x.md")
    upstream.token("b")
    upstream.sources("y.md")
    stage.advance(60)
    assert ending(stage).tokens_unread == 1


def test_an_answer_stopped_while_nobody_reads_counts_what_was_unread(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("a")
    ann.outlet.lose()
    stage.settle()
    upstream.token("b")
    stage.stop(ann.subscriber.log.meta.stream_id)
    assert (ending(stage).outcome, ending(stage).tokens_unread) == ("cancelled", 1)


def test_an_answer_stopped_by_its_reader_is_read(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("a", "b")
    ann.outlet.block()
    upstream.token("c")
    stage.stop(ann.subscriber.log.meta.stream_id)
    assert (ending(stage).outcome, ending(stage).tokens_unread) == ("cancelled", 0)


def test_a_reader_who_wanted_no_grace_left_nothing_unread(stage: Stage) -> None:
    ann, upstream = stage.ask(on_disconnect=OnDisconnect.CANCEL)
    upstream.token("a", "b")
    ann.outlet.lose()
    stage.settle()
    assert (ending(stage).outcome, ending(stage).tokens_unread) == ("abandoned", 0)


def test_an_answer_that_ended_without_a_reader_can_still_be_read(stage: Stage) -> None:
    stage.open()
    stage.settle()
    upstream = stage.upstream.exchanges[-1]
    upstream.token("a", "b")
    upstream.done()
    assert (ending(stage).outcome, ending(stage).tokens_unread) == ("stop", 0)


def test_waiting_for_the_record_is_the_gateway_s_own_share(stage: Stage) -> None:
    stage.ledger.is_slow = True
    _, upstream = stage.ask()
    stage.advance(2)
    upstream.token("a")
    stage.advance(0.5)
    stage.ledger.commitments[0].comes_to(is_recorded=True)
    upstream.done()
    assert (ending(stage).first_token_ms, ending(stage).gateway_ms) == (2_500, 500)


def test_streams_and_readers_under_way_can_be_looked_at(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stage.advance(1)
    upstream.token("a", "b")
    stage.advance(2)
    stream_id = ann.subscriber.log.meta.stream_id
    ben = stage.read(stream_id)
    ben.outlet.block()
    upstream.token("c")
    (stream,) = stage.hub.live_streams(9)
    assert (stream.stream_id, stream.route, stream.arm) == (stream_id, "POST streams", "on")
    assert (stream.status, stream.age_s, stream.tokens, stream.first_token_ms) == (Status.STREAMING, 3, 3, 1_000)
    assert stream.readers == 2
    older, younger = stage.hub.live_readers(9)
    assert older.stream == younger.stream == stream
    assert stage.hub.live_readers(1) == [older]
    assert (older.age_s, older.cursor, older.lag_events, older.is_live) == (3, 4, 0, True)
    assert (younger.age_s, younger.cursor, younger.lag_events, younger.is_live) == (0, 3, 1, False)
    assert younger.lag_bytes > 0 == older.lag_bytes
    assert stage.hub.load() == Load(1, 2, younger.lag_bytes, younger.lag_bytes, younger.buffered_bytes)
    upstream.done()
    stage.settle()
    (behind,) = stage.hub.live_readers(9)
    assert behind.stream is None
    ben.outlet.unblock()
    stage.settle()
    assert stage.hub.live_streams(9) == []
    assert stage.hub.load() == Load(0, 0, 0, 0, 0)

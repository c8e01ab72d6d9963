"""Readers that don't read: they lag, catch up or are cut, and nobody else notices (PROTOCOL §4, I14)."""

from itertools import pairwise

from subak.core.facts import ReaderLeft
from subak.relay.hub import Reading
from subak.relay.subscriber import CATCH_UP_BYTES, Departure
from tests.scenario.conftest import MakeStage
from tests.stage import KIB, Stage, Terms
from tests.wire import transcribe


def test_a_blocked_reader_catches_up_from_the_log_when_it_can(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    ann.blocks()
    upstream.token("Ciao ")
    upstream.token("bella ")
    ann.gets_nothing()
    assert not ann.outlet.waiting
    ann.unblocks()
    ann.gets('2 token "Ciao "', '3 token "bella "')
    upstream.token("ciao")
    ann.gets('4 token "ciao"')


def test_a_reader_blocked_for_30_s_is_cut_and_its_cursor_stays_good(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    ann.blocks()
    upstream.token("bella")
    stage.advance(29.5)
    ann.goes_on()
    stage.advance(0.75)
    ann.ends(Departure.SLOW_READER)
    again = stage.read(ann.subscriber.log.meta.stream_id, 2)
    again.gets(": ok", '3 token "bella" retry 2000')
    upstream.runs()


def test_a_reader_that_was_blocked_twice_has_its_whole_time_again(stage: Stage) -> None:
    ann, _ = stage.ask()
    ann.blocks()
    stage.advance(20)
    ann.unblocks()
    stage.advance(1)
    ann.blocks()
    stage.advance(29.5)
    ann.goes_on()
    stage.advance(0.75)
    ann.ends(Departure.SLOW_READER)


def test_a_blocked_reader_changes_nothing_for_the_others(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.blocks()
    for _ in range(40):
        upstream.token("x" * 32 * KIB)
        stage.advance(1)
    upstream.runs()
    assert ben.subscriber.is_live
    assert ben.subscriber.cursor == 41
    ann.ends(Departure.SLOW_READER)
    upstream.done()
    ben.ends()


def test_a_lost_reader_changes_nothing_for_the_others(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.outlet.lose()
    upstream.token("Ciao ")
    ann.ends(Departure.LOST)
    ben.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "')


def test_nothing_is_written_for_a_reader_whose_end_has_been_decided(stage: Stage) -> None:
    """The response ends in the loop's next round; a token that comes before that is not for it any more."""
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    ann.subscriber.dismiss(Departure.DRAIN)
    upstream.token("bella")
    ann.ends(Departure.DRAIN)
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "heartbeat 2 retry 2000")
    assert stage.facts.of(ReaderLeft)[0].cursor == 2


def test_a_reader_that_has_the_ending_is_not_sent_away_again(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    upstream.done()
    ann.subscriber.dismiss(Departure.DRAIN)
    ann.ends()
    ann.gets("2 done stop")


def test_a_reader_that_is_blocked_with_the_ending_on_its_way_is_cut_like_any_other(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.outlet.stall(0)
    upstream.done()
    stage.advance(29.75)
    ann.goes_on()
    stage.advance(0.5)
    ann.ends(Departure.SLOW_READER)


def test_a_reader_never_has_more_than_one_batch_in_its_buffer(stage: Stage) -> None:
    ann, upstream = stage.ask()
    for _ in range(20):
        upstream.token("x" * 30 * KIB)
    ben_reading = stage.attach(ann.subscriber.log.meta.stream_id)
    assert isinstance(ben_reading, Reading)
    ben = stage.serve(ben_reading)
    ben.outlet.stall(0)
    stage.settle()
    upstream.token("y")
    stage.settle()
    assert len(ben.outlet.waiting) <= CATCH_UP_BYTES
    assert ben.outlet.writes_while_blocked == 0
    ben.unblocks()
    assert ben.outlet.received == ann.outlet.received


def test_the_upstream_is_paused_when_every_reader_lags_too_far(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.blocks()
    upstream.token("x" * 300 * KIB)
    upstream.runs()
    ben.blocks()
    upstream.token("x" * 100 * KIB)
    upstream.runs()
    upstream.token("x" * 160 * KIB)
    upstream.waits()


def test_a_paused_upstream_goes_on_when_one_reader_catches_up(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.blocks()
    ben.blocks()
    upstream.token("x" * 300 * KIB)
    upstream.waits()
    ben.unblocks()
    upstream.runs()
    assert ann.subscriber.lag_bytes > 300 * KIB


def test_a_paused_upstream_goes_on_when_the_lagging_readers_leave(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.blocks()
    upstream.token("x" * 300 * KIB)
    upstream.waits()
    ann.leaves()
    upstream.runs()


def test_a_paused_upstream_goes_on_when_a_reader_comes_that_is_not_behind(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.blocks()
    upstream.token("x" * 300 * KIB)
    stage.read(ann.subscriber.log.meta.stream_id, 2)
    upstream.runs()


def test_an_upstream_that_is_paused_by_its_readers_stays_paused_when_one_of_them_leaves(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.blocks()
    ben.blocks()
    upstream.token("x" * 300 * KIB)
    ben.leaves()
    upstream.waits()


def test_without_readers_the_upstream_runs_on(stage: Stage) -> None:
    stream_id = stage.open()
    stage.settle()
    upstream = stage.upstream.exchanges[0]
    upstream.token("x" * 300 * KIB)
    upstream.runs()
    assert stage.state(stream_id).last_seq == 2


def test_what_comes_between_attaching_and_reading_counts_as_lag(stage: Stage) -> None:
    """The first write of a response may take its time; the answer goes on meanwhile."""
    stream_id = stage.open()
    stage.settle()
    upstream = stage.upstream.exchanges[0]
    reading = stage.attach(stream_id)
    assert isinstance(reading, Reading)
    upstream.token("x" * 300 * KIB, "y" * 300 * KIB)
    ann = stage.serve(reading)
    ann.blocks()
    upstream.waits()


def test_a_reader_that_is_blocked_from_the_start_is_cut_after_30_s(stage: Stage) -> None:
    stream_id = stage.open()
    reading = stage.attach(stream_id)
    assert isinstance(reading, Reading)
    ann = stage.serve(reading)
    ann.outlet.is_writable = False
    stage.advance(29.75)
    ann.goes_on()
    stage.advance(0.5)
    ann.ends(Departure.SLOW_READER)


def test_a_lagging_reader_gets_a_long_answer_whole_and_in_order(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(max_lag_bytes=10 * KIB))
    ann, upstream = stage.ask()
    for turn in range(200):
        (ann.blocks if turn % 3 == 0 else ann.unblocks)()
        if not upstream.is_paused:
            upstream.token("x" * 4 * KIB)
    ann.unblocks()
    upstream.done()
    ann.ends()
    seqs = [int(line.split()[0]) for line in transcribe(bytes(ann.outlet.received))[1:]]
    assert seqs[0] == 1
    assert all(later == earlier + 1 for earlier, later in pairwise(seqs))


def test_the_upstream_is_paused_when_the_reader_that_kept_up_leaves(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    ann.blocks()
    upstream.token("x" * 300 * KIB)
    upstream.runs()
    ben.leaves()
    upstream.waits()


def test_a_reader_that_has_left_is_not_called_any_more(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.leaves()
    upstream.token("Ciao ")
    assert ann.subscriber.lag_bytes == 0

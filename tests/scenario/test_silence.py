"""What a response says while the answer is silent, and how long it may last (PROTOCOL §3, §4)."""

from subak.core.lifecycle import OnDisconnect
from subak.relay.subscriber import Departure
from tests.scenario.conftest import MakeStage
from tests.stage import Stage, Terms
from tests.wire import decode_envelope, transcribe


def test_silence_is_broken_by_a_comment_after_15_s_and_a_heartbeat_after_30(stage: Stage) -> None:
    ann, _ = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    stage.advance(14.5)
    ann.gets_nothing()
    stage.advance(0.75)
    ann.gets(": hb")
    stage.advance(14.5)
    ann.gets_nothing()
    stage.advance(0.75)
    ann.gets("heartbeat 1")
    stage.advance(30)
    ann.gets(": hb", "heartbeat 1")


def test_a_comment_is_one_line_and_never_a_block_of_its_own(stage: Stage) -> None:
    ann, upstream = stage.ask()
    before = len(ann.outlet.received)
    stage.advance(15.25)
    upstream.token("Ciao ")
    assert ann.outlet.received[before:].startswith(b": hb\nid: st_")


def test_a_heartbeat_has_no_id_and_bears_the_last_sequence_and_the_time(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ", "bella")
    before = len(ann.outlet.received)
    stage.advance(30.25)
    _, heartbeat = bytes(ann.outlet.received[before:]).split(b": hb\n")
    event, data, *rest = heartbeat.split(b"\n")
    assert event == b"event: heartbeat"
    assert rest == [b"", b""]
    envelope = decode_envelope(data.removeprefix(b"data: "))
    assert (envelope.type, envelope.sequence) == ("heartbeat", 3)
    assert envelope.data == {"timestamp": envelope.timestamp}
    assert stage.clock.time_ms() - 250 <= envelope.timestamp <= stage.clock.time_ms()


def test_an_answer_that_talks_needs_no_comment_but_keeps_its_heartbeat(stage: Stage) -> None:
    ann, upstream = stage.ask()
    for _ in range(4):
        stage.advance(10)
        upstream.token("x")
    ann.gets(
        ": ok",
        "1 metadata connected retry 2000",
        '2 token "x"',
        '3 token "x"',
        "heartbeat 3",
        '4 token "x"',
        '5 token "x"',
    )


def test_a_heartbeat_of_a_resumed_reader_bears_its_cursor(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("a", "b")
    again = stage.read(ann.subscriber.log.meta.stream_id, 3)
    stage.advance(30.25)
    again.gets(": ok", "heartbeat 3 retry 2000", ": hb", "heartbeat 3")


def test_a_connection_past_its_age_is_aborted_with_a_heartbeat_that_says_when_to_come_back(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    stage.advance(299.5)
    ann.goes_on()
    stage.advance(0.75)
    ann.ends(Departure.MAX_AGE)
    assert ann.outlet.received.endswith(b"\n\n")
    tail = ann.outlet.received[ann.outlet.received.rindex(b"retry: ") :]
    assert tail.startswith(b'retry: 2000\nevent: heartbeat\ndata: {"type":"heartbeat"')
    upstream.runs()
    again = stage.read(stream_id, 1)
    upstream.token("Ciao ")
    upstream.done()
    again.gets(": ok", "heartbeat 1 retry 2000", '2 token "Ciao "', "3 done stop")
    again.ends()


def test_a_blocked_connection_past_its_age_is_aborted_without_a_word(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(connection_age_s=20))
    ann, upstream = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    ann.blocks()
    upstream.token("Ciao ")
    stage.advance(20.25)
    ann.ends(Departure.MAX_AGE)
    ann.gets_nothing()


def test_connection_age_zero_is_no_bound(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(connection_age_s=None, stream_age_s=10_000))
    ann, _ = stage.ask(on_disconnect=OnDisconnect.CANCEL)
    stage.advance(2000, tick_s=1)
    ann.goes_on()


def test_nothing_is_said_to_a_blocked_reader(stage: Stage) -> None:
    ann, _ = stage.ask()
    ann.blocks()
    stage.advance(29)
    assert not ann.outlet.waiting
    ann.unblocks()
    stage.advance(15)
    ann.goes_on()


def test_a_stream_that_is_too_old_ends_with_its_error_and_nothing_after_it(stage: Stage) -> None:
    """The stream's bound is a multiple of the heartbeat and of the connection's age: all are due in the same tick."""
    stream_id = stage.open(on_disconnect=OnDisconnect.CONTINUE)
    stage.advance(1500)
    ann = stage.read(stream_id)
    stage.advance(299.75)
    stage.upstream.exchanges[0].token("Ciao ")
    ann.goes_on()
    stage.advance(0.25)
    assert transcribe(bytes(ann.outlet.received))[-2:] == ['2 token "Ciao "', "3 error too_long"]
    ann.ends()


def test_no_heartbeat_follows_the_terminal_event_that_came_in_the_same_tick(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(connection_age_s=None, stream_age_s=60))
    ann, _ = stage.ask()
    stage.advance(60)
    ann.gets(": ok", "1 metadata connected retry 2000", ": hb", "heartbeat 1", ": hb", "2 error too_long")
    ann.ends()


def test_comments_keep_their_interval_where_heartbeats_are_rare(make_stage: MakeStage) -> None:
    stage = make_stage(Terms(heartbeat_s=60, slow_reader_s=1000))
    ann, _ = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    for _ in range(3):
        stage.advance(15)
        ann.gets(": hb")
    stage.advance(15)
    ann.gets("heartbeat 1")

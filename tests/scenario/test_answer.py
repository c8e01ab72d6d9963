"""An answer on its way: one question, its readers, early and late (PROTOCOL §3, §4)."""

from subak.core.envelope import token_event
from subak.core.errors import ErrorCode
from subak.core.events import Failed, Finished, FinishReason
from subak.core.facts import ReaderAttached, ReaderLeft, StreamEnded, StreamOpened, TokensTimed
from subak.core.lifecycle import Status
from tests.stage import KIB, Stage


def test_a_whole_answer_reaches_its_reader_and_ends_cleanly(stage: Stage) -> None:
    ann, upstream = stage.ask("What is a KITAS?")
    assert upstream.question.query == "What is a KITAS?"
    ann.gets(": ok", "1 metadata connected retry 2000")
    upstream.token("Ciao ")
    ann.gets('2 token "Ciao "')
    upstream.token("bella", "!")
    upstream.sources("kitas.md")
    ann.gets('3 token "bella"', '4 token "!"', '5 sources [{"source":"kitas.md"}]')
    ann.goes_on()
    upstream.done()
    ann.gets("6 done stop")
    ann.ends()


def test_the_first_bytes_come_before_the_upstream_has_been_asked(stage: Stage) -> None:
    reading = stage.attach(stage.open())
    first = stage.perform(reading.first_frames())  # type: ignore[union-attr]  # a new stream can be read
    assert first.startswith(b"id: st_")
    assert first.endswith(b"}\n\n")


def test_a_token_reaches_a_live_reader_inside_the_upstreams_call(stage: Stage) -> None:
    ann, upstream = stage.ask()
    before = len(ann.outlet.received)
    upstream.token("Ciao ")
    assert b'"data":"Ciao "' in ann.outlet.received[before:]


def test_all_events_of_one_read_are_one_write(stage: Stage) -> None:
    ann, upstream = stage.ask()
    before = ann.outlet.writes
    upstream.token("a", "b", "c")
    assert ann.outlet.writes == before + 1


def test_many_readers_see_the_same_bytes(stage: Stage) -> None:
    ann, upstream = stage.ask()
    stream_id = ann.subscriber.log.meta.stream_id
    ben = stage.read(stream_id)
    upstream.token("Ciao ")
    eve = stage.read(stream_id)
    upstream.token("bella")
    upstream.done()
    for reader in (ann, ben, eve):
        reader.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', '3 token "bella"', "4 done stop")
        reader.ends()
    assert ann.outlet.received == ben.outlet.received == eve.outlet.received


def test_a_reader_that_comes_after_the_end_gets_the_whole_answer(stage: Stage) -> None:
    stream_id = stage.open()
    stage.settle()
    stage.upstream.exchanges[0].token("Ciao ")
    stage.upstream.exchanges[0].done()
    ann = stage.read(stream_id)
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "3 done stop")
    ann.ends()


def test_a_reader_that_resumes_gets_what_comes_after_its_cursor(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ", "bella ", "ciao")
    ann.leaves()
    again = stage.read(ann.subscriber.log.meta.stream_id, 2)
    again.gets(": ok", '3 token "bella " retry 2000', '4 token "ciao"')
    upstream.done()
    again.gets("5 done stop")
    again.ends()


def test_a_reader_that_resumes_at_the_tail_gets_a_heartbeat_at_once(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    ann.leaves()
    again = stage.read(ann.subscriber.log.meta.stream_id, 2)
    again.gets(": ok", "heartbeat 2 retry 2000")
    upstream.done()
    again.gets("3 done stop")


def test_a_late_reader_of_a_long_answer_catches_up_in_batches_and_goes_live(stage: Stage) -> None:
    ann, upstream = stage.ask()
    for _ in range(10):
        upstream.token("x" * 30 * KIB)
    ben = stage.read(ann.subscriber.log.meta.stream_id)
    stage.settle()
    assert ben.subscriber.is_live
    upstream.done()
    stage.settle()
    assert ben.outlet.received == ann.outlet.received
    ben.ends()


def test_a_token_and_the_end_in_one_read_come_in_that_order(stage: Stage) -> None:
    ann, upstream = stage.ask()
    ann.gets(": ok", "1 metadata connected retry 2000")
    upstream.says(token_event("Ciao", 1), ending=Finished())
    ann.gets('2 token "Ciao"', "3 done stop")


def test_an_empty_answer_is_complete(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.done()
    ann.gets(": ok", "1 metadata connected retry 2000", "2 done stop")
    assert stage.state(ann.subscriber.log.meta.stream_id).status is Status.COMPLETED


def test_an_upstream_that_breaks_off_is_an_error_never_done(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.token("Ciao ")
    upstream.says(ending=Failed(ErrorCode.UPSTREAM_TRUNCATED, "eof"))
    ann.gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "3 error upstream_truncated")
    ann.ends()


def test_what_the_upstream_says_after_its_end_is_dropped(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.done()
    upstream.is_over = False
    upstream.token("late")
    upstream.done()
    ann.gets(": ok", "1 metadata connected retry 2000", "2 done stop")


def test_the_state_tells_status_and_text_so_far(stage: Stage) -> None:
    stream_id = stage.open()
    stage.settle()
    upstream = stage.upstream.exchanges[0]
    states = [stage.state(stream_id)]
    upstream.token("Ciao ")
    upstream.sources("a.md")
    states.append(stage.state(stream_id))
    upstream.done(FinishReason.LENGTH)
    states.append(stage.state(stream_id))
    assert [(state.status, state.last_seq, state.text, state.finish_reason) for state in states] == [
        (Status.CONNECTING, 1, "", None),
        (Status.STREAMING, 3, "Ciao ", None),
        (Status.COMPLETED, 4, "Ciao ", FinishReason.LENGTH),
    ]


def test_the_state_of_a_broken_answer_bears_its_error(stage: Stage) -> None:
    ann, upstream = stage.ask()
    upstream.fails(ErrorCode.UPSTREAM_TIMEOUT)
    state = stage.state(ann.subscriber.log.meta.stream_id)
    assert state.status is Status.FAILED
    assert state.error is not None
    assert b'"code":"upstream_timeout"' in bytes(state.error)
    assert state.finish_reason is None


def test_facts_tell_the_story_without_content(stage: Stage) -> None:
    ann, upstream = stage.ask("secret question")
    stream_id = ann.subscriber.log.meta.stream_id
    stage.advance(0.5)
    upstream.token("secret ", "answer")
    stage.advance(1)
    upstream.done()
    stage.settle()
    facts = stage.facts.facts
    assert facts == [
        StreamOpened(stream_id, "c_stage", "POST streams"),
        ReaderAttached(stream_id, "c_stage", 0, is_resume=False),
        TokensTimed("POST streams", "on", gaps_us=(0,)),
        StreamEnded(
            stream_id=stream_id,
            connection_id="c_stage",
            route="POST streams",
            outcome="stop",
            reason="",
            tokens=2,
            size_bytes=17,
            first_token_ms=500,
            duration_ms=1500,
            inter_token_ms=0,
            gateway_ms=0,
        ),
        ReaderLeft(stream_id, "c_stage", "completed", 4),
    ]
    assert "secret" not in repr(facts)

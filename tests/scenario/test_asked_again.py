"""The same question again from a browser that was cut before it saw a cursor: it gets its answer, not a second one."""

from subak.core.lifecycle import OnDisconnect
from subak.core.principal import Principal
from subak.core.question import Question
from subak.relay.publisher import Origin
from subak.relay.subscriber import Departure
from tests.stage import QUERY, Response, Stage, at_once

ANN = Principal("user:ann")
LIKENESS = b"ann, What is a KITAS?"


def ask(stage: Stage, on_disconnect: OnDisconnect = OnDisconnect.GRACE) -> tuple[str, Response]:
    """Put a question that can be recognised."""
    opening = stage.hub.open(
        Question(QUERY), ANN, Origin("c_stage", "GET chat-stream"), on_disconnect=on_disconnect, likeness=LIKENESS
    )
    stream_id = at_once(opening).stream_id
    return stream_id, stage.read(stream_id, principal=ANN)


def test_a_stream_without_readers_is_found_within_the_grace_time(stage: Stage) -> None:
    stream_id, reader = ask(stage)
    reader.leaves()
    stage.advance(29)
    assert stage.hub.lookup_orphan(LIKENESS) == stream_id


def test_it_is_found_once(stage: Stage) -> None:
    _, reader = ask(stage)
    reader.leaves()
    assert stage.hub.lookup_orphan(LIKENESS) is not None
    assert stage.hub.lookup_orphan(LIKENESS) is None


def test_it_is_found_when_the_answer_was_completed_meanwhile(stage: Stage) -> None:
    stream_id, reader = ask(stage)
    reader.leaves()
    stage.upstream.exchanges[0].done()
    assert stage.hub.lookup_orphan(LIKENESS) == stream_id


def test_a_stream_with_a_reader_is_not_found(stage: Stage) -> None:
    stream_id, reader = ask(stage)
    assert stage.hub.lookup_orphan(LIKENESS) is None
    reader.leaves()
    stage.read(stream_id, principal=ANN)
    assert stage.hub.lookup_orphan(LIKENESS) is None


def test_an_abandoned_one_is_not_found(stage: Stage) -> None:
    _, reader = ask(stage)
    reader.leaves()
    stage.advance(31)
    assert stage.hub.lookup_orphan(LIKENESS) is None


def test_an_answer_that_was_read_to_its_end_is_not_found(stage: Stage) -> None:
    _, reader = ask(stage)
    stage.upstream.exchanges[0].done()
    stage.settle()
    reader.ends()
    assert stage.hub.lookup_orphan(LIKENESS) is None


def test_an_answer_that_was_cancelled_with_its_reader_is_not_found(stage: Stage) -> None:
    _, reader = ask(stage, OnDisconnect.CANCEL)
    reader.leaves()
    assert stage.hub.lookup_orphan(LIKENESS) is None


def test_old_orphans_are_forgotten_by_themselves(stage: Stage) -> None:
    for number in range(3):
        opening = stage.hub.open(
            Question(QUERY),
            ANN,
            Origin("c_stage", "GET chat-stream"),
            on_disconnect=OnDisconnect.CONTINUE,
            likeness=b"%d" % number,
        )
        stage.read(at_once(opening).stream_id, principal=ANN).leaves()
        stage.advance(20)
    assert stage.hub.orphan_count == 2


def test_a_reader_whose_credentials_expire_is_sent_away_and_the_answer_goes_on(stage: Stage) -> None:
    stream_id = stage.open(principal=ANN)
    attaching = stage.hub.attach(stream_id, None, ANN, connection_id="c_stage", expires_at=stage.clock.monotonic() + 40)
    attachment = at_once(attaching)
    reader = stage.serve(attachment)  # type: ignore[arg-type]  # a new stream can be read
    stage.advance(39)
    reader.goes_on()
    stage.advance(2)
    reader.ends(Departure.AUTH_EXPIRED)
    stage.upstream.exchanges[0].runs()

"""No token is released before the start of its stream is on record (strict auditing)."""

import pytest

from subak.core.errors import AuditUnavailable
from subak.core.events import FinishReason
from tests.stage import PuppetCommitment, PuppetExchange, Response, Stage


def ask_slowly(stage: Stage) -> tuple[Response, PuppetExchange, PuppetCommitment]:
    """Put a question whose start takes its time to be recorded."""
    stage.ledger.is_slow = True
    reader, upstream = stage.ask()
    reader.gets(": ok", "1 metadata connected retry 2000")
    return reader, upstream, stage.ledger.commitments[0]


def test_the_upstream_is_asked_while_the_record_is_on_its_way(stage: Stage) -> None:
    _, upstream, _ = ask_slowly(stage)
    assert upstream.is_open


def test_tokens_wait_for_the_record_and_come_in_order(stage: Stage) -> None:
    reader, upstream, commitment = ask_slowly(stage)
    upstream.token("Ciao ")
    upstream.token("bella")
    reader.gets()
    upstream.waits()
    commitment.comes_to(is_recorded=True)
    reader.gets('2 token "Ciao "', '3 token "bella"')
    upstream.runs()
    upstream.done()
    reader.gets("4 done stop")
    reader.ends()


def test_an_answer_that_ended_meanwhile_is_released_whole(stage: Stage) -> None:
    reader, upstream, commitment = ask_slowly(stage)
    upstream.token("Ciao")
    upstream.done()
    reader.gets()
    commitment.comes_to(is_recorded=True)
    reader.gets('2 token "Ciao"', "3 done stop")
    reader.ends()


def test_without_a_record_there_is_no_answer(stage: Stage) -> None:
    reader, upstream, commitment = ask_slowly(stage)
    upstream.token("Ciao")
    commitment.comes_to(is_recorded=False)
    reader.gets("2 error audit_unavailable")
    reader.ends()
    upstream.was_cut()


def test_a_stop_meanwhile_releases_nothing(stage: Stage) -> None:
    reader, upstream, commitment = ask_slowly(stage)
    upstream.token("Ciao")
    assert stage.stop(reader.subscriber.log.meta.stream_id).last_seq == 2
    commitment.comes_to(is_recorded=True)
    reader.gets(f"2 done {FinishReason.CANCELLED}")
    upstream.was_cut()


def test_what_can_not_be_recorded_is_not_asked(stage: Stage) -> None:
    stage.ledger.refusal = AuditUnavailable("Nothing can be recorded.", retry_after_s=5)
    with pytest.raises(AuditUnavailable):
        stage.open()
    assert stage.upstream.questions == []

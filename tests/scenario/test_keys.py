"""Idempotency keys: one key, one question, however often it is sent (PROTOCOL §2, §4, I6, I9)."""

import asyncio

import pytest

from subak.core.errors import Draining, ErrorCode, KeyReused
from subak.core.facts import StreamOpened
from subak.relay.hub import Opened
from subak.replay.base import IdempotencyKey
from tests.stage import QUERY, Stage, refused

KEY = IdempotencyKey(digest=b"key", fingerprint=b"question")
OTHER_QUESTION = IdempotencyKey(digest=b"key", fingerprint=b"other question")
OTHER_KEY = IdempotencyKey(digest=b"other key", fingerprint=b"question")


def test_n_parallel_questions_with_one_key_are_asked_once_and_read_n_times(stage: Stage) -> None:
    async def ask_all() -> list[Opened]:
        return await asyncio.gather(*[stage.opening(key=KEY) for _ in range(10)])

    opened = stage.perform(ask_all())
    readers = [stage.read(one.stream_id) for one in opened]
    assert len(stage.upstream.questions) == 1
    assert [one.is_replay for one in opened].count(False) == 1
    stage.upstream.exchanges[0].token("Ciao ")
    stage.upstream.exchanges[0].done()
    for reader in readers:
        reader.ends()
    assert len({bytes(reader.outlet.received) for reader in readers}) == 1
    assert len(stage.facts.of(StreamOpened)) == 1


def test_a_key_is_replayed_after_the_end(stage: Stage) -> None:
    first = stage.perform(stage.opening(key=KEY))
    stage.settle()
    stage.upstream.exchanges[0].token("Ciao ")
    stage.upstream.exchanges[0].done()
    again = stage.perform(stage.opening(key=KEY))
    assert again == Opened(first.stream_id, is_replay=True)
    stage.read(again.stream_id).gets(": ok", "1 metadata connected retry 2000", '2 token "Ciao "', "3 done stop")
    assert len(stage.upstream.questions) == 1


def test_a_key_with_another_question_is_refused(stage: Stage) -> None:
    stage.open(key=KEY)
    with pytest.raises(KeyReused):
        stage.open(key=OTHER_QUESTION)
    with pytest.raises(KeyReused):
        stage.perform(stage.hub.lookup_key(OTHER_QUESTION))
    stage.settle()
    assert len(stage.upstream.questions) == 1


def test_another_key_asks_anew(stage: Stage) -> None:
    assert stage.open(key=KEY) != stage.open(key=OTHER_KEY)
    stage.settle()
    assert len(stage.upstream.questions) == 2


def test_a_question_that_failed_before_its_first_token_may_be_asked_again_with_its_key(stage: Stage) -> None:
    stage.upstream.manners[QUERY] = refused()
    first = stage.open(key=KEY)
    stage.settle()
    assert stage.perform(stage.hub.lookup_key(KEY)) is None
    del stage.upstream.manners[QUERY]
    second = stage.open(key=KEY)
    assert second != first
    stage.settle()
    stage.upstream.exchanges[1].token("Ciao ")
    stage.upstream.exchanges[1].fails()
    assert stage.open(key=KEY) == second
    assert len(stage.upstream.questions) == 2


def test_a_question_that_failed_after_its_first_token_is_never_asked_again(stage: Stage) -> None:
    first = stage.open(key=KEY)
    stage.settle()
    stage.upstream.exchanges[0].token("Ciao ")
    stage.upstream.exchanges[0].fails()
    assert stage.open(key=KEY) == first
    assert len(stage.upstream.questions) == 1


def test_a_question_that_failed_for_good_is_never_asked_again(stage: Stage) -> None:
    first = stage.open(key=KEY)
    stage.settle()
    stage.upstream.exchanges[0].fails(ErrorCode.EVENT_TOO_LARGE)
    assert stage.open(key=KEY) == first


def test_a_question_that_was_stopped_before_its_first_token_is_never_asked_again(stage: Stage) -> None:
    first = stage.open(key=KEY)
    stage.stop(first)
    assert stage.open(key=KEY) == first


def test_a_known_key_can_be_looked_up_while_draining_and_a_new_question_is_refused(stage: Stage) -> None:
    first = stage.open(key=KEY)
    stage.settle()
    stage.hub.is_draining = True
    assert stage.perform(stage.hub.lookup_key(KEY)) == first
    assert stage.perform(stage.hub.lookup_key(OTHER_KEY)) is None
    with pytest.raises(Draining):
        stage.open(key=OTHER_KEY)

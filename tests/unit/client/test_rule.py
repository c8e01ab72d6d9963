"""The reader's rule, step by step, where a property says too little."""

import pytest

from subak.client.errors import AnswerExpired, GaveUp, Refused
from subak.client.events import Done, Replaced, Token
from subak.client.rule import SILENT, UNREACHABLE, Ask, Attach, Look, Patience, Rule, Step, Wait
from subak.client.wire import Refusal, StateReply
from subak.core.cursor import Cursor
from subak.core.envelope import encode_frames, encode_heartbeat, encode_preface, frame_head, token_event
from subak.core.events import Event

STREAM_ID = "st_" + "aB3-_x" + "0" * 22
ENDED = StateReply(STREAM_ID, 3, "Ciao", "stop")
LIVE = StateReply(STREAM_ID, 2, "Ciao")


def frame(seq: int, event: Event) -> bytes:
    return encode_frames(frame_head(STREAM_ID), seq, [event])


def after_wait(rule: Rule) -> Step | None:
    """Give the step that follows the pause that must come now."""
    assert isinstance(rule.next_step(0.5), Wait)
    return rule.next_step(0.5)


def joined(seq: int, text: str | None = "") -> Rule:
    return Rule(Patience(), Cursor(STREAM_ID, seq), text)


def test_a_line_that_says_nothing_at_all_is_looked_behind() -> None:
    rule = joined(1)
    rule.begin("")
    rule.lost(SILENT)
    assert after_wait(rule) == Look(STREAM_ID)
    assert rule.learn(LIVE) == [Token("Ciao", 2)]
    assert rule.next_step(0.5) == Attach(Cursor(STREAM_ID, 1))


def test_a_line_that_fell_silent_is_only_taken_up_again() -> None:
    rule = joined(1)
    rule.begin("")
    assert list(rule.take(encode_preface(5))) == []
    rule.lost(SILENT)
    assert after_wait(rule) == Attach(Cursor(STREAM_ID, 1))


def test_a_log_that_is_gone_is_ended_by_its_state() -> None:
    rule = joined(1)
    assert rule.refuse(Attach(Cursor(STREAM_ID, 1)), Refusal(410)) == []
    assert rule.next_step(0.5) == Look(STREAM_ID)
    assert rule.learn(ENDED) == [Token("Ciao", 2), Done("stop", 3)]
    assert rule.next_step(0.5) is None


def test_a_log_whose_beginning_is_gone_is_read_on_behind_its_state() -> None:
    rule = joined(1)
    rule.refuse(Attach(Cursor(STREAM_ID, 1)), Refusal(410))
    assert rule.learn(LIVE) == [Token("Ciao", 2)]
    assert rule.next_step(0.5) == Attach(Cursor(STREAM_ID, 2))


def test_an_answer_of_which_nothing_is_left_has_expired() -> None:
    rule = joined(1)
    rule.refuse(Attach(Cursor(STREAM_ID, 1)), Refusal(410))
    rule.refuse(Look(STREAM_ID), Refusal(404))
    with pytest.raises(AnswerExpired):
        rule.next_step(0.5)


def test_an_ending_that_a_state_told_holds_where_the_stream_is_refused_afterwards() -> None:
    rule = joined(1)
    rule.begin("")
    rule.lost(SILENT)
    rule.next_step(0.5)
    rule.learn(ENDED)
    assert rule.refuse(Attach(Cursor(STREAM_ID, 1)), Refusal(404)) == [Done("stop", 3)]


def test_a_heartbeat_that_counts_more_than_came_tells_of_a_gap() -> None:
    rule = joined(1)
    rule.begin("")
    told = [list(rule.take(encode_heartbeat(seq, 5))) or rule.wants_more for seq in (1, 2)]
    assert told == [True, False]
    rule.end()
    assert (rule.next_step(0.5), rule.gaps) == (Look(STREAM_ID), 1)


def test_a_text_that_does_not_stand_any_more_is_replaced() -> None:
    rule = joined(2, "Other")
    rule.refuse(Attach(Cursor(STREAM_ID, 2)), Refusal(204))
    assert rule.learn(LIVE) == [Replaced("Ciao", 2)]


def test_the_text_of_a_reader_that_joined_midway_is_replaced_by_the_whole() -> None:
    rule = joined(1, None)
    rule.refuse(Attach(Cursor(STREAM_ID, 1)), Refusal(410))
    assert rule.learn(LIVE) == [Replaced("Ciao", 2)]


def test_a_line_of_another_stream_is_not_listened_to() -> None:
    rule = joined(1)
    rule.begin("st_" + "z" * 28)
    assert not rule.wants_more
    rule.end()
    wait = rule.next_step(0.5)
    assert isinstance(wait, Wait)
    assert wait.reason == "garbled"


def test_events_without_an_id_are_told_and_move_no_cursor() -> None:
    rule = joined(1)
    rule.begin("")
    with_id = frame(2, token_event("a", 1))
    without = frame(3, token_event("b", 1)).partition(b"\n")[2]
    assert list(rule.take(with_id + without)) == [Token("a", 2), Token("b", 3)]
    rule.end()
    assert after_wait(rule) == Attach(Cursor(STREAM_ID, 2))
    rule.begin("")
    assert list(rule.take(frame(3, token_event("b", 1)))) == []
    assert rule.answer.text == "ab"


def test_a_reader_that_takes_no_more_of_a_chunk_stays_where_it_is() -> None:
    rule = joined(1)
    rule.begin("")
    taking = rule.take(frame(2, token_event("a", 1)) + frame(3, token_event("b", 1)))
    assert next(taking) == Token("a", 2)
    assert (rule.answer.text, str(rule.answer.cursor)) == ("a", f"{STREAM_ID}.2")


@pytest.mark.parametrize("reaches_nobody", [True, False])
def test_a_stopped_question_is_sent_again_only_where_it_may_have_been_taken(*, reaches_nobody: bool) -> None:
    rule = Rule(Patience())
    assert (rule.next_step(0.5), rule.send()) == (Ask(), [])
    if reaches_nobody:
        rule.refuse(Ask(), Refusal(429))
    else:
        rule.lost("cut")
    rule.stop()
    assert after_wait(rule) == Ask()
    assert rule.send() == ([Done("cancelled", 0)] if reaches_nobody else [])


def test_a_question_that_may_have_been_taken_stays_so_when_it_is_refused_later() -> None:
    rule = Rule(Patience())
    for come in (lambda: rule.lost("cut"), lambda: rule.lost(UNREACHABLE), lambda: rule.refuse(Ask(), Refusal(429))):
        rule.send()
        come()
    rule.stop()
    assert rule.send() == []


def test_waits_grow_with_attempts_in_vain_and_are_never_shorter_than_asked_for() -> None:
    rule = joined(1)
    seconds: list[float] = []
    for _ in range(10):
        rule.lost("cut")
        wait = rule.next_step(0.5)
        assert isinstance(wait, Wait)
        seconds.append(wait.seconds)
    assert seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0, 15.0]
    rule.lost("cut")
    with pytest.raises(GaveUp, match=r"10 attempts, the last one cut\. Read on later by resume"):
        rule.next_step(0.5)
    rule.join()
    rule.begin("")
    list(rule.take(encode_preface(7_000) + frame(2, token_event("a", 1))))
    rule.end()
    assert rule.next_step(0.5) == Wait(7.0, "cut", 1)


def test_a_server_can_not_send_a_reader_away_for_ever() -> None:
    rule = joined(1)
    rule.begin("")
    list(rule.take(encode_preface(2**53 - 1) + frame(2, token_event("a", 1))))
    rule.end()
    assert rule.next_step(0.5) == Wait(300.0, "cut", 1)


def test_a_stop_is_tried_until_there_is_no_use() -> None:
    rule = joined(1)
    assert rule.stop_refused(Refusal(503, "busy", retry_after_s=3.0), 0, 0.5) == Wait(3.0, "busy", 1, 503)
    with pytest.raises(Refused):
        rule.stop_refused(Refusal(403), 0, 0.5)
    with pytest.raises(AnswerExpired):
        rule.stop_refused(Refusal(410), 0, 0.5)
    with pytest.raises(GaveUp):
        rule.stop_refused(Refusal(503), 10, 0.5)

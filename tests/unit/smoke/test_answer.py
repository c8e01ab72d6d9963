"""An answer's events, held to the contract: what a smoke test takes, and what it says of the rest."""

import pytest

from subak.core.cursor import Cursor
from subak.core.sse import SseEvent
from subak.smoke.answer import AnswerReader
from subak.smoke.findings import Unmet

STREAM = "st_" + "a" * 28


def event(seq: int, kind: str, data: str = "{}") -> SseEvent:
    return SseEvent("message", f'{{"type":"{kind}","data":{data},"sequence":{seq},"timestamp":1}}', f"{STREAM}.{seq}")


def heartbeat(seq: int) -> SseEvent:
    return SseEvent("heartbeat", f'{{"type":"heartbeat","data":{{}},"sequence":{seq},"timestamp":1}}', "")


def read(*events: SseEvent, after: Cursor | None = None) -> AnswerReader:
    reader = AnswerReader(after)
    reader.begin(STREAM)
    for each in events:
        reader.take(each)
    return reader


def test_an_answer_is_read_to_its_end_with_its_heartbeats() -> None:
    done = event(4, "done", '{"finish_reason":"stop"}')
    reader = read(event(1, "metadata"), heartbeat(1), event(2, "token", '"Ciao "'), event(3, "token", '"mondo"'), done)
    reader.end()
    assert (reader.text, reader.tokens, reader.heartbeats) == ("Ciao mondo", 2, 1)
    assert (reader.ending, reader.is_failed, str(reader.cursor)) == ("stop", False, f"{STREAM}.4")


def test_an_answer_is_read_on_behind_a_cursor() -> None:
    reader = read(heartbeat(7), event(8, "token", '"Ciao"'), after=Cursor(STREAM, 7))
    assert (reader.text, reader.seq) == ("Ciao", 8)


def test_what_is_newer_than_this_reader_is_no_fault() -> None:
    assert read(event(1, "metadata"), event(2, "thought", "[]")).seq == 2


@pytest.mark.parametrize(
    ("events", "came"),
    [
        ([heartbeat(3)], "a heartbeat with sequence 3"),
        ([event(2, "metadata")], f"id {STREAM}.2, sequence 2"),
        ([event(1, "token", '"x"')], "token as event 1"),
        ([event(1, "metadata"), event(1, "metadata")], f"id {STREAM}.1, sequence 1"),
        ([event(1, "metadata"), event(2, "metadata")], "metadata as event 2"),
        ([event(1, "metadata"), event(2, "token", "7")], f"id {STREAM}.2, data "),
        (
            [event(1, "metadata"), event(2, "error", '{"code":"x","message":""}'), heartbeat(2)],
            "heartbeat after the end",
        ),
        ([SseEvent("message", "{}", "")], "id , data {}"),
        ([SseEvent("message", "\x1b[2J", f"{STREAM}.1")], f"id {STREAM}.1, data  [2J"),
    ],
)
def test_what_breaks_the_contract_is_told_in_printable_words(events: list[SseEvent], came: str) -> None:
    with pytest.raises(Unmet) as unmet:
        read(*events)
    assert came in unmet.value.came
    assert unmet.value.came.isprintable()


def test_a_response_that_ends_without_a_terminal_event_is_told() -> None:
    with pytest.raises(Unmet, match="after event 1: the response ended"):
        read(event(1, "metadata")).end()


@pytest.mark.parametrize("stream_id", ["", "st_" + "b" * 28])
def test_a_head_that_names_no_stream_or_another_one_is_told(stream_id: str) -> None:
    with pytest.raises(Unmet, match="Subak-Stream-Id"):
        AnswerReader(Cursor(STREAM, 3)).begin(stream_id)

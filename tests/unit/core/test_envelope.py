"""The envelope dialect, byte for byte (PROTOCOL §3). Random text: `tests/property/test_envelope_properties.py`."""

import msgspec
import pytest

from subak.core.envelope import (
    COMMENT,
    StreamMetrics,
    done_event,
    encode_frames,
    encode_heartbeat,
    encode_preface,
    error_event,
    frame_head,
    metadata_event,
    snapshot_frame,
    text_of,
    to_json,
    token_event,
)
from subak.core.errors import ErrorCode
from subak.core.events import SOURCES, TERMINAL_TYPES, Event, Failed, FinishReason

HEAD = frame_head("st_x")
METRICS = StreamMetrics(first_token_latency=41.2, tokens_received=6, bytes_received=381, duration=912.0)


def test_the_example_of_the_protocol_byte_for_byte() -> None:
    first = metadata_event("st_x", "c_1", 1_795_359_600_123)
    second = token_event("Ciao ", 1_795_359_600_130)
    assert encode_preface(1840) + encode_frames(HEAD, 1, [first, second]) == (
        b": ok\n"
        b"retry: 1840\n"
        b"id: st_x.1\n"
        b"event: message\n"
        b'data: {"type":"metadata","data":{"status":"connected","connectionId":"c_1","streamId":"st_x",'
        b'"timestamp":1795359600123},"sequence":1,"timestamp":1795359600123}\n'
        b"\n"
        b"id: st_x.2\n"
        b"event: message\n"
        b'data: {"type":"token","data":"Ciao ","sequence":2,"timestamp":1795359600130}\n'
        b"\n"
    )


def test_done_tells_reason_and_metrics() -> None:
    event = done_event(FinishReason.STOP, METRICS, None, 7)
    assert event == Event(
        "done",
        b'{"finish_reason":"stop","metrics":{"firstTokenLatency":41.2,"tokensReceived":6,"bytesReceived":381,'
        b'"duration":912.0}}',
        7,
    )


def test_done_tells_usage_if_the_upstream_did() -> None:
    event = done_event(FinishReason.LENGTH, METRICS, {"total_tokens": 9}, 7)
    assert event.data.endswith(b',"usage":{"total_tokens":9}}')


def test_an_answer_without_a_token_has_no_first_token_latency() -> None:
    metrics = StreamMetrics(None, 0, 0, 1.5)
    assert b'"firstTokenLatency":null' in done_event(FinishReason.STOP, metrics, None, 7).data


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_tells_code_sentence_and_whether_to_retry(code: ErrorCode) -> None:
    event = error_event(Failed(code, "operators only"), "c_1", 7)
    assert msgspec.json.decode(event.data) == {
        "code": code.value,
        "message": code.message,
        "retryable": code.is_retryable,
        "connectionId": "c_1",
    }
    assert event.is_terminal


def test_an_error_tells_when_to_come_back() -> None:
    event = error_event(Failed(ErrorCode.UPSTREAM_RATE_LIMITED, "429", retry_after_s=34), "c_1", 7)
    assert msgspec.json.decode(event.data)["retryAfter"] == 34


def test_a_heartbeat_is_a_named_event_without_id() -> None:
    assert encode_heartbeat(2, 1_795_359_600_123) == (
        b"event: heartbeat\n"
        b'data: {"type":"heartbeat","data":{"timestamp":1795359600123},"sequence":2,"timestamp":1795359600123}\n'
        b"\n"
    )


def test_a_heartbeat_before_an_abort_says_when_to_come_back() -> None:
    assert encode_heartbeat(2, 5, 1840) == b"retry: 1840\n" + encode_heartbeat(2, 5)


def test_a_comment_is_one_line() -> None:
    assert COMMENT == b": hb\n"


def test_a_snapshot_bears_the_id_of_what_it_replaces() -> None:
    assert snapshot_frame(HEAD, "Ciao", 3, 7) == (
        b"id: st_x.3\nevent: message\n"
        b'data: {"type":"snapshot","data":{"text":"Ciao","upto":3},"sequence":3,"timestamp":7}\n\n'
    )


@pytest.mark.parametrize("first_seq", [1, 9, 10, 99, 19_998, 20_000, 20_001, 999_999_998])
def test_seqs_are_written_out_within_the_table_and_past_it(first_seq: int) -> None:
    frames = encode_frames(HEAD, first_seq, [token_event("a", 1), token_event("b", 1)])
    for seq in (first_seq, first_seq + 1):
        assert frames.count(b"id: st_x.%d\n" % seq) == 1
        assert frames.count(b'"sequence":%d,' % seq) == 1


def test_frames_of_many_events_are_the_frames_of_each() -> None:
    events = [token_event("a", 1), Event(SOURCES, to_json([{"source": "a"}]), 2), token_event("b", 3)]
    joined = b"".join(encode_frames(HEAD, seq, [event]) for seq, event in enumerate(events, 5))
    assert encode_frames(HEAD, 5, events) == joined


def test_no_events_give_no_frames() -> None:
    assert encode_frames(HEAD, 1, []) == b""


def test_the_text_is_what_the_tokens_say() -> None:
    events = [
        metadata_event("st_x", "c_1", 1),
        token_event('Ciao "', 2),
        Event(SOURCES, to_json([{"source": "a"}]), 2),
        token_event("\u2028\x00\r\n😀", 3),
        done_event(FinishReason.STOP, METRICS, None, 4),
    ]
    assert text_of(events) == 'Ciao "\u2028\x00\r\n😀'


def test_only_done_and_error_are_terminal() -> None:
    events = [
        metadata_event("st_x", "c_1", 1),
        token_event("a", 2),
        Event(SOURCES, b"[]", 2),
        done_event(FinishReason.STOP, METRICS, None, 4),
        error_event(Failed(ErrorCode.TOO_LONG, "x"), "c_1", 4),
    ]
    assert [event.type for event in events if event.is_terminal] == ["done", "error"]
    assert {"done", "error"} == TERMINAL_TYPES

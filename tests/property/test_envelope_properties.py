"""Frames of any content, read by independent readers: one event each, with nothing lost or added (I12, I17)."""

import json

import httpx
import httpx_sse
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from subak.core.events import SOURCES, Event, Failed, FinishReason
from subak.core.sse import SseDecoder, SseEvent
from tests.wire import FollowingReader, decode_envelope

STREAM_ID = "st_AbC-_90123456789abcdefghijkl"
HEAD = frame_head(STREAM_ID)
HOSTILE = '\x00\r\n\r\n\u2028\u2029\x85\ufeff\x1b\x7f"\\/\n\ndata: x\n\nid: 9\n: c\r😀\ufffd'

texts = st.one_of(st.text(), st.text(alphabet=list(HOSTILE)), st.just(HOSTILE))
stamps = st.integers(0, 2**53)
labels = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=40)
metrics = st.builds(
    StreamMetrics,
    first_token_latency=st.none() | st.floats(0, 1e9, allow_nan=False),
    tokens_received=st.integers(0, 20_000),
    bytes_received=st.integers(0, 2**40),
    duration=st.floats(0, 1e9, allow_nan=False),
)
sources = st.lists(
    st.fixed_dictionaries({"source": texts, "snippet": texts, "similarity": st.floats(0, 1)}), max_size=3
)
middle_events = st.one_of(
    st.builds(token_event, texts, stamps),
    st.builds(lambda items, at_ms: Event(SOURCES, to_json(items), at_ms), sources, stamps),
)
last_events = st.one_of(
    st.builds(done_event, st.sampled_from(FinishReason), metrics, st.none() | st.just({"total_tokens": 9}), stamps),
    st.builds(
        error_event,
        st.builds(Failed, st.sampled_from(ErrorCode), texts, st.none() | st.integers(0, 3600)),
        labels,
        stamps,
    ),
)
streams = st.builds(
    lambda label, at_ms, middle, last: [metadata_event(STREAM_ID, label, at_ms), *middle, last],
    labels,
    stamps,
    st.lists(middle_events, max_size=8),
    last_events,
)


def expected(seq: int, event: Event) -> SseEvent:
    """What a reader must see of an event; its data is compared as JSON, by another JSON reader."""
    envelope = {"type": event.type, "data": json.loads(event.data), "sequence": seq, "timestamp": event.at_ms}
    return SseEvent("message", json.dumps(envelope), f"{STREAM_ID}.{seq}")


def as_json(events: list[SseEvent]) -> list[tuple[str, object, str]]:
    return [(event.event, json.loads(event.data), event.id) for event in events]


@given(streams, st.integers(1, 20_100))
@example([token_event(HOSTILE, 0)], 1)
def test_each_frame_is_one_event_whose_data_is_the_envelope(events: list[Event], first_seq: int) -> None:
    decoded = SseDecoder().feed(encode_frames(HEAD, first_seq, events))
    assert as_json(decoded) == as_json([expected(seq, event) for seq, event in enumerate(events, first_seq)])


@given(streams)
def test_frames_are_lines_of_utf8_that_end_in_lf_with_one_data_line_each(events: list[Event]) -> None:
    frames = encode_frames(HEAD, 1, events)
    frames.decode()
    assert not set(frames) & (set(range(0x20)) - {0x0A})
    blocks = frames.split(b"\n\n")
    assert blocks.pop() == b""
    assert [block.split(b"\n")[0] for block in blocks] == [
        f"id: {STREAM_ID}.{seq}".encode() for seq in range(1, len(events) + 1)
    ]
    assert all(
        [line.partition(b": ")[0] for line in block.split(b"\n")] == [b"id", b"event", b"data"] for block in blocks
    )


@given(texts)
@example(HOSTILE)
def test_any_text_survives(text: str) -> None:
    event = token_event(text, 1)
    (decoded,) = SseDecoder().feed(encode_frames(HEAD, 1, [event]))
    assert decode_envelope(decoded.data).data == text
    assert text_of([event, event]) == text * 2


@given(texts, st.integers(1, 30_000))
def test_a_snapshot_is_one_event_with_the_whole_text(text: str, upto: int) -> None:
    reader = FollowingReader(STREAM_ID, 0)
    reader.take(snapshot_frame(HEAD, text, upto, 1))
    assert (reader.text, reader.last) == (text, upto)


@given(streams, st.lists(st.integers(0, 3), max_size=10), st.integers(1, 60))
def test_a_whole_response_gives_its_events_and_no_phantoms_however_it_is_cut(
    events: list[Event], between: list[int], size_bytes: int
) -> None:
    response = response_of(events, between)
    reader = FollowingReader(STREAM_ID, 0)
    for start in range(0, len(response), size_bytes):
        reader.take(response[start : start + size_bytes])
    assert [(item.type, item.timestamp) for item in reader.applied] == [(event.type, event.at_ms) for event in events]
    assert reader.heartbeats == sum(kind in {1, 3} for kind, _ in zip(between, events[1:], strict=False))


@given(streams, st.lists(st.integers(0, 3), max_size=10))
def test_httpx_sse_sees_the_same_events_and_no_phantoms(events: list[Event], between: list[int]) -> None:
    response = response_of(events, between)
    answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=response)
    seen = list(httpx_sse.EventSource(answer).iter_sse())
    own = SseDecoder().feed(response)
    assert [(event.event, event.data, event.id) for event in seen] == [
        (event.event, event.data, event.id) for event in own
    ]
    assert all(json.loads(event.data) for event in seen)


def filler(kind: int, seq: int) -> bytes:
    """Give what may stand between two events: nothing, a heartbeat, a comment, or all of it."""
    return (b"", encode_heartbeat(seq, 5), COMMENT, COMMENT + COMMENT + encode_heartbeat(seq, 5, 1840))[kind]


def response_of(events: list[Event], between: list[int]) -> bytes:
    """Give a whole response: the preface, the events, and fillers between them."""
    parts = [encode_preface(2000)]
    for seq, event in enumerate(events, 1):
        if 1 < seq <= len(between) + 1:
            parts.append(filler(between[seq - 2], seq - 1))
        parts.append(encode_frames(HEAD, seq, [event]))
    return b"".join(parts)


@pytest.mark.parametrize("surrogate", ["\ud83d", "a\udfffb"])
def test_half_a_character_is_refused_before_it_can_reach_the_wire(surrogate: str) -> None:
    """The upstream adapters join or replace these; none may arrive here."""
    with pytest.raises((UnicodeEncodeError, msgspec.MsgspecError)):
        token_event(surrogate, 1)

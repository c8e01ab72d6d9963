"""What the RAG backend's frames mean, apart from any socket."""

import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.errors import ErrorCode
from subak.core.events import Ending, Event, Failed, Finished, FinishReason
from subak.upstream.frames import MAX_EXACT_INT
from subak.upstream.rag_frames import MAX_SOURCES, FrameCounts, RagFrames

AT_MS = 1_795_359_600_000


class Reading:
    """Frames under test, and what came of them."""

    def __init__(self, *, max_event_bytes: int = 65_536) -> None:
        self.counts = FrameCounts()
        self.frames = RagFrames(self.counts, max_event_bytes=max_event_bytes)
        self.events: list[Event] = []
        self.ending: Ending | None = None

    def feed(self, *chunks: bytes) -> "Reading":
        for chunk in chunks:
            if self.ending is None:
                events, self.ending = self.frames.feed(chunk, AT_MS)
                self.events += events
        return self

    def data(self, *datas: str) -> "Reading":
        return self.feed(*(f"data: {data}\n\n".encode() for data in datas))

    @property
    def tokens(self) -> list[str]:
        return [msgspec.json.decode(event.data, type=str) for event in self.events if event.type == "token"]

    @property
    def sources(self) -> object:
        (event,) = (event for event in self.events if event.type == "sources")
        return json.loads(event.data)


def test_the_usual_frame_is_a_token() -> None:
    reading = Reading().data('{"text": "Ciao ", "sequenceNumber": 3, "timestamp": 1.2}')
    assert reading.events == [Event("token", b'"Ciao "', AT_MS)]
    assert reading.ending is None


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        ('{"type": "token", "data": "a"}', ["a"]),
        (' \t{"text": "a"} ', ["a"]),
        ('{"text": "a", "done": false, "error": null, "sources": null, "type": null}', ["a"]),
        ('{"text": "a", "error": false}', ["a"]),
        ("plain text", ["plain text"]),
        ("  two spaces", [" two spaces"]),
        ("[DONE]", ["[DONE]"]),
        ("null", ["null"]),
        ("true", ["true"]),
        ("-1.5", ["-1.5"]),
        ('"quoted"', ['"quoted"']),
        ('[{"text": "a"}]', ['[{"text": "a"}]']),
        ('{"text": ""}', []),
        ("", []),
    ],
)
def test_texts_become_tokens(data: str, tokens: list[str]) -> None:
    reading = Reading().feed(f"data:{data}\n\n".encode() if data[:2] in {" \t", "  "} else f"data: {data}\n\n".encode())
    assert reading.tokens == tokens
    assert (reading.ending, reading.counts.dropped) == (None, 0)


@pytest.mark.parametrize(
    "data",
    [
        '{"type": "metadata", "data": {"status": "connected"}}',
        '{"type": "continuity_check", "done": true, "error": "x", "text": "y"}',
        '{"type": "heartbeat"}',
        '{"type": 7, "text": "a"}',
        '{"type": "token"}',
        '{"type": "token", "data": {"text": "a"}}',
        '{"type": "sources", "data": "a.md"}',
        '{"text": null}',
        '{"text": ["a"]}',
        '{"done": "true"}',
        '{"done": 1}',
        '{"sources": {}}',
        '{"x": 1}',
        "{}",
    ],
)
def test_objects_of_no_known_shape_are_dropped_and_counted(data: str) -> None:
    reading = Reading().data(data, data)
    assert (reading.events, reading.ending) == ([], None)
    assert reading.counts.dropped == 2


@pytest.mark.parametrize(
    ("data", "finished"),
    [
        ('{"done": true, "sequenceNumber": 9, "streamDuration": 2.1}', Finished()),
        ('{"type": "done"}', Finished()),
        ('{"type": "done", "data": null, "error": null}', Finished()),
        ('{"done": true, "finish_reason": "stop"}', Finished()),
        ('{"done": true, "finish_reason": "length"}', Finished(FinishReason.LENGTH)),
        ('{"type": "done", "finish_reason": "max_tokens"}', Finished(FinishReason.LENGTH)),
        ('{"type": "done", "data": {"finish_reason": "content_filter"}}', Finished(FinishReason.CONTENT_FILTER)),
        ('{"done": true, "finish_reason": "cancelled"}', Finished()),
        ('{"done": true, "finish_reason": {"a": []}}', Finished()),
        ('{"done": true, "usage": {"input": 3, "output": 5}}', Finished(usage={"input": 3, "output": 5})),
        ('{"type": "done", "data": {"usage": {"output": 5}}}', Finished(usage={"output": 5})),
        ('{"done": true, "usage": {"a": "1", "b": 1.5, "c": true, "d": -1, "f": 7}}', Finished(usage={"f": 7})),
        (f'{{"done": true, "usage": {{"a": {MAX_EXACT_INT + 1}, "b": 1e400}}}}', Finished()),
        ('{"done": true, "usage": {"input": {"cached": 3, "x": "y"}}}', Finished(usage={"input.cached": 3})),
        ('{"done": true, "usage": [1]}', Finished()),
    ],
)
def test_done_of_either_dialect_ends_the_answer(data: str, finished: Finished) -> None:
    reading = Reading().data('{"text": "a"}', data)
    assert (reading.tokens, reading.ending) == (["a"], finished)


def test_a_frame_may_hold_the_last_token_the_sources_and_the_end() -> None:
    reading = Reading().data('{"done": true, "sources": ["a.md"], "text": "end"}')
    assert [event.type for event in reading.events] == ["token", "sources"]
    assert reading.ending == Finished()
    typed = Reading().data('{"type": "token", "data": "end", "done": true}')
    assert (typed.tokens, typed.ending) == (["end"], Finished())


def test_what_stands_behind_the_ending_in_the_same_read_is_ignored() -> None:
    blocks = b'data: {"text": "a"}\n\ndata: {"done": true}\n\ndata: {"text": "b"}\n\ndata: {"error": "x"}\n\n'
    reading = Reading().feed(blocks)
    assert (reading.tokens, reading.ending) == (["a"], Finished())


@pytest.mark.parametrize("data", ['{"text": "a", "error": "x"}', '{"sources": ["a"], "error": 1}', '{"error": true}'])
def test_an_error_wins_over_all_else_in_its_frame(data: str) -> None:
    reading = Reading().data(data)
    assert (reading.events, reading.ending) == ([], Failed(ErrorCode.UPSTREAM_ERROR, "error_frame"))


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], []),
        (
            [{"source": "a.md", "snippet": "A", "similarity": 0.9, "tier": "T1", "dateLastCrawled": "2026-01-01"}],
            [{"source": "a.md", "snippet": "A", "similarity": 0.9, "tier": "T1", "dateLastCrawled": "2026-01-01"}],
        ),
        ([{"title": "A", "content": "c", "score": 1}], [{"source": "A", "snippet": "c", "similarity": 1}]),
        ([{"source": 7, "name": "n", "text": "t"}], [{"source": "n", "snippet": "t", "similarity": 0}]),
        (["a.md"], [{"source": "a.md", "snippet": "", "similarity": 0}]),
        (
            [{"source": "a", "snippet": [], "similarity": "high", "tier": 1, "dateLastCrawled": None, "secret": "x"}],
            [{"source": "a", "snippet": "", "similarity": 0}],
        ),
        ([{"source": "a", "similarity": True}], [{"source": "a", "snippet": "", "similarity": 0}]),
        ([{"source": "a", "similarity": 10**30}], [{"source": "a", "snippet": "", "similarity": 0}]),
        ([{"snippet": "no name"}, {"source": ""}, None, 5, [], [{"source": "a"}]], []),
        (
            [{"source": f"{number}"} for number in range(500)],
            [{"source": f"{number}", "snippet": "", "similarity": 0} for number in range(MAX_SOURCES)],
        ),
    ],
)
def test_sources_are_brought_into_one_shape(items: list[object], expected: list[object]) -> None:
    assert Reading().data(json.dumps({"sources": items})).sources == expected
    assert Reading().data(json.dumps({"type": "sources", "data": items})).sources == expected


def test_a_similarity_that_is_no_finite_number_is_none() -> None:
    data = '{"sources": [{"source": "a", "similarity": NaN, "score": Infinity}, {"source": "b", "similarity": 1e999}]}'
    assert [source["similarity"] for source in _list(Reading().data(data).sources)] == [0, 0]


def _list(value: object) -> list[dict[str, object]]:
    return msgspec.convert(value, list[dict[str, object]])


def test_the_halves_of_a_character_in_two_tokens_are_joined() -> None:
    reading = Reading().data('{"text": "a\\ud83d"}', '{"type": "metadata"}', '{"text": "\\ude00b"}')
    assert reading.tokens == ["a", "😀b"]


@pytest.mark.parametrize(
    ("datas", "tokens"),
    [
        (['{"text": "\\ud83d"}', '{"text": "x"}'], ["\ufffdx"]),
        (['{"text": "\\ud83d"}', "plain"], ["\ufffdplain"]),
        (['{"text": "\\ude00"}'], ["\ufffd"]),
        (['{"text": "\\ude00\\ud83dx"}'], ["\ufffd\ufffdx"]),
        (['{"text": "\\ud83d"}', '{"text": "\\ud83d"}', '{"text": "\\ude00"}'], ["\ufffd", "😀"]),
        (['{"text": "a\\ud83d"}', '{"done": true}'], ["a", "\ufffd"]),
        (['{"text": "a\\ud83d"}', '{"error": "x"}'], ["a", "\ufffd"]),
        (['{"text": "a\\ud83d"}', "{"], ["a", "\ufffd"]),
        (['{"text": "a\\ud83d"}', '{"sources": []}', '{"text": "\\ude00"}'], ["a", "\ufffd", "\ufffd"]),
    ],
)
def test_half_a_character_alone_is_replaced(datas: list[str], tokens: list[str]) -> None:
    assert Reading().data(*datas).tokens == tokens


def test_half_a_character_at_the_end_of_a_cut_answer_is_not_lost() -> None:
    reading = Reading().data('{"text": "\\ud83d"}')
    assert reading.events == []
    cut = Failed(ErrorCode.UPSTREAM_TRUNCATED, "no_done")
    assert reading.frames.cut(cut, AT_MS) == ([Event("token", '"\ufffd"'.encode(), AT_MS)], cut)
    assert reading.frames.cut(cut, AT_MS) == ([], cut)


def test_surrogates_in_sources_and_usage_are_replaced() -> None:
    reading = Reading().data('{"done": true, "sources": [{"source": "a\\ud83d"}], "usage": {"n\\ude00": 1}}')
    assert _list(reading.sources)[0]["source"] == "a\ufffd"
    assert reading.ending == Finished(usage={"n\ufffd": 1})


def test_events_before_one_that_is_too_large_are_kept() -> None:
    reading = Reading(max_event_bytes=40).feed(b'data: {"text": "a"}\n\ndata: ' + b"x" * 50 + b"\n\n")
    assert reading.tokens == ["a"]
    assert reading.ending == Failed(ErrorCode.EVENT_TOO_LARGE, "max_line_bytes")


def test_an_ending_before_one_that_is_too_large_holds() -> None:
    reading = Reading(max_event_bytes=40).feed(b'data: {"done": true}\n\ndata: ' + b"x" * 50 + b"\n\n")
    assert reading.ending == Finished()


# Whatever a backend writes.

SURROGATES = st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)
ANY_TEXT = st.text(
    st.one_of(st.characters(codec="utf-8"), SURROGATES, st.sampled_from('\n\r\0\u2028{}[]"\\')), max_size=20
)


def _joined(texts: list[str]) -> str:
    """The text that tokens of these texts make, by the definition of UTF-16."""
    return "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@given(texts=st.lists(ANY_TEXT, max_size=8), is_ascii=st.booleans(), is_typed=st.booleans())
def test_any_texts_arrive_whole_and_in_order(texts: list[str], is_ascii: bool, is_typed: bool) -> None:
    reading = Reading()
    for text in texts:
        frame = {"type": "token", "data": text} if is_typed else {"text": text, "n": 1}
        encoded = json.dumps(frame, ensure_ascii=is_ascii or any("\ud800" <= letter <= "\udfff" for letter in text))
        reading.data(encoded)
    reading.data('{"done": true}')
    assert "".join(reading.tokens) == _joined(texts)
    assert reading.ending == Finished()
    assert all(min(event.data) >= 0x20 for event in reading.events)


@given(body=st.binary(max_size=200), places=st.lists(st.integers(0, 200), max_size=6))
def test_slices_change_nothing_and_no_bytes_raise(body: bytes, places: list[int]) -> None:
    whole = Reading(max_event_bytes=60).feed(body)
    sliced = Reading(max_event_bytes=60)
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    sliced.feed(*(body[start:end] for start, end in itertools.pairwise(edges)))
    assert (sliced.events, sliced.ending) == (whole.events, whole.ending)


SOURCE_MEMBERS = st.sampled_from(["source", "title", "snippet", "similarity", "tier", "usage", "finish_reason", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(SOURCE_MEMBERS, inner, max_size=3),
    max_leaves=4,
)
FRAMES = st.dictionaries(
    st.sampled_from(["text", "type", "data", "sources", "done", "error", "finish_reason", "usage", "x"]),
    JSON | st.sampled_from(["token", "sources", "done", "error"]),
    max_size=4,
)


@given(frames=st.lists(FRAMES, max_size=3))
def test_no_object_raises_and_every_event_is_one_line_of_json(frames: list[dict[str, object]]) -> None:
    reading = Reading().data(*(json.dumps(frame) for frame in frames))
    for event in reading.events:
        json.loads(event.data)
        assert b"\n" not in event.data
        assert b"\r" not in event.data
    if isinstance(reading.ending, Finished):
        assert reading.ending.usage != {}

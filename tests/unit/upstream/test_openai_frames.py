"""What the frames of chat completions mean, apart from any socket."""

import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.errors import ErrorCode
from subak.core.events import Ending, Event, Failed, Finished, FinishReason
from subak.upstream.frames import MAX_EXACT_INT, MAX_USAGE_MEMBERS
from subak.upstream.openai_frames import OpenAiCounts, OpenAiFrames

AT_MS = 1_795_359_600_000
DONE = "[DONE]"
ERROR = Failed(ErrorCode.UPSTREAM_ERROR, "error_frame")
LIMITED = Failed(ErrorCode.UPSTREAM_RATE_LIMITED, "error_frame")
BAD_JSON = Failed(ErrorCode.UPSTREAM_ERROR, "bad_json")
CUT = Failed(ErrorCode.UPSTREAM_TRUNCATED, "no_done")


class Reading:
    """Frames under test, and what came of them."""

    def __init__(self, *, max_event_bytes: int = 65_536) -> None:
        self.counts = OpenAiCounts()
        self.frames = OpenAiFrames(self.counts, max_event_bytes=max_event_bytes)
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

    def cut(self) -> "Reading":
        events, self.ending = self.frames.cut(CUT, AT_MS)
        self.events += events
        return self

    @property
    def tokens(self) -> list[str]:
        return [msgspec.json.decode(event.data, type=str) for event in self.events]


def chunk(delta: object, finish_reason: object = None, **members: object) -> str:
    """A chunk with one choice, as servers write it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return json.dumps({"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **members})


def token(text: str) -> str:
    return chunk({"content": text})


def test_the_usual_answer_is_tokens_a_reason_an_account_and_the_end() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
    reading = Reading().data(
        chunk({"role": "assistant", "content": ""}, usage=None),
        token("Ciao "),
        token("mondo"),
        chunk({}, "stop"),
        json.dumps(usage),
        DONE,
    )
    assert reading.events == [Event("token", b'"Ciao "', AT_MS), Event("token", b'"mondo"', AT_MS)]
    assert reading.ending == Finished(FinishReason.STOP, usage["usage"])  # type: ignore[arg-type]
    assert (reading.counts.dropped, reading.counts.reasoning, reading.counts.tool_calls) == (0, 0, 0)


@pytest.mark.parametrize(
    ("delta", "tokens"),
    [
        ({"content": "a"}, ["a"]),
        ({"role": "assistant"}, []),
        ({"content": ""}, []),
        ({"content": None}, []),
        ({}, []),
        (None, []),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ["ab"]),
        ({"content": ["a", "b"]}, ["ab"]),
        ({"content": [{"type": "thinking", "thinking": "no"}, {"text": 5}, None, 7]}, []),
        ({"content": []}, []),
        ({"content": 5}, []),
        ({"content": {"text": "a"}}, []),
        ({"content": None, "refusal": "I can't"}, ["I can't"]),
        ({"content": "a", "refusal": "b"}, ["a"]),
        ({"content": "a", "reasoning_content": "thought"}, ["a"]),
        ({"content": "<think>a</think>"}, ["<think>a</think>"]),
    ],
)
def test_content_becomes_tokens(delta: object, tokens: list[str]) -> None:
    reading = Reading().data(chunk(delta))
    assert (reading.tokens, reading.ending, reading.counts.dropped) == (tokens, None, 0)


@pytest.mark.parametrize(
    ("delta", "reasoning", "tool_calls"),
    [
        ({"reasoning_content": "hm"}, 1, 0),
        ({"reasoning": "hm", "content": ""}, 1, 0),
        ({"reasoning": "hm", "reasoning_content": "hm"}, 1, 0),
        ({"reasoning_content": "", "reasoning": None}, 0, 0),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, 0, 1),
        ({"function_call": {"name": "f"}}, 0, 1),
        ({"tool_calls": []}, 0, 0),
    ],
)
def test_thoughts_and_tool_calls_are_dropped_and_counted(delta: object, reasoning: int, tool_calls: int) -> None:
    reading = Reading().data(chunk(delta), chunk(delta))
    assert (reading.events, reading.ending) == ([], None)
    assert (reading.counts.reasoning, reading.counts.tool_calls) == (2 * reasoning, 2 * tool_calls)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("tool_calls", FinishReason.STOP),
        ("function_call", FinishReason.STOP),
        ("eos_token", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("model_length", FinishReason.LENGTH),
        ("sensitive", FinishReason.CONTENT_FILTER),
        ("cancelled", FinishReason.STOP),
        ({"a": []}, FinishReason.STOP),
        (7, FinishReason.STOP),
        ("", FinishReason.STOP),
        (None, FinishReason.STOP),
    ],
)
def test_a_finish_reason_is_mapped_to_ours(word: object, reason: FinishReason) -> None:
    reading = Reading().data(token("a"), chunk({}, word), DONE)
    assert (reading.tokens, reading.ending) == (["a"], Finished(reason))


@pytest.mark.parametrize(
    ("word", "failed"),
    [
        ("error", Failed(ErrorCode.UPSTREAM_ERROR, "finish_error")),
        ("network_error", Failed(ErrorCode.UPSTREAM_ERROR, "finish_error")),
        ("abort", Failed(ErrorCode.UPSTREAM_TRUNCATED, "finish_abort")),
        ("insufficient_system_resource", Failed(ErrorCode.UPSTREAM_TRUNCATED, "finish_abort")),
    ],
)
def test_a_finish_reason_that_says_it_broke_is_a_failure(word: str, failed: Failed) -> None:
    reading = Reading().data(token("a"), chunk({"content": "b"}, word), DONE)
    assert (reading.tokens, reading.ending) == (["a", "b"], failed)


@pytest.mark.parametrize("word", [None, "", "null"])
def test_a_reason_that_says_nothing_does_not_take_back_one_that_came(word: str | None) -> None:
    reading = Reading().data(chunk({}, "length"), chunk({}, word), DONE)
    assert reading.ending == Finished(FinishReason.LENGTH)


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.mark.parametrize(
    "datas",
    [
        [token("a"), chunk({}, "stop"), json.dumps({"choices": [], "usage": USAGE})],
        [token("a"), chunk({}, "stop", usage=USAGE)],
        [chunk({"content": "a"}, "stop", usage=USAGE), chunk({}, usage=None)],
        [chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}), chunk({}, "stop", usage=USAGE)],
        [json.dumps({"usage": USAGE}), chunk({"content": "a"}, "stop")],
        [chunk({"content": "a"}, "stop", usage=USAGE), chunk({}, usage={}), chunk({}, usage="none")],
    ],
    ids=["chunk of its own", "last choice", "with the text", "in every chunk", "without choices", "before empty ones"],
)
def test_usage_is_taken_wherever_it_stands(datas: list[str]) -> None:
    reading = Reading().data(*datas, DONE)
    assert (reading.tokens, reading.ending, reading.counts.dropped) == (["a"], Finished(usage=USAGE), 0)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"a": 1, "b": "2", "c": 1.5, "d": True, "e": -1, "f": MAX_EXACT_INT + 1, "g": None}, {"a": 1}),
        (
            {"a": 1, "prompt_tokens_details": {"cached_tokens": 2, "x": {"y": 3}, "z": "4"}},
            {"a": 1, "prompt_tokens_details.cached_tokens": 2},
        ),
        ({f"{number}": number for number in range(99)}, {f"{number}": number for number in range(MAX_USAGE_MEMBERS)}),
        ({}, None),
        ([1], None),
        (7, None),
    ],
)
def test_whole_numbers_of_the_account_are_kept(reported: object, usage: dict[str, int] | None) -> None:
    assert Reading().data(json.dumps({"choices": [], "usage": reported}), DONE).ending == Finished(usage=usage)


@pytest.mark.parametrize("end", [DONE, " [DONE]\t", "[DONE]\ndata: "])
def test_done_ends_the_answer(end: str) -> None:
    assert Reading().data(token("a"), end).ending == Finished()


def test_a_body_that_stops_after_a_finish_reason_is_complete() -> None:
    reading = Reading().data(token("a"), chunk({}, "length", usage=USAGE)).cut()
    assert (reading.tokens, reading.ending) == (["a"], Finished(FinishReason.LENGTH, USAGE))


def test_a_body_that_stops_without_one_is_truncated() -> None:
    reading = Reading().data(token("a"), json.dumps({"choices": [], "usage": USAGE})).cut()
    assert (reading.tokens, reading.ending) == (["a"], CUT)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "boom", "type": "server_error", "code": 500}, ERROR),
        ("boom", ERROR),
        ("Rate limit exceeded", ERROR),
        ({}, ERROR),
        ([], ERROR),
        (True, ERROR),
        ("", ERROR),
        ({"code": 429}, LIMITED),
        ({"code": "429"}, LIMITED),
        ({"type": "rate_limit_error"}, LIMITED),
        ({"type": "requests", "code": "rate_limit_exceeded"}, LIMITED),
        ({"type": "throttling_error", "code": None}, LIMITED),
        ({"type": "insufficient_quota"}, LIMITED),
        ({"status": "RESOURCE_EXHAUSTED"}, LIMITED),
        ({"type": ["429"], "code": {"429": 429}}, ERROR),
        ({"message": "429"}, ERROR),
    ],
)
def test_an_error_inside_the_stream_ends_it_without_its_words(error: object, expected: Failed) -> None:
    reading = Reading().data(token("a"), json.dumps({"error": error}), DONE)
    assert (reading.tokens, reading.ending) == (["a"], expected)
    assert "boom" not in repr(reading.ending)


@pytest.mark.parametrize("error", [None, False])
def test_no_error_is_no_error(error: object) -> None:
    reading = Reading().data(chunk({"content": "a"}, "stop", error=error), DONE)
    assert (reading.tokens, reading.ending) == (["a"], Finished())


def test_an_error_wins_over_all_else_in_its_frame_and_over_a_finish_reason_before_it() -> None:
    reading = Reading().data(chunk({}, "stop"), chunk({"content": "a"}, "stop", error={"code": 500}))
    assert (reading.events, reading.ending) == ([], ERROR)


def test_an_error_object_without_an_error_member_is_one() -> None:
    assert Reading().data('{"object": "error", "message": "m", "code": 50001}').ending == ERROR


@pytest.mark.parametrize(
    "data",
    ['{"x": 1}', "{}", '{"choices": null}', '{"choices": {"index": 0}}', "null", "7", '"text"', "[]", "NaN"],
)
def test_json_of_no_known_shape_is_dropped_and_counted(data: str) -> None:
    reading = Reading().data(data, data)
    assert (reading.events, reading.ending, reading.counts.dropped) == ([], None, 2)


@pytest.mark.parametrize("data", ["", " ", "\t"])
def test_empty_data_is_nothing(data: str) -> None:
    reading = Reading().data(data)
    assert (reading.events, reading.ending, reading.counts.dropped) == ([], None, 0)


@pytest.mark.parametrize(
    "data",
    ["{", "plain text", "[DONE", "DONE", '{"choices": []}}', "{'a': 1}", '{"x": ' + "[" * 100_000, "[" * 100_000],
    ids=lambda data: data[:16],
)
def test_what_is_no_json_ends_the_answer(data: str) -> None:
    reading = Reading(max_event_bytes=200_000).data(token("a"), data)
    assert (reading.tokens, reading.ending) == (["a"], BAD_JSON)


@pytest.mark.parametrize(
    "data",
    [
        '{"choices": [{"index": 0, "delta": {"content": "a"}}], "x": NaN, "y": 1e999}',
        '{"choices": [{"index": 0, "delta": {"content": "a"}}, "x"], "created": %s}' % ("9" * 400),
        '{"choices": [7, {"index": 0, "delta": "x"}, {"delta": {"content": "a"}, "message": 5}]}',
    ],
)
def test_odd_members_beside_an_answer_do_not_hide_it(data: str) -> None:
    assert Reading().data(data).tokens == ["a"]


def test_of_several_choices_only_the_first_is_the_answer() -> None:
    two = {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "a"}}]}
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    unnumbered = {"choices": [{"delta": {"content": "b"}}]}
    reading = Reading().data(*map(json.dumps, (two, other, unnumbered)), DONE)
    assert (reading.tokens, reading.ending) == (["a", "b"], Finished())


def test_comments_and_event_names_are_ignored() -> None:
    body = (
        b": OPENROUTER PROCESSING\n\n"
        b"event: error\nid: 3\ndata: " + token("a").encode() + b"\n\n: ping\n\nevent: done\ndata: "
        b"" + token("b").encode() + b"\n\ndata: [DONE]\n\n"
    )
    reading = Reading().feed(body)
    assert (reading.tokens, reading.ending) == (["a", "b"], Finished())


def test_what_stands_behind_the_ending_in_the_same_read_is_ignored() -> None:
    body = b"".join(f"data: {data}\n\n".encode() for data in (token("a"), DONE, token("b"), '{"error": 1}'))
    reading = Reading().feed(body)
    assert (reading.tokens, reading.ending) == (["a"], Finished())


@pytest.mark.parametrize(
    ("datas", "tokens"),
    [
        ([token("a\ud83d"), chunk({"role": "assistant"}), token("\ude00b"), DONE], ["a", "😀b"]),
        ([token("\ud83d"), token("x"), DONE], ["\ufffdx"]),
        ([token("\ude00"), DONE], ["\ufffd"]),
        ([token("a\ud83d"), DONE], ["a", "\ufffd"]),
        ([token("a\ud83d"), '{"error": "x"}'], ["a", "\ufffd"]),
        ([token("a\ud83d"), "{"], ["a", "\ufffd"]),
    ],
)
def test_the_halves_of_a_character_are_joined_or_replaced(datas: list[str], tokens: list[str]) -> None:
    assert Reading().data(*datas).tokens == tokens


def test_half_a_character_at_the_end_of_a_cut_answer_is_not_lost() -> None:
    assert Reading().data(token("a\ud83d")).cut().tokens == ["a", "\ufffd"]


def test_surrogates_in_the_account_are_replaced() -> None:
    usage = {"n\ude00": 1, "d\ud83d": {"n": 2}}
    reading = Reading().data(json.dumps({"choices": [], "usage": usage}), DONE)
    assert reading.ending == Finished(usage={"n\ufffd": 1, "d\ufffd.n": 2})


def test_events_before_one_that_is_too_large_are_kept() -> None:
    reading = Reading(max_event_bytes=200).feed(f"data: {token('a')}\n\ndata: {'x' * 300}\n\n".encode())
    assert (reading.tokens, reading.ending) == (["a"], Failed(ErrorCode.EVENT_TOO_LARGE, "max_line_bytes"))


def test_half_a_character_before_one_that_is_too_large_is_not_lost() -> None:
    reading = Reading(max_event_bytes=200).data(token("a\ud83d")).feed(b"data: " + b"x" * 300)
    assert (reading.tokens, reading.ending) == (["a", "\ufffd"], Failed(ErrorCode.EVENT_TOO_LARGE, "max_line_bytes"))


def test_an_ending_before_one_that_is_too_large_holds() -> None:
    reading = Reading(max_event_bytes=200).feed(f"data: {DONE}\n\ndata: {'x' * 300}\n\n".encode())
    assert reading.ending == Finished()


# Whatever a server writes.

SURROGATES = st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)
ANY_TEXT = st.text(
    st.one_of(st.characters(codec="utf-8"), SURROGATES, st.sampled_from('\n\r\0\u2028{}[]"\\')), max_size=20
)


@given(texts=st.lists(ANY_TEXT, max_size=8), is_ascii=st.booleans(), is_in_parts=st.booleans())
def test_any_texts_arrive_whole_and_in_order(texts: list[str], is_ascii: bool, is_in_parts: bool) -> None:
    reading = Reading()
    for text in texts:
        content = [{"type": "text", "text": text}] if is_in_parts else text
        has_surrogates = any("\ud800" <= letter <= "\udfff" for letter in text)
        frame = {"choices": [{"index": 0, "delta": {"content": content}}]}
        reading.data(json.dumps(frame, ensure_ascii=is_ascii or has_surrogates))
    reading.data(DONE)
    # What the tokens of these texts make, by the definition of UTF-16.
    assert "".join(reading.tokens) == "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert reading.ending == Finished()
    assert all(min(event.data) >= 0x20 for event in reading.events)


PIECES = st.sampled_from(
    [
        b"data: ",
        b"\n\n",
        b"\r\n",
        b": ping\n",
        b"[DONE]",
        b'{"choices":[{"index":0,"delta":{"content":"\xc3\xa8"}}]}',
        b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"a":1}}',
        b'{"error":{"code":429}}',
        b'{"choices":[{"delta":{"content":"\\ud83d"}}]}',
    ]
)


@given(
    body=st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=16).map(b"".join)),
    places=st.lists(st.integers(0, 900), max_size=6),
)
def test_slices_change_nothing_and_no_bytes_raise(body: bytes, places: list[int]) -> None:
    whole = Reading(max_event_bytes=120).feed(body)
    sliced = Reading(max_event_bytes=120)
    edges = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    sliced.feed(*(body[start:end] for start, end in itertools.pairwise(edges)))
    assert (sliced.events, sliced.ending) == (whole.events, whole.ending)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.sampled_from(["stop", "error", "429"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["text", "type", "content", "code", "x\ud83d"]), inner, max_size=3)
    ),
    max_leaves=4,
)
DELTAS = st.dictionaries(
    st.sampled_from(["content", "refusal", "reasoning", "reasoning_content", "tool_calls", "function_call", "role"]),
    JSON,
    max_size=3,
)
CHOICES = st.fixed_dictionaries(
    {}, optional={"index": JSON, "delta": DELTAS | JSON, "message": JSON, "finish_reason": JSON}
)
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(CHOICES | JSON, max_size=2) | JSON,
        "usage": JSON,
        "error": JSON,
        "object": JSON,
        "x": JSON,
    },
)


@given(frames=st.lists(FRAMES, max_size=3))
def test_no_object_raises_and_every_event_is_one_line_of_json(frames: list[dict[str, object]]) -> None:
    reading = Reading().data(*(json.dumps(frame) for frame in frames))
    for event in reading.events:
        assert isinstance(json.loads(event.data), str)
        assert min(event.data) >= 0x20
    if reading.ending is None:
        reading.cut()
    if isinstance(reading.ending, Finished):
        assert reading.ending.usage != {}

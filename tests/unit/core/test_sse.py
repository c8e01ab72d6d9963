"""The event-stream codec, case by case. Random input and foreign parsers: `tests/property/test_sse_*.py`."""

import time
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from subak.core.sse import (
    DEFAULT_MAX_EVENT_BYTES,
    DEFAULT_MAX_LINE_BYTES,
    MAX_RETRY_MS,
    SseDecoder,
    SseEvent,
    SseTooLarge,
    comment_line,
    encode_block,
)

BOM = b"\xef\xbb\xbf"
KIB = 1024
MIB = 1024 * KIB


def message(
    data: str,
    event: str = "message",
    id: str = "",  # noqa: A002 - the wire's word
    retry: int | None = None,
) -> SseEvent:
    return SseEvent(event, data, id, retry)


class Case(NamedTuple):
    """One stream: what it is about, its bytes, what it gives, and what the decoder remembers at its end."""

    name: str
    raw: bytes
    events: list[SseEvent]
    last_event_id: str = ""
    retry: int | None = None


# Every case ends with a finished block, so that more bytes may follow.
FINISHED = [
    Case("one data line makes a message", b"data: hello\n\n", [message("hello")]),
    Case("lines may end in CR", b"data: hello\r\r", [message("hello")]),
    Case("lines may end in CRLF", b"data: hello\r\n\r\n", [message("hello")]),
    Case("line ends may be mixed", b"data: a\rdata: b\r\ndata: c\n\r", [message("a\nb\nc")]),
    Case("LF and then CR are two line ends", b"data: a\n\rdata: b\n\r", [message("a"), message("b")]),
    Case("CRLF and then LF are two line ends", b"data: a\r\n\ndata: b\r\n\n", [message("a"), message("b")]),
    Case("CR CR LF is two line ends", b"data: a\r\r\ndata: b\r\r\n", [message("a"), message("b")]),
    Case("data lines are joined by LF", b"data: a\ndata: b\ndata:\ndata: c\n\n", [message("a\nb\n\nc")]),
    Case("a data line without value gives empty data", b"data:\n\n", [message("")]),
    Case("a line without colon is a field without value", b"data\n\n", [message("")]),
    Case("two data lines without value give one LF", b"data\ndata\n\n", [message("\n")]),
    Case("one space after the colon is dropped", b"data:a\n\ndata: a\n\n", [message("a"), message("a")]),
    Case("a second space stays", b"data:  a \n\n", [message(" a ")]),
    Case("a tab stays", b"data:\ta\n\n", [message("\ta")]),
    Case("only the first colon divides", b"data: a: b:c\n\n", [message("a: b:c")]),
    Case("a block without data is not dispatched", b"event: x\n\nid\n\n: c\n\n\n\n", []),
    Case("a block without data leaves no event type behind", b"event: x\n\ndata: a\n\n", [message("a")]),
    Case("the event field names the event", b"event: token\ndata: a\n\n", [message("a", "token")]),
    Case("the event field may follow the data", b"data: a\nevent: token\n\n", [message("a", "token")]),
    Case("the event type ends with its block", b"event: x\ndata: a\n\ndata: b\n\n", [message("a", "x"), message("b")]),
    Case("the last event field of a block counts", b"event: x\nevent: y\ndata: a\n\n", [message("a", "y")]),
    Case("an empty event field means message", b"event: x\nevent:\ndata: a\n\n", [message("a")]),
    Case("comments are ignored", b": a\n:\n:data: x\ndata: b\n: c\n\n", [message("b")]),
    Case("unknown fields are ignored", b"foo: x\ndatas: x\nDATA: x\ndata : x\n data: x\ndata: a\n\n", [message("a")]),
    Case("the id is given with its event", b"id: st_x.1\ndata: a\n\n", [message("a", id="st_x.1")], "st_x.1"),
    Case("the id persists", b"id: 7\ndata: a\n\ndata: b\n\n", [message("a", id="7"), message("b", id="7")], "7"),
    Case("a block without data sets the id", b"id: 7\n\ndata: b\n\n", [message("b", id="7")], "7"),
    Case("an empty id forgets the id", b"id: 7\n\nid\ndata: b\n\n", [message("b")]),
    Case("an id with NUL is ignored", b"id: 7\n\nid: 8\0\ndata: b\n\n", [message("b", id="7")], "7"),
    Case("an id may hold any Unicode", "id: é\u2028\ndata: a\n\n".encode(), [message("a", id="é\u2028")], "é\u2028"),
    Case("retry is given with its block", b"retry: 1840\ndata: a\n\n", [message("a", retry=1840)], "", 1840),
    Case("retry stays in its block", b"retry: 5\ndata: a\n\ndata: b\n\n", [message("a", retry=5), message("b")], "", 5),
    Case("a block without data sets retry", b"retry: 5\n\ndata: b\n\n", [message("b")], "", 5),
    Case("leading zeros of retry don't matter", b"retry: 0010\ndata: a\n\n", [message("a", retry=10)], "", 10),
    Case("retry may be zero", b"retry: 0\ndata: a\n\n", [message("a", retry=0)], "", 0),
    Case(
        "retry is digits only",
        b"retry: 5\n\n"
        + b"".join(b"retry:%b\n" % bad for bad in (b"", b"-1", b"+1", b"1.5", b"1_0", b"1 ", b"  1", b"0x1", b"1\0"))
        + "retry: ١٢\nretry: ²\ndata: a\n\n".encode(),
        [message("a")],
        "",
        5,
    ),
    Case(
        "retry of any length is bounded",
        b"retry: " + b"9" * 6000 + b"\ndata: a\n\nretry: " + b"0" * 6000 + b"7\n\n",
        [message("a", retry=MAX_RETRY_MS)],
        "",
        7,
    ),
    Case("a byte order mark at the start is dropped", BOM + b"data: a\n\n", [message("a")]),
    Case("a second byte order mark is text", BOM + BOM + b"data: a\ndata: b\n\n", [message("b")]),
    Case("a later byte order mark is text", b"\n" + BOM + b"data: a\ndata: b\n\n", [message("b")]),
    Case("a byte order mark in data stays", b"data: " + BOM + b"a\n\n", [message("\ufeffa")]),
    Case("half a byte order mark is text", b"\xef\xbbdata: a\ndata: b\n\n", [message("b")]),
    Case("a line of half a byte order mark is text", b"\xef\xbb\ndata: b\n\n", [message("b")]),
    Case("characters of every length survive", "data: aé€😀\n\n".encode(), [message("aé€😀")]),
    Case("NUL in data stays", b"data: a\0b\n\n", [message("a\0b")]),
    Case(
        "other Unicode line ends are text",
        "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n".encode(),
        [message("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg")],
    ),
    # The example of the Unicode standard, §3.9, "U+FFFD substitution of maximal subparts".
    Case(
        "each maximal subpart becomes one U+FFFD",
        b"data: a\xf1\x80\x80\xe1\x80\xc2b\x80c\x80\xbfd\n\n",
        [message("a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd")],
    ),
    Case("an encoded surrogate becomes three U+FFFD", b"data: \xed\xa0\x80\n\n", [message("\ufffd" * 3)]),
    Case("overlong forms become U+FFFD", b"data: \xc0\xaf\xe0\x80\xaf\n\n", [message("\ufffd" * 5)]),
    Case("beyond U+10FFFF becomes U+FFFD", b"data: \xf4\x90\x80\x80\xff\n\n", [message("\ufffd" * 5)]),
    Case("a line end cuts a character", b"data: \xf0\x9f\x98\ndata: \x80\n\n", [message("\ufffd\n\ufffd")]),
    Case("broken bytes in an event type are replaced", b"event: a\xff\ndata\n\n", [message("", "a\ufffd")]),
    Case("broken bytes in an id are replaced", b"id: \xfe\ndata\n\n", [message("", id="\ufffd")], "\ufffd"),
    Case("a broken field name is unknown", b"data\xff: x\ndata: a\n\n", [message("a")]),
    Case(
        "the wire of PROTOCOL section 3",
        b': ok\nretry: 1840\nid: st_x.1\nevent: message\ndata: {"type":"metadata"}\n\n'
        b'id: st_x.2\nevent: message\ndata: {"type":"token"}\n\n'
        b'event: heartbeat\ndata: {"type":"heartbeat"}\n\n: hb\n'
        b'id: st_x.3\nevent: message\ndata: {"type":"done"}\n\n',
        [
            message('{"type":"metadata"}', id="st_x.1", retry=1840),
            message('{"type":"token"}', id="st_x.2"),
            message('{"type":"heartbeat"}', "heartbeat", "st_x.2"),
            message('{"type":"done"}', id="st_x.3"),
        ],
        "st_x.3",
        1840,
    ),
]

# Every case ends inside a block, which is dropped.
UNFINISHED = [
    Case("nothing gives nothing", b"", []),
    Case("a line without end is dropped", b"data: a", []),
    Case("a block without blank line is dropped", b"data: a\n", []),
    Case("only the finished block is dispatched", b"data: a\n\ndata: b\ndata: c\r\n", [message("a")]),
    Case("an unfinished block moves no id", b"id: 1\ndata: a\n\nid: 2\ndata: b\n", [message("a", id="1")], "1"),
    Case("an unfinished block sets retry", b"retry: 5\ndata: b\n", [], "", 5),
    Case("a retry line without end sets nothing", b"retry: 5", []),
    Case("a lone byte order mark is nothing", BOM, []),
    Case("a lone half of a byte order mark is nothing", BOM[:2], []),
]

CASES = FINISHED + UNFINISHED


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def decode(decoder: SseDecoder, *chunks: bytes) -> list[SseEvent]:
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def assert_gives(case: Case, *chunks: bytes) -> None:
    decoder = SseDecoder()
    assert decode(decoder, *chunks) == case.events
    assert decoder.last_event_id == case.last_event_id
    assert decoder.retry == case.retry


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_case_fed_whole(case: Case) -> None:
    assert_gives(case, case.raw)


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_case_fed_byte_by_byte(case: Case) -> None:
    assert_gives(case, *(case.raw[i : i + 1] for i in range(len(case.raw))))


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_case_fed_in_every_two_parts(case: Case) -> None:
    step = max(1, len(case.raw) // 600)  # every cut of all cases but the one of 12 KB
    for cut in range(0, len(case.raw) + 1, step):
        assert_gives(case, case.raw[:cut], case.raw[cut:])


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_case_fed_with_empty_chunks_between(case: Case) -> None:
    middle = len(case.raw) // 2
    assert_gives(case, b"", case.raw[:middle], b"", case.raw[middle:], b"")


@pytest.mark.parametrize("case", [case for case in CASES if not case.raw.startswith(BOM)])
def test_case_fed_whole_where_the_short_cut_is_open(case: Case) -> None:
    assert_gives(case, b"\n", case.raw)


@pytest.mark.parametrize("case", FINISHED, ids=names(FINISHED))
def test_case_followed_by_an_unfinished_block(case: Case) -> None:
    assert_gives(case, case.raw + b"data: more\nevent: x\nid: y")
    assert_gives(case, case.raw, b"data: more\nevent: x\nid: y")


@pytest.mark.parametrize("case", FINISHED, ids=names(FINISHED))
def test_case_followed_by_another_block(case: Case) -> None:
    more = [*case.events, message("more", id=case.last_event_id)]
    for block in (b"data: more\n\n", b"data: more\r\n\r\n", b"data: more\r\r", b"data:more\n\n"):
        assert_gives(case._replace(events=more), case.raw + block)
        assert_gives(case._replace(events=more), case.raw, block)


# When events come


def test_an_event_comes_with_the_cr_that_ends_its_block() -> None:
    decoder = SseDecoder()
    assert decode(decoder, b"data: a\r") == []
    assert decode(decoder, b"\r") == [message("a")]


def test_a_lf_after_that_cr_is_no_second_blank_line() -> None:
    decoder = SseDecoder()
    assert decode(decoder, b"data: a\r\n\r") == [message("a")]
    assert decode(decoder, b"\n") == []
    assert decode(decoder, b"data: b\n", b"\n") == [message("b")]


def test_a_lf_after_an_empty_chunk_still_belongs_to_the_cr() -> None:
    assert decode(SseDecoder(), b"data: a\r", b"", b"\ndata: b\n\n") == [message("a\nb")]


def test_a_chunk_that_looks_like_a_block_may_go_on_with_one() -> None:
    decoder = SseDecoder()
    assert decode(decoder, b"\n", b"data: a", b"data: b\n\n") == [message("adata: b")]
    assert decode(decoder, b"event: x\n", b"data: c\n\n") == [message("c", "x")]
    assert decode(decoder, b"id: 1\n", b"data: d\n\n") == [message("d", id="1")]
    assert decode(decoder, b"data: e\r", b"data: f\n\n") == [message("e\nf", id="1")]


def test_the_id_moves_only_when_its_block_ends() -> None:
    decoder = SseDecoder()
    decoder.feed(b"id: 1\ndata: a\n")
    assert decoder.last_event_id == ""
    decoder.feed(b"\n")
    assert decoder.last_event_id == "1"


def test_retry_counts_from_its_line_on() -> None:
    decoder = SseDecoder()
    decoder.feed(b"retry: 5")
    assert decoder.retry is None
    decoder.feed(b"\n")
    assert decoder.retry == 5


def test_pending_bytes_tell_a_cut_event_from_a_clean_end() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: a\n\n: c\n")
    assert decoder.pending_bytes == 0
    decoder.feed(b"data: a\nda")
    assert decoder.pending_bytes == len(b"a\nda")
    decoder.reset()
    decoder.feed(BOM)
    assert decoder.pending_bytes == 0


def test_events_are_immutable() -> None:
    event = message("a")
    with pytest.raises(AttributeError):
        event.data = "b"  # type: ignore[misc]
    assert hash(event) == hash(message("a"))
    assert msgspec.structs.asdict(event) == {"event": "message", "data": "a", "id": "", "retry": None}


# Reset


def test_reset_drops_the_unfinished_block_and_keeps_id_and_retry() -> None:
    decoder = SseDecoder()
    decoder.feed(b"id: 1\nretry: 5\ndata: a\n\nid: 2\nevent: x\nretry: 6\ndata: b\nda")
    decoder.reset()
    assert (decoder.last_event_id, decoder.retry, decoder.pending_bytes) == ("1", 6, 0)
    assert decode(decoder, b"data: c\n\n") == [message("c", id="1")]


def test_reset_lets_a_byte_order_mark_come_again() -> None:
    decoder = SseDecoder()
    for _response in range(2):
        assert decode(decoder, BOM + b"data: a\n\n") == [message("a")]
        decoder.reset()


def test_reset_forgets_a_cr_at_the_end() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: a\r\r")
    decoder.reset()
    assert decode(decoder, b"\ndata: b\n\n") == [message("b")]


def test_reset_ends_a_failure() -> None:
    decoder = SseDecoder(max_line_bytes=8)
    with pytest.raises(SseTooLarge):
        decoder.feed(b"data: 12345")
    decoder.reset()
    assert decode(decoder, b"data: 12\n\n") == [message("12")]


# Bounds


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 6, 100])
def test_a_line_may_fill_its_bound_and_not_pass_it(end: bytes, size: int) -> None:
    block = b":" * size + end + b"data" + end + end
    assert decode(SseDecoder(max_line_bytes=max(size, 4)), block) == [message("")]
    if size > 1:
        with pytest.raises(SseTooLarge) as raised:
            SseDecoder(max_line_bytes=size - 1).feed(block)
        assert (raised.value.limit, raised.value.limit_bytes) == ("max_line_bytes", size - 1)


@pytest.mark.parametrize("block", [b"data: 12345678\n\n", b"data: 123\ndata: 5678\n\n", b"data\n" * 9 + b"\n"])
def test_data_may_fill_its_bound_and_not_pass_it(block: bytes) -> None:
    for warm_up in (b"\n", b""):
        roomy, tight = SseDecoder(max_event_bytes=8), SseDecoder(max_event_bytes=7)
        roomy.feed(warm_up)
        tight.feed(warm_up)
        assert [len(event.data) for event in decode(roomy, block)] == [8]
        with pytest.raises(SseTooLarge) as raised:
            tight.feed(block)
        assert (raised.value.limit, raised.value.limit_bytes) == ("max_event_bytes", 7)


def test_a_line_is_refused_before_its_end_is_seen() -> None:
    decoder = SseDecoder(max_line_bytes=16)
    decoder.feed(b"data: 0123456789")
    with pytest.raises(SseTooLarge):
        decoder.feed(b"x")


def test_a_byte_order_mark_is_no_part_of_a_line() -> None:
    decoder = SseDecoder(max_line_bytes=7)
    assert decode(decoder, *(bytes([byte]) for byte in BOM + b"data: a\n\n")) == [message("a")]


def test_an_event_of_many_lines_is_refused_before_its_end_is_seen() -> None:
    decoder = SseDecoder(max_event_bytes=16)
    with pytest.raises(SseTooLarge) as raised:
        decode(decoder, *[b"data: x\n"] * 9)
    assert raised.value.limit == "max_event_bytes"
    assert decoder.pending_bytes == 0


def test_events_completed_before_the_violation_come_with_it() -> None:
    decoder = SseDecoder(max_line_bytes=16)
    with pytest.raises(SseTooLarge) as raised:
        decoder.feed(b"id: 1\ndata: a\n\ndata: b\n\ndata: 0123456789x\n\ndata: c\n\n")
    assert raised.value.events == (message("a", id="1"), message("b", id="1"))
    assert decoder.last_event_id == "1"


def test_a_failed_decoder_stays_failed_and_gives_no_event_twice() -> None:
    decoder = SseDecoder(max_line_bytes=16)
    with pytest.raises(SseTooLarge) as first:
        decoder.feed(b"data: a\n\ndata: 0123456789x")
    for chunk in (b"\n\n", b"data: b\n\n", b""):
        with pytest.raises(SseTooLarge) as again:
            decoder.feed(chunk)
        assert (again.value.limit, again.value.limit_bytes) == (first.value.limit, first.value.limit_bytes)
        assert again.value.events == ()
        assert str(again.value) == str(first.value)


def test_the_message_of_a_violation_bears_no_content() -> None:
    with pytest.raises(SseTooLarge) as raised:
        SseDecoder(max_line_bytes=16).feed(b"data: secret\n\ndata: secret secret")
    assert "secret" not in str(raised.value)
    assert "max_line_bytes" in str(raised.value)


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0), (-1, 1)])
def test_a_bound_below_one_byte_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SseDecoder(max_line_bytes=bounds[0], max_event_bytes=bounds[1])


def peak_bytes_of(work: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_64_mib_without_line_end_are_refused_after_the_bound_in_flat_memory() -> None:
    chunk = b"x" * (64 * KIB)
    decoder = SseDecoder()
    refused: list[int] = []

    def feed_all() -> None:
        for n in range(64 * MIB // len(chunk)):
            try:
                decoder.feed(chunk)
            except SseTooLarge:
                refused.append(n)

    # A growing bytearray takes an eighth more than it holds.
    assert peak_bytes_of(feed_all) < DEFAULT_MAX_LINE_BYTES * 9 // 8 + 3 * len(chunk)
    assert refused == list(range(DEFAULT_MAX_LINE_BYTES // len(chunk), 64 * MIB // len(chunk)))


def test_data_lines_without_blank_line_are_refused_at_the_bound_in_flat_memory() -> None:
    line = b"data: " + b"x" * 4089 + b"\n"
    decoder = SseDecoder()
    lines_in_bound = (DEFAULT_MAX_EVENT_BYTES + 1) // 4090  # 4089 bytes and a LF each, the last LF not counted

    def feed_to_the_bound_and_once_more() -> None:
        for _ in range(lines_in_bound):
            decoder.feed(line)
        with pytest.raises(SseTooLarge):
            decoder.feed(line)

    assert peak_bytes_of(feed_to_the_bound_and_once_more) < DEFAULT_MAX_EVENT_BYTES * 9 // 8 + 64 * KIB


@pytest.mark.parametrize("line", [b": hb\n", b"unknown: a\n", b"event: x\n", b"id: x\n", b"retry: 1\n", b"\n", b"\r"])
def test_lines_without_data_hold_nothing_however_many_come(line: bytes) -> None:
    decoder = SseDecoder(max_event_bytes=16)
    chunk = line * 512

    def feed_many() -> None:
        for _ in range(200):
            assert decoder.feed(chunk) == []

    assert peak_bytes_of(feed_many) < 64 * KIB + 32 * len(chunk)
    assert decoder.pending_bytes == 0


def cpu_s_of(chunks: list[bytes]) -> float:
    """The best of five, in seconds of this thread."""
    return min(_cpu_s_once(chunks) for _ in range(5))


def _cpu_s_once(chunks: list[bytes]) -> float:
    decoder = SseDecoder()
    started = time.thread_time()
    for chunk in chunks:
        decoder.feed(chunk)
    return time.thread_time() - started


@pytest.mark.parametrize(
    "small",
    [[b"data: "] + [b"x"] * 25_000, [b"data: x\n"] * 25_000, [b": x"] + [b"\xf0\x9f\x98\x80"] * 25_000],
    ids=["a long line byte by byte", "an event of many lines", "a long comment character by character"],
)
def test_time_grows_with_the_input_and_not_with_its_square(small: list[bytes]) -> None:
    # Eight times the input: some 8 times the time when linear, some 50 with one copy of the pending bytes a call.
    assert cpu_s_of([*small, *small[1:] * 7]) < 24 * cpu_s_of(small)


# Encoder


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (encode_block(data="hello"), b"data: hello\n\n"),
        (encode_block(data=b"hello"), b"data: hello\n\n"),
        (encode_block(data=""), b"data: \n\n"),
        (encode_block(data=" a"), b"data:  a\n\n"),
        (encode_block(data="a\nb"), b"data: a\ndata: b\n\n"),
        (encode_block(data=b"a\rb\r\nc\n\rd"), b"data: a\ndata: b\ndata: c\ndata: \ndata: d\n\n"),
        (encode_block(data="a\n"), b"data: a\ndata: \n\n"),
        (encode_block(data="a\u2028b\x85\0"), "data: a\u2028b\x85\0\n\n".encode()),
        (
            encode_block(data="{}", event="message", id="st_x.1", retry_ms=1840, comment="ok"),
            b": ok\nretry: 1840\nid: st_x.1\nevent: message\ndata: {}\n\n",
        ),
        (encode_block(data="", retry_ms=0, comment=""), b": \nretry: 0\ndata: \n\n"),
        (comment_line("hb"), b": hb\n"),
    ],
)
def test_encoder_writes(block: bytes, expected: bytes) -> None:
    assert block == expected


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n", "a\r\ndata: forged\n\n"])
def test_encoder_refuses_what_would_break_out_of_a_line(bad: str) -> None:
    writers: list[Callable[[], bytes]] = [
        lambda: encode_block(data="", event=bad),
        lambda: encode_block(data="", id=bad),
        lambda: encode_block(data="", comment=bad),
        lambda: comment_line(bad),
    ]
    for write in writers:
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            write()


@pytest.mark.parametrize("retry_ms", [-1, MAX_RETRY_MS + 1])
def test_encoder_refuses_a_retry_that_no_reader_takes(retry_ms: int) -> None:
    with pytest.raises(ValueError, match="retry_ms"):
        encode_block(data="", retry_ms=retry_ms)


def test_encoder_refuses_a_lone_surrogate() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode_block(data="a\ud800")


def test_a_comment_line_between_blocks_changes_no_event() -> None:
    block = encode_block(data="a", event="x", id="1")
    plain = decode(SseDecoder(), block + block)
    assert decode(SseDecoder(), comment_line("hb") + block + comment_line("hb") + block + comment_line("hb")) == plain

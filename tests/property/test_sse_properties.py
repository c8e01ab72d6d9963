"""What holds of the event-stream codec for any input (I12, I17).

The oracle is written from the standards' own steps, over the whole decoded string: WHATWG Encoding §8.1.1 (UTF-8
decoder), WHATWG HTML §9.2.5 and §9.2.6. It knows no chunks, no bounds and no speed.
"""

from collections.abc import Callable
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from subak.core.sse import MAX_RETRY_MS, SseDecoder, SseEvent, SseTooLarge, comment_line, encode_block

ROOMY = 1 << 20


class Outcome(NamedTuple):
    """All that a reader can see of a decoded stream; `refused` is the bound that was passed, if one was."""

    events: list[SseEvent]
    last_event_id: str
    retry: int | None
    refused: tuple[str, int] | None = None


# The oracle


def utf8_decode(raw: bytes) -> str:
    """WHATWG Encoding, "UTF-8 decode": without one byte order mark, with U+FFFD for each error."""
    units = list(raw[3:] if raw.startswith(b"\xef\xbb\xbf") else raw)
    points: list[int] = []
    code_point = seen = needed = 0
    lower, upper = 0x80, 0xBF
    while units:
        byte = units[0]
        if needed and not lower <= byte <= upper:
            code_point = seen = needed = 0
            lower, upper = 0x80, 0xBF
            points.append(0xFFFD)
            continue  # the byte is read again, as the start of something
        del units[0]
        if needed:
            lower, upper = 0x80, 0xBF
            code_point = (code_point << 6) | (byte & 0x3F)
            seen += 1
            if seen == needed:
                points.append(code_point)
                code_point = seen = needed = 0
            continue
        needed, code_point, lower, upper = lead(byte)
        if not needed:
            points.append(code_point)
    if needed:
        points.append(0xFFFD)
    return "".join(map(chr, points))


def lead(byte: int) -> tuple[int, int, int, int]:
    """Bytes needed, first bits of the code point, and the range of the next byte."""
    if byte <= 0x7F:
        return 0, byte, 0x80, 0xBF
    if 0xC2 <= byte <= 0xDF:
        return 1, byte & 0x1F, 0x80, 0xBF
    if 0xE0 <= byte <= 0xEF:
        return 2, byte & 0xF, 0xA0 if byte == 0xE0 else 0x80, 0x9F if byte == 0xED else 0xBF
    if 0xF0 <= byte <= 0xF4:
        return 3, byte & 0x7, 0x90 if byte == 0xF0 else 0x80, 0x8F if byte == 0xF4 else 0xBF
    return 0, 0xFFFD, 0x80, 0xBF


def finished_lines(text: str) -> list[str]:
    """The lines that have an end: CRLF, LF or CR."""
    lines: list[str] = []
    start = at = 0
    while at < len(text):
        if text[at] not in "\r\n":
            at += 1
            continue
        lines.append(text[start:at])
        at += 2 if text[at : at + 2] == "\r\n" else 1
        start = at
    return lines


def oracle(raw: bytes) -> Outcome:
    """WHATWG HTML §9.2.6, step by step; `retry` of an event is ours, the standard has none."""
    events: list[SseEvent] = []
    data = event_type = id_buffer = last_event_id = ""
    retry = block_retry = None
    for line in finished_lines(utf8_decode(raw)):
        if line == "":
            last_event_id = id_buffer
            if data != "":
                events.append(SseEvent(event_type or "message", data.removesuffix("\n"), last_event_id, block_retry))
            data = event_type = ""
            block_retry = None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line.startswith(":"):
            continue
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            id_buffer = value
        elif field == "retry" and value != "" and set(value) <= set("0123456789"):
            retry = block_retry = min(int(value), MAX_RETRY_MS)
    return Outcome(events, last_event_id, retry)


# The decoder under test


def outcome(chunks: list[bytes], decoder: SseDecoder, feed: Callable[[bytes], list[SseEvent]] | None = None) -> Outcome:
    """All that comes of the chunks, by `decoder.feed` unless another of its methods is given."""
    take = feed or decoder.feed
    events: list[SseEvent] = []
    refused = None
    for chunk in chunks:
        try:
            events += take(chunk)
        except SseTooLarge as error:
            events += error.events
            refused = (error.limit, error.limit_bytes)
    return Outcome(events, decoder.last_event_id, decoder.retry, refused)


# Input


LINE_ENDS = [b"\n", b"\r", b"\r\n"]
WORDS = [b"data", b"event", b"id", b"retry", b"data: ", b"data:", b"event: ", b"id: ", b"retry: ", b": ", b"foo: "]
VALUES = [b":", b" ", b"a", b"{}", b"0", b"7", b"250", b"99999999999999999999", b"\0", b"\t", b"-1"]
UNICODE = ["é", "€", "😀", "\u2028", "\u2029", "\x85", "\ufeff", "٣", "\ufffd"]
BROKEN = [
    b"\xef",
    b"\xbb",
    b"\xbf",
    b"\xf0\x9f",
    b"\x98",
    b"\x80",
    b"\xed\xa0\x80",
    b"\xc0",
    b"\xe0\x80",
    b"\xf4\x90",
    b"\xff",
]

fragments = st.one_of(
    st.sampled_from(LINE_ENDS),
    st.sampled_from(LINE_ENDS).map(lambda end: end * 2),
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.sampled_from(VALUES),
    st.sampled_from(UNICODE).map(str.encode),
    st.sampled_from(BROKEN),
    st.binary(max_size=3),
)
starts = st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xef\xbb", b"\xef"])
soups = st.builds(bytes.__add__, starts, st.lists(fragments, max_size=40).map(b"".join))


@st.composite
def cut(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> list[bytes]:
    """The bytes of `source` in chunks, empty ones among them."""
    raw = draw(source)
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


# Chunks as a token stream brings them, and their near misses: what the short cut must tell apart.
block_values = st.lists(st.sampled_from([b"a", b"{}", b" ", b":", b"\xff", "é".encode(), *LINE_ENDS]), max_size=4).map(
    b"".join
)
block_starts = st.sampled_from(
    [b"data: ", b"data: ", b"data: ", b"data:", b"data", b"id: 1\ndata: ", b": hb\ndata: ", b"\n", b""]
)
block_ends = st.sampled_from([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n", b"\n\r", b"\n\r\n", b"\n", b"\r", b""])
one_block = st.tuples(block_starts, block_values, block_ends).map(b"".join)
token_chunks = st.lists(st.one_of(one_block, one_block, st.lists(one_block, max_size=3).map(b"".join)), max_size=8)

scalar_text = st.text(st.characters(codec="utf-8"), max_size=20)
line_text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8)


class Block(NamedTuple):
    """The arguments of one `encode_block`."""

    data: str
    event: str
    id: str
    retry_ms: int | None
    comment: str | None

    def encoded(self) -> bytes:
        return encode_block(data=self.data, event=self.event, id=self.id, retry_ms=self.retry_ms, comment=self.comment)


blocks = st.builds(
    Block,
    data=st.one_of(scalar_text, st.lists(st.sampled_from(["a", "\r", "\n", "\r\n", " ", ":", "\0"])).map("".join)),
    event=line_text,
    id=line_text,
    retry_ms=st.none() | st.integers(0, MAX_RETRY_MS),
    comment=st.none() | line_text,
)


# Properties


@given(cut(soups))
def test_any_bytes_in_any_chunks_decode_as_the_standard_says(chunks: list[bytes]) -> None:
    assert outcome(chunks, SseDecoder()) == oracle(b"".join(chunks))


@given(soups)
def test_any_bytes_decode_byte_by_byte_as_the_standard_says(raw: bytes) -> None:
    assert outcome([raw[i : i + 1] for i in range(len(raw))], SseDecoder()) == oracle(raw)


@given(cut(soups), st.integers(1, 24), st.integers(1, 24))
def test_a_bound_is_hit_at_the_same_place_in_any_chunks(chunks: list[bytes], line: int, event: int) -> None:
    # Two further bytes settle a first line that may yet turn out to be a byte order mark.
    raw = b"".join(chunks)
    whole = outcome([raw + b"::"], SseDecoder(max_line_bytes=line, max_event_bytes=event))
    assert outcome([*chunks, b"::"], SseDecoder(max_line_bytes=line, max_event_bytes=event)) == whole


@given(cut(soups), st.integers(1, 24), st.integers(1, 24))
def test_what_a_bounded_decoder_gives_is_a_prefix_and_within_its_bounds(
    chunks: list[bytes], line: int, event: int
) -> None:
    decoder = SseDecoder(max_line_bytes=line, max_event_bytes=event)
    given_ = outcome(chunks, decoder)
    expected = oracle(b"".join(chunks))
    assert given_.events == expected.events[: len(given_.events)]
    assert given_.refused is not None or given_ == expected
    assert decoder.pending_bytes <= line + event + 1


@given(token_chunks, st.integers(1, 16) | st.just(ROOMY), st.integers(1, 16) | st.just(ROOMY))
@example([b"data: 1\n\n", b"data: 2\n\n", b"data: 3\r\n\r\n", b"data: 4\n\r", b"\ndata: 5\n\n"], ROOMY, ROOMY)
@example([b"\n", b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n: c", b"\n"], ROOMY, ROOMY)
@example([b"\n", b"data: 1\r\r", b"\ndata: 2\n\n", b"data: 3\r\n\r", b"\n", b"data: 4\n\n"], ROOMY, ROOMY)
@example([b"data: 1\r\r", b"data: 2\n\n", b"\n", b"data: 3\r\r", b"data: 4\n\n", b"\ndata: 5\n\n"], ROOMY, ROOMY)
@example([b"\n", b"data: 1", b"data: 2\n\n", b"event: x\n", b"data: 3\n\n", b"\nda", b"data: 4\n\n"], ROOMY, ROOMY)
@example([b"data: 1\n\n", b"data: 22\n\n"], 7, ROOMY)
@example([b"data: 1\n\n", b"data: 22\n\n"], ROOMY, 1)
def test_the_short_cut_gives_what_the_plain_path_gives(chunks: list[bytes], line: int, event: int) -> None:
    quick = SseDecoder(max_line_bytes=line, max_event_bytes=event)
    plain = SseDecoder(max_line_bytes=line, max_event_bytes=event)
    assert outcome(chunks, quick) == outcome(chunks, plain, plain.feed_plain)
    assert quick.pending_bytes == plain.pending_bytes


@given(cut(soups), cut(soups))
def test_after_reset_a_response_is_read_as_if_it_were_the_first(old: list[bytes], new: list[bytes]) -> None:
    used = SseDecoder(max_line_bytes=64)
    outcome(old, used)
    used.reset()
    # The kept id and retry are the only trace: a block without data sets the same in the fresh decoder.
    fresh = SseDecoder(max_line_bytes=64)
    retry_line = b"" if used.retry is None else b"retry: %d\n" % used.retry
    fresh.feed(b"id: %b\n" % used.last_event_id.encode() + retry_line + b"\n")
    fresh.reset()
    assert outcome(new, used) == outcome(new, fresh)


@given(st.lists(blocks, max_size=4), st.data())
def test_any_unicode_survives_encoding_and_decoding(written: list[Block], data: st.DataObject) -> None:
    chunks = data.draw(cut(st.just(b"".join(block.encoded() for block in written))))
    expected: list[SseEvent] = []
    last_event_id = ""
    for block in written:
        last_event_id = block.id or last_event_id
        one_kind_of_line_end = block.data.replace("\r\n", "\n").replace("\r", "\n")
        expected.append(SseEvent(block.event or "message", one_kind_of_line_end, last_event_id, block.retry_ms))
    assert outcome(chunks, SseDecoder()).events == expected


@given(scalar_text)
def test_data_given_as_bytes_or_as_text_makes_the_same_block(text: str) -> None:
    assert encode_block(data=text) == encode_block(data=text.encode())


@given(st.binary())
def test_data_of_any_bytes_makes_one_event_and_nothing_else(raw: bytes) -> None:
    (event,) = oracle(encode_block(data=raw)).events
    # Line ends are ASCII, so replacing them before or after decoding is the same.
    expected = utf8_decode(b"." + raw)[1:].replace("\r\n", "\n").replace("\r", "\n")
    assert event == SseEvent("message", expected, "", None)


@given(blocks)
def test_an_encoded_block_has_lf_only_and_ends_with_its_only_blank_line(block: Block) -> None:
    raw = block.encoded()
    assert b"\r" not in raw
    assert raw.count(b"\n\n") == 1
    assert raw.endswith(b"\n\n")


@given(blocks, line_text)
def test_comment_lines_between_blocks_make_no_event(block: Block, comment: str) -> None:
    line = comment_line(comment)
    raw = block.encoded()
    assert outcome([line + raw + line + raw + line], SseDecoder()) == outcome([raw + raw], SseDecoder())

"""The framing of responses: heads, and bodies of every kind in any slices, against httptools as an oracle."""

import contextlib
import itertools
from collections.abc import Iterable

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.upstream.http1_framing import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEADERS,
    MAX_TRAILER_BYTES,
    Body,
    BodyState,
    ChunkedBody,
    EofBody,
    LengthBody,
    MalformedResponse,
    ResponseHead,
    body_of,
    parse_head,
)

OK = b"HTTP/1.1 200 OK\r\n"


class Oracle:
    """A chunked body as httptools reads it."""

    def __init__(self) -> None:
        self.body = b""
        self.is_complete = False
        self.is_broken = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(OK + b"Transfer-Encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> None:
        if self.is_complete or self.is_broken:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.is_broken = not self.is_complete

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def read_all(body: Body, slices: Iterable[bytes], *, is_plain: bool = False) -> bytes:
    """Feed slice by slice until the body is over."""
    feed = body.feed_plain if is_plain and isinstance(body, ChunkedBody) else body.feed
    return b"".join(feed(part) for part in slices)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut at these places (taken modulo the length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def encode(chunks: Iterable[bytes], *, case: str = "x", extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """Frame as a chunked body."""
    size = b"%X" if case == "X" else b"%x"
    framed = [size % len(chunk) + extension + b"\r\n" + chunk + b"\r\n" for chunk in chunks if chunk]
    return b"".join([*framed, b"0", extension, b"\r\n", trailer, b"\r\n"])


CHUNKS = st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n", b"0\r\n\r\n", b"x" * 300])), max_size=6)
PLACES = st.lists(st.integers(min_value=0, max_value=2000), max_size=12)


@given(
    chunks=CHUNKS,
    places=PLACES,
    case=st.sampled_from("xX"),
    extension=st.sampled_from([b"", b";a", b";a=b", b';a="b c"']),
    trailer=st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"]),
)
def test_any_chunking_in_any_slices_gives_the_body_and_its_end(
    chunks: list[bytes], places: list[int], case: str, extension: bytes, trailer: bytes
) -> None:
    slices = cut(encode(chunks, case=case, extension=extension, trailer=trailer), places)
    body, plain, oracle = ChunkedBody(), ChunkedBody(), Oracle()
    assert read_all(body, slices) == b"".join(chunks)
    assert read_all(plain, slices, is_plain=True) == b"".join(chunks)
    for part in slices:
        oracle.feed(part)
    assert oracle.body == b"".join(chunks)
    assert body.state is plain.state is BodyState.COMPLETE
    assert oracle.is_complete
    assert not body.has_excess


@given(chunks=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8))
def test_chunk_by_chunk_the_short_cut_gives_what_the_plain_way_gives(chunks: list[bytes]) -> None:
    body, plain = ChunkedBody(), ChunkedBody()
    for chunk in chunks:
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        assert body.feed(framed) == plain.feed_plain(framed) == chunk


@given(
    data=st.lists(
        st.sampled_from(
            [b"\r\n", b"\r", b"\n", b"0", b"1", b"5", b"a", b"hello", b" ", b";", b"=", b"+", b"-", b"_", b"0x", b"A:"]
        ),
        max_size=20,
    ).map(b"".join),
    places=PLACES,
)
def test_nonsense_is_never_read_as_more_than_httptools_reads(data: bytes, places: list[int]) -> None:
    slices = cut(data, places)
    body, plain, oracle = ChunkedBody(), ChunkedBody(), Oracle()
    read = read_all(body, slices)
    assert read_all(plain, slices, is_plain=True) == read
    assert (plain.state, plain.has_excess) == (body.state, body.has_excess)
    for part in slices:
        oracle.feed(part)
    assert oracle.body.startswith(read)
    if body.state is BodyState.COMPLETE:
        assert oracle.is_complete
        assert oracle.body == read
    if oracle.is_broken:
        assert body.state is not BodyState.COMPLETE


@given(chunks=CHUNKS, places=PLACES, place=st.integers(min_value=0, max_value=400), byte=st.integers(0, 255))
def test_a_changed_byte_never_makes_a_whole_body_of_what_httptools_refuses(
    chunks: list[bytes], places: list[int], place: int, byte: int
) -> None:
    whole = encode(chunks, extension=b';a="b"')
    at = place % len(whole)
    data = whole[:at] + bytes([byte]) + whole[at + 1 :]
    body, oracle = ChunkedBody(), Oracle()
    read = read_all(body, cut(data, places))
    oracle.feed(data)
    if body.state is BodyState.COMPLETE:
        assert (oracle.is_complete, oracle.body) == (True, read)


@given(chunks=CHUNKS, places=PLACES, end=st.integers(min_value=0, max_value=400))
def test_a_body_without_its_end_is_never_complete(chunks: list[bytes], places: list[int], end: int) -> None:
    whole = encode(chunks)
    body = ChunkedBody()
    read = read_all(body, cut(whole[: end % len(whole)], places))
    assert body.state is BodyState.OPEN
    assert b"".join(chunks).startswith(read)


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"1_0\r\n",
        b"\xd9\xa5\r\nhello\r\n",
        b"5\nhello\n",
        b"5\r\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\rX",
        b"5;a\nb\r\nhello\r\n",
        b"5;\0\r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b'5;a="\r\nhello\r\n',
        b"1" * 16 + b"\r\n",
        b"5;" + b"x" * MAX_CHUNK_LINE_BYTES + b"\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 4 + 1) + b"\r\n",
        b"0\r\n\nX",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_bad_chunks_break_the_body(data: bytes, is_whole: bool) -> None:
    body = ChunkedBody()
    good = body.feed(b"2\r\nok\r\n")
    slices = [data] if is_whole else [data[at : at + 1] for at in range(len(data))]
    read = read_all(body, slices)
    assert good == b"ok"
    assert read in {b"", b"hello"}
    assert body.state is BodyState.BROKEN
    assert body.feed(b"2\r\nno\r\n") == b""


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "byte by byte"])
def test_lines_at_their_bounds_are_taken(is_whole: bool) -> None:
    extension = b";" + b"x" * (MAX_CHUNK_LINE_BYTES - 2)
    trailer = b"A:" + b"b" * (MAX_TRAILER_BYTES - 2) + b"\r\n"
    data = b"5" + extension + b"\r\nhello\r\n0\r\n" + trailer + b"\r\n"
    body = ChunkedBody()
    assert read_all(body, [data] if is_whole else [data[at : at + 1] for at in range(len(data))]) == b"hello"
    assert body.state is BodyState.COMPLETE


@pytest.mark.parametrize("slices", [[b"5\r\nhello\r\n0\r\n\r\nX"], [b"5\r\nhello\r\n0\r\n\r\n", b"X"]])
def test_bytes_after_a_chunked_body_are_excess(slices: list[bytes]) -> None:
    body = ChunkedBody()
    assert read_all(body, slices) == b"hello"
    assert (body.state, body.has_excess) == (BodyState.COMPLETE, True)


@given(content=st.binary(max_size=50), excess=st.binary(max_size=5), places=PLACES)
def test_a_body_of_known_length_ends_there(content: bytes, excess: bytes, places: list[int]) -> None:
    body = LengthBody(len(content))
    assert read_all(body, cut(content + excess, places)) == content
    assert (body.state, body.has_excess) == (BodyState.COMPLETE, bool(excess))


def test_a_body_without_length_has_no_end_of_its_own() -> None:
    body = EofBody()
    assert read_all(body, [b"a", b"0\r\n\r\n"]) == b"a0\r\n\r\n"
    assert body.ends_at_eof
    assert body.state is BodyState.OPEN


def test_header_names_are_lower_case_and_repeated_values_joined() -> None:
    head = parse_head(OK + b"X-A: 1\r\nx-a:2 \r\nB: \xe9\r\n\r\n")
    assert head.status == 200
    assert head.headers == {"x-a": "1, 2", "b": "é"}


@pytest.mark.parametrize(
    ("head", "is_persistent"),
    [
        (OK, True),
        (OK + b"Connection: keep-alive\r\n", True),
        (OK + b"Connection: Foo, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_only_http_1_1_without_close_is_persistent(head: bytes, is_persistent: bool) -> None:
    assert parse_head(head + b"\r\n").is_persistent is is_persistent


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (OK, EofBody),
        (OK + b"Content-Length: 3\r\n", LengthBody),
        (OK + b"Transfer-Encoding: Chunked\r\n", ChunkedBody),
        (OK + b"Transfer-Encoding:chunked \t\r\n", ChunkedBody),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n", LengthBody),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n", LengthBody),
    ],
)
def test_the_head_tells_how_the_body_ends(head: bytes, kind: type[Body]) -> None:
    assert isinstance(body_of(parse_head(head + b"\r\n")), kind)


def test_a_response_without_content_is_complete_at_once() -> None:
    assert body_of(parse_head(b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n")).state is BodyState.COMPLETE
    assert body_of(parse_head(OK + b"Content-Length: 0\r\n\r\n")).state is BodyState.COMPLETE


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (OK + b"Transfer-Encoding: gzip\r\n", "bad_framing"),
        (OK + b"Transfer-Encoding: chunked, chunked\r\n", "bad_framing"),
        (OK + b"Content-Length: 99999999999999999\r\n", "bad_framing"),
        (OK + b"Content-Length: 5, 5\r\n", "bad_head"),
        (OK + b"A: b\r\n" * (MAX_HEADERS + 1), "too_many_headers"),
        (b"HTTP/0.9 200 OK\r\n", "http_version"),
        (b"\r\n", "bad_head"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n", "bad_head"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_heads_that_could_be_read_in_two_ways_are_refused(head: bytes, reason: str) -> None:
    with pytest.raises(MalformedResponse) as caught:
        body_of(parse_head(head + b"\r\n"))
    assert caught.value.reason == reason


def test_chunks_and_a_length_together_are_refused() -> None:
    with pytest.raises(MalformedResponse):
        body_of(ResponseHead(200, {"transfer-encoding": "chunked", "content-length": "5"}, is_persistent=True))


@given(data=st.binary(max_size=200))
def test_no_head_raises_anything_undeclared(data: bytes) -> None:
    for start in (b"", OK):
        with contextlib.suppress(MalformedResponse):
            body_of(parse_head(start + data + b"\r\n\r\n"))

"""One response in any slices: its head, its body however framed, its end; h11 is the oracle for what is nonsense."""

import contextlib
import itertools
from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.upstream.http1_response import MAX_BARREN_BYTES, MAX_HEADERS, BodyState, MalformedResponse, Response

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read_all(response: Response, slices: Iterable[bytes]) -> bytes:
    """Feed slice by slice until the body is over."""
    body = b""
    for part in slices:
        if response.state is BodyState.OPEN:
            body += response.feed(part)
    return body


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut at these places (taken modulo the length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def encode(chunks: Iterable[bytes], *, case: str = "x", extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """Frame as a chunked body."""
    size = b"%X" if case == "X" else b"%x"
    framed = [size % len(chunk) + extension + b"\r\n" + chunk + b"\r\n" for chunk in chunks if chunk]
    return b"".join([*framed, b"0", extension, b"\r\n", trailer, b"\r\n"])


def oracle(data: bytes) -> tuple[bytes, bool]:
    """What h11 reads of a chunked body, and whether it is whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(CHUNKED + data)
    body = b""
    with contextlib.suppress(h11.RemoteProtocolError):
        while True:
            match client.next_event():
                case h11.Data(data=part):
                    body += bytes(part)
                case h11.EndOfMessage():
                    return body, True
                case h11.NEED_DATA | h11.PAUSED:
                    break
                case _:  # the head
                    pass
    return body, False


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
    response = Response(CHUNKED)
    slices = cut(encode(chunks, case=case, extension=extension, trailer=trailer), places)
    assert read_all(response, slices) == b"".join(chunks)
    assert response.state is BodyState.COMPLETE
    assert not response.has_excess
    assert "a" not in response.headers


PIECES = [b"\r\n", b"\r", b"\n", b"0", b"1", b"5", b"a", b"hello", b" ", b";", b"=", b"+", b"-", b"_", b"0x", b"A:"]


@given(data=st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join), places=PLACES)
def test_nonsense_is_never_read_as_more_than_a_lenient_parser_reads(data: bytes, places: list[int]) -> None:
    response = Response(CHUNKED)
    body = read_all(response, cut(data, places))
    theirs, is_whole = oracle(data)
    assert theirs.startswith(body)
    if response.state is BodyState.COMPLETE:
        assert (theirs, is_whole) == (body, True)


@given(chunks=CHUNKS, places=PLACES, place=st.integers(min_value=0, max_value=400), byte=st.integers(0, 255))
def test_a_changed_byte_makes_no_whole_body_that_others_don_t_see(
    chunks: list[bytes], places: list[int], place: int, byte: int
) -> None:
    whole = encode(chunks)
    at = place % len(whole)
    data = whole[:at] + bytes([byte]) + whole[at + 1 :]
    response = Response(CHUNKED)
    body = read_all(response, cut(data, places))
    if response.state is BodyState.COMPLETE:
        assert oracle(data) == (body, True)


@given(chunks=CHUNKS, places=PLACES, end=st.integers(min_value=0, max_value=400))
def test_a_body_without_its_end_is_never_complete(chunks: list[bytes], places: list[int], end: int) -> None:
    whole = encode(chunks)
    response = Response(CHUNKED)
    body = read_all(response, cut(whole[: end % len(whole)], places))
    assert response.state is BodyState.OPEN
    assert b"".join(chunks).startswith(body)


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"1_0\r\n",
        b"\xd9\xa5\r\nhello\r\n",
        b"5\nhello\n",
        b"5\r\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\rX",
        b"5;a\nb\r\nhello\r\n",
        b"5;\0\r\nhello\r\n",
        b"1" * 17 + b"\r\n",
        b"5;" + b"x" * (MAX_BARREN_BYTES + 1),
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\nA: " + b"x" * MAX_BARREN_BYTES,
        b"0\r\n\nX",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_bad_chunks_break_the_body_after_what_was_good(data: bytes, is_whole: bool) -> None:
    response = Response(CHUNKED)
    good = response.feed(b"2\r\nok\r\n")
    slices = [data] if is_whole else [data[at : at + 1] for at in range(len(data))]
    assert good == b"ok"
    assert read_all(response, slices) in {b"", b"hello"}
    assert response.state is BodyState.BROKEN


def test_what_stands_before_a_break_in_the_same_read_is_given() -> None:
    response = Response(CHUNKED)
    assert response.feed(b"2\r\nok\r\n3\r\nyes\r\nzz\r\n") == b"okyes"
    assert response.state is BodyState.BROKEN


@pytest.mark.parametrize("chunks", [b"5\r\nhello\r\n", b"2\r\nhe\r\n3\r\nllo\r\n"], ids=["one", "two"])
def test_barren_bytes_are_bounded_in_a_row_not_in_sum(chunks: bytes) -> None:
    response = Response(CHUNKED)
    extension = b";" + b"x" * (MAX_BARREN_BYTES - 10)
    for _ in range(5):
        assert response.feed(chunks[:1] + extension) + response.feed(chunks[1:]) == b"hello"
    assert response.state is BodyState.OPEN


@pytest.mark.parametrize(
    "excess", [b"X", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"\0"], ids=repr
)
@pytest.mark.parametrize(
    ("head", "body"), [(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), (OK + b"Content-Length: 5\r\n\r\n", b"hello")]
)
def test_bytes_behind_a_body_are_excess_and_none_of_it(head: bytes, body: bytes, excess: bytes) -> None:
    response = Response(head)
    assert response.feed(body + excess) == b"hello"
    assert (response.state, response.has_excess) == (BodyState.COMPLETE, True)


@given(content=st.binary(min_size=1, max_size=50), places=PLACES)
def test_a_body_of_known_length_ends_there(content: bytes, places: list[int]) -> None:
    response = Response(OK + b"Content-Length: %d\r\n\r\n" % len(content))
    assert read_all(response, cut(content, places)) == content
    assert (response.state, response.has_excess, response.ends_at_eof) == (BodyState.COMPLETE, False, False)


@given(content=st.binary(max_size=50), places=PLACES)
def test_a_body_without_length_has_no_end_of_its_own(content: bytes, places: list[int]) -> None:
    response = Response(OK + b"\r\n")
    assert read_all(response, cut(content, places)) == content
    assert (response.state, response.ends_at_eof) == (BodyState.OPEN, True)


def test_header_names_are_lower_case_and_repeated_values_joined() -> None:
    response = Response(OK + b"X-A: 1\r\nx-a:2\r\nB: \xe9\r\n\r\n")
    assert response.status == 200
    assert response.headers == {"x-a": "1, 2", "b": "é"}


@pytest.mark.parametrize(
    ("head", "is_persistent"),
    [
        (CHUNKED[:-2], True),
        (OK + b"Content-Length: 5\r\n", True),
        (OK + b"Content-Length: 5\r\nConnection: keep-alive\r\n", True),
        (OK + b"Content-Length: 5\r\nConnection: Foo, Close\r\n", False),
        (OK, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_only_http_1_1_without_close_is_persistent(head: bytes, is_persistent: bool) -> None:
    assert Response(head + b"\r\n").is_persistent is is_persistent


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 0\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n",
        b"HTTP/1.1 100 Continue\r\n",
    ],
)
def test_a_response_without_content_is_complete_at_once(head: bytes) -> None:
    response = Response(head + b"\r\n")
    assert (response.state, response.ends_at_eof) == (BodyState.COMPLETE, False)


def test_the_transfer_coding_is_read_without_case() -> None:
    response = Response(OK + b"transfer-encoding:  Chunked\r\n\r\n")
    assert response.feed(encode([b"hello"])) == b"hello"
    assert response.state is BodyState.COMPLETE


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (OK + b"Transfer-Encoding: gzip\r\n", "bad_framing"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n", "bad_framing"),
        (OK + b"Transfer-Encoding: chunked \t\r\n", "bad_framing"),
        (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "bad_framing"),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "bad_head"),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n", "bad_head"),
        (OK + b"Content-Length: 5, 5\r\n", "bad_head"),
        (OK + b"Content-Length: -5\r\n", "bad_head"),
        (OK + b"Content-Length: 99999999999999999999999\r\n", "bad_head"),
        (OK + b"A: b\r\n" * (MAX_HEADERS + 1), "too_many_headers"),
        (OK + b"A: b\r\n c\r\n", "bad_head"),
        (OK + b"A : b\r\n", "bad_head"),
        (OK + b"A: b\nC: d\r\n", "bad_head"),
        (OK + b"A: \0\r\n", "bad_head"),
        (b"HTTP/0.9 200 OK\r\n", "http_version"),
        (b"HTTP/2.0 200 OK\r\n", "http_version"),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n", "upgrade"),
        (b"\r\n", "bad_head"),
        (b"", "bad_head"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_heads_that_could_be_read_in_two_ways_are_refused(head: bytes, reason: str) -> None:
    with pytest.raises(MalformedResponse) as caught:
        Response(head + b"\r\n")
    assert caught.value.reason == reason


def test_as_many_headers_as_allowed_are_taken() -> None:
    assert Response(OK + b"A: b\r\n" * MAX_HEADERS + b"\r\n").headers == {"a": ", ".join("b" * MAX_HEADERS)}


@given(data=st.binary(max_size=200))
def test_no_head_and_no_body_raises_anything_undeclared(data: bytes) -> None:
    for start in (b"", OK):
        with contextlib.suppress(MalformedResponse):
            Response(start + data + b"\r\n\r\n")
    Response(CHUNKED).feed(data)

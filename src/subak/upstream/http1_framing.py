"""How an HTTP/1.1 response is framed: its head, and where its body ends. No socket, no loop, no clock.

The head goes through httptools, which is strict about it. The body doesn't: a token is one small chunk in one read, and
the decoders here give it back with less work and keep their place between reads. They accept less than RFC 9112 allows
(no bare LF, bounded lines, bounded trailers) and never more: httptools is their oracle in the property tests.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, Protocol

import httptools
import msgspec

MAX_HEADERS: Final = 128
MAX_CHUNK_LINE_BYTES: Final = 1024
"""A chunk's size with its extensions."""
MAX_TRAILER_BYTES: Final = 8192

_STATUS_NO_CONTENT: Final = 204
_STATUS_NOT_MODIFIED: Final = 304
_CRLF: Final = b"\r\n"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSION: Final = rb";%b(?:=(?:%b|\"[\t !#-\[\]-~]*\"))?" % (_TOKEN, _TOKEN)
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*" % _EXTENSION)
_TRAILER_LINE: Final = re.compile(rb"%b:[\t\x20-\x7e\x80-\xff]*" % _TOKEN)
_LENGTH: Final = re.compile(r"[0-9]{1,15}")


class MalformedResponse(ValueError):
    """The head isn't HTTP/1.x as we take it. `reason` is a short constant."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResponseHead(msgspec.Struct, frozen=True):
    """A response's head. `headers`: names in lower case, values of repeated ones joined by `, ` (RFC 9110 §5.3)."""

    status: int
    headers: Mapping[str, str]
    is_persistent: bool


class BodyState(Enum):
    """Where a body stands."""

    OPEN = auto()
    COMPLETE = auto()
    BROKEN = auto()


class Body(Protocol):
    """Finds a body's bytes, and its end, in what the connection reads."""

    state: BodyState
    has_excess: bool
    """Whether bytes came that don't belong to this response."""

    @property
    def ends_at_eof(self) -> bool:
        """Whether only the connection's end completes it."""

    def feed(self, data: bytes) -> bytes:
        """Take what was read; give the body's bytes in it, those before a break included. Look at `state` then."""


def parse_head(head: bytes) -> ResponseHead:
    """Read a response's head, its blank line included.

    Raises:
        MalformedResponse: `bad_head`, `too_many_headers`, `http_version` or `upgrade`.
    """
    fields = _HeadFields()
    parser = httptools.HttpResponseParser(fields)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade as error:
        raise MalformedResponse("upgrade") from error
    except httptools.HttpParserError as error:
        raise MalformedResponse("bad_head") from error
    if not fields.is_complete:
        raise MalformedResponse("bad_head")
    if fields.count > MAX_HEADERS:
        raise MalformedResponse("too_many_headers")
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise MalformedResponse("http_version")
    is_persistent = version == "1.1" and "close" not in _tokens(fields.headers.get("connection", ""))
    return ResponseHead(parser.get_status_code(), fields.headers, is_persistent)


def body_of(head: ResponseHead) -> Body:
    """Tell how the body of this response to a GET or POST is framed (RFC 9112 §6.3).

    Raises:
        MalformedResponse: `bad_framing`: another transfer coding than chunked, or a length that isn't one number.
    """
    coding = head.headers.get("transfer-encoding")
    length = head.headers.get("content-length")
    if head.status in {_STATUS_NO_CONTENT, _STATUS_NOT_MODIFIED}:
        return LengthBody(0)
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise MalformedResponse("bad_framing")
        return ChunkedBody()
    if length is None:
        return EofBody()
    if _LENGTH.fullmatch(length) is None:
        raise MalformedResponse("bad_framing")
    return LengthBody(int(length))


def _tokens(value: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in value.split(","))


class _HeadFields:
    """Collects what httptools calls back with."""

    __slots__ = ("count", "headers", "is_complete")

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.count = 0
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        if self.count > MAX_HEADERS:
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip(" \t")  # httptools leaves the white space at a value's end
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        self.is_complete = True


class EofBody:
    """A body without length or chunks: what comes until the connection ends."""

    __slots__ = ("has_excess", "state")

    ends_at_eof: Final = True

    def __init__(self) -> None:
        self.state = BodyState.OPEN
        self.has_excess = False

    def feed(self, data: bytes) -> bytes:
        """Give everything."""
        return data


class LengthBody:
    """A body of `Content-Length` bytes."""

    __slots__ = ("_left", "has_excess", "state")

    ends_at_eof: Final = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.has_excess = False
        self.state = BodyState.OPEN if length else BodyState.COMPLETE

    def feed(self, data: bytes) -> bytes:
        """Give what belongs to the body."""
        taken = data[: self._left]
        self._left -= len(taken)
        self.has_excess |= len(taken) < len(data)
        if not self._left:
            self.state = BodyState.COMPLETE
        return taken


class _Part(Enum):
    """What a chunked body's next byte belongs to."""

    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


_MAX_LINE_BYTES: Final = {_Part.SIZE: MAX_CHUNK_LINE_BYTES, _Part.DATA_END: 0, _Part.TRAILER: MAX_TRAILER_BYTES}


class ChunkedBody:
    """A body in chunks (RFC 9112 §7.1). Extensions and trailers are read and ignored.

    | part     | ends with                                   | then                       |
    |----------|---------------------------------------------|----------------------------|
    | SIZE     | a line `hex[;extension]`                    | DATA; TRAILER when zero    |
    | DATA     | that many bytes                             | DATA_END                   |
    | DATA_END | CRLF                                        | SIZE                       |
    | TRAILER  | a line `name: value`; the empty line        | TRAILER; COMPLETE          |

    Anything else is BROKEN. No more is held between two reads than one unfinished line.
    """

    __slots__ = ("_is_between_chunks", "_left", "_part", "_pending", "_trailer_bytes", "has_excess", "state")

    ends_at_eof: Final = False

    def __init__(self) -> None:
        self._is_between_chunks = True
        self._part = _Part.SIZE
        self._left = 0
        self._pending = b""
        self._trailer_bytes = 0
        self.has_excess = False
        self.state = BodyState.OPEN

    def feed(self, data: bytes) -> bytes:
        """Give the bytes of the chunks in this read, joined.

        Short cut: a read is mostly exactly one chunk. Then its size line can only be the one that its length demands,
        so nothing is parsed.
        """
        if self._is_between_chunks:
            line_end = data.find(_CRLF)
            size = len(data) - line_end - 4
            if size > 0 and data[:line_end] == b"%x" % size and data.endswith(_CRLF):
                return data[line_end + 2 : -2]
        return self.feed_plain(data)

    def feed_plain(self, data: bytes) -> bytes:
        """Do what `feed` does, without its short cut: its twin and its oracle in the property tests."""
        if self.state is not BodyState.OPEN:
            self.has_excess |= bool(data)
            return b""
        buffer = self._pending + data
        chunks: list[bytes] = []
        at = 0
        while self.state is BodyState.OPEN:
            following = self._take_data(buffer, at, chunks) if self._part is _Part.DATA else self._take_line(buffer, at)
            if following is None:
                break
            at = following
        is_open = self.state is BodyState.OPEN
        self._pending = buffer[at:] if is_open else b""
        self._is_between_chunks = is_open and self._part is _Part.SIZE and not self._pending
        self.has_excess |= not is_open and at < len(buffer)
        return b"".join(chunks)

    def _take_data(self, buffer: bytes, at: int, chunks: list[bytes]) -> int | None:
        """Take chunk data from `at` on; give the place behind it, or None when more must come."""
        if at == len(buffer):
            return None
        taken = buffer[at : at + self._left]
        chunks.append(taken)
        self._left -= len(taken)
        if not self._left:
            self._part = _Part.DATA_END
        return at + len(taken)

    def _take_line(self, buffer: bytes, at: int) -> int | None:
        """Take the line at `at`; give the place behind it, or None when more must come."""
        end = buffer.find(_CRLF, at)
        if end < 0:
            longest = _MAX_LINE_BYTES[self._part] + 1  # and the first half of its CRLF
            if len(buffer) - at > longest or buffer.find(b"\n", at) >= 0:
                self.state = BodyState.BROKEN
            return None
        self._take_whole_line(buffer[at:end])
        return end + 2

    def _take_whole_line(self, line: bytes) -> None:
        if self._part is _Part.SIZE:
            self._open_chunk(line)
        elif self._part is _Part.TRAILER:
            self._take_trailer(line)
        elif line:
            self.state = BodyState.BROKEN
        else:
            self._part = _Part.SIZE

    def _open_chunk(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None or len(line) > MAX_CHUNK_LINE_BYTES:
            self.state = BodyState.BROKEN
            return
        self._left = int(found[1], 16)
        self._part = _Part.DATA if self._left else _Part.TRAILER

    def _take_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if not line:
            self.state = BodyState.COMPLETE
        elif self._trailer_bytes > MAX_TRAILER_BYTES or _TRAILER_LINE.fullmatch(line) is None:
            self.state = BodyState.BROKEN

"""Identity on the wire: stream ids and cursors (PROTOCOL §1).

A stream id is `st_`, six characters that name the process that made it, and 22 characters (128 random bits): never
guessable, never chosen by a client. A cursor is `{stream_id}.{seq}`, what an SSE client returns as `Last-Event-ID`.
"""

import re
from base64 import urlsafe_b64encode
from typing import Final, NamedTuple

from subak.core.errors import MalformedCursor

TAG_LENGTH: Final = 6
ENTROPY_BYTES: Final = 16
_STREAM_ID = re.compile(r"st_[A-Za-z0-9_-]{28}", re.ASCII)
_CURSOR = re.compile(r"(st_[A-Za-z0-9_-]{28})\.(0|[1-9][0-9]{0,8})", re.ASCII)
_TAG_START: Final = len("st_")


def make_tag(entropy: bytes) -> str:
    """Give a process' tag from at least 5 random bytes."""
    return urlsafe_b64encode(entropy).decode("ascii")[:TAG_LENGTH]


def make_stream_id(tag: str, entropy: bytes) -> str:
    """Give a new stream id from the process' tag and 16 random bytes of the operating system."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a stream id takes {ENTROPY_BYTES} random bytes, not {len(entropy)}")
    return f"st_{tag}{urlsafe_b64encode(entropy).decode('ascii').rstrip('=')}"


def is_stream_id(text: str) -> bool:
    """Whether `text` has the form of a stream id."""
    return _STREAM_ID.fullmatch(text) is not None


def tag_of(stream_id: str) -> str:
    """Give the tag of the process that made the stream."""
    return stream_id[_TAG_START : _TAG_START + TAG_LENGTH]


class Cursor(NamedTuple):
    """A place in a stream: everything up to and including `seq` has been read; 0 is the beginning."""

    stream_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.stream_id}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor.

        Raises:
            MalformedCursor: it isn't exactly `{stream_id}.{seq}` with a plain decimal seq of at most 9 digits.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise MalformedCursor("A cursor has the form {stream_id}.{seq}, as in the id of the last event received.")
        return cls(match[1], int(match[2]))

"""The RAG backend's dialect: the pieces of an answer and their frames (PROTOCOL §5, the first of its two shapes).

A *piece* is a token, the sources, or the end. The embedded upstream takes pieces as they are; `server.py` sends their
frames over HTTP. Frames carry no event name and no id. A time stamp always takes 14 characters and a duration 8, so a
piece knows beforehand how many bytes its frame will have, and both ways account for an answer alike.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from subak.core.errors import UpstreamError
from subak.core.events import DONE, SOURCES, TOKEN, FinishReason

_DURATION_CHARS: Final = 8
_ANY_TIME_S: Final = 1_800_000_000.0

to_json = msgspec.json.Encoder().encode

_STOP: Final = to_json(FinishReason.STOP)


class Source(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Where a part of an answer comes from (PROTOCOL §3). `similarity` is in 0..1, see `index.py`."""

    source: str
    snippet: str
    similarity: float
    date_last_crawled: str | None = None


class Piece(msgspec.Struct, frozen=True):
    """One item of an answer, in order: tokens, at most one `sources`, one `done`, nothing after it.

    `data` is JSON: a token's string, the list of sources, or the finish reason. `size_bytes` is what its frame takes.
    """

    type: str
    data: bytes
    size_bytes: int


class PieceMaker:
    """Makes the pieces of one answer and numbers their frames from 1."""

    __slots__ = ("_number",)

    def __init__(self) -> None:
        self._number = 0

    def token(self, text: str) -> Piece:
        """Give a token of exactly this text."""
        self._number += 1
        data = to_json(text)
        return Piece(TOKEN, data, len(token_frame(data, self._number, _ANY_TIME_S)))

    def sources(self, sources: Sequence[Source]) -> Piece:
        """Give the sources."""
        data = to_json(sources)
        return Piece(SOURCES, data, len(sources_frame(data)))

    def done(self, reason: FinishReason = FinishReason.STOP) -> Piece:
        """Give the end."""
        self._number += 1
        data = to_json(reason)
        return Piece(DONE, data, len(done_frame(data, self._number, 0.0)))


def token_frame(data: bytes, number: int, now_s: float) -> bytes:
    """Give a token's frame; `data` is its JSON string, `now_s` seconds since the epoch."""
    return b'data: {"text": %b, "sequenceNumber": %d, "timestamp": %.3f}\n\n' % (data, number, now_s)


def sources_frame(data: bytes) -> bytes:
    """Give the frame of the sources, a JSON list."""
    return b'data: {"sources": %b}\n\n' % data


def done_frame(data: bytes, number: int, duration_s: float) -> bytes:
    """Give the last frame of an answer that took `duration_s`; `data` is the reason, said unless it is `stop`."""
    duration = f"{max(duration_s, 0.0):.6f}"[:_DURATION_CHARS].encode()
    reason = b"" if data == _STOP else b', "finish_reason": %b' % data
    return b'data: {"done": true, "sequenceNumber": %d, "streamDuration": %b%b}\n\n' % (number, duration, reason)


def error_frame(error: UpstreamError, number: int) -> bytes:
    """Give the last frame of an answer that broke."""
    return b'data: {"error": %b, "done": true, "sequenceNumber": %d}\n\n' % (to_json(error.detail), number)

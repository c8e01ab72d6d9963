"""What the RAG backend's frames mean (PROTOCOL §5): body bytes in, typed events and one ending out. No IO.

    data                                               becomes
    -------------------------------------------------  ---------------------------------------------------------
    {"text": "…"}, {"type": "token", "data": "…"}      a token; none when it is empty
    {"sources": […]}, {"type": "sources", "data": […]}  sources, in the members of PROTOCOL §3
    {"done": true}, {"type": "done"}                   the end; with a text or sources in it, those first
    {"error": …}, {"type": "error"}                    the end, failed, whatever else stands in it
    any other object                                   nothing; counted
    what starts like an object and can't be read       the end, failed
    anything else                                      a token, verbatim; none when it is empty

`null` stands for a member that isn't there; so does `false` for `error` and `done`. SSE event names aren't looked at.
"""

import json
import math
from typing import Final, Literal

import msgspec

from subak.core.events import DONE, ERROR, SOURCES, TOKEN, Ending, Event, Finished, FinishReason
from subak.core.json_errors import NOT_JSON
from subak.upstream.frames import (
    BAD_JSON,
    ERROR_FRAME,
    JSON_SPACE,
    Frames,
    is_count,
    to_json,
    usage_of,
    without_surrogates,
)

MAX_SOURCES: Final = 100

_FINISH_REASONS: Final = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
# Members of a source, and what other backends call them; the first that has the right type is taken.
_SOURCE_NAMES: Final = ("source", "title", "name", "url")
_SNIPPET_NAMES: Final = ("snippet", "content", "text")
_SIMILARITY_NAMES: Final = ("similarity", "score")


class RagFrame(msgspec.Struct, frozen=True):
    """The members of a frame that mean something to us, not yet checked."""

    text: object = None
    type: object = None
    data: object = None
    sources: object = None
    done: object = None
    error: object = None
    finish_reason: object = None
    usage: object = None


class _TokenFrame(msgspec.Struct, frozen=True, gc=False):
    """The usual frame in both its shapes: a text, and no other member that means something."""

    text: str = ""
    type: Literal["token"] | None = None
    data: str = ""
    sources: None = None
    done: None = None
    error: None = None


_FRAME_DECODER: Final = msgspec.json.Decoder(RagFrame)
_TOKEN_DECODER: Final = msgspec.json.Decoder(_TokenFrame)
_FRAME_MEMBERS: Final = frozenset(RagFrame.__struct_fields__)


class FrameCounts:
    """What is counted over all answers. `dropped`: objects of no known shape."""

    __slots__ = ("dropped",)

    def __init__(self) -> None:
        self.dropped = 0


class RagFrames(Frames):
    """Reads one answer. After an ending it is not fed any more."""

    __slots__ = ("_counts",)

    def __init__(self, counts: FrameCounts, *, max_event_bytes: int) -> None:
        """`max_event_bytes` bounds a line and an event of the body."""
        super().__init__(max_event_bytes=max_event_bytes)
        self._counts = counts

    def feed(self, chunk: bytes, at_ms: int) -> tuple[list[Event], Ending | None]:
        """Do what `Frames.feed` does, by a short cut for a read that is one usual frame."""
        data = self._sse.lone_data(chunk)
        if data is None:
            return super().feed(chunk, at_ms)
        try:
            frame = _TOKEN_DECODER.decode(data)
            text = frame.text if frame.type is None else frame.data
        except NOT_JSON:
            text = ""
        if text and not self._half_character:
            return [Event(TOKEN, to_json(text), at_ms)], None
        return self.take_all((data.decode("utf-8", "replace"),), at_ms)

    def take(self, data: str, at_ms: int, events: list[Event]) -> Ending | None:
        """Add what one frame's data means to `events`; give the ending, if it is one."""
        if not data.startswith("{") and not data.lstrip(JSON_SPACE).startswith("{"):
            self.add_token(data, at_ms, events)
            return None
        try:
            frame = _FRAME_DECODER.decode(data)
        except NOT_JSON:
            lenient = _decode_leniently(data)
            if lenient is None:
                return BAD_JSON
            frame = lenient
        if frame.type is None:
            return self._take_members(frame, frame.text, frame.sources, at_ms, events)
        return self._take_typed(frame, at_ms, events)

    def _take_typed(self, frame: RagFrame, at_ms: int, events: list[Event]) -> Ending | None:
        if frame.type == TOKEN:
            return self._take_members(frame, frame.data, None, at_ms, events)
        if frame.type == SOURCES:
            return self._take_members(frame, None, frame.sources or frame.data, at_ms, events)
        if frame.type == DONE:
            return ERROR_FRAME if _has_error(frame) else _finished(frame)
        if frame.type == ERROR:
            return ERROR_FRAME
        self._counts.dropped += 1
        return None

    def _take_members(
        self, frame: RagFrame, text: object, sources: object, at_ms: int, events: list[Event]
    ) -> Ending | None:
        if _has_error(frame):
            return ERROR_FRAME
        is_known = frame.done is True
        if isinstance(text, str):
            is_known = True
            self.add_token(text, at_ms, events)
        if isinstance(sources, list):
            is_known = True
            self.add_half_character(at_ms, events)
            events.append(Event(SOURCES, to_json(_normalised(sources)), at_ms))
        if not is_known:
            self._counts.dropped += 1
        return _finished(frame) if frame.done is True else None


def _decode_leniently(data: str) -> RagFrame | None:
    """Read what the strict decoder doesn't: lone surrogates, NaN, numbers out of range. None when it is no object."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):  # too many digits, too deep, no JSON
        return None
    return RagFrame(**{name: members[name] for name in _FRAME_MEMBERS & members.keys()})


def _has_error(frame: RagFrame) -> bool:
    return frame.error is not None and frame.error is not False


def _finished(frame: RagFrame) -> Finished:
    inner = frame.data if isinstance(frame.data, dict) else {}
    reason = frame.finish_reason or inner.get("finish_reason")
    known = _FINISH_REASONS.get(reason, FinishReason.STOP) if isinstance(reason, str) else FinishReason.STOP
    return Finished(known, usage_of(frame.usage or inner.get("usage")))


def _normalised(sources: list[object]) -> list[dict[str, object]]:
    """Keep of each source what PROTOCOL §3 knows; what isn't a source is left out. Order is kept."""
    found = (_source(item) for item in sources[:MAX_SOURCES])
    return [source for source in found if source is not None]


def _source(item: object) -> dict[str, object] | None:
    """One source, or None without a name. A snippet that wasn't given is empty, a similarity that wasn't is 0."""
    if isinstance(item, str):
        item = {"source": item}
    if not isinstance(item, dict):
        return None
    name = _text(item, _SOURCE_NAMES)
    if not name:
        return None
    source: dict[str, object] = {
        "source": name,
        "snippet": _text(item, _SNIPPET_NAMES) or "",
        "similarity": _number(item, _SIMILARITY_NAMES),
    }
    for member in ("tier", "dateLastCrawled"):
        text = _text(item, (member,))
        if text is not None:
            source[member] = text
    return source


def _text(item: dict[str, object], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = item.get(name)
        if isinstance(value, str):
            return without_surrogates(value)
    return None


def _number(item: dict[str, object], names: tuple[str, ...]) -> float:
    for name in names:
        value = item.get(name)
        if is_count(value) or (isinstance(value, float) and math.isfinite(value)):
            return value
    return 0

"""What the frames of all dialects have in common: body bytes in, typed events and one ending out. No IO.

A dialect says what one frame's data means; here are the order of events and ending, the bounds, texts that were cut
between the two halves of a character, and the upstream's own account of its work.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, TypeGuard

import msgspec

from subak.core.errors import ErrorCode
from subak.core.events import TOKEN, Ending, Event, Failed
from subak.core.sse import SseDecoder, SseTooLarge

MAX_USAGE_MEMBERS: Final = 32
MAX_EXACT_INT: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly."""
JSON_SPACE: Final = " \t\r\n"
ERROR_FRAME: Final = Failed(ErrorCode.UPSTREAM_ERROR, "error_frame")
BAD_JSON: Final = Failed(ErrorCode.UPSTREAM_ERROR, "bad_json")

_REPLACEMENT: Final = "\ufffd"
_FIRST_HIGH_SURROGATE: Final = "\ud800"
_LAST_HIGH_SURROGATE: Final = "\udbff"

to_json = msgspec.json.Encoder().encode


class Frames(ABC):
    """Reads one answer. After an ending it is not fed any more."""

    __slots__ = ("_half_character", "_sse")

    def __init__(self, *, max_event_bytes: int) -> None:
        """`max_event_bytes` bounds a line and an event of the body."""
        self._sse = SseDecoder(max_line_bytes=max_event_bytes, max_event_bytes=max_event_bytes)
        self._half_character = ""

    @abstractmethod
    def take(self, data: str, at_ms: int, events: list[Event]) -> Ending | None:
        """Add what one frame's data means to `events`; give the ending, if it is one."""

    def feed(self, chunk: bytes, at_ms: int) -> tuple[list[Event], Ending | None]:
        """Take what one read brought; give the events in it and, after them, the ending, if there was one.

        `at_ms`: the wall clock of this read, for all its events.
        """
        too_large: Failed | None = None
        try:
            frames = self._sse.feed(chunk)
        except SseTooLarge as error:
            frames = list(error.events)
            too_large = Failed(ErrorCode.EVENT_TOO_LARGE, error.limit)
        return self.take_all([frame.data for frame in frames], at_ms, too_large)

    def take_all(
        self, datas: Sequence[str], at_ms: int, last: Failed | None = None
    ) -> tuple[list[Event], Ending | None]:
        """Take the data of one read's frames, up to an ending; `last` is what ends the answer if none of them does."""
        events: list[Event] = []
        for data in datas:
            ending = self.take(data, at_ms, events)
            if ending is not None:
                self.add_half_character(at_ms, events)
                return events, ending
        if last is not None:
            self.add_half_character(at_ms, events)
        return events, last

    def cut(self, failed: Failed, at_ms: int) -> tuple[list[Event], Ending]:
        """Give what was held back, and the ending of a body that stopped, for the reason `failed`, without its own."""
        events: list[Event] = []
        self.add_half_character(at_ms, events)
        return events, failed

    def add_token(self, text: str, at_ms: int, events: list[Event]) -> None:
        """Add a text as it is; none when it is empty. Surrogates that make a character are joined, also over two."""
        if self._half_character:
            text, self._half_character = self._half_character + text, ""
        if not text:
            return
        try:
            events.append(Event(TOKEN, to_json(text), at_ms))
        except UnicodeEncodeError:
            self._add_mended(text, at_ms, events)

    def add_half_character(self, at_ms: int, events: list[Event]) -> None:
        """Add U+FFFD for a first half that waits for a second one, which won't come any more."""
        if self._half_character:
            self._half_character = ""
            events.append(Event(TOKEN, to_json(_REPLACEMENT), at_ms))

    def _add_mended(self, text: str, at_ms: int, events: list[Event]) -> None:
        """Add a text with surrogates in it; a first half at its end waits for the second one in the next token."""
        if _FIRST_HIGH_SURROGATE <= text[-1] <= _LAST_HIGH_SURROGATE:
            text, self._half_character = text[:-1], text[-1]
        if text:
            events.append(Event(TOKEN, to_json(without_surrogates(text)), at_ms))


def without_surrogates(text: str) -> str:
    """Join surrogates that make a character; put U+FFFD for each other one."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def usage_of(reported: object) -> dict[str, int] | None:
    """Keep the whole numbers of what an upstream reports as its usage, those one level down as `outer.inner`."""
    if not isinstance(reported, dict):
        return None
    usage: dict[str, int] = {}
    for name, value in reported.items():
        if is_count(value):
            usage[without_surrogates(name)] = value
        elif isinstance(value, dict):
            inner = {f"{name}.{part}": count for part, count in value.items() if is_count(count)}
            usage |= {without_surrogates(path): count for path, count in inner.items()}
    return dict(list(usage.items())[:MAX_USAGE_MEMBERS]) or None


def is_count(value: object) -> TypeGuard[int]:
    """Tell whether this is a whole number that anybody can add up."""
    return type(value) is int and 0 <= value <= MAX_EXACT_INT

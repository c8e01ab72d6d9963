"""An answer as its events tell it, held to the contract event by event (docs/PROTOCOL.md §3). No IO.

Stricter than a client: where that repairs, this says what was wrong.
"""

from typing import Final

import msgspec

from subak.client.wire import DoneData, Envelope, ErrorData, decode_envelope, shown
from subak.core.cursor import Cursor
from subak.core.errors import MalformedCursor
from subak.core.events import METADATA
from subak.core.json_errors import NOT_JSON
from subak.core.sse import SseEvent
from subak.smoke.findings import Unmet

_HEARTBEAT: Final = "heartbeat"
_SHOWN_CHARS: Final = 80
_PAST_THE_PROXIES: Final = "ask the gateway past the proxies: if it is right there, one of them changes the stream"
_decode_text = msgspec.json.Decoder(str).decode
_decode_done = msgspec.json.Decoder(DoneData).decode
_decode_error = msgspec.json.Decoder(ErrorData).decode


class AnswerReader:
    """Reads the events of one stream, from its beginning or behind a cursor. Every method raises `Unmet`.

    `seq` is the last that came, `ending` the finish reason or the error's code, once there is one.
    """

    def __init__(self, after: Cursor | None = None) -> None:
        self.stream_id = "" if after is None else after.stream_id
        self.seq = 0 if after is None else after.seq
        self.text = ""
        self.tokens = 0
        self.heartbeats = 0
        self.ending = ""
        self.is_failed = False

    @property
    def cursor(self) -> Cursor:
        """Where to come back."""
        return Cursor(self.stream_id, self.seq)

    def begin(self, stream_id: str) -> None:
        """Take the head's `Subak-Stream-Id`, which names the stream of all events to come."""
        if not stream_id or (self.stream_id and stream_id != self.stream_id):
            expected = "this answer's stream id in Subak-Stream-Id" if self.stream_id else "a Subak-Stream-Id header"
            raise Unmet(f"Subak-Stream-Id: {shown(stream_id)}", expected=expected, fix=_PAST_THE_PROXIES)
        self.stream_id = stream_id

    def take(self, event: SseEvent) -> None:
        """Take the next event."""
        try:
            envelope = decode_envelope(event.data)
            if self.ending:
                raise self._wrong(f"{shown(event.event)} after the end", "nothing after done or error")
            if event.event == _HEARTBEAT:
                self._take_heartbeat(envelope)
            else:
                self._take_kept(envelope, Cursor.parse(event.id))
        except (MalformedCursor, *NOT_JSON) as error:
            what = f"id {shown(event.id)}, data {shown(event.data[:_SHOWN_CHARS])}"
            raise self._wrong(what, "an event of PROTOCOL §3") from error

    def end(self) -> None:
        """The response is over."""
        if not self.ending:
            raise self._wrong("the response ended", "done or error as the last event")

    def _take_heartbeat(self, envelope: Envelope) -> None:
        self.heartbeats += 1
        if envelope.sequence != self.seq:
            raise self._wrong(f"a heartbeat with sequence {envelope.sequence}", f"sequence {self.seq}, the last one")

    def _take_kept(self, envelope: Envelope, cursor: Cursor) -> None:
        wanted = Cursor(self.stream_id, self.seq + 1)
        if cursor != wanted or envelope.sequence != wanted.seq:
            seen = f"id {cursor}, sequence {envelope.sequence}"
            raise self._wrong(seen, f"id {wanted}: the next event of this stream")
        if (envelope.type == METADATA) is not (wanted.seq == 1):
            raise self._wrong(f"{shown(envelope.type)} as event {wanted.seq}", "metadata first, and only there")
        self.seq = wanted.seq
        match envelope.type:
            case "token":
                self.text += _decode_text(envelope.data)
                self.tokens += 1
            case "done":
                self.ending = _decode_done(envelope.data).finish_reason
            case "error":
                self.ending, self.is_failed = _decode_error(envelope.data).code, True
            case _:
                pass

    def _wrong(self, came: str, expected: str) -> Unmet:
        return Unmet(f"after event {self.seq}: {came}", expected=expected, fix=_PAST_THE_PROXIES)

"""One answer as the benchmark reads it: bytes in, counts out, inside the call that read them from the socket.

It reads the gateway's envelope and the RAG backend's frames alike: what an event is, its members say. It doesn't come
back after a cut as a real reader does: a cut line is what a benchmark counts.
"""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from subak.bench.order import Order
from subak.bench.tally import Tally
from subak.client.line import retry_after_s
from subak.client.wire import ErrorData, refusal_of, shown
from subak.core.errors import ErrorCode
from subak.core.events import DONE, ERROR, Failed
from subak.core.json_errors import NOT_JSON
from subak.core.sse import SseDecoder, SseEvent, SseTooLarge
from subak.upstream.http1 import Http1Exchange

CUT: Final = "cut"
SILENT: Final = "silent"
NO_END: Final = "ended_without_done"
GARBLED: Final = "garbled_event"
NOT_EVENTS: Final = "not_an_event_stream"
STAMP: Final = b"t="
"""Before the nanosecond of CLOCK_MONOTONIC at which a stamped token was written."""

_CUTS: Final = frozenset({"head_cut", "body_cut", "connection_reset"})
_HEARTBEAT: Final = "heartbeat"
_TOKEN: Final = "token"
_MAX_REFUSAL_BYTES: Final = 64 * 1024
_US: Final = 1_000_000
_CODE_CHARS: Final = 60


class Wanted(NamedTuple):
    """What is wanted of an answer: `max_tokens` 0 reads to the end; `is_stamped`: its tokens bear `STAMP`."""

    max_tokens: int = 0
    is_stamped: bool = False


class _Heard(msgspec.Struct, frozen=True):
    """An event of either dialect; an absent member is empty."""

    type: str = ""
    data: msgspec.Raw = msgspec.Raw()
    sequence: int | None = None
    text: msgspec.Raw = msgspec.Raw()
    number: int | None = msgspec.field(default=None, name="sequenceNumber")
    error: msgspec.Raw = msgspec.Raw()
    done: bool = False


_decode: Final = msgspec.json.Decoder(_Heard).decode
_decode_error: Final = msgspec.json.Decoder(ErrorData).decode


class Reading:
    """Hears one response (a `ResponseReceiver`).

    `headed` is set when its head has come, or never will; `ended` when nothing more of it is wanted.

    `stream_id` is the answer's, empty until the head has come or where the target gives none. `on_enough` is called
    once, with the answer as long as was asked for.
    """

    __slots__ = (
        "_decoder",
        "_due_at",
        "_headers",
        "_is_open",
        "_last_token_at",
        "_on_enough",
        "_order",
        "_refusal",
        "_status",
        "_tally",
        "_tokens",
        "_wanted",
        "ended",
        "exchange",
        "headed",
        "is_stopped",
        "stream_id",
    )

    def __init__(self, tally: Tally, due_at: float, wanted: Wanted, on_enough: Callable[["Reading"], None]) -> None:
        """`due_at`: when the question was to be asked, in monotonic seconds."""
        self.ended = asyncio.Event()
        self.headed = asyncio.Event()
        self.exchange: Http1Exchange | None = None
        self.stream_id = ""
        self.is_stopped = False
        self._tally = tally
        self._due_at = due_at
        self._wanted = wanted
        self._on_enough = on_enough
        self._decoder = SseDecoder()
        self._order = Order()
        self._is_open = False
        self._headers: Mapping[str, str] = {}
        self._refusal = bytearray()
        self._status = 0
        self._tokens = 0
        self._last_token_at = 0.0
        tally.ask(due_at)

    # The client calls what follows.

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the head: an answer, or a refusal."""
        is_stream = headers.get("content-type", "").strip().lower().startswith("text/event-stream")
        self.headed.set()
        self._status = status if status != HTTPStatus.OK or is_stream else -1
        self.stream_id = headers.get("subak-stream-id", "").strip()
        if self._status != HTTPStatus.OK:
            self._headers = headers

    def on_body(self, chunk: bytes) -> None:
        """Take what one read brought."""
        if self._status != HTTPStatus.OK:
            self._refusal += chunk[: _MAX_REFUSAL_BYTES - len(self._refusal)]
            return
        now = monotonic()
        self._tally.size_bytes += len(chunk)
        try:
            for event in self._decoder.feed(chunk):
                self._take(event, now)
                if self.ended.is_set():
                    return
        except (SseTooLarge, *NOT_JSON):
            self.fail(GARBLED)

    def on_complete(self) -> None:
        """The response has ended, without a terminal event."""
        match self._status:
            case HTTPStatus.OK:
                self.fail(NO_END)
            case -1:
                self.fail(NOT_EVENTS)
            case status:
                retry_after = retry_after_s(self._headers.get("retry-after"))
                refusal = refusal_of(status, bytes(self._refusal), retry_after)
                self._tally.refuse(refusal, self._headers, monotonic())
                self._end()

    def on_failure(self, failed: Failed) -> None:
        """The response broke, or never came."""
        if failed.code is ErrorCode.UPSTREAM_TIMEOUT:
            self.fail(SILENT)
        else:
            self.fail(CUT if failed.reason in _CUTS else failed.reason)

    # What follows is for whoever asks.

    def fail(self, kind: str) -> None:
        """Count it as failed, and end. Idempotent."""
        if not self.ended.is_set():
            self._tally.fail(kind, monotonic())
            self._end()

    def finish(self) -> None:
        """End an answer of a target that knows no stop: it is as long as was asked for."""
        self._take_done(monotonic())

    def leave(self) -> None:
        """End an answer that was stopped before its time. Idempotent."""
        if not self.ended.is_set():
            self._tally.whole += 1
            self._tally.stopped += 1
            self._end()

    def _end(self) -> None:
        now = monotonic()
        tally = self._tally
        tally.leave(now)
        tally.lost += self._order.lost
        tally.duplicated += self._order.duplicated
        tally.reordered += self._order.reordered
        self.headed.set()
        self.ended.set()
        if self.exchange is not None:
            self.exchange.release()

    def _take(self, event: SseEvent, now: float) -> None:
        if event.event == _HEARTBEAT:
            return
        heard = _decode(event.data)
        seq = heard.number if heard.sequence is None else heard.sequence
        if seq is not None:
            self._order.take(seq)
        self._tally.events += 1
        self._tally.opened += not self._is_open
        self._is_open = True
        if heard.type == _TOKEN or heard.text:
            self._take_token(heard, now)
        elif heard.type == ERROR or heard.error:
            self.fail(_code_of(heard))
        elif heard.type == DONE or heard.done:
            self._take_done(now)

    def _take_token(self, heard: _Heard, now: float) -> None:
        tally = self._tally
        tally.tokens += 1
        tally.second(now).tokens += 1
        if self._tokens == 0:
            first_us = max(0, int((now - self._due_at) * _US))
            tally.first_token.record(first_us)
            tally.second(self._due_at).first_token.record(first_us)
        else:
            gap_us = int((now - self._last_token_at) * _US)
            tally.joined += gap_us == 0
            tally.inter_token.record(gap_us)
        self._tokens += 1
        self._last_token_at = now
        if self._wanted.is_stamped:
            self._take_stamp(heard.text or heard.data, now)
        if self._tokens == self._wanted.max_tokens:
            self.is_stopped = True
            self._on_enough(self)

    def _take_stamp(self, text: msgspec.Raw, now: float) -> None:
        _, stamp, rest = bytes(text).rpartition(STAMP)
        digits = rest.rstrip(b' "')
        if stamp and digits.isdigit():
            self._tally.transit.record(max(0, int(now * _US) - int(digits) // 1000))

    def _take_done(self, now: float) -> None:
        self._tally.whole += 1
        self._tally.stopped += self.is_stopped
        self._tally.duration.record(max(0, int((now - self._due_at) * _US)))
        self._end()


def _code_of(heard: _Heard) -> str:
    """Give the code of an error event; `error` where it has none."""
    try:
        return f"error {shown(_decode_error(heard.data).code)[:_CODE_CHARS]}"
    except NOT_JSON:
        return ERROR

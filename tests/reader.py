"""A reader by the rule of PROTOCOL §6, over a plain socket: it goes on until it has the terminal event.

`Reading` is the rule alone, without a network: bytes in, the answer out. `Reader` brings it the bytes and comes back
with its cursor as often as it takes. Both are written from the contract and know nothing of the gateway's code.

A server that is right never makes it drop anything or meet a gap; a test looks at `dropped`, `gaps` and
`clean_ends_too_early` to say so.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httptools
import msgspec

from subak.core.sse import SseDecoder, SseEvent
from tests.wire import TERMINAL, Envelope, decode_envelope

CHAT_STREAM: Final = "/api/v2/bali-zero/chat-stream"
SILENCE_S: Final = 75.0
"""2.5 heartbeats of 30 s."""

_READ_BYTES: Final = 64 * 1024
_WORTH_RETRYING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_GAP: Final = frozenset({409, 410})


class GaveUp(AssertionError):
    """The server's answer says that coming back is no use."""


class Reading:
    """What a reader has of one stream, and what it does with each event."""

    def __init__(self) -> None:
        self.stream_id = ""
        self.last = 0
        """The last seq applied."""
        self.parts: list[str] = []
        self.terminal: Envelope | None = None
        self.applied = 0
        self.dropped = 0
        self.has_gap = False
        self._decoder = SseDecoder()

    @property
    def cursor(self) -> str:
        """What goes into `Last-Event-ID`; empty as long as nothing has come."""
        return f"{self.stream_id}.{self.last}" if self.stream_id else ""

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self.parts)

    @property
    def is_over(self) -> bool:
        """Whether the terminal event was applied: the only end there is."""
        return self.terminal is not None

    def reconnect(self) -> None:
        """A new response begins."""
        self._decoder.reset()

    def replace(self, text: str, last: int) -> None:
        """Take the text up to `last` from elsewhere: the way over a gap."""
        self.parts, self.last, self.has_gap = [text], last, False

    def take(self, chunk: bytes) -> None:
        """Apply what came, up to a gap."""
        for event in self._decoder.feed(chunk):
            self._apply(event)

    def _apply(self, event: SseEvent) -> None:
        assert not self.is_over, "nothing follows the terminal event"
        if event.event == "heartbeat" or self.has_gap:
            return
        envelope = decode_envelope(event.data)
        stream_id, _, seq = event.id.rpartition(".")
        assert (event.event, envelope.sequence) == ("message", int(seq)), "id and sequence agree"
        assert self.stream_id in {"", stream_id}, "an answer has one stream"
        self.stream_id = stream_id
        if envelope.type == "snapshot":
            self.replace(envelope.data["text"], envelope.sequence)
        elif envelope.sequence <= self.last:
            self.dropped += 1
        elif envelope.sequence > self.last + 1:
            self.has_gap = True
        else:
            self._accept(envelope)

    def _accept(self, envelope: Envelope) -> None:
        self.last = envelope.sequence
        self.applied += 1
        if envelope.type == "token":
            self.parts.append(envelope.data)
        elif envelope.type in TERMINAL:
            self.terminal = envelope


@dataclass
class Reader:
    """Asks a question, and reads its answer to the end through whatever happens to the line.

    `fields` is the question, `key` its Idempotency-Key: a question that was cut before its first event is asked with
    the same key again, so that it stays one question. `silence_s`: a line that says nothing for so long is dead.
    It comes back at once, unless the server says when: tests cut thousands of lines.
    """

    url: str
    fields: Mapping[str, object]
    key: str
    silence_s: float = SILENCE_S
    reading: Reading = field(default_factory=Reading)
    attempts: int = 0
    gaps: int = 0
    clean_ends_too_early: int = 0

    async def read(self) -> Reading:
        """Read to the terminal event.

        Raises:
            GaveUp: the server refused for good.
        """
        while not self.reading.is_over:
            self.attempts += 1
            retry_after_s = await self._attempt()
            if not self.reading.is_over:
                await asyncio.sleep(retry_after_s)
        return self.reading

    async def _attempt(self) -> float:
        """Read one response; give how many seconds the server asked us to stay away."""
        self.reading.reconnect()
        response = _Response(self.reading)
        try:
            await self._exchange(self._request(), response)
        except (ConnectionError, TimeoutError):
            response.was_lost = True
        if self.reading.has_gap or response.status in _GAP:
            await self._bridge_gap()
        elif response.status == HTTPStatus.NO_CONTENT:
            raise GaveUp("204 to a reader that lacks the terminal event")
        elif response.status >= HTTPStatus.BAD_REQUEST and response.status not in _WORTH_RETRYING:
            raise GaveUp(f"{response.status}: {response.body.decode()}")
        elif response.is_complete and response.status == HTTPStatus.OK and not self.reading.is_over:
            self.clean_ends_too_early += 1
        return response.retry_after_s

    async def _bridge_gap(self) -> None:
        """Fetch the text so far and attach behind it."""
        self.gaps += 1
        response = _Response(Reading())
        await self._exchange(_request_bytes("GET", f"/v1/streams/{self.reading.stream_id}"), response)
        if response.status != HTTPStatus.OK:
            raise GaveUp(f"{response.status}: {response.body.decode()}")
        state = msgspec.json.decode(response.body)
        is_ended = state["status"] in {"completed", "failed", "cancelled", "abandoned"}
        self.reading.replace(state["text"], state["last_seq"] - is_ended)

    def _request(self) -> bytes:
        if not self.reading.cursor:
            headers = {"Content-Type": "application/json", "Idempotency-Key": self.key}
            return _request_bytes("POST", CHAT_STREAM, headers, msgspec.json.encode(self.fields))
        target = f"/v1/streams/{self.reading.stream_id}/events"
        return _request_bytes("GET", target, {"Last-Event-ID": self.reading.cursor})

    async def _exchange(self, request: bytes, response: "_Response") -> None:
        parts = urlsplit(self.url)
        async with asyncio.timeout(self.silence_s):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(request)
            while not response.is_over:
                async with asyncio.timeout(self.silence_s):
                    response.take(await reader.read(_READ_BYTES))
        finally:
            writer.transport.abort()


def _request_bytes(method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: subak.test", "Accept: text/event-stream, application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class _Response:
    """One response on its way: an event stream goes to the reading as it comes, anything else is collected."""

    def __init__(self, reading: Reading) -> None:
        self.status = 0
        self.body = b""
        self.retry_after_s = 0.0
        self.is_complete = False
        self.was_lost = False
        self._is_stream = False
        self._reading = reading
        self._parser = httptools.HttpResponseParser(self)

    @property
    def is_over(self) -> bool:
        """Whether there is no use in reading on."""
        return self.is_complete or self.was_lost or self._reading.is_over or self._reading.has_gap

    def take(self, chunk: bytes) -> None:
        if chunk:
            self._parser.feed_data(chunk)
        else:
            self.was_lost = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")
        elif name.lower() == b"retry-after":
            self.retry_after_s = float(value)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._is_stream:
            self._reading.take(body)
        else:
            self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True

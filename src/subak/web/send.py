"""The seam between a subscriber and the wire: headers, chunk framing, clean end or abort (PROTOCOL §3).

Everything goes out through `transport.write` in one piece per batch; aiohttp writes the headers with the first frames
and the last chunk with the terminal event. A response that ends for any other reason is aborted.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, cast

from aiohttp import HttpVersion11, web
from aiohttp.http_writer import StreamWriter

from subak.core.envelope import encode_preface
from subak.relay.hub import AlreadyRead, Attachment, Reading, Recap
from subak.relay.subscriber import Departure
from subak.web.connection import Connection, connection_of

STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class EventStreamResponse(web.StreamResponse):
    """A response whose headers wait for the first frames, so that both leave in one write."""

    _send_headers_immediately = False


class ChunkedOutlet:
    """Writes frames as HTTP/1.1 chunks."""

    __slots__ = ("_connection", "_transport", "_writer")

    def __init__(self, connection: Connection, transport: asyncio.Transport, writer: StreamWriter) -> None:
        """`writer` is aiohttp's, which knows how a body ends."""
        self._connection = connection
        self._transport = transport
        self._writer = writer

    @property
    def is_writable(self) -> bool:
        """Whether the transport's buffer is below its bound."""
        return not self._connection.writing_paused

    @property
    def buffered_bytes(self) -> int:
        """What the transport keeps until the socket takes it."""
        return self._transport.get_write_buffer_size()

    def write(self, frames: bytes) -> None:
        """Send one chunk."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(frames), frames))

    def write_last(self, frames: bytes) -> None:
        """Send one chunk, and the one of no bytes that ends the body: by itself it would be a system call more."""
        self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(frames), frames))
        self._writer.chunked = False  # so that aiohttp doesn't end it once more


class PlainOutlet(ChunkedOutlet):
    """Writes frames as they are: a body framed by close (HTTP/1.0)."""

    __slots__ = ()

    def write(self, frames: bytes) -> None:
        """Send the bytes."""
        self._transport.write(frames)

    write_last = write


def send_attachment(
    request: web.BaseRequest, attachment: Attachment, headers: dict[str, str]
) -> Awaitable[web.StreamResponse]:
    """Write the response that an attachment calls for; awaited, it returns when it is over.

    It is no coroutine around another one: that and its headers would take 0.5 KB more of each open stream.
    """
    if isinstance(attachment, Reading):
        return _send_reading(request, attachment, EventStreamResponse(headers=STREAM_HEADERS | headers))
    return _send_whole(attachment, headers)


async def _send_whole(attachment: Recap | AlreadyRead, headers: dict[str, str]) -> web.StreamResponse:
    if isinstance(attachment, Recap):
        return web.Response(body=attachment.frames, headers=STREAM_HEADERS | headers)
    return web.Response(status=204, headers={"Cache-Control": "no-store"} | headers)


async def _send_reading(
    request: web.BaseRequest, reading: Reading, response: EventStreamResponse
) -> web.StreamResponse:
    is_chunked = request.version >= HttpVersion11
    connection = connection_of(request)
    if not is_chunked:
        response.force_close()
    try:
        # Not drained: a client that reads nothing must not hold us here, where no slow-reader limit sees it yet.
        writer = cast("StreamWriter", await response.prepare(request))
        response.headers.clear()  # they are spelled already, and would take 1.7 KB of each open stream
        await writer.write(encode_preface(reading.retry_ms) + await reading.first_frames(), drain=False)
    except ConnectionError:
        reading.miss()
        return response
    transport = connection.transport
    if transport is None:
        reading.miss()
        return response
    outlet = (ChunkedOutlet if is_chunked else PlainOutlet)(connection, transport, writer)
    connection.writer = reading.subscriber
    departure: Departure | None = None
    try:
        departure = await reading.run(outlet)
    finally:
        connection.writer = None
        if departure is not Departure.COMPLETED:  # a defect of ours included: nothing but a terminal event ends cleanly
            connection.abort(by_reset=not is_chunked or departure is Departure.SLOW_READER)
    return response

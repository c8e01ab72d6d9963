"""The seam between a subscriber and the wire: headers, chunk framing, clean end or abort (PROTOCOL §3).

Everything goes out through `transport.write` in one piece per batch; aiohttp writes the headers with the first frames
and the last chunk after a terminal event. A response that ends for any other reason is aborted.
"""

import asyncio
from typing import Final, cast

from aiohttp import HttpVersion11, web
from aiohttp.http_writer import StreamWriter

from subak.core.envelope import encode_preface
from subak.relay.hub import Attachment, Reading, Recap
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

    __slots__ = ("_connection", "_transport")

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport

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


class PlainOutlet(ChunkedOutlet):
    """Writes frames as they are: a body framed by close (HTTP/1.0)."""

    __slots__ = ()

    def write(self, frames: bytes) -> None:
        """Send the bytes."""
        self._transport.write(frames)


async def send_attachment(
    request: web.BaseRequest, attachment: Attachment, headers: dict[str, str]
) -> web.StreamResponse:
    """Write the response that an attachment calls for; return when it is over."""
    if isinstance(attachment, Reading):
        return await _send_reading(request, attachment, headers)
    if isinstance(attachment, Recap):
        return web.Response(body=attachment.frames, headers=STREAM_HEADERS | headers)
    return web.Response(status=204, headers={"Cache-Control": "no-store"} | headers)


async def _send_reading(request: web.BaseRequest, reading: Reading, headers: dict[str, str]) -> web.StreamResponse:
    response = EventStreamResponse(headers=STREAM_HEADERS | headers)
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
    outlet = (ChunkedOutlet if is_chunked else PlainOutlet)(connection, transport)
    connection.writer = reading.subscriber
    departure: Departure | None = None
    try:
        departure = await reading.run(outlet)
    finally:
        connection.writer = None
        if departure is not Departure.COMPLETED:  # a defect of ours included: nothing but a terminal event ends cleanly
            connection.abort(by_reset=not is_chunked or departure is Departure.SLOW_READER)
    return response

"""How frames become a body: in chunks, the last one in one piece with the body's end."""

import asyncio
from http import HTTPStatus
from typing import cast

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter
from multidict import CIMultiDict

from subak.web.connection import Connection
from subak.web.send import ChunkedOutlet


class Wire(asyncio.Transport):
    """A transport that keeps what is written, each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        """It never is."""
        return False


async def test_the_last_frames_and_the_end_of_the_body_are_one_write_and_aiohttp_adds_nothing() -> None:
    wire, protocol = Wire(), BaseProtocol(asyncio.get_running_loop())
    protocol.connection_made(wire)
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    writer.enable_chunking()
    await writer.write_headers(f"HTTP/1.1 {HTTPStatus.OK} OK", CIMultiDict())
    writer.send_headers()
    outlet = ChunkedOutlet(cast("Connection", protocol), wire, writer)
    outlet.write(b"data: one\n\n")
    outlet.write_last(b"data: the last\n\n")
    await writer.write_eof()
    assert wire.writes[1:] == [b"b\r\ndata: one\n\n\r\n", b"10\r\ndata: the last\n\n\r\n0\r\n\r\n"]

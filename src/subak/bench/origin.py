"""An upstream to measure with: answers of so many tokens at a pace, in the RAG dialect, each token with its time.

`python -m subak.bench.origin TOKENS PACE_MS` prints the port that it listens on, on 127.0.0.1, and ends with its
standard input, so that it never outlives who started it. It does as little as it can, for its work is in both of the
paths that are compared; requests are GETs, as the gateway sends them to a RAG backend.
"""

import asyncio
import sys
import time
from typing import Final, cast

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_HEALTH: Final = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"status":"healthy"}'
_REQUEST_END: Final = b"\r\n\r\n"
_MAX_REQUEST_BYTES: Final = 64 * 1024


class Connection(asyncio.Protocol):
    """One connection: answers its requests, one at a time."""

    def __init__(self, tokens: int, pace_s: float) -> None:
        self._tokens = tokens
        self._pace_s = pace_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""
        self._number = 0
        self._began_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take requests."""
        self._buffer += data
        head, end, rest = self._buffer.partition(_REQUEST_END)
        if not end:
            if len(self._buffer) > _MAX_REQUEST_BYTES:
                self._write(b"", is_last=True)
            return
        self._buffer = rest
        if head.startswith(b"GET /health"):
            self._write(_HEALTH)
            return
        self._write(_HEAD)
        self._number = 0
        self._began_at = self._loop.time()
        self._send_token()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Nobody reads any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _send_token(self) -> None:
        """Send the next token; its successor's time counts from the first, so that a late one delays no other."""
        self._number += 1
        if self._number > self._tokens:
            done = f'data: {{"done": true, "sequenceNumber": {self._number}, "streamDuration": 0}}\n\n'
            self._write(_chunk(done.encode()) + b"0\r\n\r\n")
            return
        self._timer = self._loop.call_at(self._began_at + self._number * self._pace_s, self._send_token)
        stamp = time.monotonic_ns()
        token = f'data: {{"text": "word t={stamp} ", "sequenceNumber": {self._number}, "timestamp": 0}}\n\n'
        self._write(_chunk(token.encode()))

    def _write(self, content: bytes, *, is_last: bool = False) -> None:
        if self._transport is not None:
            self._transport.write(content)
            if is_last:
                self._transport.close()


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


async def serve(tokens: int, pace_ms: float) -> None:
    """Listen, say where, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tokens, pace_ms / 1000), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    from subak.bench.loop import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2])))

"""A double of Loki's push endpoint that refuses what the real one refuses. It stores what it takes, in memory.

It follows the HTTP API's description (https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs) and
the limits that Loki has by default. It is no Loki: `SUBAK_TEST_LOKI_URL` names a real one for the test that wants it.
"""

import re
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web

MAX_LINE_BYTES: Final = 256 * 1024
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_LABELS: Final = 15
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class _Stream(msgspec.Struct, forbid_unknown_fields=True):
    stream: dict[str, str]
    values: list[tuple[str, str]]


class _Push(msgspec.Struct, forbid_unknown_fields=True):
    streams: list[_Stream]


class PushDouble:
    """What came, and what is answered: the next of `answers`, else 204."""

    def __init__(self, answers: Iterable[web.Response] = (), *, authorization: str | None = None) -> None:
        self.url = ""
        self.lines: list[str] = []
        self.refusals: list[str] = []
        self.labels: set[tuple[tuple[str, str], ...]] = set()
        self.requests = 0
        self._answers = deque(answers)
        self._authorization = authorization
        self._newest_ns = 0

    async def push(self, request: web.Request) -> web.Response:
        """Take a push, or refuse it."""
        self.requests += 1
        if self._authorization is not None and request.headers.get("Authorization") != self._authorization:
            return self._refuse(401, "no credentials")
        if request.content_type != "application/json" or request.headers.get("Content-Encoding") != "gzip":
            return self._refuse(415, "not gzipped JSON")
        body = await request.read()  # aiohttp's server has decompressed it
        if self._answers:
            return self._answers.popleft()
        if len(body) > MAX_BODY_BYTES:
            return self._refuse(413, "body")
        try:
            pushed = msgspec.json.decode(body, type=_Push)
        except msgspec.MsgspecError as error:
            return self._refuse(400, str(error))
        return self._store(pushed)

    def _store(self, pushed: _Push) -> web.Response:
        for stream in pushed.streams:
            if not stream.stream or len(stream.stream) > MAX_LABELS or not all(map(_LABEL.fullmatch, stream.stream)):
                return self._refuse(400, "labels")
            for at_ns, line in stream.values:
                if not at_ns.isascii() or not at_ns.isdigit() or len(at_ns) != 19:
                    return self._refuse(400, "time")
                if len(line.encode()) > MAX_LINE_BYTES:
                    return self._refuse(400, "line too long")
                if int(at_ns) <= self._newest_ns:
                    return self._refuse(400, "out of order")
                self._newest_ns = int(at_ns)
                self.lines.append(line)
            self.labels.add(tuple(sorted(stream.stream.items())))
        return web.Response(status=204)

    def _refuse(self, status: int, why: str) -> web.Response:
        self.refusals.append(why)
        return web.Response(status=status, text=why)


@asynccontextmanager
async def push_double(double: PushDouble) -> AsyncIterator[PushDouble]:
    """Serve it on a free port."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/loki/api/v1/push", double.push)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    double.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield double
    finally:
        await runner.cleanup()

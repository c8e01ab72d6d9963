"""Log lines pushed to Loki from inside the process: no agent to install, nothing lost that a short outage would lose.

    write(line) ──► bounded queue ──► one batch at a time ──► POST {url}/loki/api/v1/push (gzip, JSON)
                       │                    │
                       └ full: counted      └ 429, 5xx, no connection: again, later and later, the same batch first

One batch is under way at a time and stays the first until it is taken or refused for good: lines arrive in order. One
label names the service: Loki keeps an index entry and a file for each combination of labels, and what varies belongs
into the line. https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs
"""

import asyncio
import gzip
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from http import HTTPStatus
from typing import Final, NamedTuple, Self

import aiohttp
import msgspec

from subak.core.backoff import full_jitter_s
from subak.core.clock import Clock

PUSH_PATH: Final = "/loki/api/v1/push"
LABELS: Final = {"service_name": "subak"}
MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
MAX_BATCH_BYTES: Final = 512 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
"""A longer line is cut: Loki refuses what is above its own limit (256 KB by default) and the batch with it."""
GATHER_S: Final = 1.0
"""How long lines are gathered before they are sent together."""
PUSH_S: Final = 10.0
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 60.0
FLUSH_S: Final = 5.0
_NS_PER_MS: Final = 1_000_000


class LokiTarget(NamedTuple):
    """Where lines go. `user` and `key` are basic authentication, a `key` alone is a bearer token."""

    url: str
    user: str | None = None
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Give what every push is sent with."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        if self.user is not None:
            pair = f"{self.user}:{self.key or ''}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        elif self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers


class _Line(NamedTuple):
    at_ns: int
    text: str
    size_bytes: int


class _Again(Exception):
    """The batch wasn't taken now. `after_s` is what Loki asked for, None when it didn't."""

    def __init__(self, after_s: float | None = None) -> None:
        super().__init__()
        self.after_s = after_s


class LokiPush:
    """A file-like sink whose `write` never blocks and never waits: `async with LokiPush(…) as sink`.

    `pushed` counts lines that Loki took, `dropped` those that found no room or that it refused for good, `retries` how
    often a batch was sent again.
    """

    def __init__(self, target: LokiTarget, clock: Clock, chance: Callable[[], float]) -> None:
        """`chance` gives numbers in [0, 1) for jitter."""
        self.pushed = 0
        self.dropped = 0
        self.retries = 0
        self._target = target
        self._clock = clock
        self._chance = chance
        self._lines: deque[_Line] = deque()
        self._size_bytes = 0
        self._part = ""
        self._last_ns = 0
        self._is_closing = asyncio.Event()
        self._has_lines = asyncio.Event()
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Begin to push."""
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                headers=self._target.headers,
                timeout=aiohttp.ClientTimeout(total=PUSH_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        )
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._task = tasks.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Push what is queued, for at most five seconds; what is left then is counted as dropped."""
        self._is_closing.set()
        self._has_lines.set()
        await asyncio.wait([self._task], timeout=FLUSH_S)
        self._task.cancel()
        await self._stack.aclose()
        self.dropped += len(self._lines)

    def write(self, text: str) -> None:
        """Queue `text`; it is a line as soon as its end has come. One that finds no room is counted."""
        head, end, rest = text.partition("\n")
        self._part += head
        if not end:
            return
        line, self._part = self._part, rest
        if line:
            self._queue(line)

    def flush(self) -> None:
        """Nothing to do: lines leave by themselves."""

    def _queue(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_LINE_BYTES:
            text = data[:MAX_LINE_BYTES].decode("utf-8", "ignore") + "…"
        if self._size_bytes + len(data) > MAX_QUEUED_BYTES:
            self.dropped += 1
            return
        self._last_ns = max(self._last_ns + 1, self._clock.time_ms() * _NS_PER_MS)  # equal times would lose their order
        self._lines.append(_Line(self._last_ns, text, len(data)))
        self._size_bytes += len(data)
        self._has_lines.set()

    async def _run(self) -> None:
        while not (self._is_closing.is_set() and not self._lines):
            await self._has_lines.wait()
            await self._pause(GATHER_S)
            await self._deliver(self._take_batch())
            if not self._lines and not self._is_closing.is_set():
                self._has_lines.clear()

    def _take_batch(self) -> list[_Line]:
        """Give the oldest lines; they stay queued until it is known what became of them."""
        batch: list[_Line] = []
        size_bytes = 0
        for line in self._lines:
            size_bytes += line.size_bytes
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(line)
        return batch

    async def _deliver(self, batch: list[_Line]) -> None:
        """Send until it is taken, or refused for good."""
        if not batch:
            return
        body = gzip.compress(_body_of(batch), compresslevel=5)
        attempt = 0
        while True:
            try:
                is_taken = await self._push(body)
            except _Again as again:
                wait_s = full_jitter_s(attempt, self._chance(), first_s=FIRST_WAIT_S, longest_s=LONGEST_WAIT_S)
                attempt += 1
                self.retries += 1
                await self._pause(max(wait_s, min(again.after_s or 0.0, LONGEST_WAIT_S)), at_least_s=FIRST_WAIT_S)
            else:
                self._forget(batch, is_taken=is_taken)
                return

    async def _push(self, body: bytes) -> bool:
        """Send one batch; whether it was taken.

        Raises:
            _Again: not now.
        """
        try:
            async with self._session.post(
                self._target.url.rstrip("/") + PUSH_PATH, data=body, allow_redirects=False
            ) as response:
                status = response.status
                after = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise _Again from None
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Again(float(after) if after.isascii() and after.isdigit() else None)
        return status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}

    def _forget(self, batch: list[_Line], *, is_taken: bool) -> None:
        for line in batch:
            self._lines.popleft()
            self._size_bytes -= line.size_bytes
        if is_taken:
            self.pushed += len(batch)
        else:
            self.dropped += len(batch)

    async def _pause(self, seconds: float, *, at_least_s: float = 0.0) -> None:
        """Wait; when the process is leaving no longer than `at_least_s`."""
        if not self._is_closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_closing.wait()
            return
        await asyncio.sleep(min(seconds, at_least_s))


def _body_of(batch: list[_Line]) -> bytes:
    values = [[str(line.at_ns), line.text] for line in batch]
    return msgspec.json.encode({"streams": [{"stream": LABELS, "values": values}]})

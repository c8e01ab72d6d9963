"""Crashes for a Sentry-compatible service: what they were and where, never what they carried.

An extra for those who have such a service. Between the gateway and it stands a bounded queue: a service that is slow,
full or gone costs reports, which are counted, and nothing else. Crashes of one kind at one place are reported at most
once a minute. The format is Sentry's envelope (develop.sentry.dev/sdk/data-model/envelopes).
"""

import asyncio
import secrets
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec

from subak.core.clock import Clock
from subak.core.facts import Crashed, Fact
from subak.telemetry.errors import fingerprint_of

QUEUE_REPORTS: Final = 100
DEADLINE_S: Final = 5.0
REPEAT_AFTER_S: Final = 60.0
MAX_REMEMBERED: Final = 1_000
DEFAULT_PAUSE_S: Final = 60.0
"""How long a service is left alone that said "too many" without saying for how long."""


class Dsn(NamedTuple):
    """Where reports go and by what key: the parts of `https://KEY@HOST/PROJECT`."""

    envelope_url: str
    key: str


def parse_dsn(text: str) -> Dsn:
    """Read a DSN.

    Raises:
        ValueError: it isn't one; the message doesn't repeat it, for it has a key in it.
    """
    parts = urlsplit(text)
    prefix, _, project = parts.path.rpartition("/")
    if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.username or not project:
        raise ValueError("a Sentry DSN looks like https://KEY@HOST/PROJECT")
    host = parts.netloc.rpartition("@")[2]
    return Dsn(f"{parts.scheme}://{host}{prefix}/api/{project}/envelope/", parts.username)


class SentryReporter:
    """An observer of `Crashed`; `run` sends what it has heard. `sent` and `dropped` count reports."""

    def __init__(self, dsn: Dsn, session: aiohttp.ClientSession, clock: Clock, *, release: str) -> None:
        """`release` names this version, as in `subak@1.2.3`."""
        self.sent = 0
        self.dropped = 0
        self._dsn = dsn
        self._session = session
        self._clock = clock
        self._release = release
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_REPORTS)
        self._reported_at: dict[str, float] = {}
        self._paused_until = 0.0

    def notify(self, fact: Fact) -> None:
        """Queue a crash, unless its like was reported a moment ago."""
        if not isinstance(fact, Crashed) or not self._is_news(fingerprint_of(fact.kind, fact.where)):
            return
        report = envelope(fact, release=self._release, event_id=secrets.token_hex(16), at_ms=self._clock.time_ms())
        try:
            self._queue.put_nowait(report)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Send reports, one after the other, until cancelled."""
        while True:
            report = await self._queue.get()
            if self._clock.monotonic() < self._paused_until:
                self.dropped += 1
            else:
                await self._send(report)

    def _is_news(self, fingerprint: str) -> bool:
        now = self._clock.monotonic()
        reported_at = self._reported_at.get(fingerprint)
        if reported_at is not None and now < reported_at + REPEAT_AFTER_S:
            return False
        if len(self._reported_at) >= MAX_REMEMBERED:
            self._reported_at.clear()
        self._reported_at[fingerprint] = now
        return True

    async def _send(self, report: bytes) -> None:
        headers = {
            "Content-Type": "application/x-sentry-envelope",
            "X-Sentry-Auth": f"Sentry sentry_version=7, sentry_client={self._release}, sentry_key={self._dsn.key}",
        }
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                self._session.post(
                    self._dsn.envelope_url, data=report, headers=headers, allow_redirects=False
                ) as answer,
            ):
                self._note(answer.status, answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError):
            self.dropped += 1

    def _note(self, status: int, retry_after: str) -> None:
        if status == HTTPStatus.OK:
            self.sent += 1
            return
        self.dropped += 1
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            pause_s = float(retry_after) if retry_after.isdigit() else DEFAULT_PAUSE_S
            self._paused_until = self._clock.monotonic() + pause_s


def envelope(crashed: Crashed, *, release: str, event_id: str, at_ms: int) -> bytes:
    """Give one report. `event_id`: 32 hex digits."""
    file, _, rest = crashed.where.partition(":")
    line, _, function = rest.partition(" ")
    frame = {"filename": file, "function": function, "lineno": int(line) if line.isdigit() else None, "in_app": True}
    event = {
        "event_id": event_id,
        "timestamp": at_ms / 1000,
        "platform": "python",
        "level": "error",
        "logger": "subak",
        "release": release,
        "fingerprint": [fingerprint_of(crashed.kind, crashed.where)],
        "exception": {"values": [{"type": crashed.kind, "stacktrace": {"frames": [frame]}}]},
    }
    body = msgspec.json.encode(event)
    head = msgspec.json.encode({"event_id": event_id})
    item = msgspec.json.encode({"type": "event", "length": len(body), "content_type": "application/json"})
    return b"\n".join((head, item, body, b""))

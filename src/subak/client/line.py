"""The gateway's routes over HTTP: a request out, a reply in. All that knows aiohttp; no policy, no state of a stream.

A connection of one's own lasts for one request: whatever is left of it is closed with the request.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp
import msgspec

from subak.client.errors import Untrusted
from subak.client.rule import CUT, SILENT, UNREACHABLE, Attach, Look, Patience, Wait
from subak.client.wire import Refusal, StateReply, decode_state, refusal_of
from subak.core.json_errors import NOT_JSON

CHAT_STREAM: Final = "/api/v2/bali-zero/chat-stream"
STREAMS: Final = "/v1/streams"
_EVENT_STREAM: Final = "text/event-stream"
_REFUSAL_BYTES: Final = 64 * 1024
_SECONDS: Final = re.compile(r"[0-9]{1,18}")

Fields = Mapping[str, object]
"""The question's members as in PROTOCOL §2."""
TokenHook = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to speak to a gateway.

    `headers` go with every request (`x-api-key`, `x-session-id`, …). `token` is a bearer token, or an async function
    that gives one: it is called before the first request, and again when the gateway answers 401. GET puts the question
    into the URL, where proxies log it. Give `idempotency_key` to find an answer again that was asked for before, with
    the same question; otherwise one is made for each `stream`. `session` brings one's own connections, proxies and
    certificates; it isn't closed. `on_wait` is called before each pause.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    token: str | TokenHook | None = None
    method: Literal["POST", "GET"] = "POST"
    idempotency_key: str | None = None
    session: aiohttp.ClientSession | None = None
    patience: Patience = field(default_factory=Patience)
    on_wait: Callable[[Wait], None] | None = None


class LineLost(Exception):
    """No reply came, or no more of it. `reason` is one of the rule's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway's routes are."""

    ask_url: str
    streams_url: str

    @classmethod
    def of(cls, url: str) -> "Place":
        """Find the routes: `url` is the gateway's base URL, or that of the route that takes questions.

        Raises:
            ValueError: it is no URL of a gateway.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.fragment:
            raise ValueError("expected http:// or https://, a host, no credentials and no #")
        path = parts.path.rstrip("/")
        root = path.removesuffix(CHAT_STREAM).removesuffix(STREAMS)
        asked = parts._replace(path=path if root != path else path + CHAT_STREAM)
        return cls(urlunsplit(asked), urlunsplit(parts._replace(path=root + STREAMS, query="")))


class Reply:
    """A response as far as it has come."""

    def __init__(self, response: aiohttp.ClientResponse, silence: "Silence") -> None:
        self._response = response
        self._silence = silence

    @property
    def is_stream(self) -> bool:
        """Whether it is what a stream's route answers."""
        return self._response.status == HTTPStatus.OK and self._response.content_type == _EVENT_STREAM

    @property
    def is_ok(self) -> bool:
        """Whether it is a 200."""
        return self._response.status == HTTPStatus.OK

    @property
    def stream_id(self) -> str:
        """The stream that its head names; empty without one."""
        return self._response.headers.get("Subak-Stream-Id", "")

    async def chunk(self) -> bytes:
        """Give what has come of the body, at least one byte; none at its end.

        Raises:
            LineLost: it was cut, or says nothing any more.
        """
        async with self._silence.bound():
            return await self._response.content.readany()

    async def state(self, max_bytes: int) -> StateReply | None:
        """Give a stream's state; None if the body isn't one, or is over its bound.

        Raises:
            LineLost: as in `chunk`.
        """
        try:
            return decode_state(await self._body(max_bytes))
        except NOT_JSON:
            return None

    async def refusal(self) -> Refusal:
        """Give what it says instead of what was asked for.

        Raises:
            LineLost: as in `chunk`.
        """
        body = await self._body(_REFUSAL_BYTES)
        return refusal_of(self._response.status, body, retry_after_s(self._response.headers.get("Retry-After")))

    async def _body(self, max_bytes: int) -> bytes:
        body = bytearray()
        while chunk := await self.chunk():
            body += chunk
            if len(body) > max_bytes:
                return b""
        return bytes(body)


class Silence:
    """Bounds every wait for a line by the time for which it may say nothing, and tells its failures as ours."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timeouts: set[asyncio.Timeout] = set()

    def shorten(self, limit_s: float) -> None:
        """Wait no longer than this from now on, and from now on at a line that is being waited for."""
        self._limit_s = min(self._limit_s, limit_s)
        at = asyncio.get_running_loop().time() + self._limit_s
        for timeout in self._timeouts:
            timeout.reschedule(min(at, timeout.when() or at))

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """Raise what goes wrong in here.

        Raises:
            LineLost: the line is cut, silent, or was never there.
            Untrusted: the server's certificate doesn't hold.
        """
        timeout = asyncio.timeout(self._limit_s)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                yield
        except aiohttp.ClientConnectorCertificateError as error:
            raise Untrusted(f"The certificate of {error.host} doesn't hold: {error.certificate_error}.") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise LineLost(UNREACHABLE) from error
        except TimeoutError as error:
            raise LineLost(SILENT) from error
        except (aiohttp.ClientError, OSError) as error:
            raise LineLost(CUT) from error
        finally:
            self._timeouts.discard(timeout)


class Line:
    """Requests to one gateway, each with the caller's credentials."""

    def __init__(self, place: Place, options: Options) -> None:
        self._place = place
        self._options = options
        self._bearer = options.token if isinstance(options.token, str) else None
        self._cookies: aiohttp.CookieJar | None = None
        self._silence = Silence(options.patience.silence_s)

    def shorten_silence(self, limit_s: float) -> None:
        """Let lines be silent for so long at most."""
        self._silence.shorten(limit_s)

    def ask(self, fields: Fields, key: str) -> AbstractAsyncContextManager[Reply]:
        """Send a question, or find the stream that this key stands for."""
        headers = _accepting(_EVENT_STREAM) | {"Idempotency-Key": key}
        url = self._place.ask_url
        if self._options.method == "POST":
            body = msgspec.json.encode(fields)
            return self._send("POST", url, headers | {"Content-Type": "application/json"}, body)
        return self._send("GET", url + ("&" if "?" in url else "?") + _query(fields), headers)

    def attach(self, step: Attach) -> AbstractAsyncContextManager[Reply]:
        """Read on after a cursor."""
        url = f"{self._place.streams_url}/{step.cursor.stream_id}/events?on_gap=snapshot"
        return self._send("GET", url, _accepting(_EVENT_STREAM) | {"Last-Event-ID": str(step.cursor)})

    def look(self, step: Look) -> AbstractAsyncContextManager[Reply]:
        """Get a stream's state."""
        return self._send("GET", f"{self._place.streams_url}/{step.stream_id}", _accepting("application/json"))

    def stop(self, stream_id: str) -> AbstractAsyncContextManager[Reply]:
        """End an answer for good."""
        return self._send("POST", f"{self._place.streams_url}/{stream_id}/stop", _accepting("application/json"))

    @asynccontextmanager
    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Reply]:
        """Send a request; once more with a new token, where the first isn't taken.

        Raises:
            LineLost, Untrusted: as in `Silence.bound`.
        """
        hook = self._options.token
        for is_last in (not callable(hook), True):
            if callable(hook) and (is_last or self._bearer is None):
                self._bearer = await hook()
            async with self._send_once(method, url, headers, body) as response:
                if is_last or response.status != HTTPStatus.UNAUTHORIZED:
                    yield Reply(response, self._silence)
                    return

    @asynccontextmanager
    async def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        given = {**self._options.headers, **headers}
        if self._bearer is not None:
            given["Authorization"] = f"Bearer {self._bearer}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._options.patience.connect_s)
        async with self._session() as session:
            async with self._silence.bound():
                response = await session.request(
                    method, url, headers=given, data=body, timeout=timeout, allow_redirects=False
                )
            try:
                yield response
            finally:
                response.close()

    def _session(self) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        if self._options.session is not None:
            return nullcontext(self._options.session)
        if self._cookies is None:  # kept from request to request: some load balancers tell readers apart by them
            self._cookies = aiohttp.CookieJar()
        return aiohttp.ClientSession(cookie_jar=self._cookies)


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Read a `Retry-After`, seconds or a date (RFC 9110 §10.2.3); None without a valid one."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def _accepting(content_type: str) -> dict[str, str]:
    return {"Accept": content_type, "Accept-Encoding": "identity", "Cache-Control": "no-store"}


def _query(fields: Fields) -> str:
    named = {name: value if isinstance(value, str) else msgspec.json.encode(value) for name, value in fields.items()}
    return urlencode(named)

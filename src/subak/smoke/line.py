"""Requests of a smoke test, to the public URL or the admin listener. All that knows aiohttp; no policy."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, NamedTuple, Self

import aiohttp
import msgspec

from subak import __version__
from subak.client.line import retry_after_s
from subak.client.wire import Refusal, refusal_of, shown
from subak.core.json_errors import NOT_JSON
from subak.core.sse import SseDecoder, SseTooLarge
from subak.smoke.answer import AnswerReader
from subak.smoke.findings import Unmet

CONNECT_S: Final = 10.0
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024
_EVENT_STREAM: Final = "text/event-stream"
_FIXES: Final[Mapping[int, str]] = {
    401: "give credentials that hold: --header @FILE",
    403: "`subak flags show --for CALLER` says whom it is on for; or a rule of a proxy refuses this path",
    404: "have the proxies pass this path on to the gateway",
    405: "have the proxies pass this method on to the gateway",
    429: "this caller has asked too often: wait, or use one of its own, by --header",
    502: "the proxy can't reach the gateway, or the gateway its upstream: `subak doctor` there",
    503: "`subak doctor` there; it drains, its upstreams rest, or its audit trail stands",
    504: "the proxy's read timeout is too short, or the gateway hangs",
}
_LEADS_ELSEWHERE: Final = "give the URL that it redirects to: nobody follows redirects of streams"
_ITS_LOG: Final = "the gateway's own log says more"


class Reply(NamedTuple):
    """A response; the body of an event stream isn't in it."""

    what: str
    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes
    took_ms: float

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream."""
        return self.status == HTTPStatus.OK and self.content_type == _EVENT_STREAM

    @property
    def refusal(self) -> Refusal:
        """What it says, if it isn't what was asked for."""
        return refusal_of(self.status, self.body, retry_after_s(self.headers.get("Retry-After")))

    @property
    def told(self) -> str:
        """The answer in a few words."""
        if self.is_stream:
            return f"{self.what} answered 200 with a stream"
        if self.status == HTTPStatus.OK:
            return f"{self.what} answered 200 with {shown(self.content_type)}, {len(self.body)} bytes"
        return f"{self.what} answered {self.status} {self.refusal.code}"

    def unmet(self, expected: str, fix: str = "") -> Unmet:
        """Give the failure that this answer is, with what to do about its status unless `fix` says better."""
        by_status = _LEADS_ELSEWHERE if self.status in range(300, 400) else _FIXES.get(self.status, _ITS_LOG)
        return Unmet(self.told, expected=expected, fix=fix or by_status)

    def json(self) -> dict[str, object] | None:
        """Give the object that the body is; None if it is none."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, object])
        except NOT_JSON:
            return None


class Heard(NamedTuple):
    """An answer as far as it was read. `first_token_ms` since the request was sent, None without a token."""

    reply: Reply
    first_token_ms: float | None


class Line:
    """Requests to one base URL, with the same headers each."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        """`base_url` has no slash at its end; `session` is closed by whoever made it."""
        self.session = session
        self.base_url = base_url

    @classmethod
    @asynccontextmanager
    async def to(cls, base_url: str, headers: Mapping[str, str], answer_s: float) -> AsyncIterator[Self]:
        """Open a line. `answer_s`: how long a whole answer may take."""
        timeout = aiohttp.ClientTimeout(total=answer_s, sock_connect=CONNECT_S)
        own = {"User-Agent": f"subak/{__version__}", "Cache-Control": "no-store"}
        async with aiohttp.ClientSession(headers={**own, **headers}, timeout=timeout, trust_env=False) as session:
            yield cls(session, base_url)

    async def fetch(
        self, method: str, path: str, fields: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Get a whole answer that is no stream.

        Raises:
            aiohttp.ClientError, OSError: there is none. Unmet: it is past its bound.
        """
        async with self._send(method, path, fields, headers) as (response, asked_at):
            return await _whole(method, path, response, asked_at)

    async def listen(
        self,
        method: str,
        path: str,
        fields: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        reader: AnswerReader,
        until: Callable[[AnswerReader], bool] = lambda _: False,
    ) -> Heard:
        """Read an event stream to its end, or leave once `until` holds; anything else is fetched whole.

        Raises:
            aiohttp.ClientError, OSError: the line was cut, or there is none. Unmet: what came breaks the contract.
        """
        given = {"Accept": _EVENT_STREAM, **(headers or {})}
        async with self._send(method, path, fields, given) as (response, asked_at):
            if response.status != HTTPStatus.OK or response.content_type != _EVENT_STREAM:
                return Heard(await _whole(method, path, response, asked_at), None)
            reply = _reply(method, path, response, b"", asked_at)
            reader.begin(reply.headers.get("Subak-Stream-Id", ""))
            return Heard(reply, await _read(response, reader, until, asked_at))

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, fields: object, headers: Mapping[str, str] | None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, float]]:
        given = dict(headers or {})
        body = None
        if fields is not None:
            given["Content-Type"] = "application/json"
            body = msgspec.json.encode(fields)
        asked_at = _now()
        async with self.session.request(
            method, self.base_url + path, headers=given, data=body, allow_redirects=False
        ) as response:
            try:
                yield response, asked_at
            finally:
                response.close()  # what is left of a stream is left for good


async def _read(
    response: aiohttp.ClientResponse, reader: AnswerReader, until: Callable[[AnswerReader], bool], asked_at: float
) -> float | None:
    """Let `reader` read; give the time of the first token in milliseconds."""
    decoder = SseDecoder(max_line_bytes=MAX_EVENT_BYTES, max_event_bytes=MAX_EVENT_BYTES)
    first_token_ms = None
    size_bytes = 0
    try:
        async for chunk in response.content.iter_any():
            size_bytes += len(chunk)
            if size_bytes > MAX_STREAM_BYTES:
                raise Unmet(f"more than {MAX_STREAM_BYTES} bytes", expected="an answer", fix="is this URL a Subak's?")
            for event in decoder.feed(chunk):
                reader.take(event)
                if first_token_ms is None and reader.tokens:
                    first_token_ms = _ms_since(asked_at)
                if until(reader):
                    return first_token_ms
    except SseTooLarge as error:
        raise Unmet(str(error), expected="events of a gateway", fix="is this URL a Subak's?") from error
    reader.end()
    return first_token_ms


async def _whole(method: str, path: str, response: aiohttp.ClientResponse, asked_at: float) -> Reply:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Unmet(f"more than {MAX_BODY_BYTES} bytes", expected="an answer", fix="is this URL a Subak's?")
    return _reply(method, path, response, bytes(body), asked_at)


def _reply(method: str, path: str, response: aiohttp.ClientResponse, body: bytes, asked_at: float) -> Reply:
    what = f"{method} {path.partition('?')[0]}"
    return Reply(what, response.status, response.headers, response.content_type, body, _ms_since(asked_at))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ms_since(moment: float) -> float:
    return round((_now() - moment) * 1000, 1)

"""`POST /api/v2/bali-zero/chat`: passed to the backend's `/bali-zero/chat`, byte for byte, hop-by-hop headers aside.

No flag, limit, schema, authentication or size bound of ours stands before it; it is streamed both ways (PROTOCOL §2,
§5).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from subak.core.clock import Clock
from subak.core.errors import ErrorCode, SubakError, UpstreamError
from subak.core.facts import ChatAnswered, Observer
from subak.web.ask import read_body
from subak.web.connection import Connection, connection_of

CHAT_PATH: Final = "/bali-zero/chat"
MAX_EMBEDDED_BODY_BYTES: Final = 8 * 1024 * 1024
"""The embedded backend has a bound of its own below this; a proxied body has none."""
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_PASSED_ON: Final = frozenset({"host", "expect"})


class ChatReply(Protocol):
    """A whole answer of the embedded backend."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Iterable[tuple[str, str]]:
        """All headers but those of the framing."""

    @property
    def body(self) -> bytes:
        """The body."""


ChatAnswerer = Callable[[bytes, str | None], Awaitable[ChatReply]]
"""The embedded backend's `/chat`: a body and its content type to a whole answer. Never raises."""


class ChatRoute:
    """`POST /api/v2/bali-zero/chat`: whatever answers it now."""

    def __init__(
        self,
        backend: "EmbeddedChat | ProxiedChat",
        admit: Callable[[web.Request], Awaitable[None]],
        observer: Observer,
        clock: Clock,
    ) -> None:
        """`backend` may be replaced at any time: requests under way keep theirs. `admit` raises at a limit."""
        self.backend = backend
        self._admit = admit
        self._observer = observer
        self._clock = clock

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, and tell how long that took; nothing is told of one whose caller left."""
        await self._admit(request)
        connection = connection_of(request)
        try:
            response = await self.backend.handle(request)
        except SubakError as error:
            self._tell(error.http_status, connection.asked_at)
            raise
        self._tell(response.status, connection.asked_at)
        return response

    def _tell(self, status: int, asked_at: float) -> None:
        duration_ms = round((self._clock.monotonic() - asked_at) * 1000, 3)
        self._observer.notify(ChatAnswered(status, duration_ms))


class EmbeddedChat:
    """`/chat` answered by this process: by the embedded backend, or by asking an OpenAI-compatible server."""

    def __init__(self, answer: ChatAnswerer) -> None:
        self._answer = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer the request; a caller that leaves ends the work on it too."""
        connection = connection_of(request)
        body = await read_body(request, MAX_EMBEDDED_BODY_BYTES)
        connection.writer = _CancelWhenLost()
        try:
            reply = await self._answer(body, request.headers.get("Content-Type"))
        finally:
            connection.writer = None
        return web.Response(status=reply.status, headers=CIMultiDict(reply.headers), body=reply.body)


class ProxiedChat:
    """`/chat` answered by the RAG backend."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        credentials: Callable[[], Mapping[str, str]],
        *,
        first_byte_timeout_s: float,
        idle_timeout_s: float,
        max_body_bytes: int = 0,
    ) -> None:
        """`credentials` gives the gateway's headers for the backend; one that the caller sent stays the caller's.

        `max_body_bytes` bounds the request's body; 0 is no bound.
        """
        self._session = session
        self._url = base_url.rstrip("/") + CHAT_PATH
        self._credentials = credentials
        self._first_byte_timeout_s = first_byte_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_body_bytes = max_body_bytes

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass the request on and its answer back; a caller that leaves ends the backend's work too."""
        connection = connection_of(request)
        connection.writer = _CancelWhenLost()
        try:
            async with await self._ask(request) as answer:
                return await _pass_back(request, connection, answer, self._idle_timeout_s)
        finally:
            connection.writer = None

    async def _ask(self, request: web.Request) -> aiohttp.ClientResponse:
        connection = connection_of(request)
        query = request.rel_url.raw_query_string
        url = URL(f"{self._url}?{query}" if query else self._url, encoded=True)
        try:
            async with asyncio.timeout(None) as wait:
                body = await self._body_of(request, partial(self._await_answer, wait, connection))
                return await self._session.post(
                    url, data=body, headers=self._headers_for(request), allow_redirects=False
                )
        except TimeoutError:
            raise UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, "chat_timeout") from None
        except aiohttp.ClientError as error:
            if isinstance(broken := request.content.exception(), SubakError):  # it was the caller's body that failed
                connection.body_complete()
                raise broken from None
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "chat_failed") from error

    def _await_answer(self, wait: asyncio.Timeout, connection: Connection) -> None:
        """The request is sent: from now on the backend's first byte is waited for, however long the upload took."""
        connection.body_complete()
        wait.reschedule(asyncio.get_running_loop().time() + self._first_byte_timeout_s)

    async def _body_of(self, request: web.Request, on_sent: Callable[[], None]) -> AsyncIterator[bytes] | bytes | None:
        """Give the body as it comes, or, where a bound is set, whole: what is too large must not reach the backend."""
        if request.can_read_body and not self._max_body_bytes:
            return _passed_on(request.content, on_sent)
        body = await read_body(request, self._max_body_bytes) if request.can_read_body else None
        on_sent()
        return body

    def _headers_for(self, request: web.Request) -> CIMultiDict[str]:
        passed_on = _end_to_end(request.headers)
        for name in _NOT_PASSED_ON:
            passed_on.popall(name, None)
        for name, value in self._credentials().items():
            passed_on.setdefault(name, value)
        return passed_on


async def _passed_on(content: aiohttp.StreamReader, on_end: Callable[[], None]) -> AsyncIterator[bytes]:
    async for chunk in content.iter_any():
        yield chunk
    on_end()


class _CancelWhenLost:
    """Cancels the task it was made in when the client goes."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()

    def on_lost(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def on_blocked(self) -> None:
        """Nothing to do: the pass-through waits for the socket by itself."""

    def on_writable(self) -> None:
        """Nothing to do: see `on_blocked`."""


async def _pass_back(
    request: web.Request, connection: Connection, answer: aiohttp.ClientResponse, idle_timeout_s: float
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers))
    request[NATIVE_HEADERS] = frozenset(name.lower() for name in answer.headers)
    await response.prepare(request)
    try:
        while chunk := await _read_some(answer.content, idle_timeout_s):
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        connection.abort(by_reset=response.content_length is None and not response.chunked)
    return response


async def _read_some(content: aiohttp.StreamReader, idle_timeout_s: float) -> bytes:
    """Give what has come of a body; empty at its end.

    The client has such a deadline too, but drops it when a chunk is malformed, without telling who reads (aiohttp
    3.14.5), and it would also run during an upload.
    """
    async with asyncio.timeout(idle_timeout_s):
        return await content.readany()


async def keep_native_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Take back the headers that aiohttp adds: which software this is, and what the backend of `/chat` didn't send.

    An `on_response_prepare` signal.
    """
    native = request.get(NATIVE_HEADERS)
    if native is None:
        response.headers.popall("Server", None)
        return
    for name in ("Server", "Content-Type", "Date"):
        if name.lower() not in native:
            response.headers.popall(name, None)


NATIVE_HEADERS: Final = web.RequestKey("native_headers", frozenset)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Give the headers that are meant for the other end.

    One name gets one spelling: of those that differ in case, aiohttp's client sends only the last.
    """
    named = {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
    dropped = _HOP_BY_HOP | named
    spelling: dict[str, str] = {}
    kept = [(name.lower(), name, value) for name, value in headers.items() if name.lower() not in dropped]
    return CIMultiDict([(spelling.setdefault(lower, name), value) for lower, name, value in kept])

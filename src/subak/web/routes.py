"""All URLs on one screen, and what every answer has in common."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Middleware

from subak.core.facts import Observer
from subak.web.assets import MadeAsset
from subak.web.chat import ChatRoute, keep_native_headers
from subak.web.connection import LastWord, connection_of, is_ambiguous
from subak.web.cors import ALLOWED, Cors
from subak.web.demo import DemoRoutes
from subak.web.health import HealthRoutes
from subak.web.outcome import Handler, add_extra_headers, outcome_of
from subak.web.problems import status_problem
from subak.web.report import ReportRoute
from subak.web.streams import StreamRoutes

CHAT_STREAM: Final = "/api/v2/bali-zero/chat-stream"
CHAT: Final = "/api/v2/bali-zero/chat"
STREAM: Final = "/v1/streams/{stream_id}"
DOCUMENT: Final = "/openapi.json"
DOCUMENT_HEADERS: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
SPEAK_SEED: Final = frozenset({CHAT_STREAM, CHAT})
"""Paths whose clients know the founding document's bodies."""


class Handlers(NamedTuple):
    """Everything that answers."""

    streams: StreamRoutes
    chat: ChatRoute
    reports: ReportRoute
    health: HealthRoutes
    demo: DemoRoutes


def routes(handlers: Handlers) -> list[tuple[str, str, Handler]]:
    """Give (method, path, handler), in the order of the documentation."""
    streams, chat, reports, health, demo = handlers
    return [
        ("GET", CHAT_STREAM, streams.ask_by_url),
        ("POST", CHAT_STREAM, streams.ask_by_body),
        ("POST", CHAT, chat.handle),
        ("POST", "/v1/streams", streams.create),
        ("GET", f"{STREAM}/events", streams.events),
        ("GET", STREAM, streams.state),
        ("POST", f"{STREAM}/stop", streams.stop),
        ("DELETE", STREAM, streams.stop),
        ("POST", f"{STREAM}/report", reports.handle),
        ("GET", "/v1/features", streams.features),
        ("POST", "/v1/tickets", streams.ticket),
        ("GET", "/livez", health.live),
        ("GET", "/livez/stream", health.stream),
        ("GET", "/readyz", health.ready),
        ("GET", "/", demo.home),
        ("GET", "/demo", demo.page),
        ("GET", "/static/{name}", demo.asset),
    ]


def make_app(handlers: Handlers, cors: Cors, observer: Observer) -> web.Application:
    """Give the application: the routes, a preflight for each path, and errors as problems."""
    app = web.Application(middlewares=[_outer(cors, observer)])
    methods: dict[str, list[str]] = {}
    document = MadeAsset(lambda: _document(table), "application/json", DOCUMENT_HEADERS)
    table = [*routes(handlers), ("GET", DOCUMENT, document.answer)]
    for method, path, handler in table:
        methods.setdefault(path, []).append(method)
        app.router.add_route(method, path, handler, expect_handler=_answer_expect)
    for path, allowed in methods.items():
        app.router.add_route("OPTIONS", path, _preflight(cors, ", ".join([*allowed, "OPTIONS"])))
    app.on_response_prepare.append(add_cors_headers)
    app.on_response_prepare.append(add_extra_headers)
    app.on_response_prepare.append(keep_native_headers)
    app.on_response_prepare.append(close_after_oddities)
    return app


def _document(table: Iterable[tuple[str, str, Handler]]) -> bytes:
    from subak.web.openapi_public import public_document  # noqa: PLC0415 - no start waits for it

    return msgspec.json.encode(public_document((method, path) for method, path, _ in table))


async def _answer_expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body that the caller holds back (`Expect: 100-continue`); refuse any other expectation."""
    if request.headers.get("Expect", "").strip().lower() != "100-continue":
        return status_problem(417)
    if request.version >= HttpVersion11 and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


def _preflight(cors: Cors, methods: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return cors.preflight(request, methods)

    return answer


def _outer(cors: Cors, observer: Observer) -> Middleware:
    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = connection_of(request)
        headers = cors.headers(request)
        if request.path != CHAT or ALLOWED in headers:  # nothing is added to /chat unless a page was allowed by name
            request[CORS_HEADERS] = headers
        response = await outcome_of(request, handler, observer, speaks_seed=request.path in SPEAK_SEED)
        connection.answer_sent()
        if isinstance(response, web.Response) and not request.content.is_eof():
            return LastWord(connection, response)
        return response

    return outer


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what the request's Origin calls for (an `on_response_prepare` signal)."""
    headers = request.get(CORS_HEADERS)
    if headers is not None and ALLOWED not in response.headers:  # the backend of /chat may have answered for itself
        response.headers.update(headers)


async def close_after_oddities(request: web.Request, response: web.StreamResponse) -> None:
    """Let no request follow one whose body wasn't read, or whose end two parties may see differently.

    Nor one with `Upgrade`: the parser drops what came behind it in the same read (aiohttp 3.14.5). An
    `on_response_prepare` signal.
    """
    if "Upgrade" in request.headers or is_ambiguous(request) or not request.content.is_eof():
        response.headers["Connection"] = "close"
        response.force_close()


CORS_HEADERS: Final = web.RequestKey("cors_headers", dict)

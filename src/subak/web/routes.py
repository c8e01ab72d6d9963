"""All URLs on one screen, and what every answer has in common."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Middleware

from subak.core.errors import SubakError
from subak.core.facts import Crashed, Observer, Refused
from subak.relay.crash import crash_site
from subak.web.chat import ChatRoute, keep_native_headers
from subak.web.connection import Connection, LastWord, is_refused_coding
from subak.web.cors import ALLOWED, Cors
from subak.web.demo import DemoRoutes
from subak.web.health import HealthRoutes
from subak.web.problems import problem_response, status_problem
from subak.web.streams import StreamRoutes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHAT_STREAM: Final = "/api/v2/bali-zero/chat-stream"
CHAT: Final = "/api/v2/bali-zero/chat"
STREAM: Final = "/v1/streams/{stream_id}"


class Handlers(NamedTuple):
    """Everything that answers."""

    streams: StreamRoutes
    chat: ChatRoute
    health: HealthRoutes
    demo: DemoRoutes


def routes(handlers: Handlers) -> list[tuple[str, str, Handler]]:
    """Give (method, path, handler), in the order of the documentation."""
    streams, chat, health, demo = handlers
    return [
        ("GET", CHAT_STREAM, streams.ask_by_url),
        ("POST", CHAT_STREAM, streams.ask_by_body),
        ("POST", CHAT, chat.handle),
        ("POST", "/v1/streams", streams.create),
        ("GET", f"{STREAM}/events", streams.events),
        ("GET", STREAM, streams.state),
        ("POST", f"{STREAM}/stop", streams.stop),
        ("DELETE", STREAM, streams.stop),
        ("GET", "/v1/features", streams.features),
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
    for method, path, handler in routes(handlers):
        methods.setdefault(path, []).append(method)
        app.router.add_route(method, path, handler, expect_handler=_answer_expect)
    for path, allowed in methods.items():
        app.router.add_route("OPTIONS", path, _preflight(cors, ", ".join([*allowed, "OPTIONS"])))
    app.on_response_prepare.append(add_cors_headers)
    app.on_response_prepare.append(keep_native_headers)
    app.on_response_prepare.append(close_after_oddities)
    return app


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
        connection = request.protocol
        assert isinstance(connection, Connection), "the server makes our own connections"
        headers = cors.headers(request)
        if request.path != CHAT or ALLOWED in headers:  # nothing is added to /chat unless a page was allowed by name
            request[CORS_HEADERS] = headers
        response = await answer(connection, request, handler)
        connection.answer_sent()
        if isinstance(response, web.Response) and not request.content.is_eof():
            return LastWord(connection, response)
        return response

    async def answer(connection: Connection, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            connection.head_complete(request)
            return await handler(request)
        except SubakError as error:
            observer.notify(Refused(_route_name(request), request.method, error.http_status, error.code))
            return problem_response(request, error, speaks_seed=request.path == CHAT_STREAM)
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow", "Location") if name in error.headers}
            return status_problem(error.status, headers=kept)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the root of a request: the caller gets a problem, the operator the place
            observer.notify(Crashed(type(error).__name__, crash_site(error)))
            return status_problem(500)

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
    if "Upgrade" in request.headers or is_refused_coding(request) or not request.content.is_eof():
        response.headers["Connection"] = "close"
        response.force_close()


CORS_HEADERS: Final = web.RequestKey("cors_headers", dict)


def _route_name(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical

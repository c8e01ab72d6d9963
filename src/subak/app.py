"""The composition root: settings to adapters to a running gateway, with start-up and drain.

The only place that names concrete classes. It opens everything and closes everything, in the opposite order.
"""

import asyncio
import importlib
import random
import resource
import signal
import ssl
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Self

import aiohttp
from aiohttp import web

from subak import __version__
from subak.admission.gate import Gate
from subak.clocks import SystemClock
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.facts import Observer, ProcessStarted
from subak.core.lifecycle import OnDisconnect
from subak.knowledge.answer import Answerer, ExtractiveAnswerer
from subak.knowledge.index import BUNDLED_LIBRARY, Holdings, LibraryError, build_index
from subak.knowledge.llm import LlmAnswerer, Model
from subak.knowledge.server import chat as chat_embedded
from subak.knowledge.server import create_backend_app, create_backend_runner
from subak.relay.hub import Hub, HubTimes
from subak.relay.publisher import StreamBounds
from subak.relay.subscriber import ReaderTimes
from subak.replay.memory import MemoryStore
from subak.settings import Settings
from subak.settings import Upstream as UpstreamSettings
from subak.state import StateError, load_secret
from subak.telemetry.logs import LineWriter, form_for, make_logger
from subak.telemetry.observer import LogObserver
from subak.upstream.base import Upstream
from subak.upstream.embedded import EmbeddedUpstream
from subak.upstream.http1 import Http1Limits, tls_context
from subak.upstream.rag import RagBounds, RagTarget, RagUpstream
from subak.web.ask import InputBounds
from subak.web.chat import EmbeddedChat, ProxiedChat
from subak.web.connection import Connection, ConnectionTimes, Door
from subak.web.cors import Cors
from subak.web.demo import DemoRoutes
from subak.web.health import HealthRoutes
from subak.web.routes import Handlers, make_app
from subak.web.streams import StreamRoutes, StreamRules

TICK_S: Final = 0.25
"""How often deadlines are looked at: no heartbeat or limit is later than this."""

SHUTDOWN_S: Final = 1.0
SPARE_DESCRIPTORS: Final = 64
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Gateway:
    """One running gateway: `async with Gateway(settings, observer) as gateway` listens until it is left.

    `url` is where it listens. Leaving closes at once; `drain` first lets answers finish.
    """

    def __init__(self, settings: Settings, observer: Observer, *, clock: Clock | None = None) -> None:
        """`clock` is the system's, unless a test brings its own and runs `deadlines` itself."""
        self.settings = settings
        self.deadlines = Deadlines()
        self.url = ""
        self._observer = observer
        self._has_ticker = clock is None
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._server: asyncio.Server | None = None
        self.hub: Hub

    async def __aenter__(self) -> Self:
        """Open everything and listen.

        Raises:
            StateError, OSError: the state directory, the documents or the port can't be used.
        """
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                self._stack = stack.pop_all()
        except ExceptionGroup as group:  # what went wrong while the task group was open comes wrapped
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close everything, in the opposite order."""
        await self._stack.aclose()

    async def drain(self) -> None:
        """Take no new streams, let answers finish within `stream.drain_s`; the listener stays open for resumes."""
        await self.hub.drain(self.settings.stream.drain_s)

    async def _open(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        secret = load_secret(settings.state_dir)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        upstream, chat = await self._open_upstream(stack, tasks)
        store = _make_store(settings, self._clock)
        self.deadlines.watch(store, store.on_deadline(self._clock.monotonic()))
        self.hub = Hub(
            store=store,
            upstream=upstream,
            times=_hub_times(settings),
            clock=self._clock,
            deadlines=self.deadlines,
            observer=self._observer,
            tasks=tasks,
            chance=random.random,
        )
        stack.callback(self.hub.close)
        if self._has_ticker:
            ticker = tasks.create_task(self._tick())
            stack.callback(ticker.cancel)
        await self._listen(stack, self._make_app(chat, secret))
        self._observer.notify(ProcessStarted(__version__, settings.upstream.chosen_kind))

    async def _open_upstream(
        self, stack: AsyncExitStack, tasks: asyncio.TaskGroup
    ) -> tuple[Upstream, EmbeddedChat | ProxiedChat]:
        settings = self.settings.upstream
        if settings.chosen_kind == "embedded" or settings.url is None:
            answerer = await open_answerer(self.settings, stack)
            embedded = EmbeddedUpstream(answerer, tasks=tasks, clock=self._clock, pace_ms=_pace_ms(self.settings))
            stack.push_async_callback(embedded.close)
            return embedded, EmbeddedChat(partial(chat_embedded, answerer))
        ssl_context = _ssl_context(settings)
        upstream = RagUpstream(
            _rag_target(settings, settings.url, ssl_context),
            clock=self._clock,
            deadlines=self.deadlines,
            tasks=tasks,
            limits=Http1Limits(
                connect_timeout_s=settings.connect_timeout_s,
                first_byte_timeout_s=settings.first_byte_timeout_s,
                idle_timeout_s=settings.idle_timeout_s,
                max_idle_connections=settings.max_idle_connections,
            ),
            bounds=RagBounds(max_get_url_bytes=settings.max_get_url_bytes, max_event_bytes=settings.max_event_bytes),
        )
        stack.push_async_callback(upstream.close)
        session = await stack.enter_async_context(_chat_session(settings, ssl_context))
        chat = ProxiedChat(
            session,
            settings.url,
            upstream.credentials,
            first_byte_timeout_s=settings.first_byte_timeout_s,
            max_body_bytes=self.settings.http.chat_max_body_bytes,
        )
        return upstream, chat

    def _make_app(self, chat: EmbeddedChat | ProxiedChat, secret: bytes) -> web.Application:
        settings = self.settings
        rules = StreamRules(_input_bounds(settings), OnDisconnect(settings.stream.on_disconnect), secret)
        gate = Gate(is_streaming_on=settings.features.sse_streaming)
        handlers = Handlers(
            streams=StreamRoutes(self.hub, gate, rules),
            chat=chat,
            health=HealthRoutes(self.hub),
            demo=DemoRoutes(),
        )
        return make_app(handlers, Cors(settings.http.cors_origins), self._observer)

    async def _listen(self, stack: AsyncExitStack, app: web.Application) -> None:
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        server = runner.server
        assert server is not None, "a runner that was set up has a server"
        loop = asyncio.get_running_loop()
        door = Door(
            ConnectionTimes(unacknowledged_s=self.settings.stream.slow_reader_s),
            max_connections=self.settings.server.max_connections or max_connections(),
            clock=self._clock,
            deadlines=self.deadlines,
        )
        listener = await loop.create_server(
            lambda: Connection(server, door, loop=loop),
            self.settings.server.host,
            self.settings.server.port,
            backlog=self.settings.server.backlog,
        )
        stack.callback(listener.close)
        self.url = url_of(listener)

    async def _tick(self) -> None:
        while True:
            self.deadlines.run(self._clock.monotonic())
            await asyncio.sleep(TICK_S)


def max_connections() -> int:
    """Raise the limit of open files as far as this process may; give how many connections fit below it.

    A connection may need a second descriptor, to the upstream; some are kept for files and the listener.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - SPARE_DESCRIPTORS) // 2)


def url_of(listener: asyncio.Server) -> str:
    """Give the address that a listener is bound to, as a base URL."""
    host, port = listener.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def open_answerer(settings: Settings, stack: AsyncExitStack) -> Answerer:
    """Read the library and give what answers from it: extracts, or a language model where one is set.

    Raises:
        LibraryError: there is nothing to answer from.
    """
    knowledge, llm = settings.knowledge, settings.llm
    index = await asyncio.to_thread(build_index, knowledge.docs or BUNDLED_LIBRARY)
    stack.callback(index.close)
    _report_skipped(index.holdings)
    if llm.url is None:
        return ExtractiveAnswerer(index, knowledge.max_passages)
    session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
    model = Model(llm.url, llm.model, None if llm.key is None else llm.key.reveal())
    return LlmAnswerer(index, session, model, knowledge.max_passages)


def _report_skipped(holdings: Holdings) -> None:
    if holdings.skipped_count:
        first = "; ".join(f"{file.path}: {file.reason}" for file in holdings.skipped)
        say(f"subak: {holdings.skipped_count} files of the library were left out. {first}")


def _pace_ms(settings: Settings) -> float:
    """A language model has its own pace."""
    return settings.knowledge.pace_ms if settings.llm.url is None else 0.0


def _ssl_context(settings: UpstreamSettings) -> ssl.SSLContext | None:
    if settings.url is None or not settings.url.startswith("https:"):
        return None
    return tls_context(ca_file=settings.ca_file, cert_file=settings.client_cert_file, key_file=settings.client_key_file)


def _rag_target(settings: UpstreamSettings, url: str, ssl_context: ssl.SSLContext | None) -> RagTarget:
    headers = {name: secret.reveal() for name, secret in settings.headers.items()}
    if settings.key is not None:
        headers["Authorization"] = f"Bearer {settings.key.reveal()}"
    return RagTarget(
        url=url,
        method=settings.method,
        headers=headers,
        token_file=settings.token_file,
        ssl_context=ssl_context,
        user_agent=f"subak/{__version__}",
    )


def _chat_session(settings: UpstreamSettings, ssl_context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """Give the client of `/chat`: it adds no header, follows nothing, decodes nothing, and has no limit of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl_context or True),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.idle_timeout_s
        ),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def _make_store(settings: Settings, clock: Clock) -> MemoryStore:
    stream = settings.stream
    return MemoryStore(
        clock,
        budget_bytes=stream.memory_budget_bytes,
        replay_s=stream.replay_s,
        tombstone_s=stream.tombstone_s,
        key_ttl_s=stream.idempotency_s,
        max_keys=stream.idempotency_max_keys,
    )


def _hub_times(settings: Settings) -> HubTimes:
    stream = settings.stream
    return HubTimes(
        bounds=StreamBounds(stream.max_events, stream.max_bytes, stream.max_age_s),
        reader=ReaderTimes(
            heartbeat_s=stream.heartbeat_s,
            comment_s=stream.comment_s,
            slow_reader_s=stream.slow_reader_s,
            max_age_s=stream.max_connection_age_s or None,
        ),
        grace_s=stream.grace_s,
        max_lag_bytes=stream.max_lag_bytes,
        retry_min_ms=stream.retry_min_ms,
        retry_max_ms=stream.retry_max_ms,
    )


def _input_bounds(settings: Settings) -> InputBounds:
    http = settings.http
    return InputBounds(
        max_body_bytes=http.max_body_bytes,
        max_url_bytes=http.max_url_bytes,
        max_query_bytes=http.max_query_bytes,
        max_history_items=http.max_history_items,
        max_history_bytes=http.max_history_bytes,
    )


def run_gateway(settings: Settings, *, demo: bool) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal closes at once. Give the process' exit code."""
    return _run(settings, lambda observer: _serve(settings, observer, demo=demo))


def run_backend(settings: Settings, host: str, port: int) -> int:
    """Serve the embedded backend alone until SIGTERM or SIGINT. Give the process' exit code."""
    return _run(settings, lambda _observer: _serve_backend(settings, host, port))


def _run(settings: Settings, main: Callable[[Observer], Coroutine[None, None, None]]) -> int:
    sink = LineWriter(sys.stdout)
    try:
        logger = make_logger(sink, level=settings.log.level, form=form_for(settings.log.format))
        observer = LogObserver(logger, load_secret(settings.state_dir))
        with asyncio.Runner(loop_factory=loop_factory(settings.server.loop)) as runner:
            runner.run(main(observer))
    except (StateError, LibraryError, OSError) as error:
        say(f"subak: {error}")
        return 1
    finally:
        sink.close()
    return 0


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give what makes the event loop: uvloop's where it is wanted and installed, None for the standard one.

    Raises:
        StateError: uvloop was demanded and isn't installed.
    """
    if choice == "asyncio":
        return None
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        if choice == "uvloop":
            raise StateError("uvloop is not installed. Install it, or set SUBAK_SERVER__LOOP=auto.") from None
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(settings: Settings, observer: Observer, *, demo: bool) -> None:
    signals = _Signals()
    async with Gateway(settings, observer) as gateway:
        _greet(gateway, demo=demo)
        await signals.first.wait()
        await _until_first(gateway.drain(), signals.second.wait())


async def _serve_backend(settings: Settings, host: str, port: int) -> None:
    signals = _Signals()
    async with AsyncExitStack() as stack:
        answerer = await open_answerer(settings, stack)
        app = create_backend_app(answerer, clock=SystemClock(), pace_ms=_pace_ms(settings))
        runner = create_backend_runner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound_host, bound_port = runner.addresses[0][:2]
        say(f"RAG backend on http://{bound_host}:{bound_port}")
        await signals.first.wait()


class _Signals:
    """SIGTERM and SIGINT as events: the first asks for a drain, the second for haste."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _until_first(*waits: Coroutine[None, None, object]) -> None:
    """Return when the first of them is done; the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _greet(gateway: Gateway, *, demo: bool) -> None:
    if demo:
        say(f"Subak {__version__} is up. Ask in the browser: {gateway.url}/demo")
        say(f"or by curl: curl -N '{gateway.url}/api/v2/bali-zero/chat-stream?query=What+is+a+KITAS%3F'")
        say("Ctrl-C ends it.")
    else:
        say(f"Subak {__version__} listens on {gateway.url}")
        if not gateway.settings.features.sse_streaming:
            say("Streaming is off: stream routes answer 403 until ENABLE_SSE_STREAMING=true is set.")


def say(line: str) -> None:
    """Tell the person at the terminal, on stderr: stdout is for log lines."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

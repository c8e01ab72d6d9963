"""The composition root: settings to adapters to a running gateway, with start-up and drain.

The only place that names concrete classes. It opens everything and closes everything, in the opposite order.
"""

import asyncio
import errno
import os
import random
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, Self

from aiohttp import web

from subak import __version__
from subak.admission.gate import Gate
from subak.answering import Answering, Surroundings, open_answering
from subak.clocks import SystemClock
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.facts import DescriptorsExhausted, DescriptorsFreed, Observer, ProcessStarted
from subak.core.lifecycle import OnDisconnect
from subak.knowledge.index import Holdings
from subak.relay.hub import Hub, HubTimes
from subak.relay.publisher import StreamBounds
from subak.relay.subscriber import ReaderTimes
from subak.replay.memory import MemoryStore
from subak.settings import Settings, value_of
from subak.state import load_secret
from subak.web.ask import InputBounds
from subak.web.chat import ChatRoute
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
OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
NEEDS_RESTART: Final = (
    "state_dir",
    "server.host",
    "server.port",
    "server.loop",
    "server.backlog",
    "server.max_connections",
    "stream.memory_budget_bytes",
    "stream.replay_s",
    "stream.tombstone_s",
    "stream.idempotency_s",
    "stream.idempotency_max_keys",
    "log.level",
    "log.format",
)
"""Settings that belong to what is opened once."""


class _Retirement:
    """A deadline that calls back once."""

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due

    def on_deadline(self, now: float) -> None:
        del now
        self._on_due()


class _DescriptorWatch:
    """Notices that no file descriptor is left: uvloop drops connections then without a word (0.23)."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._is_exhausted = False

    def look(self) -> None:
        """Try to open a file; note the change."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
            is_exhausted = False
        except OSError as error:
            is_exhausted = error.errno in OUT_OF_DESCRIPTORS
        if is_exhausted is self._is_exhausted:
            return
        self._is_exhausted = is_exhausted
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._observer.notify(DescriptorsExhausted(limit) if is_exhausted else DescriptorsFreed())


class Gateway:
    """One running gateway: `async with Gateway(settings, observer) as gateway` listens until it is left.

    `url` is where it listens. Leaving closes at once; `drain` first lets answers finish.
    """

    def __init__(self, settings: Settings, observer: Observer, *, clock: Clock | None = None) -> None:
        """`clock` is the system's, unless a test brings its own and runs `deadlines` itself."""
        self.settings = settings
        self._opened_with = settings
        self.deadlines = Deadlines()
        self.url = ""
        self._observer = observer
        self._has_ticker = clock is None
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._retired: list[Answering] = []
        self._around: Surroundings
        self._answering: Answering
        self._secret: bytes
        self._streams: StreamRoutes
        self._chat: ChatRoute
        self._cors: Cors
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

    async def reload(self, settings: Settings) -> list[str]:
        """Take up new settings; open streams and responses keep what they began with.

        Give the keys that only a restart changes. Nothing is changed when the new upstream can't be opened.

        Raises:
            LibraryError, OSError: it can't be opened.
        """
        left = [key for key in NEEDS_RESTART if value_of(settings, key) != value_of(self._opened_with, key)]
        if _answering_part(settings) != _answering_part(self.settings):
            await self._replace_answering(settings)
        self.settings = settings
        self.hub.configure(self._answering.upstream, _hub_times(settings))
        self._streams.configure(*self._policy())
        self._cors.configure(settings.http.cors_origins)
        return left

    @property
    def holdings(self) -> Holdings | None:
        """What the embedded backend answers from."""
        return self._answering.holdings

    async def _open(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self._secret = load_secret(settings.state_dir)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        self._around = Surroundings(self._clock, self.deadlines, tasks)
        self._answering = await open_answering(settings, self._around)
        stack.push_async_callback(self._close_answering)
        store = _make_store(settings, self._clock)
        self.deadlines.watch(store, store.on_deadline(self._clock.monotonic()))
        self.hub = Hub(
            store=store,
            upstream=self._answering.upstream,
            times=_hub_times(settings),
            clock=self._clock,
            deadlines=self.deadlines,
            observer=self._observer,
            tasks=tasks,
            chance=random.random,
        )
        if self._has_ticker:
            ticker = tasks.create_task(self._tick())
            stack.callback(ticker.cancel)
        await self._listen(stack, self._make_app())
        stack.callback(self.hub.close)  # before the server goes: its readers get the end of their answers
        self._observer.notify(ProcessStarted(__version__, settings.upstream.chosen_kind))

    def _make_app(self) -> web.Application:
        self._streams = StreamRoutes(self.hub, *self._policy())
        self._chat = ChatRoute(self._answering.chat)
        self._cors = Cors(self.settings.http.cors_origins)
        handlers = Handlers(self._streams, self._chat, HealthRoutes(self.hub), DemoRoutes())
        return make_app(handlers, self._cors, self._observer)

    def _policy(self) -> tuple[Gate, StreamRules]:
        settings = self.settings
        gate = Gate(is_streaming_on=settings.features.sse_streaming)
        return gate, StreamRules(_input_bounds(settings), OnDisconnect(settings.stream.on_disconnect), self._secret)

    async def _replace_answering(self, settings: Settings) -> None:
        """Open what answers from now on; the old one is closed when no stream of it can be left."""
        new = await open_answering(settings, self._around)
        old, self._answering = self._answering, new
        self._chat.backend = new.chat
        self._retired.append(old)
        oldest_end = self._clock.monotonic() + self.settings.stream.max_age_s
        self.deadlines.watch(_Retirement(self._retire_oldest), oldest_end)

    def _retire_oldest(self) -> None:
        self._around.tasks.create_task(self._retired.pop(0).close())

    async def _close_answering(self) -> None:
        for answering in (*self._retired, self._answering):
            await answering.close()

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
        descriptors = _DescriptorWatch(self._observer)
        while True:
            descriptors.look()
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


def _answering_part(settings: Settings) -> tuple[object, ...]:
    return settings.upstream, settings.knowledge, settings.llm, settings.http.chat_max_body_bytes


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

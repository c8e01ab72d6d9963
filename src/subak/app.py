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
from subak.admission.flags import Flags
from subak.admission.identity import IdentityPolicy
from subak.admission.limiter import Figures
from subak.admission.rollout import RolloutController
from subak.admitting import NEEDS_RESTART as ADMISSION_NEEDS_RESTART
from subak.admitting import Admitting, auth_rules
from subak.answering import Answering, Servers, Surroundings, open_answering
from subak.auditing import NEEDS_RESTART as AUDIT_NEEDS_RESTART
from subak.auditing import Auditing, open_auditing
from subak.clocks import SystemClock
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.facts import DescriptorsExhausted, DescriptorsFreed, Fact, Observer, ProcessStarted
from subak.core.ledger import Ledger, NoLedger
from subak.core.lifecycle import OnDisconnect
from subak.core.live import Occupancy, UpstreamState
from subak.knowledge.index import Holdings
from subak.listening import listen
from subak.operating import Machinery, Watching, admin_routes, admin_rules
from subak.relay.hub import Hub, HubTimes
from subak.relay.publisher import StreamBounds
from subak.relay.subscriber import ReaderTimes
from subak.replay.memory import MemoryStore
from subak.settings import Settings, value_of
from subak.state import AdminToken, load_secret
from subak.telemetry.rollout_totals import StatsTotals
from subak.telemetry.stats import Present
from subak.web.admin import make_admin_app
from subak.web.advice import Advice
from subak.web.ask import InputBounds
from subak.web.callers import Callers
from subak.web.chat import ChatRoute
from subak.web.connection import ConnectionTimes, Door
from subak.web.cors import Cors
from subak.web.demo import DemoRoutes
from subak.web.health import HealthRoutes
from subak.web.report import ReportRoute
from subak.web.routes import Handlers, make_app
from subak.web.sign_ins import SignIns
from subak.web.streams import StreamRoutes, StreamRules

TICK_S: Final = 0.25
"""How often deadlines are looked at: no heartbeat or limit is later than this."""

ADMIN_CONNECTIONS: Final = 64
SPARE_DESCRIPTORS: Final = 64
OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
NEEDS_RESTART: Final = (
    "state_dir",
    "admin.enabled",
    "admin.host",
    "admin.port",
    "admin.token",
    "admin.metrics_public",
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
    "loki.url",
    "loki.user",
    "loki.key",
    "errors.sentry_dsn",
    "tracing.url",
    "tracing.headers",
    *ADMISSION_NEEDS_RESTART,
    *AUDIT_NEEDS_RESTART,
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

    `url` is where it listens, `admin_url` for operators. Leaving closes at once; `drain` first lets answers finish.
    `is_dismissed` is set when an operator asks it to drain and leave.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        *,
        clock: Clock | None = None,
        lines_dropped: Callable[[], int] = int,
        may_move: bool = False,
    ) -> None:
        """`clock` is the system's, unless a test brings its own and runs `deadlines` itself.

        `lines_dropped`: how many log lines found no room, for the metrics. `may_move`: when the admin port is taken,
        another will do.
        """
        self.settings = settings
        self._opened_with = settings
        self.deadlines = Deadlines()
        self.url = ""
        self.admin_url = ""
        self.admin_token: AdminToken | None = None
        self.is_dismissed = asyncio.Event()
        self._lines_dropped = lines_dropped
        self._may_move = may_move
        self._has_ticker = clock is None
        self._clock = clock or SystemClock()
        self._observer = observer
        self._stack = AsyncExitStack()
        self._retired: list[Answering] = []
        self._auditing: Auditing | None = None
        self.watching: Watching
        self._around: Surroundings
        self._answering: Answering
        self._admitting: Admitting
        self._callers: Callers
        self._secret: bytes
        self._streams: StreamRoutes
        self._chat: ChatRoute
        self._cors: Cors
        self._store: MemoryStore
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
        self._callers.gate, self._callers.rules = await self._admitting.configure(settings)
        self._streams.configure(self._rules())
        self._cors.configure(settings.http.cors_origins)
        return left

    @property
    def flags(self) -> Flags:
        """For whom streaming is on."""
        return self._admitting.flags

    @property
    def _ledger(self) -> Ledger:
        """What answers wait for."""
        return NoLedger() if self._auditing is None else self._auditing.recorder

    @property
    def limits(self) -> Figures:
        """What the limits count now."""
        return self._admitting.limiter.figures()

    @property
    def _servers(self) -> Servers:
        """The servers that are asked now: a reload may bring others."""
        return self._answering.servers

    def _upstream_states(self) -> list[UpstreamState]:
        return self._servers.look()

    @property
    def holdings(self) -> Holdings | None:
        """What the embedded backend answers from."""
        return self._answering.holdings

    async def _open(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self._secret = load_secret(settings.state_dir)
        await self._open_auditing(stack)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        self._around = Surroundings(self._clock, self.deadlines, tasks)
        self._answering = await open_answering(settings, self._around)
        stack.push_async_callback(self._close_answering)
        store = self._store = _make_store(settings, self._clock)
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
            ledger=self._ledger,
        )
        if self._has_ticker:
            ticker = tasks.create_task(self._tick())
            stack.callback(ticker.cancel)
        self._admitting = Admitting(settings, self._around, self._observer, self._secret)
        stack.push_async_callback(self._admitting.close)
        controller = RolloutController(
            self._admitting.flags, StatsTotals(self.watching.stats), self._clock, state_dir=settings.state_dir
        )
        stack.callback(controller.close)
        self.deadlines.watch(controller, self._clock.monotonic())
        await self._listen(stack)
        stack.callback(self.hub.close)  # before the server goes: its readers get the end of their answers
        self._observer.notify(ProcessStarted(__version__, settings.upstream.chosen_kind))

    async def _open_auditing(self, stack: AsyncExitStack) -> None:
        """Open the audit trail, which hears everything until the end, and what else hears facts."""
        recorders: list[Observer] = []
        if self.settings.audit.enabled:
            self._auditing = await open_auditing(self.settings, self._clock, self.deadlines, self._secret, self._tell)
            stack.push_async_callback(self._auditing.close)
            recorders.append(self._auditing.recorder)
        self.watching = Watching(self._clock, self._observer, *recorders)
        self._observer = self.watching.observer

    def _tell(self, fact: Fact) -> None:
        """Have it heard by all who hear facts by then."""
        self._observer.notify(fact)

    async def _make_app(self) -> web.Application:
        advice = Advice(self._observer)
        self._cors = Cors(self.settings.http.cors_origins, advice.on_origin_refused)
        gate, rules = await self._admitting.configure(self.settings)
        sign_ins = SignIns(self._observer, self._clock)
        self._callers = Callers(rules, gate, self._admitting.tickets, self._cors, advice=advice, sign_ins=sign_ins)
        self._streams = StreamRoutes(self.hub, self._callers, self._rules())
        self._chat = ChatRoute(self._answering.chat, self._callers.admit_to_chat, self._observer, self._clock)
        reports = ReportRoute(self.hub, self._callers)
        health = HealthRoutes(self.hub, advice, self._admitting.key_sources)
        handlers = Handlers(self._streams, self._chat, reports, health, DemoRoutes())
        return make_app(handlers, self._cors, self._observer)

    def _rules(self) -> StreamRules:
        settings = self.settings
        return StreamRules(
            bounds=_input_bounds(settings),
            on_disconnect=OnDisconnect(settings.stream.on_disconnect),
            identity=IdentityPolicy(settings.auth.unverified_email),
            auth=auth_rules(settings.auth),
            secret=self._secret,
            trace_ratio=None if settings.tracing.url is None else settings.tracing.sample,
        )

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

    def _door(self, max_connections: int) -> Door:
        times = ConnectionTimes(unacknowledged_s=self.settings.stream.slow_reader_s)
        return Door(times, max_connections=max_connections, clock=self._clock, deadlines=self.deadlines)

    async def _listen(self, stack: AsyncExitStack) -> None:
        server = self.settings.server
        door = self._door(server.max_connections or max_connections())
        self.url = await listen(
            stack, await self._make_app(), door, host=server.host, port=server.port, backlog=server.backlog
        )
        if self.settings.admin.enabled:
            await self._listen_for_operators(stack, door)

    async def _listen_for_operators(self, stack: AsyncExitStack, public: Door) -> None:
        admin = self.settings.admin
        rules, self.admin_token = admin_rules(self.settings, self._admitting.is_internal_key)
        parts = Machinery(
            settings=lambda: self.settings,
            watching=self.watching,
            admitting=self._admitting,
            present=self._present(public),
            secret=self._secret,
            clock=self._clock,
            deadlines=self.deadlines,
            on_drain=self.is_dismissed.set,
            ledger=self._ledger,
            auditing=self._auditing,
        )
        app = make_admin_app(admin_routes(parts), rules, self._admitting.limiter, self._observer)
        door = self._door(ADMIN_CONNECTIONS)
        try:
            self.admin_url = await listen(stack, app, door, host=admin.host, port=admin.port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._may_move:
                raise
            self.admin_url = await listen(stack, app, door, host=admin.host, port=0)

    def _present(self, door: Door) -> Present:
        budget_bytes = self.settings.stream.memory_budget_bytes
        return Present(
            load=self.hub.load,
            streams=self.hub.live_streams,
            readers=self.hub.live_readers,
            connections=lambda: Occupancy(door.open_count, door.max_connections, door.refused),
            replay_bytes=lambda: Occupancy(self._store.size_bytes, budget_bytes),
            upstreams=self._upstream_states,
            audit=lambda: None if self._auditing is None else self._auditing.state,
            key_sources=self._admitting.key_sources,
            upstream_retries=lambda: self._servers.retries,
            log_lines_dropped=self._lines_dropped,
            is_draining=lambda: self.hub.is_draining,
        )

    async def _tick(self) -> None:
        descriptors = _DescriptorWatch(self._observer)
        due_at = self._clock.monotonic()
        while True:
            late_s = self._clock.monotonic() - due_at
            self.watching.stats.note_loop_lag(late_s)
            if late_s > TICK_S:
                await _let_sockets_be_read()
            descriptors.look()
            self.deadlines.run(self._clock.monotonic())
            due_at = self._clock.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)


async def _let_sockets_be_read() -> None:
    """After a stall everything looks overdue, and what came meanwhile waits in the sockets: let that be read first.

    Two rounds of the loop: the first looks at the sockets, and runs what it found after us.
    """
    for _ in range(2):
        await asyncio.sleep(0)


def max_connections() -> int:
    """Raise the limit of open files as far as this process may; give how many connections fit below it.

    A connection may need a second descriptor, to the upstream; some are kept for files and the listener.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - SPARE_DESCRIPTORS) // 2)


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

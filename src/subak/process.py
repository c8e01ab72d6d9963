"""One process: from settings to an exit code. Signals, the event loop, log lines, and what the terminal is told."""

import asyncio
import importlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import web

from subak import __version__
from subak.answering import open_answerer, pace_ms
from subak.app import OUT_OF_DESCRIPTORS, Gateway
from subak.clocks import SystemClock
from subak.core.facts import Observer
from subak.garbage import PERIOD_S, GarbageCollection
from subak.knowledge.index import Holdings, LibraryError
from subak.knowledge.server import create_backend_app, create_backend_runner
from subak.notify import VARIABLE, ServiceManager
from subak.settings import Settings, SettingsError, environment
from subak.shipping import open_shipping
from subak.state import ADMIN_TOKEN_FILE, StateError, load_secret
from subak.telemetry.logs import LineWriter, form_for, make_logger
from subak.telemetry.observer import LogObserver

SWITCH_S: Final = 0.0005
"""How long the event loop waits at most for a thread that computes: the audit's writer has work for some tenths of a
millisecond, and Python would let it go on for five."""
_LEAVE: Final = (signal.SIGTERM, signal.SIGINT)
Reload = Callable[[], Settings]
"""Reads the settings again. Raises SettingsError."""


def run_gateway(settings: Settings, *, demo: bool, reload: Reload) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal closes at once. Give the process' exit code.

    SIGHUP reads the settings again by `reload`: good ones are taken up and open streams are kept, bad ones refused.
    """
    return _run(settings, lambda observer, sink: _serve(settings, observer, sink, reload, demo=demo))


def run_backend(settings: Settings, host: str, port: int) -> int:
    """Serve the embedded backend alone until SIGTERM or SIGINT. Give the process' exit code."""
    return _run(settings, lambda _observer, _sink: _serve_backend(settings, host, port))


def _run(settings: Settings, main: Callable[[Observer, LineWriter], Coroutine[None, None, None]]) -> int:
    sink = LineWriter(sys.stdout)
    sys.setswitchinterval(SWITCH_S)
    try:
        logger = make_logger(sink, level=settings.log.level, form=form_for(settings.log.format))
        observer = LogObserver(logger, load_secret(settings.state_dir))
        with asyncio.Runner(loop_factory=loop_factory(settings.server.loop)) as runner:
            runner.run(main(observer, sink))
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


async def _serve(settings: Settings, observer: Observer, sink: LineWriter, reload: Reload, *, demo: bool) -> None:
    asyncio.get_running_loop().set_exception_handler(_report)
    signals, systemd = _Signals(), ServiceManager(environment().get(VARIABLE, ""))
    async with AsyncExitStack() as stack:
        observers, dropped = await open_shipping(settings, observer, sink, stack)
        gateway = Gateway(settings, observers, lines_dropped=dropped, may_move=demo)
        await stack.enter_async_context(gateway)
        clock = SystemClock()
        gateway.deadlines.watch(GarbageCollection(clock), clock.monotonic() + PERIOD_S)
        _greet(gateway, demo=demo)
        await _tell(systemd.ready())
        reloading = _reload_on(signals.reload, gateway, reload, systemd)
        await _until_first(signals.first.wait(), gateway.is_dismissed.wait(), reloading)
        await _tell(systemd.stopping())
        await _until_first(gateway.drain(), signals.second.wait())


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Let the loop report what it caught.

    That descriptors ran out is told by a fact. asyncio would tell it a thousand times a second, and once more for each
    when the listener that it wants to open again has been closed meanwhile (CPython 3.11).
    """
    error = context.get("exception")
    is_out = isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS
    if not is_out and "_start_serving" not in context["message"]:
        loop.default_exception_handler(context)


async def _reload_on(wanted: asyncio.Event, gateway: Gateway, reload: Reload, systemd: ServiceManager) -> None:
    """Take up new settings whenever they are wanted; say what came of it."""
    while True:
        await wanted.wait()
        wanted.clear()
        await _tell(systemd.reloading())
        try:
            settings = await asyncio.to_thread(reload)
            left = await gateway.reload(settings)
        except (SettingsError, LibraryError, OSError) as error:
            say(f"subak: the new settings are refused, the old ones stay in force.\n{error}")
        else:
            say("subak: the new settings are in force.")
            if left:
                say(f"subak: only a restart changes {', '.join(left)}.")
        await _tell(systemd.ready())


async def _tell(state: Awaitable[None]) -> None:
    """Tell systemd; that it can't be told is no reason to stop answering."""
    try:
        await state
    except OSError as error:
        say(f"subak: systemd can't be told how the gateway is, by {VARIABLE}: {error}")


async def _serve_backend(settings: Settings, host: str, port: int) -> None:
    signals = _Signals()
    async with AsyncExitStack() as stack:
        answerer, index = await open_answerer(settings, stack)
        report_skipped(index.holdings)
        app = create_backend_app(answerer, clock=SystemClock(), pace_ms=pace_ms(settings))
        runner = create_backend_runner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound_host, bound_port = runner.addresses[0][:2]
        say(f"RAG backend on http://{bound_host}:{bound_port}")
        await signals.first.wait()


class _Signals:
    """Signals as events: the first SIGTERM or SIGINT asks for a drain, the second for haste; SIGHUP for a reload."""

    def __init__(self) -> None:
        self.reload = asyncio.Event()
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        for number in _LEAVE:
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


def report_skipped(holdings: Holdings) -> None:
    """Tell which files of a library couldn't be taken."""
    if holdings.skipped_count:
        first = "; ".join(f"{file.path}: {file.reason}" for file in holdings.skipped)
        say(f"subak: {holdings.skipped_count} files of the library were left out. {first}")


def _greet(gateway: Gateway, *, demo: bool) -> None:
    if gateway.holdings is not None:
        report_skipped(gateway.holdings)
    if demo:
        say(f"Subak {__version__} is up. Ask in the browser: {gateway.url}/demo")
        say(f"or by curl: curl -N '{gateway.url}/api/v2/bali-zero/chat-stream?query=What+is+a+KITAS%3F'")
        say("Ctrl-C ends it.")
    else:
        say(f"Subak {__version__} listens on {gateway.url}")
        if not gateway.settings.features.sse_streaming:
            say("Streaming is off: stream routes answer 403 until ENABLE_SSE_STREAMING=true is set.")
    if gateway.admin_url:
        say(f"Operators: {gateway.admin_url}/-/stats")
    if gateway.admin_token is not None and gateway.admin_token.is_new:
        say(f"Admin token, shown this once: {gateway.admin_token.text}")
        say(f"It is kept in {gateway.settings.state_dir / ADMIN_TOKEN_FILE}, readable by this user alone.")


def say(line: str) -> None:
    """Tell the person at the terminal, on stderr: stdout is for log lines."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

"""Where facts go outside this process besides stdout: log lines to Loki, crashes to a Sentry-compatible service."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module

import aiohttp

from subak import __version__
from subak.clocks import SystemClock
from subak.core.facts import Observer
from subak.relay.crash import crash_site
from subak.settings import Errors, Loki, Settings
from subak.state import StateError, load_secret
from subak.telemetry.fanout import Observers
from subak.telemetry.logs import LineWriter, make_logger
from subak.telemetry.loki import LokiPush, LokiTarget
from subak.telemetry.observer import LogObserver
from subak.telemetry.sentry import SentryReporter, parse_dsn


async def open_shipping(
    settings: Settings, observer: Observer, sink: LineWriter, stack: AsyncExitStack
) -> tuple[Observer, Callable[[], int]]:
    """Give who hears facts, `observer` and what the settings add, and how many log lines were dropped so far."""
    observers: list[Observer] = [observer]
    dropped: list[Callable[[], int]] = [lambda: sink.dropped]
    if settings.loki.url is not None:
        loki = await stack.enter_async_context(LokiPush(_target(settings.loki), SystemClock(), random.random))
        logger = make_logger(loki, level=settings.log.level, form="json")
        observers.append(LogObserver(logger, load_secret(settings.state_dir)))
        dropped.append(lambda: loki.dropped)
    reporter = await _open_sentry(settings.errors, stack)
    if reporter is not None:
        observers.append(reporter)
    if settings.tracing.url is not None:
        observers.append(_open_tracing(settings, settings.tracing.url, stack))
    return Observers(tuple(observers), crash_site), lambda: sum(count() for count in dropped)


def _open_tracing(settings: Settings, url: str, stack: AsyncExitStack) -> Observer:
    try:
        tracing = import_module("subak.telemetry.tracing")
    except ImportError as error:
        raise StateError("tracing.url is set, and OpenTelemetry isn't installed: pip install 'subak[otel]'.") from error
    headers = {name: secret.reveal() for name, secret in settings.tracing.headers.items()}
    exporter = tracing.otlp_exporter(url, headers)
    observer = tracing.Tracing(exporter, SystemClock(), load_secret(settings.state_dir), version=__version__)
    stack.push_async_callback(asyncio.to_thread, observer.close)
    opened: Observer = observer
    return opened


def _target(loki: Loki) -> LokiTarget:
    assert loki.url is not None, "only with a URL"
    return LokiTarget(loki.url, loki.user, None if loki.key is None else loki.key.reveal())


async def _open_sentry(errors: Errors, stack: AsyncExitStack) -> SentryReporter | None:
    if errors.sentry_dsn is None:
        return None
    session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    dsn = parse_dsn(errors.sentry_dsn.reveal())
    reporter = SentryReporter(dsn, session, SystemClock(), release=f"subak@{__version__}")
    stack.callback(tasks.create_task(reporter.run()).cancel)
    return reporter

"""What operators see and do: everything that is counted, and the admin listener that shows it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from subak import __version__
from subak.admission.rollout import read_status
from subak.admitting import Admitting
from subak.audit.verdict import DAY_MS
from subak.auditing import Auditing
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.facts import Observer
from subak.core.ledger import Ledger
from subak.inspecting import judge, names_of, open_reader
from subak.relay.crash import crash_site
from subak.settings import Settings, as_text, catalogue, value_of
from subak.state import AdminToken, load_admin_token
from subak.telemetry.errors import Errors
from subak.telemetry.fanout import Observers
from subak.telemetry.history import Historian
from subak.telemetry.metrics import Metrics
from subak.telemetry.stats import Present, Stats, connections_snapshot
from subak.versions import versions
from subak.web.admin import AdminRoute, AdminRules
from subak.web.audit import AuditRoutes, Trail
from subak.web.ops import FlagRoutes, auth_events_route, drain_route, look_route, metrics_route
from subak.web.ops_page import OpsLooks, OpsPage


class Watching:
    """Who hears facts: the observer that the gateway was given, and what counts for operators."""

    def __init__(self, clock: Clock, *observers: Observer) -> None:
        """`observers` hear of everything too."""
        self.stats = Stats(clock)
        self.errors = Errors(clock)
        self.observer = Observers((*observers, self.stats, self.errors), crash_site)


class Machinery(NamedTuple):
    """The parts of a running gateway that operators look at."""

    settings: Callable[[], Settings]
    watching: Watching
    admitting: Admitting
    present: Present
    secret: bytes
    clock: Clock
    deadlines: Deadlines
    on_drain: Callable[[], None]
    ledger: Ledger
    auditing: Auditing | None = None


def admin_routes(parts: Machinery) -> list[AdminRoute]:
    """Give everything that the admin listener answers."""
    started_at_ms = parts.clock.time_ms()
    metrics = Metrics(parts.watching.stats, parts.present, version=__version__, started_at_ms=started_at_ms)
    return [
        metrics_route(metrics.render, is_public=parts.settings().admin.metrics_public),
        look_route("/-/stats", lambda: parts.watching.stats.snapshot(parts.present)),
        look_route("/-/connections", lambda: connections_snapshot(parts.present, parts.secret)),
        look_route("/-/errors", parts.watching.errors.snapshot),
        look_route("/-/config", lambda: shown_settings(parts.settings())),
        look_route("/-/versions", versions),
        look_route("/-/limits", parts.admitting.limiter.figures),
        *FlagRoutes(parts.admitting.flags, lambda: read_status(parts.settings().state_dir)).routes(),
        drain_route(parts.on_drain),
        auth_events_route(parts.watching.observer, parts.ledger.check),
        *_audit_routes(parts),
        *_ops_page(parts).routes(),
    ]


def _audit_routes(parts: Machinery) -> list[AdminRoute]:
    if parts.auditing is None:
        return []
    settings = parts.settings()  # of the log only a restart changes anything
    trail = Trail(
        log=parts.auditing.log,
        open_reader=partial(open_reader, settings),
        names_of=partial(names_of, settings),
        judge=partial(judge, settings),
        term_ms=settings.audit.retention_days * DAY_MS,
        check=parts.ledger.check,
        clock=parts.clock,
    )
    return AuditRoutes(trail).routes()


def _ops_page(parts: Machinery) -> OpsPage:
    stats, errors, present = parts.watching.stats, parts.watching.errors, parts.present
    historian = Historian(stats, present.load, parts.clock)
    parts.deadlines.watch(historian, parts.clock.monotonic())
    looks = OpsLooks(
        stats=lambda: stats.snapshot(present),
        connections=lambda most: connections_snapshot(present, parts.secret, most),
        history=historian.since,
        errors=errors.snapshot,
        limits=parts.admitting.limiter.figures,
        rollout=lambda: read_status(parts.settings().state_dir),
        flags=parts.admitting.flags,
        version=__version__,
    )
    return OpsPage(looks)


def admin_rules(settings: Settings, is_service: Callable[[str], bool]) -> tuple[AdminRules, AdminToken]:
    """Give who may use the admin listener, by the settings' token or the state directory's.

    Raises:
        StateError: the state directory can't be used.
    """
    given = settings.admin.token
    token = load_admin_token(settings.state_dir) if given is None else AdminToken(given.reveal(), is_new=False)
    return AdminRules(token.text, is_service), token


def shown_settings(settings: Settings) -> Mapping[str, str]:
    """Give all settings as they may be shown: secrets masked."""
    return {setting.key: as_text(value_of(settings, setting.key)) for setting in catalogue()}

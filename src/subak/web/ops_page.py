"""The operations page, `/-/` on the admin listener: everything that `/-/…` tells, for people.

It comes from here with all its numbers in it, so it can be read without JavaScript. The script that comes along asks
for the page again every two seconds and takes over what has changed: there is one place where figures become HTML.
Changes are made by the same JSON routes that programs use.
"""

from collections.abc import Callable, Sequence
from importlib import resources
from string import Template
from typing import Final, NamedTuple

from aiohttp import web

from subak.admission.flag_store import FlagsUnusable
from subak.admission.flags import Flags
from subak.admission.limiter import Figures
from subak.admission.rollout import RolloutStatus
from subak.core.flag_state import FlagView
from subak.core.rollout import STREAMING
from subak.core.rollout_plan import Phase
from subak.telemetry.errors import ErrorsSnapshot
from subak.telemetry.history import History
from subak.telemetry.stats import ConnectionsSnapshot, Snapshot
from subak.web import ops_rollout as rollouts
from subak.web import ops_sections as sections
from subak.web.admin import AdminRoute, actor_of
from subak.web.assets import Assets
from subak.web.markup import joined
from subak.web.problems import json_response
from subak.web.tables import rows
from subak.web.wording import duration, moment

SHOWN: Final = 100
"""Streams and responses on the page; `/-/connections` has a thousand."""
CHANGES: Final = 20
"""Entries of the flag's history on the page; `/-/flags/…/history` has a hundred."""
_MAX_MS_DIGITS: Final = 16
_FILE_HEADERS: Final = {"Cache-Control": "no-cache"}


class OpsLooks(NamedTuple):
    """Where the page looks; each is called when somebody asks. `connections` takes how many of each to give."""

    stats: Callable[[], Snapshot]
    connections: Callable[[int], ConnectionsSnapshot]
    history: Callable[[int], History]
    errors: Callable[[], ErrorsSnapshot]
    limits: Callable[[], Figures]
    rollout: Callable[[], RolloutStatus | None]
    flags: Flags
    version: str


class OpsPage:
    """`/-/`, its files, and `/-/history`, of which it makes its charts."""

    def __init__(self, looks: OpsLooks) -> None:
        """Read the page's files, which are part of the package."""
        self._looks = looks
        package = resources.files("subak.web")
        static = package.joinpath("static")
        self._page = Template(package.joinpath("templates", "ops.html").read_text(encoding="utf-8"))
        self._assets = Assets([*static.joinpath("ops").iterdir(), static.joinpath("mark.svg")], _FILE_HEADERS)

    def routes(self) -> list[AdminRoute]:
        """Give what there is."""
        return [
            AdminRoute("GET", "/", self.home),
            AdminRoute("GET", "/-", self.home),
            AdminRoute("GET", "/-/", self.page),
            AdminRoute("GET", "/-/history", self.history),
            AdminRoute("GET", "/-/static/{name}", self.asset),
        ]

    async def home(self, request: web.Request) -> web.Response:
        """Send a visitor of the listener's root to the page."""
        del request
        raise web.HTTPFound("/-/")

    async def page(self, request: web.Request) -> web.Response:
        """Give the page as things stand."""
        return web.Response(text=self._page.substitute(self._parts(actor_of(request))), content_type="text/html")

    async def asset(self, request: web.Request) -> web.Response:
        """Give a script, style sheet or picture of the page."""
        return self._assets.answer(request, request.match_info["name"])

    async def history(self, request: web.Request) -> web.Response:
        """Give the last hour's latency and load; with `?after=`, milliseconds since the epoch, what is newer."""
        after = request.query.get("after", "")
        is_moment = after.isascii() and after.isdigit() and len(after) <= _MAX_MS_DIGITS
        return json_response(self._looks.history(int(after) if is_moment else 0))

    def _parts(self, actor: str) -> dict[str, str]:
        looks = self._looks
        snapshot, errors = looks.stats(), looks.errors()
        flag = looks.flags.view(STREAMING)
        texts = {
            "actor": actor,
            "version": looks.version,
            "uptime": duration(snapshot.uptime_s),
            "flag_key": STREAMING,
            "effect": flag.effect,
            "error_count": f"{errors.total} since the start",
        }
        return {
            **{name: joined([text]) for name, text in texts.items()},
            "at": moment(snapshot.at_ms),
            **_figures(snapshot, flag),
            **_connections(looks.connections(SHOWN)),
            **self._flag(flag),
            "limits": sections.limits(looks.limits()),
            "errors": sections.errors(errors),
        }

    def _flag(self, flag: FlagView) -> dict[str, str]:
        looks, rollout = self._looks, flag.rollout
        status = looks.rollout()
        percentage = flag.overrides.percentage
        is_live = rollout is not None and not rollout.phase.is_over
        phase = None if rollout is None else rollout.phase
        return {
            "changes": self._changes(),
            "percentage": "" if percentage is None else f"{percentage:g}",
            "cannot_switch_on": _disabled(not flag.is_permitted or not flag.overrides.is_off),
            "cannot_switch_off": _disabled(flag.overrides.is_off),
            "cannot_set": _disabled(is_live),
            "rollout_state": rollouts.rollout_state(rollout, looks.flags.now()),
            "verdict": joined([rollouts.verdict(rollout, status)]),
            "criteria": rollouts.criteria(rollout, status),
            "cannot_pause": _disabled(phase is not Phase.RUNNING),
            "cannot_resume": _disabled(not is_live or phase is Phase.RUNNING or flag.overrides.is_off),
            "cannot_end": _disabled(not is_live),
        }

    def _changes(self) -> str:
        try:
            return rollouts.changes(self._looks.flags.history(STREAMING, limit=CHANGES))
        except FlagsUnusable as error:  # the rest of the page is needed all the more
            return rows((), error.detail)


def _figures(snapshot: Snapshot, flag: FlagView) -> dict[str, str]:
    return {
        "state": sections.state(snapshot, flag),
        "attention": sections.attention(snapshot, flag),
        "tiles": sections.tiles(snapshot),
        "latencies": sections.latencies(snapshot),
        "outcomes": sections.outcomes(snapshot),
        "refusals": sections.refusals(snapshot),
        "upstreams": sections.upstreams(snapshot.present.upstreams),
        "audit": sections.audit(snapshot.present.audit),
        "cannot_drain": _disabled(snapshot.present.is_draining),
        "cannot_search": _disabled(snapshot.present.audit is None),
    }


def _connections(seen: ConnectionsSnapshot) -> dict[str, str]:
    def told(shown: Sequence[object], count: int, what: str) -> str:
        return joined([sections.shown_of(len(shown), count, what)])

    return {
        "streams": sections.streams(seen),
        "streams_told": told(seen.streams, seen.stream_count, "streams"),
        "readers": sections.readers(seen),
        "readers_told": told(seen.readers, seen.reader_count, "responses"),
    }


def _disabled(is_it: bool) -> str:  # noqa: FBT001 - it is what the attribute says
    return " disabled" if is_it else ""

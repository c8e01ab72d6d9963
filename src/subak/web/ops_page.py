"""The operations page, `/-/` on the admin listener: everything that `/-/…` tells, for people.

It comes from here with all its numbers in it, so it can be read without JavaScript. The script that comes along asks
for the page again every two seconds and takes over what has changed: there is one place where figures become HTML.
Changes are made by the same JSON routes that programs use.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from importlib import resources
from string import Template
from typing import Final, NamedTuple

from aiohttp import web

from subak.admission.flag_store import FlagsUnusable
from subak.admission.flags import Flags
from subak.admission.limiter import Figures
from subak.admission.rollout import RolloutStatus
from subak.core.errors import InvalidField
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

SHOWN: Final = 50
"""Streams and responses on the page; `/-/connections` has a thousand."""
CHANGES: Final = 20
"""Entries of the flag's history on the page; `/-/flags/…/history` has a hundred."""
_MOMENT: Final = re.compile(r"[0-9]{1,16}")
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
        """Give the page as things stand. It takes milliseconds: tokens may pass between its parts."""
        parts: dict[str, str] = {}
        for part in self._parts(actor_of(request)):
            parts |= {name: joined([content]) for name, content in part.items()}
            await asyncio.sleep(0)
        return web.Response(text=self._page.substitute(parts), content_type="text/html")

    async def asset(self, request: web.Request) -> web.Response:
        """Give a script, style sheet or picture of the page."""
        return self._assets.answer(request, request.match_info["name"])

    async def history(self, request: web.Request) -> web.Response:
        """Give the last hour's latency and load; with `?after=`, milliseconds since the epoch, what is newer."""
        after = request.query.get("after", "0")
        if _MOMENT.fullmatch(after) is None:
            raise InvalidField("$.after", "milliseconds since the epoch")
        return json_response(self._looks.history(int(after)))

    def _parts(self, actor: str) -> Iterator[dict[str, str]]:
        """Give what fills the page's gaps; what isn't markup is text."""
        looks = self._looks
        flag = looks.flags.view(STREAMING)
        snapshot = looks.stats()
        yield {"actor": actor, "version": looks.version, "flag_key": STREAMING}
        yield _figures(snapshot, flag)
        yield _tables(snapshot)
        connections = looks.connections(SHOWN)
        yield _streams(connections)
        yield _readers(connections)
        yield self._flag(flag)
        errors = looks.errors()
        yield {
            "limits": sections.limits(looks.limits()),
            "errors": sections.errors(errors),
            "error_count": f"{errors.total} since the start",
            "operations": sections.operations(),
        }

    def _flag(self, flag: FlagView) -> dict[str, str]:
        looks, rollout = self._looks, flag.rollout
        status = looks.rollout()
        percentage = flag.overrides.percentage
        is_live = rollout is not None and not rollout.phase.is_over
        phase = None if rollout is None else rollout.phase
        return {
            "effect": flag.effect,
            "changes": self._changes(),
            "percentage": "" if percentage is None else f"{percentage:g}",
            "cannot_switch_on": _disabled(not flag.is_permitted or not flag.overrides.is_off),
            "cannot_switch_off": _disabled(flag.overrides.is_off),
            "cannot_set": _disabled(is_live),
            "rollout_state": rollouts.rollout_state(rollout, looks.flags.now()),
            "verdict": rollouts.verdict(rollout, status),
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
    present = snapshot.present
    return {
        "at": moment(snapshot.at_ms),
        "uptime": duration(snapshot.uptime_s),
        "state": sections.state(snapshot, flag),
        "attention": sections.attention(snapshot, flag),
        "tiles": sections.tiles(snapshot),
        "audit": sections.audit(present.audit),
        "cannot_drain": _disabled(present.is_draining),
        "cannot_search": _disabled(present.audit is None),
    }


def _tables(snapshot: Snapshot) -> dict[str, str]:
    return {
        "latencies": sections.latencies(snapshot),
        "outcomes": sections.outcomes(snapshot),
        "refusals": sections.refusals(snapshot),
        "upstreams": sections.upstreams(snapshot.present.upstreams),
    }


def _streams(seen: ConnectionsSnapshot) -> dict[str, str]:
    told = sections.shown_of(len(seen.streams), seen.stream_count, "stream")
    return {"streams": sections.streams(seen), "streams_told": told}


def _readers(seen: ConnectionsSnapshot) -> dict[str, str]:
    told = sections.shown_of(len(seen.readers), seen.reader_count, "response")
    return {"readers": sections.readers(seen), "readers_told": told}


def _disabled(is_it: bool) -> str:  # noqa: FBT001 - it is what the attribute says
    return " disabled" if is_it else ""

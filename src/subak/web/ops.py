"""What operators look at and change: `/metrics` and `/-/…` on the admin listener. All of it JSON but the metrics."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from aiohttp import web

from subak.admission.flags import Flags
from subak.admission.jwt import MAX_CLAIM_CHARS, is_id, user_principal_id
from subak.admission.rollout import RolloutStatus
from subak.core.errors import InvalidField, RequestError
from subak.core.facts import AuthReported, Observer, Person
from subak.core.flag_state import (
    FlagChange,
    FlagDocument,
    FlagView,
    aborted,
    kept,
    merged,
    paused,
    replaced,
    resumed,
    started,
)
from subak.core.json_bodies import decode_body
from subak.core.json_errors import NOT_JSON
from subak.core.principal import Claims
from subak.core.rollout import STREAMING, OverridesIn
from subak.core.rollout_plan import CRITERIA, MAX_REQUESTS, Bounds, ChatBaseline, Rollout
from subak.web.admin import AdminRoute, Role, actor_of
from subak.web.ask import read_body
from subak.web.problems import json_response

MAX_BODY_BYTES: Final = 256 * 1024
_HISTORY: Final = 100

_T = TypeVar("_T")
Look = Callable[[], object]
"""Gives something that can be shown as JSON: no personal data, no secrets."""


class FlagRoutes:
    """`/-/flags` and `/-/rollout`: for whom streaming is on."""

    def __init__(self, flags: Flags, look_at_rollout: Callable[[], RolloutStatus | None]) -> None:
        """`look_at_rollout` gives what the controller last saw, None before it has."""
        self._flags = flags
        self._look_at_rollout = look_at_rollout

    def routes(self) -> list[AdminRoute]:
        """Give what there is."""
        steps = {"pause": paused, "resume": resumed, "abort": aborted, "keep": kept}
        return [
            AdminRoute("GET", "/-/flags", self.all),
            AdminRoute("GET", "/-/flags/{key}", self.one),
            AdminRoute("PUT", "/-/flags/{key}", partial(self.override, replaced)),
            AdminRoute("PATCH", "/-/flags/{key}", partial(self.override, merged)),
            AdminRoute("GET", "/-/flags/{key}/history", self.history),
            AdminRoute("GET", "/-/rollout", self.rollout),
            AdminRoute("POST", "/-/rollout/start", self.start),
            *[AdminRoute("POST", f"/-/rollout/{name}", partial(self.step, step)) for name, step in steps.items()],
        ]

    async def all(self, request: web.Request) -> web.Response:
        """Every flag."""
        del request
        return json_response(FlagList(self._flags.views()))

    async def one(self, request: web.Request) -> web.Response:
        """One flag."""
        return json_response(self._flags.view(request.match_info["key"]))

    async def override(self, how: Callable[..., FlagDocument], request: web.Request) -> web.Response:
        """Put these overrides in place of a flag's, or change those that are named."""
        wanted = await read_struct(request, OverridesIn)
        key = request.match_info["key"]
        self._flags.change(key, partial(how, wanted=wanted, now=self._flags.now()), actor=actor_of(request))
        return json_response(self._flags.view(key))

    async def history(self, request: web.Request) -> web.Response:
        """Who changed a flag, when, from what to what; newest first."""
        return json_response(FlagHistory(self._flags.history(request.match_info["key"], limit=_HISTORY)))

    async def rollout(self, request: web.Request) -> web.Response:
        """The gradual rollout as it stands, and the figures that it was last judged by."""
        del request
        return json_response(RolloutSeen(self._flags.view(STREAMING).rollout, self._look_at_rollout()))

    async def start(self, request: web.Request) -> web.Response:
        """Begin a gradual rollout."""
        wanted = await read_struct(request, StartIn)
        return self._change(request, partial(started, plan=wanted.plan(self._flags.now()), allow=wanted.allow))

    async def step(self, step: Callable[..., FlagDocument], request: web.Request) -> web.Response:
        """Pause, resume, abort or keep it."""
        return self._change(request, partial(step, now=self._flags.now()))

    def _change(self, request: web.Request, change: Callable[[FlagDocument], FlagDocument]) -> web.Response:
        self._flags.change(STREAMING, change, actor=actor_of(request))
        return json_response(RolloutOut(self._flags.view(STREAMING).rollout))


class FlagList(msgspec.Struct, frozen=True):
    """Every flag."""

    flags: list[FlagView]


class FlagHistory(msgspec.Struct, frozen=True):
    """Changes, the newest first."""

    changes: list[FlagChange]


class RolloutOut(msgspec.Struct, frozen=True):
    """The rollout as it stands now."""

    rollout: Rollout | None


class RolloutSeen(RolloutOut, frozen=True):
    """The rollout as it stands, and the figures that it was last judged by."""

    seen: RolloutStatus | None


class Leaving(msgspec.Struct, frozen=True):
    """The process takes no more streams."""

    status: Literal["draining"]


class StartIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rollout's start: percentages, how long each is held, and callers that are in at once.

    `bounds`: other bounds than the table's, by the criterion's name. `chat_baseline_ms`: what /chat takes on average.
    """

    steps: tuple[float, ...] = (5, 25, 50, 100)
    hold_s: Annotated[float, msgspec.Meta(ge=0)] = 86_400
    allow: tuple[str, ...] = ()
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=MAX_REQUESTS)] = 200
    on_failure: Literal["last-good", "zero"] = "last-good"
    bounds: dict[str, Bounds] = {}
    chat_baseline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def plan(self, now: datetime) -> Rollout:
        """Give the rollout that begins now.

        Raises:
            InvalidField: there is no such criterion.
        """
        unknown = self.bounds.keys() - {criterion.name for criterion in CRITERIA}
        if unknown:
            raise InvalidField("$.bounds", f"names among {', '.join(criterion.name for criterion in CRITERIA)}")
        return Rollout(
            steps=self.steps,
            hold_s=self.hold_s,
            started_at=now,
            step_since=now,
            why="started",
            min_requests=self.min_requests,
            on_failure=self.on_failure,
            bounds=self.bounds,
            chat_baseline=None if self.chat_baseline_ms is None else ChatBaseline(self.chat_baseline_ms),
        )


def look_route(path: str, look: Look, role: Role = Role.OPERATOR) -> AdminRoute:
    """Give a route that shows what `look` gives."""

    async def show(request: web.Request) -> web.Response:
        del request
        return json_response(look())

    return AdminRoute("GET", path, show, role)


def metrics_route(render: Callable[[str], tuple[bytes, str]], *, is_public: bool) -> AdminRoute:
    """Give `/metrics`, for Prometheus."""

    async def show(request: web.Request) -> web.Response:
        body, content_type = render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return AdminRoute("GET", "/metrics", show, Role.ANYONE if is_public else Role.OPERATOR)


def drain_route(on_drain: Callable[[], None]) -> AdminRoute:
    """Give the route that lets the process take no more streams, finish and leave."""

    async def drain(request: web.Request) -> web.Response:
        del request
        on_drain()
        return json_response(Leaving("draining"), status=202)

    return AdminRoute("POST", "/-/drain", drain)


class AuthEventIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of what the host application tells of its users' logins. `email` only as it knows it to be theirs."""

    event: Literal["login", "logout", "token_refresh"]
    user_id: str
    tenant: str | None = None
    email: str | None = None


def auth_events_route(observer: Observer, check: Callable[[], None]) -> AdminRoute:
    """Give the route by which the host application reports logins, which happen there: each is a fact.

    `check` raises AuditUnavailable when it couldn't be recorded.
    """

    async def report(request: web.Request) -> web.Response:
        event = await read_struct(request, AuthEventIn)
        for name, text in (("user_id", event.user_id), ("tenant", event.tenant), ("email", event.email)):
            if text is not None and not is_id(text):
                raise InvalidField(f"$.{name}", f"at most {MAX_CLAIM_CHARS} printable characters, no blank at the ends")
        check()
        principal_id = user_principal_id(Claims(event.user_id, tenant=event.tenant))
        observer.notify(AuthReported(event.event, Person(principal_id, event.tenant, event.email)))
        return web.Response(status=204)

    return AdminRoute("POST", "/-/audit/auth-events", report, Role.SERVICE)


async def read_struct(request: web.Request, kind: type[_T], max_bytes: int = MAX_BODY_BYTES) -> _T:
    """Read a JSON body of this kind.

    Raises:
        InvalidField, RequestError, TooLarge, TooSlow: as their names say.
    """
    body = await read_body(request, max_bytes)
    try:
        return decode_body(body, kind)
    except msgspec.ValidationError as error:
        path = str(error).partition(" - at `")[2].rstrip("`") or "$"
        raise InvalidField(path, _wanted(str(error).partition(" - at")[0])) from None
    except NOT_JSON:
        raise RequestError("The body is not valid JSON.") from None


def _wanted(message: str) -> str:
    """Give what msgspec wanted instead, in words that complete "expected …" and repeat nothing of what came."""
    verb, _, wanted = message.partition(" ")
    if verb == "Expected":
        return wanted
    if message.startswith("Object missing"):
        return f"a member {message.rpartition(' ')[2]}"
    return "no member of another name" if message.startswith("Object contains") else "a value that it can have"

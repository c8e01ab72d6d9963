"""The admin listener: a second port, for operators, with a token of its own and a role for every route.

Nothing of it hangs on the public port, and none of that port's credentials opens it, but for the one route that a host
application's service calls. A browser logs in by HTTP Basic authentication (the user name is who acts, the token the
password), everything else sends the token as a bearer. What a browser sends along by itself must be of no use to a
foreign page: there is no CORS here, changes take JSON only, and a request that comes from another site is refused.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from enum import Enum, auto
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from subak.admission.limiter import Charge, Charges, Limiter
from subak.admission.partition import address_key
from subak.core.errors import Forbidden, NotAcceptable, RateLimited, Unauthenticated
from subak.core.facts import AdminActed, Observer
from subak.core.principal import Caller, Principal
from subak.core.quota import QuotaPolicy
from subak.web.assets import MadeAsset
from subak.web.connection import connection_of
from subak.web.cors import is_own_origin
from subak.web.outcome import CALLER, Handler, add_extra_headers, outcome_of, person_of, route_name

WRONG_TOKENS: Final = QuotaPolicy("admin_login", 10, 60.0)
"""Wrong tokens from one address in a minute; after them none is looked at."""
LOGIN: Final = 'Basic realm="subak admin", charset="UTF-8"'
DEFAULT_ACTOR: Final = "admin"
DOCUMENT: Final = "/-/openapi.json"
_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_JSON_TYPES: Final = frozenset({"application/json", "application/merge-patch+json"})
"""Types that no page of another site can send unasked."""
_ACTOR: Final = re.compile(r"[A-Za-z0-9._@+-]{1,128}")
_OWN_SITE: Final = frozenset({"same-origin", "none"})
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Role(Enum):
    """Who may use a route."""

    ANYONE = auto()
    OPERATOR = auto()
    """Who has the admin token."""
    SERVICE = auto()
    """A service of the host application, by one of its internal keys; an operator too."""


class AdminRoute(NamedTuple):
    """One route of the admin listener."""

    method: str
    path: str
    handler: Handler
    role: Role = Role.OPERATOR


class AdminRules(NamedTuple):
    """`token` opens the listener; `is_service` judges an internal key."""

    token: str
    is_service: Callable[[str], bool]


def make_admin_app(
    routes: Sequence[AdminRoute], rules: AdminRules, limiter: Limiter, observer: Observer
) -> web.Application:
    """Give the application. Each route's role is checked before anything else of a request is looked at."""
    document = MadeAsset(lambda: _document(table), "application/json", {"Cache-Control": "no-cache"})
    table = [*routes, AdminRoute("GET", DOCUMENT, document.answer)]
    roles = {(route.method, route.path): route.role for route in table}
    app = web.Application(middlewares=[_outer(_Porter(rules, limiter), roles, observer)])
    for route in table:
        app.router.add_route(route.method, route.path, route.handler)
    app.on_response_prepare.append(_add_headers)
    app.on_response_prepare.append(add_extra_headers)
    return app


def _document(table: Sequence[AdminRoute]) -> bytes:
    from subak.web.openapi_admin import admin_document  # noqa: PLC0415 - no start waits for it, nor can it be above

    return msgspec.json.encode(admin_document(table))


def actor_of(request: web.Request) -> str:
    """Give who acts, as it goes into histories."""
    return request[CALLER].principal.id


class _Porter:
    """Looks at tokens."""

    def __init__(self, rules: AdminRules, limiter: Limiter) -> None:
        self._digest = _digest(rules.token)
        self._is_service = rules.is_service
        self._limiter = limiter

    async def admit(self, request: web.Request, role: Role) -> None:
        """Let a request through.

        Raises:
            Unauthenticated, RateLimited, Forbidden, NotAcceptable: it may not do this, or not in this way.
        """
        address = request.remote or ""
        request[CALLER] = Caller(Principal(), address)
        if role is not Role.ANYONE:
            request[CALLER] = Caller(Principal(await self._log_in(request, role, address)), address)
        if request.method in _CHANGING:
            _check_origin(request)

    async def _log_in(self, request: web.Request, role: Role, address: str) -> str:
        charges = Charges((Charge(WRONG_TOKENS, address_key(address)),))
        refusal = (await self._limiter.peek(charges)).refusal
        if refusal is not None:
            raise RateLimited(WRONG_TOKENS.name, refusal.retry_after_s, {})
        given = _login_of(request)
        if given is None:
            raise Unauthenticated("missing_credentials")
        actor, token = given
        if compare_digest(_digest(token), self._digest):
            return actor
        if role is Role.SERVICE and self._is_service(token):
            return "service"
        await self._limiter.take(charges)
        raise Unauthenticated("admin_token")


def _outer(porter: _Porter, roles: dict[tuple[str, str], Role], observer: Observer) -> Middleware:
    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        role = roles.get((request.method, route_name(request)), Role.OPERATOR)

        async def admitted(request: web.Request) -> web.StreamResponse:
            await porter.admit(request, role)
            return await handler(request)

        response = await outcome_of(request, admitted, observer, speaks_seed=False)
        if request.method in _CHANGING and role is not Role.SERVICE and CALLER in request:
            who = person_of(request[CALLER])
            observer.notify(AdminActed(f"{request.method} {route_name(request)}", response.status, who))
        connection_of(request).answer_sent()
        return response

    return outer


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if response.status == web.HTTPUnauthorized.status_code:
        response.headers["WWW-Authenticate"] = LOGIN
    response.headers.popall("Server", None)


def _login_of(request: web.Request) -> tuple[str, str] | None:
    """Give who acts and the token that came, None without one."""
    scheme, _, text = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return _actor(request.headers.get("X-Subak-Actor", "")), text.strip()
    key = request.headers.get("x-api-key")
    if key is not None:
        return DEFAULT_ACTOR, key
    if scheme.lower() != "basic":
        return None
    try:
        user, _, token = b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return _actor(user), token


def _actor(text: str) -> str:
    return text if _ACTOR.fullmatch(text) else DEFAULT_ACTOR


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _check_origin(request: web.Request) -> None:
    if not _is_of_own_site(request):
        raise Forbidden("Changes are made from this listener's own pages, or by a program.")
    if request.body_exists and request.content_type not in _JSON_TYPES:
        raise NotAcceptable("Send changes as application/json.")


def _is_of_own_site(request: web.Request) -> bool:
    """Whether no foreign page sent this: by `Sec-Fetch-Site` (HTTPS and loopback only), or `Origin`."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in _OWN_SITE
    origin = request.headers.get("Origin")
    return origin is None or is_own_origin(request, origin)

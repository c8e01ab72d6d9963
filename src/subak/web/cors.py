"""Which pages may read answers: an allow-list of origins, never a reflected one (docs/PROTOCOL.md §2)."""

import re
from collections.abc import Callable
from typing import Final

from aiohttp import web

EXPOSED: Final = (
    "Subak-Stream-Id, "
    "Subak-Resumed-From, "
    "Idempotent-Replayed, "
    "X-Connection-ID, "
    "Location, "
    "Retry-After, "
    "X-RateLimit-Limit, "
    "X-RateLimit-Remaining, "
    "X-RateLimit-Reset, "
    "RateLimit, "
    "RateLimit-Policy, "
    "WWW-Authenticate"
)
ALLOWED_HEADERS: Final = (
    "Accept, "
    "Authorization, "
    "Content-Type, "
    "Idempotency-Key, "
    "Last-Event-ID, "
    "x-api-key, "
    "x-connection-id, "
    "x-continuity-id, "
    "x-session-id"
)
PREFLIGHT_AGE_S: Final = 600
ALLOWED: Final = "Access-Control-Allow-Origin"
_LABELS: Final = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,20}"
"""What `*.` stands for: one or more labels of a host name (RFC 1035)."""


class Cors:
    """Gives the headers for a request's Origin."""

    __slots__ = ("_exact", "_on_refused", "_patterns")

    def __init__(self, origins: tuple[str, ...], on_refused: Callable[[str], None]) -> None:
        """`origins` are exact, as in `https://app.example.com`, or of all sub-domains, as in `https://*.example.com`.

        `on_refused` hears of each foreign origin that isn't among them.
        """
        self._on_refused = on_refused
        self.configure(origins)

    def configure(self, origins: tuple[str, ...]) -> None:
        """Take these for requests to come."""
        self._exact = frozenset(origin for origin in origins if "*" not in origin)
        patterns = [re.escape(origin).replace(r"\*\.", _LABELS) for origin in origins if "*" in origin]
        self._patterns = re.compile("|".join(patterns)) if patterns else None

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may read answers, with their users' cookies."""
        if origin in self._exact:
            return True
        return self._patterns is not None and self._patterns.fullmatch(origin) is not None

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Give what a page of an allowed origin needs; for any other nothing but `Vary`."""
        origin = request.headers.get("Origin")
        if origin is None:
            return {"Vary": "Origin"}
        if not self.allows(origin):
            if not is_own_origin(request, origin):
                self._on_refused(origin)
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            ALLOWED: origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": EXPOSED,
        }

    def preflight(self, request: web.BaseRequest, methods: str) -> web.Response:
        """Answer an OPTIONS request: 204 for an allowed origin, 403 for another, 204 with `Allow` without one."""
        headers = self.headers(request)
        if "Origin" not in request.headers:
            return web.Response(status=204, headers={"Allow": methods})
        if ALLOWED not in headers:
            return web.Response(status=403, headers=headers)
        headers |= {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
        }
        return web.Response(status=204, headers=headers)


def is_own_origin(request: web.BaseRequest, origin: str) -> bool:
    """Whether a page of this origin came from the host that it asks; a proxy in front may have changed the scheme."""
    scheme, _, host = origin.partition("://")
    return scheme in {"http", "https"} and bool(host) and host == request.headers.get("Host")

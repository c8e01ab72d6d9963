"""Which pages may read answers: an allow-list of exact origins, never a reflected one (PROTOCOL §2)."""

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


class Cors:
    """Gives the headers for a request's Origin."""

    __slots__ = ("_origins",)

    def __init__(self, origins: tuple[str, ...]) -> None:
        """`origins` are exact, as in `https://app.example.com`."""
        self.configure(origins)

    def configure(self, origins: tuple[str, ...]) -> None:
        """Take these for requests to come."""
        self._origins = frozenset(origins)

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Give what a page of an allowed origin needs; for any other nothing but `Vary`."""
        origin = request.headers.get("Origin")
        if origin not in self._origins or origin is None:
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

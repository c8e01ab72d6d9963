"""The demo page and the browser clients, served from the package: no CDN, nothing inline."""

from hashlib import sha256
from importlib import resources
from typing import Final, NamedTuple

from aiohttp import web

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PAGE: Final = "demo.html"
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Asset(NamedTuple):
    """A file and what tells this version of it from all others (RFC 9110 §8.8.3)."""

    body: bytes
    content_type: str
    etag: str


class DemoRoutes:
    """`/demo` and `/static/…`. The files are read once: they are part of the package."""

    def __init__(self) -> None:
        folder = resources.files("subak.web").joinpath("static")
        self._assets = {
            entry.name: _asset(entry.name, entry.read_bytes())
            for entry in folder.iterdir()
            if entry.is_file() and _suffix(entry.name) in _TYPES
        }

    async def home(self, request: web.Request) -> web.Response:
        """Send a visitor of `/` to the page."""
        del request
        raise web.HTTPFound("/demo")

    async def page(self, request: web.Request) -> web.Response:
        """The demo page."""
        return self._answer(request, _PAGE)

    async def asset(self, request: web.Request) -> web.Response:
        """A file of the page, or a browser client."""
        return self._answer(request, request.match_info["name"])

    def _answer(self, request: web.Request, name: str) -> web.Response:
        asset = self._assets.get(name)
        if asset is None:
            raise web.HTTPNotFound
        if any(tag.value in {asset.etag, "*"} for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=_HEADERS)
        response.etag = asset.etag
        return response


def _asset(name: str, body: bytes) -> _Asset:
    return _Asset(body, _TYPES[_suffix(name)], sha256(body).hexdigest()[:32])


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]

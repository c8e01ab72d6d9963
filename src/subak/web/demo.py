"""The demo page and the browser files it is made of, served from the package: no CDN, nothing inline."""

from importlib import resources
from typing import Final

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


class DemoRoutes:
    """`/demo` and `/static/…`. The files are read once: they are part of the package."""

    def __init__(self) -> None:
        folder = resources.files("subak.web").joinpath("static")
        self._files = {
            entry.name: entry.read_bytes()
            for entry in folder.iterdir()
            if entry.is_file() and _suffix(entry.name) in _TYPES
        }

    async def home(self, request: web.Request) -> web.Response:
        """Send a visitor of `/` to the page."""
        del request
        raise web.HTTPFound("/demo")

    async def page(self, request: web.Request) -> web.Response:
        """The demo page."""
        del request
        return self._file(_PAGE)

    async def asset(self, request: web.Request) -> web.Response:
        """A file of the page."""
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body, content_type=_TYPES[_suffix(name)], charset="utf-8", headers=_HEADERS)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]

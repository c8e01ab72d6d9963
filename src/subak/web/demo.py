"""The demo page and the browser clients, served from the package: no CDN, nothing inline."""

from importlib import resources
from typing import Final

from aiohttp import web

from subak.web.assets import Assets

_PAGE: Final = "demo.html"
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class DemoRoutes:
    """`/demo` and `/static/…`."""

    def __init__(self) -> None:
        self._assets = Assets(resources.files("subak.web").joinpath("static").iterdir(), _HEADERS)

    async def home(self, request: web.Request) -> web.Response:
        """Send a visitor of `/` to the page."""
        del request
        raise web.HTTPFound("/demo")

    async def page(self, request: web.Request) -> web.Response:
        """The demo page."""
        return self._assets.answer(request, _PAGE)

    async def asset(self, request: web.Request) -> web.Response:
        """A file of the page, or a browser client."""
        return self._assets.answer(request, request.match_info["name"])

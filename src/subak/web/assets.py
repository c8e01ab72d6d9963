"""Files that are part of the package, served as they are: read once, and not sent again to who has them."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from aiohttp import web

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class _Asset(NamedTuple):
    """A file and what tells this version of it from all others (RFC 9110 §8.8.3)."""

    body: bytes
    content_type: str
    etag: str


class Assets:
    """Files by their names."""

    def __init__(self, files: Iterable[Traversable], headers: Mapping[str, str]) -> None:
        """Take those of `files` that browsers know; each is answered with `headers`."""
        self._assets = {
            file.name: _asset(file.name, file.read_bytes())
            for file in files
            if file.is_file() and _suffix(file.name) in _TYPES
        }
        self._headers = headers

    def answer(self, request: web.Request, name: str) -> web.Response:
        """Give a file, or 304 to who has it. Raises: HTTPNotFound."""
        asset = self._assets.get(name)
        if asset is None:
            raise web.HTTPNotFound
        if any(tag.value in {asset.etag, "*"} for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=self._headers)
        else:
            response = web.Response(
                body=asset.body, content_type=asset.content_type, charset="utf-8", headers=self._headers
            )
        response.etag = asset.etag
        return response


def _asset(name: str, body: bytes) -> _Asset:
    return _Asset(body, _TYPES[_suffix(name)], sha256(body).hexdigest()[:32])


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]

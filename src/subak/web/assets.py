"""Files that are part of the package, served as they are: read or made once, and not sent again to who has them."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple, Self

from aiohttp import web

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """A file and what tells this version of it from all others (RFC 9110 §8.8.3)."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, content_type: str) -> Self:
        """Give the file that this is."""
        return cls(body, content_type, sha256(body).hexdigest()[:32])

    def answer(self, request: web.Request, headers: Mapping[str, str]) -> web.Response:
        """Give it with these headers, or 304 to who has it."""
        if any(tag.value in {self.etag, "*"} for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(body=self.body, content_type=self.content_type, charset="utf-8", headers=headers)
        response.etag = self.etag
        return response


class Assets:
    """Files by their names."""

    def __init__(self, files: Iterable[Traversable], headers: Mapping[str, str]) -> None:
        """Take those of `files` that browsers know; each is answered with `headers`."""
        self._assets = {
            file.name: Asset.of(file.read_bytes(), _TYPES[_suffix(file.name)])
            for file in files
            if file.is_file() and _suffix(file.name) in _TYPES
        }
        self._headers = headers

    def answer(self, request: web.Request, name: str) -> web.Response:
        """Give a file, or 304 to who has it. Raises: HTTPNotFound."""
        asset = self._assets.get(name)
        if asset is None:
            raise web.HTTPNotFound
        return asset.answer(request, self._headers)


class MadeAsset:
    """A file that is made when somebody first asks for it, on a thread, and kept."""

    def __init__(self, make: Callable[[], bytes], content_type: str, headers: Mapping[str, str]) -> None:
        """`make` is called once."""
        self._make = make
        self._content_type = content_type
        self._headers = headers
        self._making = asyncio.Lock()
        self._made: Asset | None = None

    async def answer(self, request: web.Request) -> web.Response:
        """Give the file, or 304 to who has it."""
        async with self._making:
            if self._made is None:
                self._made = Asset.of(await asyncio.to_thread(self._make), self._content_type)
        return self._made.answer(request, self._headers)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]

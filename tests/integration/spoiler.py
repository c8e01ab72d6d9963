"""A reverse proxy that spoils one answer of a good gateway: for tests of whoever must notice."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp import web

_FRAMING: Final = frozenset({"transfer-encoding", "content-length", "connection", "host", "keep-alive"})


@dataclass
class Spoilt:
    """An answer on its way to whoever asked. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


Spoil = Callable[[Spoilt], None]
Spoils = Mapping[str, Spoil]
"""By method and beginning of the path: `GET /v1/streams`. What nothing stands for is passed on as it comes."""


@dataclass
class Spoiler:
    """The proxy: its `url`, and every request that came, as method and path."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@asynccontextmanager
async def spoiling(gateway_url: str, spoils: Spoils) -> AsyncIterator[Spoiler]:
    """Run one before `gateway_url`. A spoilt answer is read whole first, and then sent at once."""
    spoiler = Spoiler()

    async def handle(request: web.Request) -> web.StreamResponse:
        what = f"{request.method} {request.rel_url.raw_path}"
        spoiler.asked.append(what)
        spoil = next((spoil for start, spoil in spoils.items() if what.startswith(start)), None)
        url = f"{gateway_url}{request.rel_url.raw_path_qs}"
        body = await request.read()
        async with session.request(
            request.method, url, headers=_end_to_end(request.headers), data=body, allow_redirects=False
        ) as answer:
            return await (_pass_on(request, answer) if spoil is None else _spoilt(answer, spoil))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        spoiler.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield spoiler
        finally:
            await runner.cleanup()


async def _spoilt(answer: aiohttp.ClientResponse, spoil: Spoil) -> web.Response:
    spoilt = Spoilt(answer.status, _end_to_end(answer.headers), await answer.read())
    spoil(spoilt)
    return web.Response(status=spoilt.status, headers=spoilt.headers, body=spoilt.body)


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
    try:
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except ConnectionError:  # whoever asked has left
        return response
    return response


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() not in _FRAMING}

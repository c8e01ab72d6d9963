"""A port that answers: one application behind our own connections."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from subak.web.connection import Connection, Door

SHUTDOWN_S: Final = 1.0


async def listen(
    stack: AsyncExitStack, app: web.Application, door: Door, *, host: str, port: int, backlog: int = 128
) -> str:
    """Listen until `stack` is left; give the base URL. Port 0 takes a free one.

    Raises:
        OSError: the address can't be listened on.
    """
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    server = runner.server
    assert server is not None, "a runner that was set up has a server"
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server, door, loop=loop), host, port, backlog=backlog)
    stack.callback(listener.close)
    return url_of(listener)


def url_of(listener: asyncio.Server) -> str:
    """Give the address that a listener is bound to, as a base URL."""
    host, port = listener.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""The RAG backend of the rehearsal: `python -m tests.rehearsal.backend PORT FAULT_FILE`.

It is the embedded backend over HTTP, which takes `THINK_S` before it answers. While the fault file is there it is a bad
release of its streaming part: every second answer is a 500, the others break off in mid-sentence. `/chat` is as ever.
"""

import asyncio
import itertools
import signal
import sys
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from subak.clocks import SystemClock
from subak.knowledge.answer import ExtractiveAnswerer
from subak.knowledge.index import build_index
from subak.knowledge.server import create_backend_app, create_backend_runner

LIBRARY: Final = Path(__file__).parent / "library"
THINK_S: Final = 0.03
PACE_MS: Final = 15.0
MAX_PASSAGES: Final = 1
STREAM_PATH: Final = "/bali-zero/chat-stream"
_TORSO: Final = b'data: {"text": "A visa ", "sequenceNumber": 1, "timestamp": 1.5}\n\n'


def faulty(fault: Path) -> Middleware:
    """Give what stands before the backend: it thinks, and breaks streams while the file is there."""
    numbers = itertools.count()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        await asyncio.sleep(THINK_S)
        if request.path != STREAM_PATH or not fault.exists():
            return await handler(request)
        if next(numbers) % 2:
            return web.Response(status=500, text="This release is broken.")
        return await _break_off(request)

    return middleware


async def _break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(_TORSO)
    if request.transport is not None:
        request.transport.abort()
    return response


async def serve(port: int, fault: Path) -> None:
    """Answer until SIGTERM."""
    index = build_index(LIBRARY)
    app = create_backend_app(ExtractiveAnswerer(index, MAX_PASSAGES), clock=SystemClock(), pace_ms=PACE_MS)
    app.middlewares.append(faulty(fault))
    runner = create_backend_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    await is_over.wait()
    await runner.cleanup()
    index.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))

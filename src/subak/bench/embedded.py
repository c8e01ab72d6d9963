"""A gateway and its upstream, started for a benchmark: processes of their own, gone with it.

The gateway takes the settings of whoever starts the benchmark, with ports, state and upstream of its own; limits are
off unless the environment says otherwise, for a benchmark is one caller.
"""

import asyncio
import re
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

STARTING_S: Final = 30.0
STOPPING_S: Final = 5.0

_MAX_SAID_CHARS: Final = 4_000
_LISTENS: Final = re.compile(r"listens on (http://\S+)")
_LIMITS: Final = "SUBAK_LIMITS__ENABLED"


class NotStarted(Exception):
    """A process didn't come up; the message says which, and what it said last."""


class Paths(NamedTuple):
    """Where the same answers are to be had, without the gateway and through it."""

    direct_url: str
    gateway_url: str


@asynccontextmanager
async def paths(environment: Mapping[str, str], tokens: int, pace_ms: float) -> AsyncIterator[Paths]:
    """Run both; `environment` is that of this process.

    Raises:
        NotStarted: one of them didn't come up.
    """
    with tempfile.TemporaryDirectory(prefix="subak-bench-") as name:
        folder = Path(name)
        origin = ("subak.bench.origin", str(tokens), str(pace_ms))
        async with _running(origin, environment, folder) as (upstream, _):
            port = (await _first_line(upstream, "the upstream")).strip()
            settings = {
                _LIMITS: "false",
                **environment,
                "ENABLE_SSE_STREAMING": "true",
                "RAG_BACKEND_URL": f"http://127.0.0.1:{port}",
                "SUBAK_UPSTREAM__URL": "",
                "SUBAK_UPSTREAM__FALLBACK_URLS": "",
                "SUBAK_UPSTREAM__KIND": "rag",
                "SUBAK_UPSTREAM__METHOD": "get",
                "SUBAK_SERVER__HOST": "127.0.0.1",
                "SUBAK_SERVER__PORT": "0",
                "SUBAK_ADMIN__PORT": "0",
                "SUBAK_STATE_DIR": str(folder / "state"),
                "SUBAK_STREAM__DRAIN_S": "1",
            }
            async with _running(("subak", "serve"), settings, folder) as (gateway, log):
                url = await _listening(gateway, log)
                yield Paths(f"http://127.0.0.1:{port}/bali-zero/chat-stream", url)


@asynccontextmanager
async def _running(
    module: tuple[str, ...], environment: Mapping[str, str], folder: Path
) -> AsyncIterator[tuple[Process, Path]]:
    """Run `python -m …` until the block is left; what it writes to stderr goes to the file given with it."""
    log = folder / f"{module[0]}.log"
    with log.open("wb") as sink:
        stdout = PIPE if module[0] != "subak" else DEVNULL
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module, stdin=PIPE, stdout=stdout, stderr=sink, env=dict(environment), cwd=folder
        )
    try:
        yield process, log
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    """End a process: kindly first, then not."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOPPING_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    if process.stdin is not None:
        process.stdin.close()


async def _first_line(process: Process, what: str) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTING_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    if not line:
        raise NotStarted(f"{what} didn't start in {STARTING_S:.0f} s")
    return line


async def _listening(process: Process, log: Path) -> str:
    """Wait until the gateway says where it listens."""
    try:
        async with asyncio.timeout(STARTING_S):
            while process.returncode is None:
                found = _LISTENS.search(_said(log))
                if found:
                    return found[1]
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise NotStarted(f"the gateway didn't start; the settings of this environment are its own. It said:\n{_said(log)}")


def _said(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-_MAX_SAID_CHARS:]

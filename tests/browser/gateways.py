"""A gateway as its users start it: the command line, in a process of its own, on a free port."""

import asyncio
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.settings import child_environment

SOURCES: Final = Path(__file__).parents[2] / "src"
START_S: Final = 30.0
END_S: Final = 30.0
_URL: Final = re.compile(r"http://[0-9.]+:[0-9]+")


@asynccontextmanager
async def running_gateway(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[str]:
    """Run `subak` with these arguments until left; give its base URL. What it keeps goes into `folder`.

    SIGTERM must end it with exit code 0, at once: answers that are still under way are not waited for.
    """
    settings = {"SUBAK_STATE_DIR": str(folder), "SUBAK_STREAM__DRAIN_S": "0", "SUBAK_ADMIN__PORT": "0"}
    settings["PYTHONPATH"] = str(SOURCES)
    command = (sys.executable, "-m", "subak", *arguments, "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *command,
        env=child_environment(**settings | environment),
        cwd=folder,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    try:
        yield await _url_of(process)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(END_S):
            _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def _url_of(process: Process) -> str:
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(START_S):
        while line := await process.stderr.readline():
            said += line.decode()
            if (found := _URL.search(said)) is not None:
                return found[0]
    raise AssertionError(f"subak ended before it said where it listens:\n{said}")

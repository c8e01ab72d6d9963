"""A network of its own for one client: a namespace, joined to ours by a cable that can be pulled.

What a pulled cable does can't be played on the loopback: its kernel acknowledges everything. Where the machine doesn't
let us make namespaces, tests that want one are skipped and say so.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from tests.integration.clients import program, run

_IP: Final = "ip"


@dataclass
class Cable:
    """A namespace and the cable to it. `here` and `there` are the addresses of its ends."""

    namespace: str
    here: str
    there: str
    _device: str

    async def pull(self) -> None:
        """Cut the line so that neither side is told."""
        await _ip("-n", self.namespace, "link", "set", self._device, "down")

    @asynccontextmanager
    async def curl(self, url: str) -> AsyncIterator[asyncio.StreamReader]:
        """Follow a URL from the namespace, by a curl that is killed at the end; give what it prints."""
        command = (program(_IP), "netns", "exec", self.namespace, program("curl"), "--silent", "--no-buffer", url)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def cable() -> AsyncIterator[Cable]:
    """Lay one; skip the test where that isn't possible."""
    number = os.getpid() % 60_000
    name, here_device, there_device = f"subak{number}", f"sbk{number}h", f"sbk{number}t"
    here, there = _addresses(number)
    async with AsyncExitStack() as stack:
        await _ip_or_skip("netns", "add", name)
        stack.push_async_callback(_ip, "netns", "del", name)  # its end of the cable goes with it, and so the other
        await _ip_or_skip("link", "add", here_device, "type", "veth", "peer", "name", there_device, "netns", name)
        await _ip("addr", "add", f"{here}/30", "dev", here_device)
        await _ip("link", "set", here_device, "up")
        await _ip("-n", name, "addr", "add", f"{there}/30", "dev", there_device)
        await _ip("-n", name, "link", "set", there_device, "up")
        yield Cable(name, here, there, there_device)


def _addresses(number: int) -> tuple[str, str]:
    """Give the two addresses of a network of 198.18.0.0/15, which is kept for such tests (RFC 2544)."""
    base = number % 16_384 * 4
    return f"198.18.{base // 256}.{base % 256 + 1}", f"198.18.{base // 256}.{base % 256 + 2}"


async def _ip(*arguments: str) -> None:
    ended = await run(program(_IP), *arguments)
    assert ended.code == 0, ended.err


async def _ip_or_skip(*arguments: str) -> None:
    ended = await run(program(_IP), *arguments)
    if ended.code != 0:
        pytest.skip(f"no network namespaces here: {ended.err.strip()}")

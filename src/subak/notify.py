"""What systemd is told of this process, as `Type=notify` asks: one datagram a state.

Protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html. Nothing is told where nobody asks,
that is without `NOTIFY_SOCKET`, and nothing is ever answered.
"""

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
"""Environment variable that names the socket: a path, or `@` and a name of Linux' abstract namespace."""

PATIENCE_S: Final = 1.0
"""How long a full queue of the socket is waited for."""


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Who started this process and wants to know how it is. `address` is empty where nobody does."""

    address: str = ""

    async def ready(self) -> None:
        """Tell that the gateway listens, or that a reload has ended. Raises: OSError."""
        await self._tell("READY=1")

    async def reloading(self) -> None:
        """Tell that settings are being read again; `ready` must follow. Raises: OSError."""
        await self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}")

    async def stopping(self) -> None:
        """Tell that the drain has begun. Raises: OSError."""
        await self._tell("STOPPING=1")

    async def _tell(self, state: str) -> None:
        if not self.address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.connect(_socket_name(self.address))
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_sendall(line, state.encode())


def _socket_name(address: str) -> str:
    """Give the name as the kernel knows it: an abstract one begins with a zero byte (unix(7))."""
    return f"\0{address[1:]}" if address.startswith("@") else address

"""How everything here waits: for a condition, looked at after each change, and not for ever."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 20.0
"""How long waits here last before they raise `TimeoutError`, in real seconds.

Much longer than a busy machine stands still, and shorter than the 30 s after which a gateway gives up a reader.
"""


class Changes:
    """Tells those who wait for a condition when to look again."""

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def until(self, is_met: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Return once a condition holds.

        Raises:
            TimeoutError: it didn't within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            while not is_met():
                self._changed.clear()
                await self._changed.wait()

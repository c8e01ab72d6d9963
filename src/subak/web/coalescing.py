"""Coalescing: a busy event loop takes what has arrived together, instead of waking for each token.

To wake up is most of what a token costs: the way through the kernel and back, and code and data that others have pushed
out of the caches meanwhile. So a busy loop rests until `window_s` has passed since it last looked, and then relays in
one go what came in between. A loop with little to do never rests, one with too much doesn't either, and what a client
sends is dealt with at once. Network cards do the same with their interrupts (docs/adr/0007).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

BUSY_SHARE: Final = 0.20
"""Of a core, used by the loop's thread: from here on coalescing pays."""
CALM_SHARE: Final = 0.08
"""Below it, it doesn't. A loop needs about half as much while it coalesces, and some 0.03 for resting itself."""
HASTE_S: Final = 0.002
"""How long nothing rests after a client has sent something: a question takes several rounds of the loop."""


class Coalescer:
    """Lets the running loop rest while it is busy. `look` is called every now and then, `hurry` for what is urgent."""

    __slots__ = (
        "_cpu_s",
        "_hasty_until",
        "_is_scheduled",
        "_looked_at",
        "_loop",
        "_now",
        "_rest",
        "_rested_at",
        "_used_s",
        "is_active",
        "window_s",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        window_s: float,
        *,
        now: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.thread_time,
        rest: Callable[[float], None] = time.sleep,  # noqa: TID251 — to stop every stream for a moment is what it is for
    ) -> None:
        """`window_s`: how long a token may wait for others at most; 0 for never.

        `now` gives seconds, finer than the loop's own clock; `cpu_s` the CPU seconds of the calling thread, which is
        the loop's; `rest` blocks it for some seconds.
        """
        self.window_s = window_s
        self.is_active = False
        self._loop = loop
        self._now = now
        self._cpu_s = cpu_s
        self._rest = rest
        self._is_scheduled = False
        self._looked_at = now()
        self._used_s = cpu_s()
        self._rested_at = 0.0
        self._hasty_until = 0.0

    def look(self) -> None:
        """Judge by what the thread has used since the last look whether the loop is busy."""
        now, used_s = self._now(), self._cpu_s()
        wanted_share = CALM_SHARE if self.is_active else BUSY_SHARE
        is_busy = used_s - self._used_s >= wanted_share * (now - self._looked_at)
        self._looked_at, self._used_s = now, used_s
        self.is_active = is_busy and self.window_s > 0
        if self.is_active and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._round)

    def hurry(self) -> None:
        """Let nothing rest for a moment."""
        self._hasty_until = self._now() + HASTE_S

    def _round(self) -> None:
        """Rest for what is left of the window. Runs once a round of the loop, before it looks at its sockets."""
        self._is_scheduled = self.is_active
        if not self.is_active:
            return
        now = self._now()
        if now < self._hasty_until:
            self._loop.call_later(self._hasty_until - now, self._round)
            return
        due_at = self._rested_at + self.window_s
        if due_at > now:
            self._rest(due_at - now)
        self._rested_at = max(now, due_at)
        self._loop.call_soon(self._round)

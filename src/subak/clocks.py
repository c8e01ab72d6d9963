"""The system's clocks, for everything below that is handed one."""

import time


class SystemClock:
    """The `core.clock.Clock` of a running process."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def time_ms() -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

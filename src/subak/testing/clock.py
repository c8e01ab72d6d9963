"""Time that a test moves."""

from typing import Final

from subak.core.deadlines import Deadlines

_TICK_S: Final = 1.0


class FakeClock:
    """A clock that stands still until it is moved (`subak.core.clock.Clock`)."""

    __slots__ = ("_deadlines", "_monotonic", "_time_ms")

    def __init__(self, deadlines: Deadlines | None = None, *, time_ms: int = 1_795_359_600_000) -> None:
        """`deadlines` are run as the clock moves, as the application's ticker would."""
        self._deadlines = deadlines
        self._monotonic = 1000.0
        self._time_ms = float(time_ms)

    def monotonic(self) -> float:
        """Give the seconds since an arbitrary start."""
        return self._monotonic

    def time_ms(self) -> int:
        """Give the milliseconds since the epoch."""
        return int(self._time_ms)

    def advance(self, seconds: float) -> None:
        """Let time pass, in ticks of at most a second."""
        while seconds > 0:
            tick = min(seconds, _TICK_S)
            seconds -= tick
            self._monotonic += tick
            self._time_ms += tick * 1000
            if self._deadlines is not None:
                self._deadlines.run(self._monotonic)

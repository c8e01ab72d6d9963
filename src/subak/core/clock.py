"""The two clocks everything else is handed. Core itself reads neither."""

from typing import Protocol


class Clock(Protocol):
    """Time as the shell sees it; `subak.testing.FakeClock` stands in for it in tests."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back: for deadlines and durations."""

    def time_ms(self) -> int:
        """Milliseconds since the epoch: for time stamps only."""

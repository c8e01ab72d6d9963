"""When the process looks for garbage that refers to itself.

What a question leaves is freed by counting references, at once (`tests/integration/test_garbage.py`): there is next to
nothing to look for. Python looks all the same, through everything it knows whenever that has grown by a quarter, and
with some thousand streams open that stops all of them for a tenth of a second. Here what is as old as the process is
never looked through again, what is new once, and everything only so seldom that it doesn't count.
"""

import gc
from typing import Final

from subak.core.clock import Clock

_YOUNG: Final = 700
"""So many objects more than before, and those are looked through: some tenths of a millisecond."""
_NEVER: Final = 1_000_000_000
PERIOD_S: Final = 60.0
SHARE: Final = 1000
"""One part in so many of the time at most is spent on looking through everything."""


class GarbageCollection:
    """Looks through everything from time to time (`core.deadlines.Watched`)."""

    def __init__(self, clock: Clock) -> None:
        """Take over from Python's own schedule, for this process. What is alive now is taken to be so for good."""
        self._clock = clock
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, _NEVER, _NEVER)

    def on_deadline(self, now: float) -> float:
        """Look, and give when to look again."""
        gc.collect()
        return now + max(PERIOD_S, SHARE * (self._clock.monotonic() - now))

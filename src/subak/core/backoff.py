"""How long to wait before trying again. Randomness is passed in as a number in [0, 1)."""

from typing import Final

_DOUBLINGS: Final = 62
"""More would outgrow any bound, and in the end a float."""


def jittered_retry_ms(low_ms: int, high_ms: int, chance: float) -> int:
    """Give a `retry:` between the bounds, so that readers that were cut together don't come back together."""
    return low_ms + int((high_ms - low_ms + 1) * chance)


def full_jitter_s(attempt: int, chance: float, *, first_s: float, longest_s: float) -> float:
    """Give a wait before coming back: up to `first_s`, twice that, … `longest_s`. `attempt` counts from 0."""
    return chance * min(longest_s, first_s * 2.0 ** min(attempt, _DOUBLINGS))

"""How long to wait before trying again. Randomness is passed in as a number in [0, 1)."""


def jittered_retry_ms(low_ms: int, high_ms: int, chance: float) -> int:
    """Give a `retry:` between the bounds, so that readers that were cut together don't come back together."""
    return low_ms + int((high_ms - low_ms + 1) * chance)

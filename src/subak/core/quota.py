"""How many requests fit into a window, exactly: the sliding-window log. Decisions only; `now_us` is passed in.

A request admitted at `t` counts in [t, t + window). So no window of that length ever holds more than the limit,
wherever it begins (a bucket or a fixed window lets nearly twice as many pass across an edge), and nobody is refused
while fewer were admitted.

Times are whole microseconds of one clock that never goes back. Integers make the edge exact: who waits as long as it
was told is admitted, which sums of floats do not promise. It is also the unit in which Redis tells its own time.
"""

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

US_PER_S: Final = 1_000_000

Stamps: TypeAlias = "array[int]"
"""When the requests of one partition key were admitted, oldest first; `new_stamps()` makes one."""

CONCURRENCY_RETRY_US: Final = 5 * US_PER_S
"""What is told to wait for a free stream: a hint, for nobody knows when one ends."""


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """At most `limit` (≥ 1) requests in any `window_s` seconds."""

    name: str
    limit: int
    window_s: float
    window_us: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_us", round(self.window_s * US_PER_S))


class ConcurrencyPolicy(msgspec.Struct, frozen=True):
    """At most `limit` (≥ 1) streams at the same time.

    `is_shared`: all callers together, so that a refusal is no fault of the one who hears it.
    """

    name: str
    limit: int
    is_shared: bool = False


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What one policy says of one partition key.

    `remaining`: how many more are admitted now. `wait_us`: until the next one is; 0 when it would be now.
    """

    policy: QuotaPolicy | ConcurrencyPolicy
    remaining: int
    wait_us: int

    @property
    def has_room(self) -> bool:
        """Whether one more would be admitted now."""
        return self.wait_us == 0

    @property
    def retry_after_s(self) -> int:
        """Whole seconds to wait, rounded up, at least 1."""
        return max(1, -(-self.wait_us // US_PER_S))


def new_stamps() -> Stamps:
    """Give the log of a key that has asked nothing: 8 bytes a request."""
    return array("q")


def standing(policy: QuotaPolicy, stamps: Stamps, now_us: int) -> Verdict:
    """Tell how `stamps` stand at `now_us`. O(log n)."""
    used = len(stamps) - bisect_right(stamps, now_us - policy.window_us)
    if used < policy.limit:
        return Verdict(policy, policy.limit - used, 0)
    return Verdict(policy, 0, stamps[-policy.limit] + policy.window_us - now_us)


def count(policy: QuotaPolicy, stamps: Stamps, now_us: int) -> Verdict:
    """Add a request that was admitted at `now_us`, and tell how `stamps` stand then. O(log n), amortised.

    Stamps that ran out are cut off once they are the half, so that no call moves what an earlier one has moved: there
    are never more than twice the limit.
    """
    expired = bisect_right(stamps, now_us - policy.window_us)
    if expired * 2 >= len(stamps):
        del stamps[:expired]
    stamps.append(now_us)
    return standing(policy, stamps, now_us)


def concurrency_standing(policy: ConcurrencyPolicy, held: int) -> Verdict:
    """Tell how a key stands that holds `held` streams."""
    if held < policy.limit:
        return Verdict(policy, policy.limit - held, 0)
    return Verdict(policy, 0, CONCURRENCY_RETRY_US)

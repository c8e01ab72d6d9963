"""The port of the limits: what is asked of a store that counts, in this process or outside it.

One request is charged to all its policies in one call, all or nothing, so that a store outside the process needs one
round trip and one script, with its own clock: times go over this border as durations only.

Streams hold *leases*. What is kept alive is the process, not each lease: a store outside forgets the leases of a
process that has not renewed for 30 s, so a SIGKILL blocks nobody for longer, and renewing costs the same for one
stream as for 50 000. In this process' memory leases die with it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from subak.core.quota import ConcurrencyPolicy, QuotaPolicy, Verdict


class Charge(NamedTuple):
    """One request on the account of `key`, the partition key."""

    policy: QuotaPolicy
    key: str


class Slot(NamedTuple):
    """One stream on the account of `key`, for as long as it lasts."""

    policy: ConcurrencyPolicy
    key: str


class Charges(msgspec.Struct, frozen=True):
    """Everything one request costs; each (policy, key) at most once. The first request policy is the one shown."""

    requests: tuple[Charge, ...] = ()
    slots: tuple[Slot, ...] = ()


class Lease(msgspec.Struct, frozen=True):
    """The slots of one stream, to be given back."""

    number: int


class Decision(msgspec.Struct, frozen=True):
    """What a request is told.

    `verdicts`: how each policy stands after the decision, in the order of the charges. `refusal`: None, or the policy
    in the way, of several the one with the longest wait: after it none of them stands in the way by what is known
    now. `lease`: there if slots were taken.
    """

    verdicts: tuple[Verdict, ...] = ()
    refusal: Verdict | None = None
    lease: Lease | None = None

    @property
    def is_admitted(self) -> bool:
        """Whether the request may go on."""
        return self.refusal is None


class Figures(msgspec.Struct, frozen=True):
    """What a limiter counts, by name of the policy.

    `keys`: partition keys it keeps count of. `denials`: requests that `take` refused; a look counts nothing.
    `overflows`: those refused because there was no room for another key. `leases`: streams that hold one.
    """

    keys: Mapping[str, int]
    denials: Mapping[str, int]
    overflows: Mapping[str, int]
    leases: int


class Limiter(Protocol):
    """Counts requests and streams. Never raises: an adapter whose store can't be reached answers by itself.

    `take` and `peek` are coroutines although memory has nothing to wait for: a store outside has. In memory they
    finish without a suspension, which costs a tenth of a microsecond and keeps look and leap together.
    """

    async def take(self, charges: Charges) -> Decision:
        """Charge a request to all its policies, or to none if one of them refuses."""

    async def peek(self, charges: Charges) -> Decision:
        """Tell what `take` would decide, and charge nothing: `verdicts` are as things stand."""

    def release(self, lease: Lease) -> None:
        """Give a stream's slots back. Idempotent; never waits, so that it may stand in any `finally`."""

    async def renew(self) -> None:
        """Say that this process lives; called every 10 s."""

    def figures(self) -> Figures:
        """Give what is counted now."""


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Give the verdict with the longest wait, or None when all have room."""
    found: Verdict | None = None
    for verdict in verdicts:
        if verdict.wait_us > (0 if found is None else found.wait_us):
            found = verdict
    return found

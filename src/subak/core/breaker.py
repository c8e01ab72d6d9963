"""When to leave an upstream alone, and how often a question may be asked again. Decisions only; `now` is passed in.

    state      lets through              becomes
    ---------  ------------------------  ----------------------------------------------------------------
    closed     everything                open, after `failures` failures in a row
    open       nothing                   half-open, when its rest is over
    half-open  one question at a time    closed by a first token; open again, for twice as long, by a failure

A first token is what counts as success: a server that accepts and then says nothing is not well (row 22
of docs/reliability.md).
"""

from enum import StrEnum
from typing import Final

import msgspec

_MAX_REST_FACTOR: Final = 8


class BreakerState(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerPolicy(msgspec.Struct, frozen=True):
    """After how many failures in a row it opens, and for how many seconds the first time."""

    failures: int = 5
    rest_s: float = 5.0


class Breaker:
    """Guards one upstream."""

    __slots__ = ("_failures", "_policy", "_probing", "_rest_s", "_rests_until")

    def __init__(self, policy: BreakerPolicy) -> None:
        """Start closed."""
        self._policy = policy
        self._failures = 0
        self._rest_s = policy.rest_s
        self._rests_until: float | None = None
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """Tell where it stands at `now` (monotonic seconds)."""
        if self._rests_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._rests_until else BreakerState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a question may be asked at `now`."""
        match self.state(now):
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                return not self._probing

    def wait_s(self, now: float) -> float:
        """Give how long until it may let something through again; 0 when it may now."""
        return 0.0 if self._rests_until is None else max(0.0, self._rests_until - now)

    def asked(self, now: float) -> None:
        """A question is on its way."""
        if self.state(now) is BreakerState.HALF_OPEN:
            self._probing = True

    def succeeded(self) -> None:
        """A first token has come: all is well."""
        self._failures = 0
        self._probing = False
        self._rests_until = None
        self._rest_s = self._policy.rest_s

    def failed(self, now: float) -> None:
        """A question failed in a way that speaks against the upstream."""
        was_half_open = self.state(now) is BreakerState.HALF_OPEN
        self._failures += 1
        self._probing = False
        if was_half_open:
            self._rest_s = min(self._rest_s * 2, self._policy.rest_s * _MAX_REST_FACTOR)
        if was_half_open or self._failures >= self._policy.failures:
            self._rests_until = now + self._rest_s

    def gave_up(self) -> None:
        """A question was ended by our side before it told anything: the next one may probe."""
        self._probing = False


class RetryBudget:
    """Lets retries be at most a share of all questions, after a small stock to begin with: no retry storm."""

    __slots__ = ("_credit", "_max_credit", "_share")

    def __init__(self, share: float = 0.1, max_credit: float = 10.0) -> None:
        """`share` of the questions may be asked again; at most `max_credit` retries are saved up."""
        self._share = share
        self._max_credit = max_credit
        self._credit = 1.0

    def asked(self) -> None:
        """A question was asked for the first time."""
        self._credit = min(self._max_credit, self._credit + self._share)

    def take(self) -> bool:
        """Spend one retry, if there is one."""
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

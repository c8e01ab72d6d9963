"""The limits counted in this process' memory: exact, bounded, gone with the process.

Each policy has a table of partition keys in the order of their newest request. A key is *idle* when all its requests
have left the window: forgetting it changes nothing, and the first in order is idle before any other. So the table
makes room in O(1), and only at the cost of idle keys. When it is full of others, a new key is refused until the first
of them is idle: whoever could push a limited key out of the memory would have no limit at all.
"""

from collections import Counter, OrderedDict
from itertools import count as numbers
from typing import Final

from subak.admission.limiter import Charges, Decision, Figures, Lease, Slot, worst
from subak.core.clock import Clock
from subak.core.quota import (
    US_PER_S,
    QuotaPolicy,
    Stamps,
    Verdict,
    concurrency_standing,
    count,
    new_stamps,
    standing,
)

SWEEP_EVERY_S: Final = 1.0
_SWEPT_AT_ONCE: Final = 1_000
_FORGOTTEN_PER_REQUEST: Final = 2


class _Table:
    """The requests of one policy, by partition key."""

    __slots__ = ("_logs", "_max_keys", "_window_us")

    def __init__(self, max_keys: int) -> None:
        self._logs: OrderedDict[str, Stamps] = OrderedDict()
        self._max_keys = max_keys
        self._window_us = 0

    def __len__(self) -> int:
        """Count the keys."""
        return len(self._logs)

    def __contains__(self, key: str) -> bool:
        """Whether `key` is counted."""
        return key in self._logs

    def standing(self, policy: QuotaPolicy, key: str, now_us: int) -> Verdict:
        """Tell how `key` stands; a new one has no room while the table is full of keys that aren't idle."""
        stamps = self._logs.get(key)
        if stamps is not None:
            return standing(policy, stamps, now_us)
        if len(self._logs) < self._max_keys:
            return Verdict(policy, policy.limit, 0)
        wait_us = self._next_idle_us(policy.window_us) - now_us
        return Verdict(policy, policy.limit, 0) if wait_us <= 0 else Verdict(policy, 0, wait_us)

    def count(self, policy: QuotaPolicy, key: str, now_us: int) -> Verdict:
        """Add a request of `key`, which `standing` has found room for, and tell how it stands then."""
        self._window_us = policy.window_us
        self.forget_idle(now_us, _FORGOTTEN_PER_REQUEST)
        stamps = self._logs.get(key)
        if stamps is None:
            stamps = self._logs[key] = new_stamps()
        else:
            self._logs.move_to_end(key)
        return count(policy, stamps, now_us)

    def forget_idle(self, now_us: int, at_most: int) -> None:
        """Let go of up to `at_most` idle keys."""
        for _ in range(at_most):
            if not self._logs or self._next_idle_us(self._window_us) > now_us:
                return
            self._logs.popitem(last=False)

    def _next_idle_us(self, window_us: int) -> int:
        return next(iter(self._logs.values()))[-1] + window_us


class MemoryLimiter:
    """The `Limiter` of one process. Work per call is bounded: by the charges, not by the keys.

    Idle keys are let go of by the calls themselves, and by `on_deadline` when no calls come
    (`subak.core.deadlines.Watched`).
    """

    def __init__(self, clock: Clock, *, max_keys: int) -> None:
        """`max_keys` bounds the partition keys of each policy by itself, so that a flood of one starves no other."""
        self._clock = clock
        self._max_keys = max_keys
        self._tables: dict[str, _Table] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._leases: dict[int, tuple[Slot, ...]] = {}
        self._numbers = numbers(1)
        self._denials: Counter[str] = Counter()
        self._overflows: Counter[str] = Counter()

    async def take(self, charges: Charges) -> Decision:
        """Charge a request to all its policies, or to none. Nothing is awaited between look and leap."""
        now_us = self._now_us()
        decision = self._judge(charges, now_us)
        if decision.refusal is not None:
            self._note(decision.refusal, charges)
            return decision
        lease = self._lease(charges.slots) if charges.slots else None
        verdicts = [self._tables[policy.name].count(policy, key, now_us) for policy, key in charges.requests]
        return Decision((*verdicts, *self._slots_standing(charges.slots)), None, lease)

    async def peek(self, charges: Charges) -> Decision:
        """Tell what `take` would decide."""
        return self._judge(charges, self._now_us())

    def release(self, lease: Lease) -> None:
        """Give a stream's slots back. Idempotent."""
        for slot in self._leases.pop(lease.number, ()):
            account = slot.policy.name, slot.key
            self._held[account] -= 1
            if not self._held[account]:
                del self._held[account]

    async def renew(self) -> None:
        """Nothing is kept outside the process that could take it for dead."""

    def figures(self) -> Figures:
        """Give what is counted now."""
        return Figures(
            keys={name: len(table) for name, table in self._tables.items()},
            denials=dict(self._denials),
            overflows=dict(self._overflows),
            leases=len(self._leases),
        )

    def on_deadline(self, now: float) -> float:
        """Let go of idle keys, some at a time; give the time of the next look."""
        for table in self._tables.values():
            table.forget_idle(round(now * US_PER_S), _SWEPT_AT_ONCE)
        return now + SWEEP_EVERY_S

    def _now_us(self) -> int:
        return round(self._clock.monotonic() * US_PER_S)

    def _table(self, policy: QuotaPolicy) -> _Table:
        table = self._tables.get(policy.name)
        if table is None:
            table = self._tables[policy.name] = _Table(self._max_keys)
        return table

    def _judge(self, charges: Charges, now_us: int) -> Decision:
        verdicts = [self._table(policy).standing(policy, key, now_us) for policy, key in charges.requests]
        verdicts += self._slots_standing(charges.slots)
        return Decision(tuple(verdicts), worst(verdicts))

    def _note(self, refusal: Verdict, charges: Charges) -> None:
        name = refusal.policy.name
        self._denials[name] += 1
        if any(policy.name == name and key not in self._tables[name] for policy, key in charges.requests):
            self._overflows[name] += 1

    def _slots_standing(self, slots: tuple[Slot, ...]) -> list[Verdict]:
        return [concurrency_standing(policy, self._held.get((policy.name, key), 0)) for policy, key in slots]

    def _lease(self, slots: tuple[Slot, ...]) -> Lease:
        for slot in slots:
            self._held[slot.policy.name, slot.key] += 1
        number = next(self._numbers)
        self._leases[number] = slots
        return Lease(number)

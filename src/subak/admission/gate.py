"""The gate: the one door in front of the stream routes. Flag, authentication, rollout, quota; the first refusal wins.

    asked of                 flag   who is it   rollout   quota
    -----------------------  -----  ----------  --------  ----------------------------
    a new question           yes    yes         yes       chat, streams
    a cursor, a known key    no     yes         no        resume
    look, stop, features     no     yes         no        none

A stream that was admitted stays so: its arm and its place are its own until it ends, whatever becomes of flag and
rollout. `/chat` doesn't pass here (docs/PROTOCOL.md §2).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from subak.admission.auth import Authenticator, Credentials
from subak.admission.flags import Flags
from subak.admission.limit_headers import limit_headers
from subak.admission.limiter import Decision, Lease, Limiter
from subak.admission.partition import Partition
from subak.core.clock import Clock
from subak.core.errors import FlagDisabled, RateLimited, TooManyStreams, Unauthenticated
from subak.core.principal import Caller
from subak.core.quota import ConcurrencyPolicy
from subak.core.rollout import STREAMING


class Admitted(NamedTuple):
    """A question may be asked, in this arm of the rollout.

    `headers`: how the caller's quota stands, for the answer. `release` gives the stream's place back, at its end.
    """

    arm: str
    headers: Mapping[str, str]
    release: Callable[[], None]


class _Release:
    """Gives a place back. As a `partial` it would take 0.25 KB of each open stream, so it takes 0.05."""

    __slots__ = ("_lease", "_limiter")

    def __init__(self, limiter: Limiter, lease: Lease) -> None:
        self._limiter = limiter
        self._lease = lease

    def __call__(self) -> None:
        self._limiter.release(self._lease)


class Gate:
    """Decides who may do what. Everything it needs to know about a request is passed in."""

    __slots__ = ("_authenticator", "_clock", "_flags", "_ietf", "_limiter", "_partition")

    def __init__(
        self,
        *,
        flags: Flags,
        authenticator: Authenticator,
        partition: Partition,
        limiter: Limiter,
        clock: Clock,
        ietf_headers: bool,
    ) -> None:
        """`partition` says on whose account a request goes, `limiter` counts there."""
        self._clock = clock
        self._ietf = ietf_headers
        self._flags = flags
        self._authenticator = authenticator
        self._limiter = limiter
        self._partition = partition

    def check_flag(self) -> None:
        """Let nobody through while streaming is off for all.

        Raises:
            FlagDisabled: it is.
        """
        if self._flags.is_off_for_all(STREAMING):
            raise FlagDisabled(STREAMING)

    async def identify(self, credentials: Credentials, address: str) -> Caller:
        """Give who calls from `address`.

        After many refused credentials from one address only those that are known to hold are looked at.

        Raises:
            Unauthenticated: the credentials don't hold.
            RateLimited: there were too many such from there.
        """
        if credentials.is_empty:
            return Caller(await self._authenticator.authenticate(credentials), address)
        charges = self._partition.refused_credentials(address)
        if not self._authenticator.recognises(credentials):
            self._insist(await self._limiter.peek(charges))
        try:
            principal = await self._authenticator.authenticate(credentials)
        except Unauthenticated:
            self._insist(await self._limiter.take(charges))
            raise
        return Caller(principal, address)

    async def admit(self, caller: Caller) -> Admitted:
        """Let a question through.

        Raises:
            FlagDisabled: streaming is off for this caller.
            RateLimited, TooManyStreams: a quota is used up, or the process is full.
        """
        flag = self._flags.decide(caller)
        if not flag.is_on:
            raise FlagDisabled(STREAMING, reason=flag.reason)
        decision = self._insist(await self._limiter.take(self._partition.ask(caller)))
        release = _nothing if decision.lease is None else _Release(self._limiter, decision.lease)
        return Admitted(flag.arm, self._headers(decision), release)

    async def admit_resume(self, caller: Caller) -> Mapping[str, str]:
        """Let a reader attach to what exists; give how its quota stands, as headers.

        Raises:
            RateLimited: it did so too often.
        """
        return self._headers(self._insist(await self._limiter.take(self._partition.resume(caller))))

    async def admit_passed_chat(self, caller: Caller) -> None:
        """Let a request through to `/chat`, where a limit of ours is set.

        Raises:
            RateLimited: it is used up.
        """
        self._insist(await self._limiter.take(self._partition.passed_chat(caller)))

    async def standing(self, caller: Caller) -> Mapping[str, str]:
        """Give how a caller's quota for questions stands, as headers; nothing is charged."""
        return self._headers(await self._limiter.peek(self._partition.ask(caller)))

    def may_stream(self, caller: Caller) -> bool:
        """Whether flag and rollout would let this caller ask."""
        return self._flags.decide(caller).is_on

    def _insist(self, decision: Decision) -> Decision:
        refusal = decision.refusal
        if refusal is None:
            return decision
        policy = refusal.policy
        if isinstance(policy, ConcurrencyPolicy) and policy.is_shared:
            raise TooManyStreams("This server is full. Please try again.", retry_after_s=refusal.retry_after_s)
        raise RateLimited(policy.name, refusal.retry_after_s, self._headers(decision))

    def _headers(self, decision: Decision) -> dict[str, str]:
        return limit_headers(decision, self._clock.time_ms(), ietf=self._ietf)


def _nothing() -> None:
    """There is no place to give back."""

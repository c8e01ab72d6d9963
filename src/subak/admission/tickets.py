"""Stream tickets: how a native EventSource, which can send no header, proves who asks.

    POST /v1/tickets, with credentials             issue(principal): a text for `?ticket=`, good for a first use
    GET  …/chat-stream?ticket=…&query=…            redeem(ticket, None), then bind(ticket, the new stream's id)
    GET  …/v1/streams/{id}/events?ticket=…         redeem(ticket, id's cursor or None), then bind(ticket, id)
    the same URL again, with `Last-Event-ID`       redeem(ticket, the cursor's stream id): that stream, and no other

    unused ──redeem──▶ in use ──bind──▶ bound ──── any number of redeems with its own stream's cursor
      │ first_use_s      │ first_use_s    │ bound_s
      ▼                  ▼                ▼
    unknown            unknown          unknown

URLs are written down on the way, so a ticket must be worth little to whoever finds one: after its first use it opens
nothing but a stream whose id one has to know as well. It stands for the principal that it was issued to, and no longer
than that principal's own credential. A browser brings it, so one that was issued with an internal key stands for the
user that the key spoke for, and has none of the key's rights. No ticket is got by a ticket. A first use that failed (a
refused question) leaves it used: get another one.

Kept in this process, as keyed digests; bounded; what is over is forgotten when the next ticket comes or goes.
"""

import secrets
from collections import Counter
from collections.abc import MutableMapping
from typing import Final, NamedTuple

import msgspec

from subak.admission.reasons import Reason
from subak.core.clock import Clock
from subak.core.digests import keyed_digest
from subak.core.errors import Forbidden, RateLimited, TicketsUsedUp, Unauthenticated
from subak.core.principal import Principal

POLICY: Final = "tickets_kept"
"""The quota's name: tickets of one caller that are open."""
PREFIX: Final = "tk_"
_RANDOM_BYTES: Final = 24
_MAX_CHARS: Final = 64


class TicketRules(msgspec.Struct, frozen=True):
    """`first_use_s`: how soon a first use must come. `bound_s`: how long a stream can be read at most, from then on.

    `max_tickets` of all callers are kept, `max_per_caller` of one.
    """

    first_use_s: float
    bound_s: float
    max_tickets: int
    max_per_caller: int
    leeway_s: float = 30.0


class Issued(NamedTuple):
    """A new ticket, and the whole seconds within which its first use must come."""

    ticket: str
    expires_in_s: int


class Redeemed(NamedTuple):
    """Whom a ticket stands for, and its stream: None at the first use, which is to be followed by `bind`."""

    principal: Principal
    stream_id: str | None


class _Unused(NamedTuple):
    principal: Principal
    expires_at: float
    is_in_use: bool


class _Bound(NamedTuple):
    principal: Principal
    expires_at: float
    stream_id: str


class Tickets:
    """The tickets of one process. Each call costs some 5 µs."""

    __slots__ = ("_bound", "_clock", "_held", "_rules", "_secret", "_unused")

    def __init__(self, rules: TicketRules, *, clock: Clock, secret: bytes) -> None:
        """`secret` keys the digests: a memory dump holds no ticket."""
        self._rules = rules
        self._clock = clock
        self._secret = secret
        self._unused: dict[bytes, _Unused] = {}  # both in the order in which they expire
        self._bound: dict[bytes, _Bound] = {}
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._unused) + len(self._bound)

    def issue(self, principal: Principal) -> Issued:
        """Make a ticket.

        Raises:
            Unauthenticated: the caller is anonymous: there is nobody whom it could stand for.
            Forbidden: an internal key that speaks for nobody.
            RateLimited: the caller has as many as one may have.
            TicketsUsedUp: there are as many as may be.
        """
        if principal.is_anonymous:
            raise Unauthenticated(Reason.MISSING_CREDENTIALS)
        if principal.is_internal and not principal.claims.id:
            raise Forbidden("An internal key gets tickets for users: name one in x-user-id.")
        holder = msgspec.structs.replace(principal, is_internal=False)
        now = self._sweep()
        first_use_s = self._rules.first_use_s
        retry_after_s = max(1, int(first_use_s))
        if self._held[holder.id] >= self._rules.max_per_caller:
            raise RateLimited(POLICY, retry_after_s, {})
        if len(self) >= self._rules.max_tickets:
            raise TicketsUsedUp("Too many tickets are open. Try again later.", retry_after_s=retry_after_s)
        ticket = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        self._unused[self._digest(ticket)] = _Unused(holder, now + first_use_s, is_in_use=False)
        self._held[holder.id] += 1
        return Issued(ticket, int(first_use_s))

    def redeem(self, ticket: str, cursor_stream_id: str | None) -> Redeemed:
        """Give whom this ticket stands for. `cursor_stream_id`: the stream of the request's cursor, None without one.

        Raises:
            Unauthenticated: unknown or over, in use, or of another stream than the cursor's.
        """
        now = self._sweep()
        digest = self._digest(ticket)
        if (bound := self._bound.get(digest)) is not None:
            if bound.stream_id != cursor_stream_id:
                raise Unauthenticated(Reason.TICKET_OF_ANOTHER_STREAM)
            return Redeemed(self._still_valid(bound.principal), bound.stream_id)
        unused = self._unused.get(digest)
        if unused is None:
            raise Unauthenticated(Reason.TICKET_UNKNOWN)
        if unused.is_in_use:
            raise Unauthenticated(Reason.TICKET_IN_USE)
        del self._unused[digest]
        self._unused[digest] = _Unused(unused.principal, now + self._rules.first_use_s, is_in_use=True)
        return Redeemed(self._still_valid(unused.principal), None)

    def bind(self, ticket: str, stream_id: str) -> None:
        """Tie a ticket, redeemed for the first time, to the stream that it was used for. Another one stays as it is."""
        digest = self._digest(ticket)
        unused = self._unused.get(digest)
        if unused is not None and unused.is_in_use:
            del self._unused[digest]
            expires_at = self._clock.monotonic() + self._rules.bound_s
            self._bound[digest] = _Bound(unused.principal, expires_at, stream_id)

    def _still_valid(self, principal: Principal) -> Principal:
        expires_at = principal.expires_at
        if expires_at is not None and expires_at + self._rules.leeway_s <= self._clock.time_ms() / 1000:
            raise Unauthenticated(Reason.TOKEN_EXPIRED)
        return principal

    def _digest(self, ticket: str) -> bytes:
        return keyed_digest(self._secret, "ticket", ticket[:_MAX_CHARS].encode("utf-8", "replace"))

    def _sweep(self) -> float:
        now = self._clock.monotonic()
        self._drop_expired(self._unused, now)
        self._drop_expired(self._bound, now)
        return now

    def _drop_expired(
        self, tickets: MutableMapping[bytes, _Unused] | MutableMapping[bytes, _Bound], now: float
    ) -> None:
        while tickets:
            oldest = next(iter(tickets))
            if tickets[oldest].expires_at > now:
                return
            holder = tickets.pop(oldest).principal.id
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

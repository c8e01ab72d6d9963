"""On whose account a request goes: from a caller to charges, for each thing one can ask. Pure.

A verified principal has an account of its own, wherever it calls from. An anonymous caller shares that of its address:
an IPv4 address as it is, of IPv6 the /64 that one host draws its addresses from, with a looser policy over the /48
that one owner has (otherwise 65 536 accounts). One of the host's own keys speaks for many people: it counts towards
the streams of the process and nothing else.
"""

from hashlib import blake2b
from socket import AF_INET6, inet_pton
from typing import Final

import msgspec

from subak.admission.limiter import Charge, Charges, Slot
from subak.core.principal import Caller, Principal
from subak.core.quota import ConcurrencyPolicy, QuotaPolicy

NOTHING: Final = Charges()
_MINUTE_S: Final = 60.0
_MAX_KEY_CHARS: Final = 64
_WHOLE_PROCESS: Final = "process"


class QuotaTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The limits, named as in the settings."""

    enabled: bool = True
    chat: int = 20
    chat_window_s: float = 60.0
    chat_network: int = 200
    streams: int = 5
    streams_anonymous: int = 20
    streams_total: int = 50_000
    resume: int = 240
    unauthenticated: int = 30
    passed_chat: int = 0


class Partition:
    """Gives the charges of each request, by the terms."""

    __slots__ = (
        "_chat",
        "_chat_network",
        "_is_enabled",
        "_passed_chat",
        "_resume",
        "_streams",
        "_streams_anonymous",
        "_total",
        "_unauthenticated",
    )

    def __init__(self, terms: QuotaTerms) -> None:
        """`terms.enabled` false and `terms.passed_chat` 0 mean no charges at all."""
        self._is_enabled = terms.enabled
        self._chat = QuotaPolicy("chat", terms.chat, terms.chat_window_s)
        self._chat_network = QuotaPolicy("chat_network", terms.chat_network, terms.chat_window_s)
        self._resume = QuotaPolicy("resume", terms.resume, _MINUTE_S)
        self._unauthenticated = QuotaPolicy("unauthenticated", terms.unauthenticated, _MINUTE_S)
        self._passed_chat = (
            QuotaPolicy("passed_chat", terms.passed_chat, terms.chat_window_s) if terms.passed_chat else None
        )
        self._streams = ConcurrencyPolicy("streams", terms.streams)
        self._streams_anonymous = ConcurrencyPolicy("streams_anonymous", terms.streams_anonymous)
        self._total = Slot(ConcurrencyPolicy("streams_total", terms.streams_total, is_shared=True), _WHOLE_PROCESS)

    def ask(self, caller: Caller) -> Charges:
        """A question that opens a stream."""
        if not self._is_enabled:
            return NOTHING
        if caller.principal.is_internal:
            return Charges(slots=(self._total,))
        if caller.principal.is_anonymous:
            return self._ask_anonymously(caller.address)
        key = principal_key(caller.principal)
        return Charges((Charge(self._chat, key),), (Slot(self._streams, key), self._total))

    def resume(self, caller: Caller) -> Charges:
        """A cursor that attaches to a stream: an account of its own, so that a mass reconnect costs no questions."""
        if not self._is_enabled or caller.principal.is_internal:
            return NOTHING
        return Charges((Charge(self._resume, caller_key(caller)),))

    def refused_credentials(self, address: str) -> Charges:
        """Credentials that don't hold, from `address`: peek before they are looked at, take when they were refused."""
        if not self._is_enabled:
            return NOTHING
        return Charges((Charge(self._unauthenticated, address_key(address)),))

    def passed_chat(self, caller: Caller) -> Charges:
        """A request that is passed through to the backend: no limit of ours, unless one is set."""
        if not self._is_enabled or self._passed_chat is None or caller.principal.is_internal:
            return NOTHING
        return Charges((Charge(self._passed_chat, caller_key(caller)),))

    def _ask_anonymously(self, address: str) -> Charges:
        key = address_key(address)
        requests: tuple[Charge, ...] = (Charge(self._chat, key),)
        network = network_key(address)
        if network is not None:
            requests = (*requests, Charge(self._chat_network, network))
        return Charges(requests, (Slot(self._streams_anonymous, key), self._total))


def caller_key(caller: Caller) -> str:
    """Give the account of a caller: the principal's, or the address' of an anonymous one."""
    principal = caller.principal
    return address_key(caller.address) if principal.is_anonymous else principal_key(principal)


def principal_key(principal: Principal) -> str:
    """Give a verified principal's account: its id, or a digest of a long one, for a key's size bounds the memory."""
    if len(principal.id) <= _MAX_KEY_CHARS:
        return principal.id
    return "id:" + blake2b(principal.id.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def address_key(address: str) -> str:
    """Give the account of an address (as `client_ip` gives it): itself, or the /64 of IPv6; "" is one account too."""
    return f"ip:{inet_pton(AF_INET6, address)[:8].hex()}/64" if ":" in address else f"ip:{address}"


def network_key(address: str) -> str | None:
    """Give the account of an IPv6 address' /48; IPv4 has none."""
    return f"ip:{inet_pton(AF_INET6, address)[:6].hex()}/48" if ":" in address else None

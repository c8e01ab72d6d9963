"""From settings to the gate: flags, authentication, limits, tickets; opened, reloaded and closed together.

What counts or remembers (limits, tickets, flags, API keys) lives as long as the process; what only follows from the
settings is made anew when they change.
"""

from contextlib import AsyncExitStack
from typing import Final

import aiohttp
import msgspec

from subak.admission.api_keys import ApiKeys
from subak.admission.auth import Authenticator, AuthRules
from subak.admission.client_ip import ClientAddresses
from subak.admission.flag_store import FlagStore
from subak.admission.flags import PATIENCE_S, Flags
from subak.admission.gate import Gate
from subak.admission.jwks import Jwks, JwksTerms
from subak.admission.jwt import (
    DEFAULT_PUBLIC_ALGORITHMS,
    DEFAULT_SECRET_ALGORITHMS,
    KeySource,
    SharedSecret,
    TokenRules,
    TokenVerifier,
)
from subak.admission.limiter_memory import MemoryLimiter
from subak.admission.partition import Partition, QuotaTerms
from subak.admission.tickets import TicketRules, Tickets
from subak.answering import Surroundings
from subak.core.facts import Observer
from subak.core.live import KeySourceState
from subak.core.rollout import STREAMING
from subak.relay.crash import crash_site
from subak.settings import Auth, Settings
from subak.web.callers import CallerRules

NEEDS_RESTART: Final = ("limits.max_keys", "auth.max_tickets", "auth.max_tickets_per_caller", "auth.ticket_s")
"""Settings of what remembers."""


class Admitting:
    """Everything that decides who may ask."""

    def __init__(self, settings: Settings, around: Surroundings, observer: Observer, secret: bytes) -> None:
        """Open what has its place in the state directory; `secret` keys the digests of tickets.

        Raises:
            StateError, KeyFileError, FlagsUnusable: the state directory can't be used.
        """
        self._around = around
        self._observer = observer
        self._token_keys: KeySource | None = None
        self._token_stack = AsyncExitStack()
        self._auth = Auth()
        self._judge: Authenticator | None = None
        store = FlagStore.open(settings.state_dir, patience_s=PATIENCE_S)
        self.flags = Flags(
            store,
            permits=_permits(settings),
            file=settings.features.flags_file,
            clock=around.clock,
            observer=observer,
        )
        self.api_keys = ApiKeys(settings.state_dir, observer)
        self.limiter = MemoryLimiter(around.clock, max_keys=settings.limits.max_keys)
        self.tickets = Tickets(_ticket_rules(settings), clock=around.clock, secret=secret)
        now = around.clock.monotonic()
        for watched in (self.flags, self.api_keys, self.limiter):
            around.deadlines.watch(watched, now)

    async def configure(self, settings: Settings) -> tuple[Gate, CallerRules]:
        """Give the gate that these settings describe, and how callers are found."""
        self.flags.configure(_permits(settings), settings.features.flags_file)
        if settings.auth != self._auth:
            await self._open_token_keys(settings.auth)
            self._auth = settings.auth
        self._judge = self._authenticator(settings.auth)
        gate = Gate(
            flags=self.flags,
            authenticator=self._judge,
            partition=Partition(msgspec.convert(settings.limits, QuotaTerms, from_attributes=True)),
            limiter=self.limiter,
            clock=self._around.clock,
            ietf_headers=settings.limits.ietf_headers,
        )
        return gate, CallerRules(ClientAddresses(settings.http.trusted_proxies), settings.auth.cookie)

    def is_internal_key(self, text: str) -> bool:
        """Whether this is one of the host's own keys, as of the last `configure`."""
        return self._judge is not None and self._judge.is_internal_key(text)

    def key_sources(self) -> list[KeySourceState]:
        """Tell how the sources of callers' keys do: the file of API keys, and the issuer's key set if there is one."""
        issuer = [self._token_keys.state] if isinstance(self._token_keys, Jwks) else []
        return [self.api_keys.state, *issuer]

    async def close(self) -> None:
        """Close everything."""
        await self._token_stack.aclose()
        self.flags.close()

    def _authenticator(self, auth: Auth) -> Authenticator:
        tokens = None
        if self._token_keys is not None:
            tokens = TokenVerifier(_token_rules(auth), self._token_keys, self._around.clock)
        return Authenticator(auth_rules(auth), tokens=tokens, api_keys=self.api_keys, clock=self._around.clock)

    async def _open_token_keys(self, auth: Auth) -> None:
        await self._token_stack.aclose()
        self._token_stack = AsyncExitStack()
        if auth.jwt_secret is not None:
            self._token_keys = SharedSecret(auth.jwt_secret.reveal())
        elif auth.jwks_url is not None:
            self._token_keys = await self._open_jwks(auth.jwks_url, _token_rules(auth).algorithms)
        else:
            self._token_keys = None

    async def _open_jwks(self, url: str, algorithms: tuple[str, ...]) -> Jwks:
        """Watch the issuer's keys. One that can't be reached now doesn't hold a start up: it is asked again."""
        without_cookies = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        session = await self._token_stack.enter_async_context(without_cookies)
        around = self._around
        jwks = Jwks(
            JwksTerms(url, algorithms),
            session=session,
            clock=around.clock,
            tasks=around.tasks,
            observer=self._observer,
            site_of=crash_site,
        )
        self._token_stack.push_async_callback(jwks.close)
        await jwks.refresh()
        around.deadlines.watch(jwks, around.clock.monotonic())
        self._token_stack.callback(around.deadlines.forget, jwks)
        return jwks


def auth_rules(auth: Auth) -> AuthRules:
    """Give what requests are held to."""
    keys = () if auth.internal_keys is None else tuple(key.strip() for key in auth.internal_keys.reveal().split(","))
    return AuthRules(auth.required, keys, auth.leeway_s, auth.on_expiry)


def _permits(settings: Settings) -> dict[str, bool]:
    return {STREAMING: settings.features.sse_streaming}


def _token_rules(auth: Auth) -> TokenRules:
    default = DEFAULT_PUBLIC_ALGORITHMS if auth.jwt_secret is None else DEFAULT_SECRET_ALGORITHMS
    assert auth.issuer is not None, "settings see to it"
    assert auth.audience is not None, "settings see to it"
    return TokenRules(
        algorithms=auth.algorithms or default,
        issuer=auth.issuer,
        audience=auth.audience,
        leeway_s=auth.leeway_s,
        id_claims=auth.id_claims,
        email_claim=auth.email_claim,
        role_claim=auth.role_claim,
        tenant_claim=auth.tenant_claim,
    )


def _ticket_rules(settings: Settings) -> TicketRules:
    """A ticket is good for its stream as long as that can be read."""
    stream, auth = settings.stream, settings.auth
    return TicketRules(
        first_use_s=auth.ticket_s,
        bound_s=stream.max_age_s + stream.replay_s,
        max_tickets=auth.max_tickets,
        max_per_caller=auth.max_tickets_per_caller,
        leeway_s=auth.leeway_s,
    )

"""Who makes a request: its address and its credentials, gathered for the gate."""

from typing import Final, NamedTuple

from aiohttp import web

from subak.admission.auth import Credentials, has_token
from subak.admission.client_ip import ClientAddress, ClientAddresses
from subak.admission.gate import Gate
from subak.admission.tickets import Tickets
from subak.core.principal import ANONYMOUS, Caller
from subak.web.advice import Advice
from subak.web.cors import Cors, is_own_origin
from subak.web.outcome import CALLER
from subak.web.sign_ins import SignIns

TICKET: Final = "ticket"
"""The query parameter in which a native EventSource, which can send no header, brings its ticket."""
TICKET_USED: Final = web.RequestKey("ticket_used", str)
"""The ticket by which a request's caller is known."""


class CallerRules(NamedTuple):
    """`proxies` finds addresses, `cookie` is the name of the cookie that may hold a token, None for none."""

    proxies: ClientAddresses
    cookie: str | None


class Callers:
    """Gives the caller of each request and remembers it there, so that a refusal is told with it."""

    def __init__(
        self, rules: CallerRules, gate: Gate, tickets: Tickets, cors: Cors, *, advice: Advice, sign_ins: SignIns
    ) -> None:
        """`advice` hears of a proxy that isn't trusted, `sign_ins` of credentials that hold."""
        self.rules = rules
        self.gate = gate
        self.tickets = tickets
        self._cors = cors
        self._advice = advice
        self._sign_ins = sign_ins

    async def identify(self, request: web.Request, cursor_stream_id: str | None = None) -> Caller:
        """Give who calls. `cursor_stream_id`: the stream of the request's cursor, to which a ticket may be bound.

        Raises:
            Unauthenticated, RateLimited: see `Gate.identify`, `Tickets.redeem`.
        """
        found = self.address_of(request)
        request[CALLER] = Caller(ANONYMOUS, found.address)
        credentials = self._credentials(request, is_from_trusted_proxy=found.is_behind_trusted_proxy)
        ticket = request.query.get(TICKET)
        if ticket is not None and credentials.is_empty:
            caller = Caller(self.tickets.redeem(ticket, cursor_stream_id).principal, found.address)
            request[TICKET_USED] = ticket
        else:
            caller = await self.gate.identify(credentials, found.address)
            if caller.principal.is_anonymous and not credentials.is_empty:
                self._advice.on_credentials_ignored()
        request[CALLER] = caller
        if not caller.principal.is_anonymous:
            self._sign_ins.note(caller)
        return caller

    async def admit_to_chat(self, request: web.Request) -> None:
        """Let a request through to `/chat`, which asks nobody who he is: by its address, and only where a limit is set.

        Raises:
            RateLimited: it is used up.
        """
        caller = Caller(ANONYMOUS, self.address_of(request).address)
        request[CALLER] = caller
        await self.gate.admit_passed_chat(caller)

    def address_of(self, request: web.Request) -> ClientAddress:
        """Give where the request comes from."""
        headers = request.headers
        found = self.rules.proxies.find(
            request.remote,
            forwarded=headers.getall("Forwarded", ()),
            x_forwarded_for=headers.getall("X-Forwarded-For", ()),
        )
        if found.looks_forgotten:
            self._advice.on_proxy_forgotten(found.address)
        return found

    def _credentials(self, request: web.Request, *, is_from_trusted_proxy: bool) -> Credentials:
        headers = request.headers
        return Credentials(
            authorization=tuple(headers.getall("Authorization", ())),
            api_key=tuple(headers.getall("x-api-key", ())),
            user_id=tuple(headers.getall("x-user-id", ())),
            cookie=self._cookie(request),
            is_from_trusted_proxy=is_from_trusted_proxy,
            has_token_in_url="?" in request.raw_path and has_token(request.query),
        )

    def _cookie(self, request: web.Request) -> str | None:
        """Give the cookie that may hold a token, if the page that sent it is one that may read answers.

        A browser sends cookies with a foreign page's requests too. It says whose they are: by `Origin`, and where it
        sends none (a GET of the same origin) by `Sec-Fetch-Site`.
        """
        name = self.rules.cookie
        if name is None or "Cookie" not in request.headers:
            return None
        origin = request.headers.get("Origin")
        if origin is None:
            is_ours = request.headers.get("Sec-Fetch-Site") == "same-origin"
        else:
            is_ours = self._cors.allows(origin) or is_own_origin(request, origin)
        return request.cookies.get(name) if is_ours else None

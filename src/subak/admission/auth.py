"""Who is calling: the credentials of one request, judged. Refusals are 401 with one sentence and a constant reason.

    what comes                                     who it is
    ---------------------------------------------  ----------------------------------------------------------
    one of the host's internal keys                `key:internal`, without limits; with `x-user-id` that user
    an API key of `subak keys`                     its user, `user:42`; without one the key, `key:a1B2c3D4e5`
    a JSON Web Token                               its user; with a tenant `tenant:acme/user:42`
    nothing, `x-user-id` through a trusted proxy   `user:42`: the proxy vouches for it
    nothing                                        anonymous, unless settings demand credentials

Where none of the first three is set up, a credential says nothing and isn't looked at: a page that has always sent
its token gets its answers from the first day on. Else any of the three texts may stand in `Authorization: Bearer` and
in `x-api-key`. Two that differ are refused, whatever they are, and so is a believed `x-user-id` that names somebody
else than the credential. A cookie, which browsers send unasked, counts only where no header brings a credential. An
`x-user-id` that isn't believed is as if it weren't there.
"""

from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal

import msgspec

from subak.admission.api_keys import ApiKeys
from subak.admission.jwt import TokenVerifier, is_id
from subak.admission.reasons import Reason
from subak.core.clock import Clock
from subak.core.errors import Unauthenticated
from subak.core.principal import ANONYMOUS, Claims, Principal

URL_TOKEN_NAMES: Final = frozenset(
    {
        *("access_token", "api-key", "api_key", "apikey", "auth", "auth_token", "authorization", "bearer", "id_token"),
        *("jwt", "refresh_token", "token", "x-api-key"),
    }
)
"""Query parameters, in lower case, in which people send credentials: URLs end up in logs and histories."""

MAX_CREDENTIAL_CHARS: Final = 16 * 1024
"""Of a header's line, its scheme included, or a cookie's value."""
MAX_SEEN_TOKENS: Final = 10_000

_INTERNAL: Final = Principal("key:internal", is_internal=True)
_BEARER: Final = "bearer"
_NO_CREDENTIALS: Final = frozenset({Reason.MISSING_CREDENTIALS})


class Credentials(msgspec.Struct, frozen=True):
    """What one request brought. Headers with all their lines, as they came.

    `cookie`: the value of the cookie of `auth.cookie`, None without one or with an Origin that may not use it.
    """

    authorization: tuple[str, ...] = ()
    api_key: tuple[str, ...] = ()
    user_id: tuple[str, ...] = ()
    cookie: str | None = None
    is_from_trusted_proxy: bool = False
    has_token_in_url: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing came that could hold or not."""
        return not (self.authorization or self.api_key or self.cookie or self.user_id or self.has_token_in_url)


class AuthRules(msgspec.Struct, frozen=True):
    """What requests are held to. `internal_keys`: as the settings have them, in clear."""

    is_required: bool = False
    internal_keys: tuple[str, ...] = ()
    leeway_s: float = 30.0
    on_expiry: Literal["finish", "cut"] = "finish"


class _Seen(msgspec.Struct, frozen=True):
    principal: Principal
    until: float


class Authenticator:
    """Judges credentials.

    A token that was judged before is looked up by its SHA-256 digest, until it expires or keys were withdrawn: 3 µs
    with nothing else configured, so long as it is among the newest 10 000. An API key costs about the same.
    """

    __slots__ = ("_api_keys", "_clock", "_internal", "_rules", "_seen", "_seen_revision", "_tokens")

    def __init__(self, rules: AuthRules, *, tokens: TokenVerifier | None, api_keys: ApiKeys, clock: Clock) -> None:
        """`tokens` is None where no tokens are taken."""
        self._rules = rules
        self._tokens = tokens
        self._api_keys = api_keys
        self._clock = clock
        self._internal = tuple(_digest(key) for key in rules.internal_keys)
        self._seen: dict[bytes, _Seen] = {}
        self._seen_revision = 0

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Give who calls. Waits only where an unknown token's key has to be fetched.

        Raises:
            Unauthenticated: see `Reason`.
            KeysUnavailable: a token came, and its issuer's keys could not be fetched for too long.
        """
        if credentials.has_token_in_url:
            raise Unauthenticated(Reason.TOKEN_IN_URL)
        text = _presented(credentials) if self._can_judge else None
        principal = None if text is None else await self._judge(text)
        user_id = _believed_user_id(credentials, principal)
        if user_id is not None:
            return _as_user(user_id, principal)
        if principal is not None:
            return principal
        if self._rules.is_required:
            raise Unauthenticated(Reason.MISSING_CREDENTIALS)
        return ANONYMOUS

    @property
    def _can_judge(self) -> bool:
        """Whether there is anything by which a credential could hold; if not, whoever has one is as good as without."""
        return self._tokens is not None or bool(self._internal) or len(self._api_keys) > 0

    def recognises(self, credentials: Credentials) -> bool:
        """Whether these are known to hold without a signature to verify or a key to fetch: they can't be guesses."""
        try:
            text = _presented(credentials) if self._can_judge else None
            if text is None:
                return not credentials.has_token_in_url
            now = self._clock.time_ms() / 1000
            digest = _digest(text)
            if self._recall(digest, now) is not None or self._is_internal(digest):
                return True
            return self._api_keys.authenticate(text, now) is not None
        except Unauthenticated:
            return False

    async def _judge(self, text: str) -> Principal:
        if not text.isascii():
            raise Unauthenticated(Reason.MALFORMED_CREDENTIALS)
        digest = _digest(text)
        now = self._clock.time_ms() / 1000
        if (principal := self._recall(digest, now)) is not None:
            return principal
        if self._is_internal(digest):
            return _INTERNAL
        if (principal := self._api_keys.authenticate(text, now)) is not None:
            return principal
        if self._tokens is None or text.count(".") != 2:  # noqa: PLR2004 - header, payload and signature
            raise Unauthenticated(Reason.UNKNOWN_CREDENTIAL)
        principal = await self._tokens.verify(text)
        self._remember(digest, principal)
        return principal

    def is_internal_key(self, text: str) -> bool:
        """Whether this is one of the host's own keys."""
        return self._is_internal(_digest(text))

    def _is_internal(self, digest: bytes) -> bool:
        """Whether it is an internal key's; takes as long whichever it is."""
        return sum([compare_digest(each, digest) for each in self._internal]) > 0

    def _recall(self, digest: bytes, now: float) -> Principal | None:
        if self._tokens is not None and self._tokens.revision != self._seen_revision:
            self._seen_revision = self._tokens.revision
            self._seen.clear()
        seen = self._seen.get(digest)
        return seen.principal if seen is not None and now < seen.until else None

    def _remember(self, digest: bytes, principal: Principal) -> None:
        assert principal.expires_at is not None, "a token has an end"
        self._seen.pop(digest, None)
        if len(self._seen) >= MAX_SEEN_TOKENS:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = _Seen(principal, principal.expires_at + self._rules.leeway_s)


def has_token(parameters: Iterable[str]) -> bool:
    """Whether one of these names of a query's parameters is one for credentials, whatever its letter case."""
    return any(name.lower() in URL_TOKEN_NAMES for name in parameters)


def challenge_of(reason: str) -> str:
    """Give the `WWW-Authenticate` of a 401: an error code only where credentials came (RFC 6750 §3.1)."""
    return 'Bearer realm="subak"' if reason in _NO_CREDENTIALS else 'Bearer realm="subak", error="invalid_token"'


def cut_at(principal: Principal, rules: AuthRules) -> float | None:
    """Give when a reader of this principal is cut, seconds since the epoch; None when it may read to the end."""
    if rules.on_expiry == "finish" or principal.expires_at is None:
        return None
    return principal.expires_at + rules.leeway_s


def _presented(credentials: Credentials) -> str | None:
    """The one text that stands for the caller; nothing longer than the bound is looked into."""
    for line in (*credentials.authorization, *credentials.api_key, credentials.cookie or ""):
        if len(line) > MAX_CREDENTIAL_CHARS:
            raise Unauthenticated(Reason.CREDENTIAL_TOO_LARGE)
    texts = {_bearer(line) for line in credentials.authorization}
    texts.update(line.strip() for line in credentials.api_key)
    if len(texts) > 1:
        raise Unauthenticated(Reason.AMBIGUOUS_CREDENTIALS)
    text = texts.pop() if texts else credentials.cookie
    if text == "" or (text is not None and " " in text):
        raise Unauthenticated(Reason.MALFORMED_CREDENTIALS)
    return text


def _bearer(line: str) -> str:
    scheme, _, text = line.strip().partition(" ")
    if scheme.lower() != _BEARER:
        raise Unauthenticated(Reason.UNSUPPORTED_SCHEME)
    return text.strip()


def _believed_user_id(credentials: Credentials, principal: Principal | None) -> str | None:
    """The user whom the request claims to come from, where whoever says so is trusted."""
    if not credentials.user_id:
        return None
    if not credentials.is_from_trusted_proxy and (principal is None or not principal.is_internal):
        return None
    if len(credentials.user_id) > 1:
        raise Unauthenticated(Reason.AMBIGUOUS_CREDENTIALS)
    user_id = credentials.user_id[0]
    if not is_id(user_id):
        raise Unauthenticated(Reason.USER_ID_MALFORMED)
    return user_id


def _as_user(user_id: str, principal: Principal | None) -> Principal:
    if principal is None or principal.is_internal:
        return Principal(f"user:{user_id}", Claims(id=user_id), is_internal=principal is not None)
    if principal.claims.id != user_id:
        raise Unauthenticated(Reason.AMBIGUOUS_CREDENTIALS)
    return principal


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()

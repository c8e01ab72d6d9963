"""JSON Web Tokens: what a signature vouches for, or the reason why it doesn't (RFC 7515, 7519, 8725). Uses PyJWT.

A token chooses nothing. Its header may name one of our keys and one of the algorithms that settings allow; each key
belongs to the algorithms of its own kind, so a public key is never taken for a shared secret. A header that brings a
key along, or says where to fetch one, is refused, and so is one that demands extensions. The signature is looked at
before any claim: a reason such as `token_expired` is never a forger's.
"""

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from subak.admission.reasons import Reason
from subak.core.clock import Clock
from subak.core.errors import Unauthenticated
from subak.core.json_errors import NOT_JSON
from subak.core.principal import Claims, Principal

VerifyingKey: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
"""A shared secret, or a public key."""

MAX_CLAIM_CHARS: Final = 255
DEFAULT_SECRET_ALGORITHMS: Final = ("HS256",)
DEFAULT_PUBLIC_ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""What is accepted where settings name no algorithms: what issuers use, RFC 8725 §3.2."""

_FORM: Final = re.compile(r"([A-Za-z0-9_-]{1,1400})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_FORBIDDEN_HEADERS: Final = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"})
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_MAX_KID_CHARS: Final = 256


class TokenRules(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens count, and what is read from them. Claims are names at the top, or dotted paths: `realm.role`."""

    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    leeway_s: float = 30.0
    id_claims: tuple[str, ...] = ("sub", "id", "userId")
    email_claim: str = "email"
    role_claim: str = "role"
    tenant_claim: str = "tenant"


class KeySource(Protocol):
    """Where verifying keys come from."""

    @property
    def revision(self) -> int:
        """Grows when a key was taken away: what it vouched for has to be looked at again."""

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Give the key of this name for this algorithm; without a name the only one there is for it.

        Raises:
            KeysUnavailable: there are no keys at all for now.
        """

    async def refresh(self) -> None:
        """Look for new keys, as far as it is time to. Never raises for what it finds."""


class SharedSecret:
    """The one secret of HMAC tokens (`KeySource`). A token's `kid` has no meaning."""

    __slots__ = ("_secret",)
    revision: Final = 0

    def __init__(self, secret: str) -> None:
        """`secret` has at least as many bytes as the digest of the algorithm: RFC 7518 §3.2."""
        self._secret = secret.encode()

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Give the secret, to algorithms that take one."""
        del kid
        return self._secret if algorithm.startswith("HS") else None

    async def refresh(self) -> None:
        """Do nothing: it doesn't change."""


class _Header(NamedTuple):
    algorithm: str
    kid: str | None


class TokenVerifier:
    """Judges tokens by one set of rules. A judgement costs 60 to 300 µs, by algorithm; a refusal before it about 10."""

    __slots__ = ("_algorithms", "_claims", "_clock", "_keys", "_rules")

    def __init__(self, rules: TokenRules, keys: KeySource, clock: Clock) -> None:
        """Take these rules and keys; `clock` tells what is expired."""
        self._rules = rules
        self._keys = keys
        self._clock = clock
        signatures = jwt.PyJWS(algorithms=list(rules.algorithms))
        self._algorithms = {name: signatures.get_algorithm_by_name(name) for name in rules.algorithms}
        self._claims = _ClaimNames(rules)

    @property
    def revision(self) -> int:
        """Grows when judgements of before don't hold any more."""
        return self._keys.revision

    async def verify(self, token: str) -> Principal:
        """Give whom a token stands for. Waits only for keys, and only when it names one that isn't known.

        Raises:
            Unauthenticated: it doesn't hold; its reason begins with `token_`.
            KeysUnavailable: there is nothing to judge it by.
        """
        form = _FORM.fullmatch(token)
        if form is None:
            raise Unauthenticated(Reason.TOKEN_MALFORMED)
        header = self._header(form[1])
        key = await self._key(header)
        signed = token[: form.end(2)].encode("ascii")
        algorithm = self._algorithms[header.algorithm]
        if not algorithm.verify(signed, key, _bytes_of(form[3])):
            raise Unauthenticated(Reason.TOKEN_SIGNATURE)
        return self._principal(_object_of(form[2]))

    def _header(self, part: str) -> _Header:
        header = _object_of(part)
        if not _FORBIDDEN_HEADERS.isdisjoint(header):
            raise Unauthenticated(Reason.TOKEN_HEADER)
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Unauthenticated(Reason.TOKEN_ALGORITHM)
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise Unauthenticated(Reason.TOKEN_TYPE)
        if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID_CHARS):
            raise Unauthenticated(Reason.TOKEN_HEADER)
        return _Header(algorithm, kid)

    async def _key(self, header: _Header) -> VerifyingKey:
        key = self._keys.find(header.kid, header.algorithm)
        if key is None:
            await self._keys.refresh()
            key = self._keys.find(header.kid, header.algorithm)
        if key is None:
            raise Unauthenticated(Reason.TOKEN_KEY_UNKNOWN)
        return key

    def _principal(self, payload: Mapping[str, object]) -> Principal:
        if payload.get("iss") != self._rules.issuer:
            raise Unauthenticated(Reason.TOKEN_ISSUER)
        if not _is_meant(payload.get("aud"), self._rules.audience):
            raise Unauthenticated(Reason.TOKEN_AUDIENCE)
        expires_at = self._check_times(payload)
        claims = self._claims.read(payload)
        return Principal(user_principal_id(claims), claims, expires_at=expires_at)

    def _check_times(self, payload: Mapping[str, object]) -> float:
        now = self._clock.time_ms() / 1000
        expires_at = _seconds(payload.get("exp"))
        if expires_at is None:
            raise Unauthenticated(Reason.TOKEN_MALFORMED)
        if expires_at <= now - self._rules.leeway_s:
            raise Unauthenticated(Reason.TOKEN_EXPIRED)
        if "nbf" in payload:
            not_before = _seconds(payload["nbf"])
            if not_before is None:
                raise Unauthenticated(Reason.TOKEN_MALFORMED)
            if not_before > now + self._rules.leeway_s:
                raise Unauthenticated(Reason.TOKEN_NOT_YET_VALID)
        return expires_at


def user_principal_id(claims: Claims) -> str:
    """Give the id of the principal that is this user: `user:42`, or `tenant:acme/user:42`.

    Ids may repeat among tenants. The tenant is percent-encoded, so that no two pairs give the same text.
    """
    if claims.tenant is None:
        return f"user:{claims.id}"
    return f"tenant:{quote(claims.tenant, safe='')}/user:{claims.id}"


def is_id(text: str) -> bool:
    """Whether this can be a caller's id: 1 to 255 printable characters without a blank at either end."""
    return 0 < len(text) <= MAX_CLAIM_CHARS and text.isprintable() and text == text.strip()


class _ClaimNames:
    """Reads the claims that settings name."""

    __slots__ = ("_email", "_ids", "_is_oidc_email", "_role", "_tenant")

    def __init__(self, rules: TokenRules) -> None:
        self._ids = tuple(map(_path_of, rules.id_claims))
        self._email = _path_of(rules.email_claim)
        self._is_oidc_email = rules.email_claim == "email"
        self._role = _path_of(rules.role_claim)
        self._tenant = _path_of(rules.tenant_claim)

    def read(self, payload: Mapping[str, object]) -> Claims:
        """Give the claims. Of e-mail and role what isn't bounded, printable text counts as absent.

        The id must be there. A tenant may be absent, or empty, which is the same; one that is there and can't be one is
        refused: its users would be taken for others of the same id.

        An e-mail that its issuer calls unverified counts as absent too (OpenID Connect Core §5.1, `email_verified`).
        """
        is_unverified = self._is_oidc_email and payload.get("email_verified", True) not in (True, "true")
        return Claims(
            id=self._id(payload),
            email=None if is_unverified else _text(_claim(payload, self._email)),
            role=_text(_claim(payload, self._role)),
            tenant=self._tenant_of(payload),
        )

    def _id(self, payload: Mapping[str, object]) -> str:
        found = next((value for path in self._ids if (value := _claim(payload, path)) is not None), None)
        if found is None:
            raise Unauthenticated(Reason.TOKEN_ID_MISSING)
        caller_id = _id_text(found)
        if caller_id is None:
            raise Unauthenticated(Reason.TOKEN_ID_MALFORMED)
        return caller_id

    def _tenant_of(self, payload: Mapping[str, object]) -> str | None:
        found = _claim(payload, self._tenant)
        if found is None or found == "":
            return None
        tenant = _id_text(found)
        if tenant is None:
            raise Unauthenticated(Reason.TOKEN_TENANT_MALFORMED)
        return tenant


class _Path(NamedTuple):
    name: str
    steps: Sequence[str]


def _path_of(name: str) -> _Path:
    return _Path(name, name.split("."))


def _claim(payload: Mapping[str, object], path: _Path) -> object:
    """The claim of this very name (some are URLs), else what the dotted path leads to."""
    if path.name in payload or len(path.steps) == 1:
        return payload.get(path.name)
    value: object = payload
    for step in path.steps:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _id_text(value: object) -> str | None:
    """Give an id, which may be a whole number; None when it is none."""
    return _text(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and is_id(value) else None


def _is_meant(audience: object, ours: str) -> bool:
    return audience == ours or (isinstance(audience, list) and ours in audience)


def _seconds(value: object) -> float | None:
    """A NumericDate: seconds since the epoch, RFC 7519 §2."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return None
    return float(value)


def _object_of(part: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(_bytes_of(part), type=dict[str, object])
    except NOT_JSON:
        raise Unauthenticated(Reason.TOKEN_MALFORMED) from None


def _bytes_of(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Unauthenticated(Reason.TOKEN_MALFORMED) from None

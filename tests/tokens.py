"""Tokens that a gateway of the tests takes, made by an implementation that isn't its own."""

import time
from typing import Final

from joserfc import jwt
from joserfc.jwk import OctKey

SECRET: Final = "a secret of more than thirty-two bytes, for tests"
ISSUER: Final = "https://login.example.org/"
INTERNAL: Final = "internal-key-of-the-host-application"
WITH_TOKENS: Final = {
    "SUBAK_AUTH__JWT_SECRET": SECRET,
    "SUBAK_AUTH__ISSUER": ISSUER,
    "SUBAK_AUTH__AUDIENCE": "subak",
    "API_KEYS_INTERNAL": INTERNAL,
}


def token(user: str = "ann", lifetime_s: float = 600, **claims: object) -> str:
    """Give a token made by an independent implementation."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": "subak", "exp": now + lifetime_s, "iat": now, "sub": user} | claims
    return jwt.encode({"alg": "HS256"}, said, OctKey.import_key(SECRET))


def bearer(user: str = "ann", lifetime_s: float = 600, **claims: object) -> dict[str, str]:
    """Give the header that brings such a token."""
    return {"Authorization": f"Bearer {token(user, lifetime_s, **claims)}"}

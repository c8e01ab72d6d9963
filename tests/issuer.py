"""An issuer of tokens: keys and signatures by `joserfc`, independent of what the gateway checks with, and its key set.

`Issuer` signs; `IssuerServer` publishes keys over HTTP, and can be slow, broken or gone.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeyParameters, OctKey, OKPKey, RSAKey

Key = ECKey | OctKey | OKPKey | RSAKey

ISSUER: Final = "https://login.example.org/"
AUDIENCE: Final = "subak"
SECRET: Final = "a secret of thirty-two bytes, at least"  # 38 bytes
NOW_S: Final = 1_795_359_600
"""When `FakeClock` begins."""
CLAIMS: Final[Mapping[str, object]] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "42",
    "exp": NOW_S + 600,
    "email": "ann@example.org",
    "role": "member",
}


def rsa_key(kid: str | None = "rsa-1", bits: int = 2048) -> RSAKey:
    """Make an RSA key."""
    return RSAKey.generate_key(bits, _named(kid))


def ec_key(kid: str | None = "ec-1", curve: str = "P-256") -> ECKey:
    """Make an elliptic-curve key."""
    return ECKey.generate_key(curve, _named(kid))


def ed_key(kid: str | None = "ed-1") -> OKPKey:
    """Make an Ed25519 key."""
    return OKPKey.generate_key("Ed25519", _named(kid))


def secret_key(secret: str = SECRET) -> OctKey:
    """Give a shared secret as a key."""
    return OctKey.import_key(secret)


def signed(
    key: Key,
    algorithm: str,
    claims: Mapping[str, object] | None = None,
    header: Mapping[str, object] | None = None,
    **changed: object,
) -> str:
    """Give a token. `changed` claims differ from `CLAIMS`, and None takes one out; `header` adds to the header."""
    merged = {name: value for name, value in {**(claims or CLAIMS), **changed}.items() if value is not None}
    named = {} if key.kid is None else {"kid": key.kid}
    return jwt.encode({"alg": algorithm, "typ": "JWT", **named, **(header or {})}, merged, key, [algorithm])


def published(*keys: Key) -> list[dict[str, object]]:
    """Give the public parts of keys, as a set has them."""
    return [dict(key.as_dict(private=False)) for key in keys]


def _named(kid: str | None) -> KeyParameters | None:
    return None if kid is None else {"kid": kid}


class IssuerServer:
    """Answers every request with `body` and `status`, once `gate` is open. `requests` counts them."""

    def __init__(self) -> None:
        self.url = ""
        self.body = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.requests = 0
        self.gate.set()

    def publish(self, *keys: Key) -> None:
        """Answer with these keys."""
        self.publish_set(published(*keys))

    def publish_set(self, keys: Sequence[object]) -> None:
        """Answer with a key set of these members."""
        self.body = msgspec.json.encode({"keys": keys})

    async def _answer(self, _: web.BaseRequest) -> web.Response:
        self.requests += 1
        self.asked.set()
        await self.gate.wait()
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@asynccontextmanager
async def issuer_server() -> AsyncIterator[IssuerServer]:
    """Run one on a free port."""
    server = IssuerServer()
    runner = web.ServerRunner(web.Server(server._answer), shutdown_timeout=1)  # noqa: SLF001 - its own module's
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/jwks.json"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()

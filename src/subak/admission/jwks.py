"""The issuer's public keys (RFC 7517), fetched and kept: looking one up waits for nobody.

    what happens                                   what we do
    ---------------------------------------------  -------------------------------------------------------------
    all is well                                    fetched every 5 minutes: a withdrawn key counts no longer
    a token names a key that we don't have         fetched at once, at most every 10 s, for all who wait together
    no answer, an error, a redirect, nonsense      the keys we have go on for 24 hours; tried again every 30 s
    nothing for 24 hours, or never                 no keys: 503 for whoever brings a token

Redirects aren't followed and nothing is decompressed; size and time are bounded. A key is taken when it is a public
one, for signatures, strong enough, and of an algorithm that settings allow. Shared secrets and private keys in the set
are passed over: what everybody can read proves nothing.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final, NamedTuple

import aiohttp
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from subak.admission.jwt import VerifyingKey
from subak.admission.key_watch import JWKS, KeyWatch
from subak.core.clock import Clock
from subak.core.errors import KeysUnavailable
from subak.core.facts import Crashed, Observer
from subak.core.json_errors import NOT_JSON
from subak.core.live import KeySourceState

REFRESH_S: Final = 300.0
RETRY_S: Final = 30.0
UNKNOWN_KEY_S: Final = 10.0
STALE_S: Final = 86_400.0
FETCH_S: Final = 5.0
MAX_SET_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
"""Further ones are passed over."""

_OK: Final = 200
_REDIRECTS: Final = range(300, 400)
_RSA_BITS: Final = range(2048, 8193)
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class Entry(NamedTuple):
    """A key for one algorithm. `material` is what it consists of: equal for equal keys."""

    kid: str | None
    algorithm: str
    key: VerifyingKey
    material: tuple[object, ...]


class KeySet:
    """The usable keys of one set, by name and algorithm. Of two under one name and algorithm the first counts."""

    __slots__ = ("_sole", "by_name")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.by_name: dict[tuple[str | None, str], Entry] = {}
        self._sole: dict[str, Entry | None] = {}
        for entry in entries:
            self.by_name.setdefault((entry.kid, entry.algorithm), entry)
            other = self._sole.setdefault(entry.algorithm, entry)
            if other is not None and other.material != entry.material:
                self._sole[entry.algorithm] = None

    def __len__(self) -> int:
        return len(self.by_name)

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Give the key of this name; without a name the only one for this algorithm."""
        entry = self._sole.get(algorithm) if kid is None else self.by_name.get((kid, algorithm))
        return None if entry is None else entry.key

    def lacks_any_of(self, other: "KeySet") -> bool:
        """Whether a key of `other` isn't here, or is another one here."""
        return any(
            name not in self.by_name or self.by_name[name].material != entry.material
            for name, entry in other.by_name.items()
        )


class JwksTerms(NamedTuple):
    """Where the keys are and which algorithms count. `fetch_s`: how long a fetch may take, connection to last byte."""

    url: str
    algorithms: tuple[str, ...]
    fetch_s: float = FETCH_S


class Jwks:
    """The keys behind one URL (`jwt.KeySource`), kept fresh by the shared ticker."""

    __slots__ = (
        "_algorithms",
        "_clock",
        "_fetch",
        "_fetch_s",
        "_fetched_at",
        "_keys",
        "_observer",
        "_session",
        "_site_of",
        "_tasks",
        "_tried_at",
        "_url",
        "_watch",
        "revision",
    )

    def __init__(
        self,
        terms: JwksTerms,
        *,
        session: aiohttp.ClientSession,
        clock: Clock,
        tasks: asyncio.TaskGroup,
        observer: Observer,
        site_of: Callable[[BaseException], str],
    ) -> None:
        """Hold no keys yet: await `refresh`, then `Deadlines.watch` it. The session is the caller's, who closes it.

        `site_of` tells where an exception came from, without what it carries.
        """
        self._url = terms.url
        self._algorithms = frozenset(terms.algorithms)
        self._session = session
        self._clock = clock
        self._tasks = tasks
        self._keys = KeySet()
        self._fetch: asyncio.Task[None] | None = None
        self._fetch_s = terms.fetch_s
        self._fetched_at = -inf
        self._tried_at = -inf
        self._observer = observer
        self._site_of = site_of
        self._watch = KeyWatch(JWKS, observer, "never_fetched")
        self.revision = 0

    @property
    def state(self) -> KeySourceState:
        """How the set does."""
        age_s = self._clock.monotonic() - self._fetched_at if self._keys else inf
        return KeySourceState(self._watch.source, self._watch.problem, self._watch.failures, age_s)

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Give a key (see `KeySource`).

        Raises:
            KeysUnavailable: none could be fetched for so long that there are none.
        """
        if not self._keys and self._is_too_soon():
            raise KeysUnavailable("Tokens can't be judged at the moment.", retry_after_s=int(UNKNOWN_KEY_S))
        return self._keys.find(kid, algorithm)

    async def refresh(self) -> None:
        """Fetch the keys, or wait for the fetch under way; at most one in 10 s: too early, it does nothing."""
        fetch = self._fetch
        if fetch is None:
            if self._is_too_soon():
                return
            fetch = self._start()
        await asyncio.wait((fetch,))  # a caller that goes away takes nobody's fetch along

    def on_deadline(self, now: float) -> float:
        """Forget keys that are too old, fetch anew what is due (`Watched`)."""
        if self._keys and now - self._fetched_at > STALE_S:
            self._take(KeySet())
            self._watch.ran_out()
        is_due = bool(self._watch.problem) or now - self._fetched_at >= REFRESH_S
        if is_due and self._fetch is None:
            self._start()
        return now + RETRY_S

    async def settled(self) -> None:
        """Wait for the fetch under way, if there is one."""
        if self._fetch is not None:
            await asyncio.wait((self._fetch,))

    async def close(self) -> None:
        """End a fetch under way."""
        if self._fetch is not None:
            self._fetch.cancel()
        await self.settled()

    def _is_too_soon(self) -> bool:
        return self._fetch is None and self._clock.monotonic() - self._tried_at < UNKNOWN_KEY_S

    def _start(self) -> asyncio.Task[None]:
        self._tried_at = self._clock.monotonic()
        self._fetch = self._tasks.create_task(self._fetch_and_take())
        return self._fetch

    async def _fetch_and_take(self) -> None:
        try:
            keys = KeySet(usable_entries(await self._download(), self._algorithms))
        except _Unusable as error:
            self._watch.failed(error.reason)
        except Exception as error:  # noqa: BLE001 - a task's root: whatever a set holds, the keys we have go on
            self._watch.failed("internal_error")
            self._observer.notify(Crashed(type(error).__name__, self._site_of(error)))
        else:
            self._fetched_at = self._clock.monotonic()
            self._take(keys)
            self._watch.went_well()
        finally:
            self._fetch = None

    def _take(self, keys: KeySet) -> None:
        if keys.lacks_any_of(self._keys):
            self.revision += 1
        self._keys = keys

    async def _download(self) -> bytes:
        try:
            async with (
                asyncio.timeout(self._fetch_s),
                self._session.get(
                    self._url,
                    allow_redirects=False,
                    headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
                ) as response,
            ):
                return await _body(response)
        except TimeoutError:
            raise _Unusable("timeout") from None
        except aiohttp.ClientError:
            raise _Unusable("unreachable") from None


class _Unusable(Exception):
    """A fetch gave nothing. `reason` is a constant."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _body(response: aiohttp.ClientResponse) -> bytes:
    if response.status in _REDIRECTS:
        raise _Unusable("redirect")
    if response.status != _OK:
        raise _Unusable(f"status_{response.status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Unusable("encoded")
    chunks: list[bytes] = []
    size_bytes = 0
    while chunk := await response.content.readany():
        size_bytes += len(chunk)
        if size_bytes > MAX_SET_BYTES:
            response.close()
            raise _Unusable("too_large")
        chunks.append(chunk)
    return b"".join(chunks)


class _Set(msgspec.Struct):
    keys: list[object]


def usable_entries(body: bytes, algorithms: frozenset[str]) -> list[Entry]:
    """Give what a key set holds for us, never nothing; one bad key spoils no other.

    Raises:
        _Unusable: it isn't a key set, or holds nothing for us.
    """
    try:
        found = msgspec.json.decode(body, type=_Set).keys[:MAX_KEYS]
    except NOT_JSON:
        raise _Unusable("malformed") from None
    entries = [entry for each in found if isinstance(each, dict) for entry in _entries(each, algorithms)]
    if not entries:
        raise _Unusable("no_usable_key")
    return entries


def _entries(jwk: Mapping[str, object], algorithms: frozenset[str]) -> list[Entry]:
    kid = jwk.get("kid")
    members = _MEMBERS.get(str(jwk.get("kty")))
    if members is None or "d" in jwk or not isinstance(kid, str | None) or not _is_for_signatures(jwk):
        return []
    material = tuple(jwk.get(name) for name in members)
    if not all(isinstance(each, str) for each in material):
        return []
    names = [name for name in sorted(algorithms) if _fits(name, jwk)]
    if not names:
        return []
    key = _public_key(jwk, names[0])
    return [] if key is None else [Entry(kid, name, key, material) for name in names]


def _is_for_signatures(jwk: Mapping[str, object]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _fits(algorithm: str, jwk: Mapping[str, object]) -> bool:
    if jwk.get("alg", algorithm) != algorithm:
        return False
    if jwk.get("kty") == "RSA":
        return algorithm.startswith("RS")
    return _CURVES.get(str(jwk.get("crv"))) == algorithm


def _public_key(jwk: Mapping[str, object], algorithm: str) -> VerifyingKey | None:
    try:
        key: VerifyingKey = jwt.PyJWK.from_dict(dict(jwk), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size not in _RSA_BITS:
        return None
    return key

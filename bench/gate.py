"""What the gate costs: CPU time of identify, standing, admit and release, all of it, for callers it has seen before."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import jwt

from subak.admission.api_keys import ApiKeys
from subak.admission.auth import Authenticator, AuthRules, Credentials
from subak.admission.flag_store import FlagStore
from subak.admission.flags import Flags
from subak.admission.gate import Gate
from subak.admission.jwt import SharedSecret, TokenRules, TokenVerifier
from subak.admission.limiter_memory import MemoryLimiter
from subak.admission.partition import Partition, QuotaTerms
from subak.clocks import SystemClock
from subak.core.facts import Fact
from subak.core.rollout import STREAMING

ROUNDS: Final = 20_000
SECRET: Final = "a secret of the benchmark, with more than 32 bytes"
ISSUER: Final = "https://login.example.org/"
MANY: Final = 1_000_000_000


class GateCost(NamedTuple):
    """CPU microseconds of one question's way through the gate."""

    anonymous_us: float
    seen_token_us: float

    def __str__(self) -> str:
        return f"{self.anonymous_us:.1f} µs CPU anonymous, {self.seen_token_us:.1f} µs with a JWT already seen"


class _Deaf:
    """Hears nothing."""

    def notify(self, fact: Fact) -> None:
        """Take no note."""


def measure() -> GateCost:
    """Measure it, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        gate = _make_gate(Path(folder))
        claims = {"iss": ISSUER, "aud": "subak", "sub": "ann", "exp": int(time.time()) + 3600}
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        return GateCost(
            anonymous_us=asyncio.run(_cost_us(gate, Credentials())),
            seen_token_us=asyncio.run(_cost_us(gate, Credentials(authorization=(f"Bearer {token}",)))),
        )


def _make_gate(folder: Path) -> Gate:
    clock = SystemClock()
    store = FlagStore.open(folder, patience_s=1)
    rules = TokenRules(algorithms=("HS256",), issuer=ISSUER, audience="subak")
    authenticator = Authenticator(
        AuthRules(), tokens=TokenVerifier(rules, SharedSecret(SECRET), clock), api_keys=ApiKeys(folder), clock=clock
    )
    return Gate(
        flags=Flags(store, permits={STREAMING: True}, file=None, clock=clock, observer=_Deaf()),
        authenticator=authenticator,
        limiter=MemoryLimiter(clock, max_keys=200_000),
        partition=Partition(QuotaTerms(chat=MANY, chat_network=MANY, streams=MANY, streams_anonymous=MANY)),
        clock=clock,
        ietf_headers=True,
    )


async def _cost_us(gate: Gate, credentials: Credentials) -> float:
    await gate.identify(credentials, "192.0.2.7")
    began = time.process_time()
    for _ in range(ROUNDS):
        gate.check_flag()
        caller = await gate.identify(credentials, "192.0.2.7")
        await gate.standing(caller)
        (await gate.admit(caller)).release()
    return (time.process_time() - began) / ROUNDS * 1e6


if __name__ == "__main__":
    print(measure())

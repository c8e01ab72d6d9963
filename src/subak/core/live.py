"""How things under way stand at one moment: what operators look at, read only when somebody asks.

A stream's id is a capability: it goes no further than telemetry, which shows a keyed digest of it.
"""

import msgspec

from subak.core.breaker import BreakerState
from subak.core.lifecycle import Status


class LiveStream(msgspec.Struct, frozen=True):
    """An answer under way. `first_token_ms` since its request came, None before a token. So many `readers` read it."""

    stream_id: str
    route: str
    arm: str
    status: Status
    age_s: float
    tokens: int
    size_bytes: int
    first_token_ms: float | None
    readers: int


class LiveReader(msgspec.Struct, frozen=True):
    """A response under way. `stream` is None when it replays an answer that has ended.

    `lag_events` and `lag_bytes` are what it still has to read of the log, `buffered_bytes` what was written and its
    socket hasn't taken yet; `is_live`: at the tail, and written to in the call that brings a token.
    """

    stream_id: str
    stream: LiveStream | None
    age_s: float
    cursor: int
    lag_events: int
    lag_bytes: int
    buffered_bytes: int
    is_live: bool


class Load(msgspec.Struct, frozen=True):
    """All that is under way in a few figures: streams, responses, what these are behind by, and what waits for sockets.

    `max_lag_bytes` is that of the response furthest behind.
    """

    streams: int
    readers: int
    lag_bytes: int
    max_lag_bytes: int
    buffered_bytes: int


class Occupancy(msgspec.Struct, frozen=True):
    """How much of something bounded is taken, and how often there was no room. `limit` None: it has no bound."""

    used: int
    limit: int | None
    refused: int = 0


class UpstreamState(msgspec.Struct, frozen=True):
    """One upstream. `name` is its host and port; its connections are asked over (`busy`) or kept for the next."""

    name: str
    breaker: BreakerState
    busy_connections: int = 0
    idle_connections: int = 0
    opened_connections: int = 0
    reused_connections: int = 0


class KeySourceState(msgspec.Struct, frozen=True):
    """Where callers' keys come from: `jwks`, the issuer's key set, or `api_keys`, the file of API keys.

    `problem`: why it can't be read now, "" while it can. `failures` counts the reads that failed. `age_s`: how long ago
    the issuer's keys in force were fetched, infinite when there are none; None for the file, whose keys don't age.
    """

    source: str
    problem: str
    failures: int
    age_s: float | None = None


class AuditState(msgspec.Struct, frozen=True):
    """The audit trail's writer. `oldest_waiting_s`: how long the oldest record has waited to be committed.

    `trouble`: why nothing can be recorded now, None while it can.
    """

    queued: int
    lost: int
    oldest_waiting_s: float
    failed_checkpoints: int
    rows: int = 0
    trouble: str | None = None

"""What has happened, in the past tense. Facts go one way: to observers, who can't refuse, delay or raise.

A stream's id is a capability and goes no further than the observer, which writes a keyed digest of it (PROTOCOL §1).
No fact carries an answer. Who it is about and what was asked stand in a `Person`, for the audit trail alone: what
writes lines, labels or pages leaves it out.
"""

from typing import Protocol

import msgspec

from subak.core.trace import TraceContext


class Person(msgspec.Struct, frozen=True):
    """Personal data that goes with a fact: for the audit trail, which seals it, and for nobody else.

    `subject` is the principal's id, `email` only what a verified credential says. `query` is never kept: only keyed
    digests of it are.
    """

    subject: str = ""
    tenant: str | None = None
    email: str | None = None
    address: str = ""
    query: str = ""

    def __repr__(self) -> str:
        return "Person(…)"


NOBODY = Person()


class StreamOpened(msgspec.Struct, frozen=True):
    """A question was admitted and its stream began. `arm` is the rollout's that the caller is in."""

    stream_id: str
    connection_id: str
    route: str
    who: Person = NOBODY
    arm: str = "on"


class TokensTimed(msgspec.Struct, frozen=True):
    """Tokens of one stream came, so many microseconds apart; 0 between those of one read. For numbers, no log line.

    Told for some dozens of tokens at a time, and at the stream's end.
    """

    route: str
    arm: str
    gaps_us: tuple[int, ...]


class StreamEnded(msgspec.Struct, frozen=True):
    """A stream's terminal event was appended. `outcome` is a finish reason or an error code.

    Times in milliseconds since the request came; `reason` is the operator's short constant for a failure.
    `inter_token_ms` is the mean from one token to the next. `gateway_ms` is the gateway's own share of the first token:
    until the upstream was asked, and from reading its first event to having written it. `tokens_unread`: of an
    abandoned or cancelled answer, those that no reader had got.
    """

    stream_id: str
    connection_id: str
    route: str
    outcome: str
    reason: str
    tokens: int
    size_bytes: int
    first_token_ms: float | None
    duration_ms: float
    arm: str = "on"
    inter_token_ms: float | None = None
    gateway_ms: float | None = None
    tokens_unread: int = 0
    who: Person = NOBODY
    trace: TraceContext | None = None


class ReaderAttached(msgspec.Struct, frozen=True):
    """A response began to read a log after `cursor`. `is_resume` when it named the cursor itself."""

    stream_id: str
    connection_id: str
    cursor: int
    is_resume: bool
    who: Person = NOBODY


class ReaderLeft(msgspec.Struct, frozen=True):
    """A response is over. `departure` says why, `cursor` how far it got."""

    stream_id: str
    connection_id: str
    departure: str
    cursor: int


class StopRequested(msgspec.Struct, frozen=True):
    """Somebody who may asked for a stream's end. `was_live` is False when it had ended already."""

    stream_id: str
    was_live: bool
    who: Person = NOBODY


class ClientReported(msgspec.Struct, frozen=True):
    """A reader told what its answer was like for it. Its own figures, bounded and not checked; for numbers.

    Milliseconds, None for what it couldn't tell: since it asked, and from one token to the next. `bytes` as they came
    over its lines, `reconnects` the lines after the first, `duplicates` the events it dropped, `gaps` those it bridged.
    """

    stream_id: str
    duration_ms: float
    tokens: int
    bytes: int
    reconnects: int
    duplicates: int
    gaps: int
    first_token_ms: float | None = None
    inter_token_p50_ms: float | None = None
    inter_token_p95_ms: float | None = None
    inter_token_p99_ms: float | None = None


class Refused(msgspec.Struct, frozen=True):
    """A request was answered with an error before its first byte.

    `reason` is the operator's: which quota, or what was wrong with the credentials. `stream_id`: somebody else's stream
    that was asked for.
    """

    route: str
    method: str
    status: int
    code: str
    reason: str = ""
    who: Person = NOBODY
    stream_id: str | None = None


class Authenticated(msgspec.Struct, frozen=True):
    """Credentials were accepted. Told once for each of them and day."""

    who: Person


class AuthReported(msgspec.Struct, frozen=True):
    """The host application tells of a `login`, `logout` or `token_refresh`, which happen there."""

    kind: str
    who: Person


class ChatAnswered(msgspec.Struct, frozen=True):
    """A request to `/chat` was answered, by the backend or by an error of ours. The time is the whole answer's."""

    status: int
    duration_ms: float


class OriginRefused(msgspec.Struct, frozen=True):
    """A page of a foreign origin asked to read answers and isn't allowed to. Told once."""

    origin: str


class ProxyForgotten(msgspec.Struct, frozen=True):
    """An untrusted peer with a private address forwards callers' addresses. Told once."""

    peer: str


class CredentialsIgnored(msgspec.Struct, frozen=True):
    """Credentials came and nothing is set up by which they could hold. Told once."""


class AdminActed(msgspec.Struct, frozen=True):
    """Somebody used the admin listener to change something or to read personal data, or failed to get in."""

    action: str
    status: int
    who: Person = NOBODY


class FlagValues(msgspec.Struct, frozen=True):
    """What a flag's change was, as two JSON objects with the same keys. May name people: left out like a `Person`."""

    changed_from: str
    changed_to: str

    def __repr__(self) -> str:
        return "FlagValues(…)"


class FlagChanged(msgspec.Struct, frozen=True):
    """A flag of this state directory was changed, by whichever process: told once, by one of those that run.

    `number`: of the entry in the flags' history. `summary` names nobody; who did it is `who.subject`.
    """

    number: int
    key: str
    summary: str
    why: str
    values: FlagValues
    who: Person


class FlagsTaken(msgspec.Struct, frozen=True):
    """Flags from outside are in force again, after `FlagsRefused` or a change of the file. `source`: file or state."""

    source: str


class FlagsRefused(msgspec.Struct, frozen=True):
    """Flags from outside can't be used; what was in force before stays. At a start that is: off for everybody."""

    source: str
    reason: str


class KeysTaken(msgspec.Struct, frozen=True):
    """Callers' keys could be read, for the first time or after `KeysRefused`. `source`: as there."""

    source: str


class KeysRefused(msgspec.Struct, frozen=True):
    """Callers' keys can't be read as they are now; those from before go on. Told once for each `reason`.

    `source`: `jwks`, the issuer's key set, whose reason `too_old` means that no keys are left; or `api_keys`, the file.
    """

    source: str
    reason: str


class AuditKeysMade(msgspec.Struct, frozen=True):
    """The audit trail begins: its keys were made in the file `path`. `vkey` is what a verifier trusts."""

    path: str
    vkey: str
    advice: str


class CheckpointSealed(msgspec.Struct, frozen=True):
    """The audit trail's first `size` records are sealed under `root`, hex. `note` says so, signed.

    Once it has left this host none of those records can be rewritten unseen, even with the signing key.
    """

    origin: str
    size: int
    root: str
    note: str


class AuditTroubled(msgspec.Struct, frozen=True):
    """The audit trail takes no records: `trouble` says why. In strict mode no answers are given meanwhile.

    `not_flushed`: the process leaves without having written everything.
    """

    trouble: str


class AnchorFailed(msgspec.Struct, frozen=True):
    """A checkpoint couldn't be added to the anchor file `path`, `reason` says why. Told once, until one can be."""

    path: str
    reason: str


class AuditRecovered(msgspec.Struct, frozen=True):
    """The audit trail takes records again. `lost`: of those since the start of the process that found no room."""

    lost: int


class Crashed(msgspec.Struct, frozen=True):
    """An unexpected exception reached a task's root: a defect of ours. `kind` is its class, `where` file and line."""

    kind: str
    where: str


class DescriptorsExhausted(msgspec.Struct, frozen=True):
    """No file descriptor is left, of `limit`: new connections wait or are dropped, and no upstream can be reached."""

    limit: int


class DescriptorsFreed(msgspec.Struct, frozen=True):
    """There are file descriptors again."""


class ProcessStarted(msgspec.Struct, frozen=True):
    """The gateway listens."""

    version: str
    upstream: str


class DrainStarted(msgspec.Struct, frozen=True):
    """The process takes no new streams. `live_streams` were under way."""

    live_streams: int
    readers: int


class DrainEnded(msgspec.Struct, frozen=True):
    """The process is about to leave. `lost_streams` were ended as `producer_lost`."""

    lost_streams: int


Fact = (
    StreamOpened
    | TokensTimed
    | StreamEnded
    | ReaderAttached
    | ReaderLeft
    | StopRequested
    | ClientReported
    | Refused
    | Authenticated
    | AuthReported
    | ChatAnswered
    | OriginRefused
    | ProxyForgotten
    | CredentialsIgnored
    | AdminActed
    | FlagChanged
    | FlagsTaken
    | FlagsRefused
    | KeysTaken
    | KeysRefused
    | AuditKeysMade
    | CheckpointSealed
    | AuditTroubled
    | AuditRecovered
    | AnchorFailed
    | Crashed
    | DescriptorsExhausted
    | DescriptorsFreed
    | ProcessStarted
    | DrainStarted
    | DrainEnded
)


class Observer(Protocol):
    """Who hears facts."""

    def notify(self, fact: Fact) -> None:
        """Take note. Must not block and must not raise."""

"""A record on its way into the log: what the caller says, the row that is stored, the leaf that is sealed.

    Record ── stamped ──► Row ── leaf ──► tree
      core      exact JSON bytes, hashed as they are, kept for the term
      personal  salt ‖ JSON, AES-256-GCM under the subject's key; erased by forgetting it and the key

Two digests bind the personal part to the row, and both outlive it. `pii_commit` is over what it said, salted, so it
confirms nothing once the salt is gone. `pii_seal` is over what is stored, so that a verifier without keys sees any
change of it.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import msgspec

from subak.audit.operations import NotPermitted, Operation, PersonalField, check_fields
from subak.core.digests import join_parts
from subak.core.merkle import leaf_hash

_LEAF: Final = b"subak.audit.leaf.v1"
_SEAL: Final = b"subak.audit.seal.v1"


SubjectKind = Literal["principal", "stream", "address"]


class Subject(msgspec.Struct, frozen=True):
    """Whom a record is about: a verified principal, else an anonymous stream by its id, else an address."""

    kind: SubjectKind
    id: str
    tenant: str = ""


class Personal(msgspec.Struct, frozen=True):
    """What a record says about a person. Of `question` only digests are stored; `address` is in canonical form."""

    subject: Subject
    email: str = ""
    address: str = ""
    question: str = ""


class Record(msgspec.Struct, frozen=True):
    """One thing that happened. `fields` are the operation's core fields, `stream_id` is stored as a keyed digest.

    `stream` is that digest, where nothing else is known of the stream any more.
    """

    operation: Operation
    fields: Mapping[str, object] = {}
    stream_id: str = ""
    personal: Personal | None = None
    stream: str = ""


class Stamped(msgspec.Struct, frozen=True):
    """A record and when it happened: milliseconds since the epoch, and of the monotonic clock."""

    record: Record
    time_ms: int
    mono_ms: int


PersonalColumns = tuple[bytes | None, bytes | None, bytes | None, bytes | None]
"""What an erasure takes away: `subject`, `address`, `nonce` and `ct` of a row."""


class Row(NamedTuple):
    """One row as it is stored. `seq` counts from 0; `core` is the exact JSON.

    Time, operation, outcome and stream repeat what the core says, for searching; the verifier compares them.
    `pii_commit` and `pii_seal` are there for ever when there was a personal part, the four after them until it is
    erased. `subject` and `address` are numbers of records in the files of keys.
    """

    seq: int
    time_ms: int
    operation: str
    outcome: str | None
    stream: str | None
    core: bytes
    pii_commit: bytes | None
    pii_seal: bytes | None
    subject: bytes | None
    address: bytes | None
    nonce: bytes | None
    ct: bytes | None

    @property
    def is_redacted(self) -> bool:
        """Whether the personal part was erased."""
        return self.pii_commit is not None and self.personal_columns == (None, None, None, None)

    @property
    def personal_columns(self) -> PersonalColumns:
        """What an erasure takes away."""
        return self[8:12]


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The personal part in clear, as it is encrypted and exported. The digests are hex."""

    kind: SubjectKind
    subject: str
    tenant: str = ""
    email: str = ""
    address: str = ""
    query_hash: str = ""
    query_commit: str = ""


class LeafHasher:
    """Hashes the rows of one log."""

    __slots__ = ("_prefix",)

    def __init__(self, origin: str) -> None:
        self._prefix = join_parts(_LEAF, origin.encode())

    def leaf(self, row: Row) -> bytes:
        """Give the leaf hash: over the row's place, its core and the two digests of its personal part."""
        return leaf_hash(self._prefix + join_parts(row.seq.to_bytes(8), row.core, row.pii_commit, row.pii_seal))


def seal_of(columns: PersonalColumns) -> bytes:
    """Give the digest of the personal columns as they are stored."""
    return sha256(join_parts(_SEAL, *columns)).digest()


def check_record(record: Record) -> None:
    """Raise NotPermitted unless the table lets this record be written."""
    operation = record.operation
    rule = operation.rule
    check_fields(operation, record.fields)
    if (record.stream_id or record.stream) and not rule.has_stream:
        raise NotPermitted(f"{operation}: it belongs to no stream")
    if record.personal is not None:
        _check_personal(operation, record.personal, rule.personal)


def _check_personal(operation: Operation, personal: Personal, permitted: frozenset[PersonalField]) -> None:
    if PersonalField.SUBJECT not in permitted:
        raise NotPermitted(f"{operation}: nothing personal is written here")
    if not personal.subject.id:
        raise NotPermitted(f"{operation}: a personal part names its subject")
    if personal.email and (PersonalField.EMAIL not in permitted or personal.subject.kind != "principal"):
        raise NotPermitted(f"{operation}: an e-mail is written for authenticated operations of a principal only")
    if (personal.address or personal.subject.kind == "address") and PersonalField.ADDRESS not in permitted:
        raise NotPermitted(f"{operation}: no address is written here")
    if personal.question and PersonalField.QUERY_HASH not in permitted:
        raise NotPermitted(f"{operation}: no digest of a question is written here")

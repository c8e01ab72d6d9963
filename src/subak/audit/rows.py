"""Records into rows and back: pseudonyms, commitments and encryption happen here, and nowhere else."""

import hmac
import secrets
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag

from subak.audit.keys import DAY_MS, AuditKeys, day_of
from subak.audit.records import Content, Personal, Record, Row, Stamped, Subject, seal_of
from subak.audit.subjects import SubjectKeyReader, SubjectKeys
from subak.core.digests import DigestKey, join_parts, keyed_digest
from subak.core.randomness import Randomness

CORE_VERSION: Final = 1
SALT_BYTES: Final = 32
NONCE_BYTES: Final = 12
_KEPT_DAYS: Final = 2
_NOTHING_PERSONAL: Final = (None,) * 6
_CONTENT: Final = b"subak.audit.content.v1"
_COMMIT: Final = "subak.audit.commit.v1"
_QUERY_COMMIT: Final = "subak.audit.query-commit.v1"
_ADDRESS: Final = "subak.audit.address.v1"
_SUBJECT: Final = "subak.audit.subject.v1"
_EVIDENCE: Final = "subak.audit.subject.evidence.v1"
"""Two names for one person, so that evidence which outlives an erasure shares neither name nor key with the rest."""


class PersonalMismatch(Exception):
    """A personal part doesn't decrypt, or isn't what its row commits to. The text says which."""


class Pseudonyms:
    """The names of people and addresses in the files of keys, and of streams in rows."""

    __slots__ = ("_digest_key", "_keys")

    def __init__(self, keys: AuditKeys, digest_secret: bytes) -> None:
        """`digest_secret` names streams as the log lines do (`subak.state.load_secret`)."""
        self._keys = keys
        self._digest_key = DigestKey(digest_secret)

    def stream(self, stream_id: str) -> str:
        """Give the name of a stream: an id is a capability and stays out of the log."""
        return self._digest_key.name("stream", stream_id)

    def subject(self, month: str, subject: Subject, *, is_evidence: bool) -> bytes:
        """Give a subject's name in one month."""
        label = _EVIDENCE if is_evidence else _SUBJECT
        return self._keys.pseudonym(month, label, subject.kind, subject.tenant, subject.id)

    def address(self, month: str, address: str) -> bytes:
        """Give an address' name in one month."""
        return self._keys.pseudonym(month, _ADDRESS, address)

    def names_of(self, subject: Subject, *, is_evidence: bool) -> dict[str, bytes]:
        """Give a subject's name in each month that may be kept."""
        return {month: self.subject(month, subject, is_evidence=is_evidence) for month in self._keys.months}

    def names_of_address(self, address: str) -> dict[str, bytes]:
        """Give an address' name in each month that may be kept."""
        return {month: self.address(month, address) for month in self._keys.months}


class Finder:
    """Finds by which numbers rows name a person or an address. Reads the key files through: not on a loop."""

    def __init__(self, pseudonyms: Pseudonyms, subjects: SubjectKeyReader) -> None:
        self._pseudonyms = pseudonyms
        self._subjects = subjects

    def numbers_of(self, subject: Subject) -> tuple[bytes, ...]:
        """Give all numbers of a subject."""
        return self.ordinary_numbers_of(subject) + self._numbers(self._pseudonyms.names_of(subject, is_evidence=True))

    def ordinary_numbers_of(self, subject: Subject) -> tuple[bytes, ...]:
        """Give a subject's numbers outside evidence."""
        return self._numbers(self._pseudonyms.names_of(subject, is_evidence=False))

    def numbers_of_address(self, address: str) -> tuple[bytes, ...]:
        """Give all numbers of an address."""
        return self._numbers(self._pseudonyms.names_of_address(address))

    def _numbers(self, names: Mapping[str, bytes]) -> tuple[bytes, ...]:
        return tuple(number for month, name in names.items() for number in self._subjects.numbers_of(month, {name}))


class RowMaker:
    """Makes the rows of one boot of one log."""

    def __init__(self, keys: AuditKeys, subjects: SubjectKeys, pseudonyms: Pseudonyms, *, boot: str) -> None:
        """`boot` names this run of the process."""
        self._keys = keys
        self._subjects = subjects
        self._pseudonyms = pseudonyms
        self._boot = boot
        self._day = lru_cache(_KEPT_DAYS)(lambda day: day_of(day * DAY_MS))
        self._randomness = Randomness(secrets.token_bytes)

    def make(self, seq: int, stamped: Stamped) -> Row:
        """Give the row for a record at `seq`. A key made for its subject still waits for `SubjectKeys.commit`."""
        record = stamped.record
        stream = self._pseudonyms.stream(record.stream_id) if record.stream_id else record.stream or None
        return Row(
            seq,
            stamped.time_ms,
            record.operation.value,
            _outcome_of(record),
            stream,
            self._core(stamped, stream),
            *(_NOTHING_PERSONAL if record.personal is None else self._personal(seq, stamped, record.personal)),
        )

    def _core(self, stamped: Stamped, stream: str | None) -> bytes:
        record = stamped.record
        core: dict[str, object] = {
            "v": CORE_VERSION,
            "op": record.operation,
            "time_ms": stamped.time_ms,
            "mono_ms": stamped.mono_ms,
            "boot": self._boot,
        }
        if stream is not None:
            core["stream"] = stream
        core.update(record.fields)
        return msgspec.json.encode(core)

    def _personal(self, seq: int, stamped: Stamped, personal: Personal) -> tuple[bytes | None, ...]:
        """Give the columns from `pii_commit` on."""
        day = self._day(stamped.time_ms // DAY_MS)
        month = day[:7]
        name = self._pseudonyms.subject(month, personal.subject, is_evidence=stamped.record.operation.rule.is_evidence)
        salt = self._randomness.take(SALT_BYTES)
        content = msgspec.json.encode(self._content(day, personal, salt))
        commit = commitment(salt, content)
        key = self._subjects.key_for(month, name)
        nonce = self._randomness.take(NONCE_BYTES)
        ct = key.cipher.encrypt(nonce, salt + content, _bound_to(self._keys.origin, seq, commit))
        columns = (key.number, self._address(month, personal.address, name), nonce, ct)
        return (commit, seal_of(columns), *columns)

    def _address(self, month: str, address: str, owner: bytes) -> bytes | None:
        if not address:
            return None
        return self._subjects.key_for(month, self._pseudonyms.address(month, address), owner).number

    def _content(self, day: str, personal: Personal, salt: bytes) -> Content:
        subject = personal.subject
        query_hash = query_commit = ""
        if personal.question:
            question = unicodedata.normalize("NFC", personal.question)
            query_hash = self._keys.query_hash(day, subject.kind, subject.tenant, subject.id, question).hex()
            query_commit = query_commitment(salt, question)
        return Content(
            subject.kind, subject.id, subject.tenant, personal.email, personal.address, query_hash, query_commit
        )


class PersonalReader:
    """Opens personal parts, for those who hold the keys."""

    def __init__(self, origin: str, subjects: SubjectKeyReader) -> None:
        self._origin = origin
        self._subjects = subjects

    def open(self, row: Row) -> tuple[bytes, Content] | None:
        """Give the salt and the content of a row; None where there is none (any more).

        Raises:
            PersonalMismatch: the key is missing, the content doesn't decrypt, or it isn't the one committed to.
        """
        if row.ct is None or row.subject is None or row.nonce is None or row.pii_commit is None:
            return None
        found = self._subjects.find(row.subject)
        if found is None:
            raise PersonalMismatch("the subject's key is missing")
        try:
            clear = found.cipher.decrypt(row.nonce, row.ct, _bound_to(self._origin, row.seq, row.pii_commit))
        except (InvalidTag, ValueError) as error:
            raise PersonalMismatch("the personal part doesn't decrypt") from error
        salt, content = clear[:SALT_BYTES], clear[SALT_BYTES:]
        if not hmac.compare_digest(commitment(salt, content), row.pii_commit):
            raise PersonalMismatch("the personal part isn't the one committed to")
        try:
            return salt, msgspec.json.decode(content, type=Content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PersonalMismatch("the personal part has another form") from error

    def read(self, row: Row) -> Content | None:
        """Give the content of a row; None where there is none (any more). Raises: PersonalMismatch."""
        opened = self.open(row)
        return None if opened is None else opened[1]

    def is_question(self, row: Row, question: str) -> bool | None:
        """Whether this text is the question that the row was written for; None where it tells of none (any more).

        Raises:
            PersonalMismatch: as for `open`.
        """
        opened = self.open(row)
        if opened is None or not opened[1].query_commit:
            return None
        salt, content = opened
        expected = query_commitment(salt, unicodedata.normalize("NFC", question))
        return hmac.compare_digest(expected, content.query_commit)


def commitment(salt: bytes, content: bytes) -> bytes:
    """Give `pii_commit`: what binds a row to a personal part without telling anything about it."""
    return keyed_digest(salt, _COMMIT, content)


def query_commitment(salt: bytes, question: str) -> str:
    """Give the digest, hex, by which a question that somebody shows can be confirmed. `question` in NFC."""
    return keyed_digest(salt, _QUERY_COMMIT, question.encode()).hex()


def _bound_to(origin: str, seq: int, commit: bytes) -> bytes:
    return join_parts(_CONTENT, origin.encode(), seq.to_bytes(8), commit)


def _outcome_of(record: Record) -> str | None:
    outcome = record.fields.get("outcome")
    return outcome if isinstance(outcome, str) else None

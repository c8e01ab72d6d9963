"""The secrets of one log, in one file of the state directory, outside the database and its back-up.

What is in it, and what its loss means:
- the sealing key: without it this log can't go on (it stays verifiable, and a new one begins);
- the key that wraps the subjects' keys: without it nothing personal can be read again;
- the peppers: one a month for pseudonyms, one a day for question digests. A pepper that is destroyed, because its time
  is over, makes everything derived from it meaningless; that is meant.

The file is replaced as a whole and synced, then its former content is overwritten: a copy-on-write disk or a back-up
may still hold it.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Final, Literal

import msgspec

from subak.audit.checkpoints import SealingKey
from subak.audit.errors import StoreUnavailable, trouble_of
from subak.core.digests import DigestKey
from subak.core.notes import MalformedNote, VerifierKey, is_name

KEY_FILE: Final = "audit.keys"
SECRET_BYTES: Final = 32
QUERY_PEPPER_DAYS: Final = 7
_FORMAT: Final = 1
_ORIGIN_BYTES: Final = 8
DAY_MS: Final = 86_400_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()

BACK_UP: Final = (
    "The audit log's keys were made. Back this file up now, apart from the database: without it the log can't be "
    "continued and nothing personal in it can be read. Note the verifier key somewhere else: it is what `subak audit "
    "verify --vkey` trusts."
)
"""What the operator is told when the file was made."""


class KeyFileError(Exception):
    """The key file can't be used. The text says what to do."""


class _Content(msgspec.Struct):
    """The file, as JSON; bytes as base64. `months` and `days` by their ISO names, `2026-11` and `2026-11-23`."""

    format: int
    note: str
    origin: str
    first_vkey: str
    sealing_seed: bytes
    wrapping_key: bytes
    next_seed: bytes | None = None
    months: dict[str, bytes] = {}
    days: dict[str, bytes] = {}


class AuditKeys:
    """The open key file. Only the log's writer changes it."""

    def __init__(self, path: Path, content: _Content) -> None:
        """Use `load_keys`."""
        self._path = path
        self._content = content
        self.origin = content.origin
        self.first_vkey = VerifierKey.parse(content.first_vkey)
        self.sealing = SealingKey(content.origin, content.sealing_seed)
        self.wrapping_key = content.wrapping_key
        self._digest_keys: dict[str, DigestKey] = {}

    @property
    def successor(self) -> SealingKey | None:
        """The next sealing key, while it isn't certified in the log."""
        seed = self._content.next_seed
        return None if seed is None else SealingKey(self.origin, seed)

    def prepare_successor(self) -> SealingKey:
        """Make the next sealing key and keep it, before the log certifies it."""
        successor = SealingKey.generate(self.origin)
        self._change(next_seed=successor.seed)
        return successor

    def settle_successor(self, sealing: VerifierKey) -> None:
        """Seal with `sealing` from now on, which the log names last; destroy the other one.

        Raises:
            KeyFileError: neither key is that one: the file is older than the log.
        """
        successor = self.successor
        if successor is not None and successor.vkey == sealing:
            self._change(sealing_seed=successor.seed, next_seed=None)
            self.sealing = successor
        elif self.sealing.vkey != sealing:
            raise KeyFileError(
                f"{self._path}: the log is sealed by another key ({sealing}). Put back the key file that belongs to it."
            )
        elif successor is not None:
            self._change(next_seed=None)

    def pseudonym(self, month: str, label: str, *parts: str) -> bytes:
        """Give the keyed digest by which a row of that month names what the parts name: 32 bytes.

        Makes the month's pepper at its first use.
        """
        return self._key("months", month).digest(label, *map(str.encode, parts))

    def query_hash(self, day: str, *parts: str) -> bytes:
        """Give the digest of one caller's question on one day: 32 bytes. Makes the day's pepper at its first use."""
        return self._key("days", day).digest("subak.audit.query.v1", *map(str.encode, parts))

    def _key(self, kind: Literal["months", "days"], name: str) -> DigestKey:
        """Give what a month's or a day's pepper digests with; made at its first use."""
        key = self._digest_keys.get(name)
        if key is None:
            peppers: dict[str, bytes] = getattr(self._content, kind)
            if name not in peppers:
                peppers = peppers | {name: secrets.token_bytes(SECRET_BYTES)}
                self._change(**{kind: peppers})
            key = self._digest_keys[name] = DigestKey(peppers[name])
        return key

    @property
    def months(self) -> tuple[str, ...]:
        """The months whose pseudonyms can still be made, oldest first."""
        return tuple(sorted(self._content.months))

    @property
    def days(self) -> tuple[str, ...]:
        """The days whose question digests can still be made, oldest first."""
        return tuple(sorted(self._content.days))

    def destroy_query_peppers(self, *, now_ms: int) -> None:
        """Destroy the peppers of days that are over a week ago."""
        last_day = day_of(now_ms - QUERY_PEPPER_DAYS * DAY_MS)
        days = {day: pepper for day, pepper in self._content.days.items() if day >= last_day}
        if days != self._content.days:
            self._change(days=days)

    def destroy_month_peppers(self, *, before_ms: int) -> tuple[str, ...]:
        """Destroy the peppers of the months that were over at `before_ms`; give their names."""
        last_month = month_of(before_ms)
        months = {month: pepper for month, pepper in self._content.months.items() if month >= last_month}
        destroyed = tuple(sorted(self._content.months.keys() - months.keys()))
        if destroyed:
            self._change(months=months)
        return destroyed

    def _change(self, **fields: object) -> None:
        content = msgspec.structs.replace(self._content, **fields)
        try:
            _replace(self._path, _to_json(content))
        except OSError as error:
            raise StoreUnavailable(trouble_of(error)) from error
        self._content = content
        self._digest_keys.clear()


def load_keys(directory: Path, *, on_created: Callable[[Path, VerifierKey], None] | None = None) -> AuditKeys:
    """Open the key file of a state directory, or make it: `on_created` is told, so that somebody backs it up.

    Raises:
        KeyFileError: it can't be read or made, isn't one, or others may read it.
    """
    path = directory / KEY_FILE
    try:
        if not path.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            keys = _make(path)
            if on_created is not None:
                on_created(path, keys.first_vkey)
            return keys
        return _read(path)
    except OSError as error:
        raise KeyFileError(
            f"{path}: {error.strerror}. Give the process a readable and writable state directory."
        ) from error


def month_of(time_ms: int) -> str:
    """Give the UTC month, `2026-11`."""
    return day_of(time_ms)[:7]


def day_of(time_ms: int) -> str:
    """Give the UTC day, `2026-11-23`."""
    return date.fromordinal(_EPOCH_DAY + time_ms // DAY_MS).isoformat()


def _make(path: Path) -> AuditKeys:
    origin = f"subak/{secrets.token_hex(_ORIGIN_BYTES)}"
    sealing = SealingKey.generate(origin)
    content = _Content(
        format=_FORMAT,
        note="Keep this file secret and backed up apart from the audit database.",
        origin=origin,
        first_vkey=str(sealing.vkey),
        sealing_seed=sealing.seed,
        wrapping_key=secrets.token_bytes(SECRET_BYTES),
    )
    _replace(path, _to_json(content))
    return AuditKeys(path, content)


def _read(path: Path) -> AuditKeys:
    if path.stat().st_mode & 0o077:
        raise KeyFileError(f"{path}: others may read it. Run: chmod 600 {path}")
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Content)
        _check(content)
        return AuditKeys(path, content)
    except (msgspec.DecodeError, MalformedNote, RecursionError, ValueError) as error:
        raise KeyFileError(f"{path}: it isn't a key file ({error}). Put it back from its back-up.") from error


def _check(content: _Content) -> None:
    if content.format != _FORMAT:
        raise ValueError(f"format {content.format}, this version reads {_FORMAT}")
    if not is_name(content.origin) or VerifierKey.parse(content.first_vkey).name != content.origin:
        raise ValueError("the log's name is wrong")
    for secret in _secrets(content):
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret isn't {SECRET_BYTES} bytes")


def _secrets(content: _Content) -> Iterator[bytes]:
    yield content.sealing_seed
    yield content.wrapping_key
    yield from () if content.next_seed is None else (content.next_seed,)
    yield from content.months.values()
    yield from content.days.values()


def _to_json(content: _Content) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content))


def _replace(path: Path, content: bytes) -> None:
    """Put the content in the file's place, durably, and overwrite what was there."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    former = path.open("r+b") if path.exists() else None
    fresh.rename(path)
    sync_directory(path.parent)
    if former is None:
        return
    with former:
        former.write(b"\x00" * os.fstat(former.fileno()).st_size)
        former.flush()
        os.fsync(former.fileno())


def sync_directory(path: Path) -> None:
    """Have the names in a directory outlive a power loss. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

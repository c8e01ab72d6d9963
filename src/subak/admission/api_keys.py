"""API keys at rest: `api-keys.json` in the state directory, digests only, written by `subak keys`, read by gateways.

A key is `sk_subak_<id>_<32 random base62 characters>`, 190 random bits: a plain SHA-256 of it can't be guessed back,
and needs no slow hash. Writers take turns by a lock file and replace the file whole; a running gateway looks at it once
a second, so that a key counts, or counts no longer, about a second after the command. A file that can't be read leaves
a running gateway with the keys that it had: nobody gains access by damaging it, and nobody loses it.
"""

import fcntl
import os
import re
import secrets
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec

from subak.admission.jwt import is_id
from subak.admission.key_watch import API_KEYS, KeyWatch
from subak.admission.reasons import Reason
from subak.core.errors import Unauthenticated
from subak.core.facts import Observer
from subak.core.live import KeySourceState
from subak.core.principal import Claims, Principal

FILE: Final = "api-keys.json"
PREFIX: Final = "sk_subak_"
WATCH_S: Final = 1.0
MAX_KEYS: Final = 10_000
MAX_FILE_BYTES: Final = 8 * 1024 * 1024

_FORM: Final = re.compile(r"sk_subak_([0-9A-Za-z]{10})_[0-9A-Za-z]{32}")
_LOCK: Final = "api-keys.lock"
_VERSION: Final = 1
_BASE62: Final = string.digits + string.ascii_letters
_ID_CHARS: Final = 10
_SECRET_CHARS: Final = 32

_Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class KeyFileError(OSError):
    """The file of keys can't be used. The text says which file, and what to do."""


class KeyRefused(ValueError):
    """What was asked for can't be done to the keys. The text says why."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as it is kept. `digest`: SHA-256 of its text, hexadecimal. Times in UTC; `user`: whose key it is."""

    id: str
    name: str
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created_at: _Time
    user: str | None = None
    expires_at: _Time | None = None
    revoked_at: _Time | None = None

    def status(self, now: datetime) -> str:
        """Give `active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    @property
    def principal(self) -> Principal:
        """Who calls with it: its user, or the key itself where it belongs to none."""
        expires_at = None if self.expires_at is None else self.expires_at.timestamp()
        if self.user is not None:
            return Principal(f"user:{self.user}", Claims(id=self.user), expires_at=expires_at)
        name = f"key:{self.id}"
        return Principal(name, Claims(id=name), expires_at=expires_at)


class _File(msgspec.Struct, frozen=True):
    version: int
    keys: list[ApiKey]


_Stamp: TypeAlias = tuple[int, int, int] | None


class ApiKeys:
    """The keys that a gateway knows."""

    __slots__ = ("_keys", "_path", "_stamp", "_watch")

    def __init__(self, state_dir: Path, observer: Observer | None = None) -> None:
        """Read the keys; no file means none. `observer` hears when a later file can't be used, and when it can again.

        Raises:
            KeyFileError: there is one that can't be used.
        """
        self._path = state_dir / FILE
        self._watch = KeyWatch(API_KEYS, observer)
        self._stamp = _stamp_of(self._path)
        self._keys = _by_id(_read(self._path))

    def __len__(self) -> int:
        return len(self._keys)

    def authenticate(self, text: str, now: float) -> Principal | None:
        """Give who calls with this key; None when it isn't of the form of one. `now`: seconds since the epoch.

        Raises:
            Unauthenticated: there is no such key, or it counts no longer.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            return None
        key = self._keys.get(form[1])
        if key is None or not compare_digest(key.digest, digest_of(text)):
            raise Unauthenticated(Reason.KEY_UNKNOWN)
        if key.revoked_at is not None:
            raise Unauthenticated(Reason.KEY_REVOKED)
        principal = key.principal
        if principal.expires_at is not None and principal.expires_at <= now:
            raise Unauthenticated(Reason.KEY_EXPIRED)
        return principal

    @property
    def state(self) -> KeySourceState:
        """How the file does."""
        return KeySourceState(self._watch.source, self._watch.problem, self._watch.failures)

    def on_deadline(self, now: float) -> float:
        """Take up a file that was replaced (`Watched`). One `stat` a second; a read after a change, or in trouble."""
        stamp = _stamp_of(self._path)
        if stamp != self._stamp or self._watch.problem:
            self._stamp = stamp
            self._reload()
        return now + WATCH_S

    def _reload(self) -> None:
        try:
            self._keys = _by_id(_read(self._path))
        except KeyFileError as error:
            self._watch.failed(str(error))
        else:
            self._watch.went_well()


class KeyStore:
    """What `subak keys` does to the file."""

    def __init__(self, state_dir: Path) -> None:
        """Use the file in this directory, which is made when a first key is."""
        self._directory = state_dir

    def kept(self) -> list[ApiKey]:
        """Give all keys, oldest first.

        Raises:
            KeyFileError: the file can't be used.
        """
        return _read(self._directory / FILE)

    def create(
        self, name: str, *, now: datetime, user: str | None = None, expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key and give it with its text, which nobody can find out afterwards.

        Raises:
            KeyRefused: the name or the user won't do, or an active key bears the name, or there are too many keys.
            KeyFileError: the file can't be used.
        """
        for label, text in (("name", name), ("user", user)):
            if text is not None and not is_id(text):
                raise KeyRefused(f"A {label} has 1 to 255 printable characters, and no blank at either end.")
        key_id = _random_text(_ID_CHARS)
        text = f"{PREFIX}{key_id}_{_random_text(_SECRET_CHARS)}"
        key = ApiKey(id=key_id, name=name, digest=digest_of(text), created_at=now, user=user, expires_at=expires_at)
        with self._rewriting() as (keys, replace):
            if any(each.name == name and each.status(now) == "active" for each in keys):
                raise KeyRefused(f"An active key is called {name!r} already. Revoke it, or choose another name.")
            if len(keys) >= MAX_KEYS:
                raise KeyRefused(f"There are {MAX_KEYS} keys, as many as are kept.")
            replace([*keys, key])
        return key, text

    def revoke(self, wanted: str, *, now: datetime) -> ApiKey:
        """Revoke the key with this id, or the active one of this name. One that is revoked stays as it is.

        Raises:
            KeyRefused: there is none.
            KeyFileError: the file can't be used.
        """
        with self._rewriting() as (keys, replace):
            key = _chosen(keys, wanted, now)
            if key.revoked_at is not None:
                return key
            revoked = msgspec.structs.replace(key, revoked_at=now)
            replace([revoked if each is key else each for each in keys])
            return revoked

    @contextmanager
    def _rewriting(self) -> Iterator[tuple[list[ApiKey], Callable[[list[ApiKey]], None]]]:
        """Hold the lock: give the keys, and what puts others in their place."""
        path = self._directory / FILE
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._directory / _LOCK):
                yield _read(path), lambda keys: _replace(path, keys)
        except KeyFileError:
            raise
        except OSError as error:
            raise _unusable(path, error) from error


def digest_of(text: str) -> str:
    """Give what is kept of a key."""
    return sha256(text.encode()).hexdigest()


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _by_id(keys: list[ApiKey]) -> dict[str, ApiKey]:
    return {key.id: key for key in keys}


def _chosen(keys: list[ApiKey], wanted: str, now: datetime) -> ApiKey:
    by_id = _by_id(keys)
    if wanted in by_id:
        return by_id[wanted]
    named = [key for key in keys if key.name == wanted]
    if not named:
        raise KeyRefused(f"No key has the id or the name {wanted!r}.")
    return next((key for key in named if key.status(now) == "active"), named[-1])


def _stamp_of(path: Path) -> _Stamp:
    """What tells that a file was replaced or written to; None when it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> list[ApiKey]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        found = msgspec.json.decode(raw, type=_File)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise KeyFileError(
            f"{path}: this is no file of API keys, or only a part of one. Put back a copy of it; "
            "or remove it, and every key has to be made anew."
        ) from error
    if found.version != _VERSION:
        raise KeyFileError(f"{path}: written by another version of Subak, whose form is {found.version}.")
    return found.keys


def _replace(path: Path, keys: list[ApiKey]) -> None:
    """Put a new file in the old one's place, on the disk before it is visible, readable by its owner alone."""
    raw = msgspec.json.format(msgspec.json.encode(_File(_VERSION, keys)), indent=1)
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        _belong_to_the_owner(file.fileno(), path.parent)
        file.write(raw + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock, then hold it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _belong_to_the_owner(handle, path.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _belong_to_the_owner(handle: int, directory: Path) -> None:
    """Let the directory's owner, as whom the gateway runs, read what root has made."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)


def _unusable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"{path}: {error.strerror}. Run as the user who owns the state directory, or name another by SUBAK_STATE_DIR."
    )


def now_utc(time_ms: int) -> datetime:
    """Give a time in whole seconds, as keys bear it."""
    return datetime.fromtimestamp(time_ms // 1000, UTC)

"""The state directory: everything that one installation keeps between starts."""

import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

SECRET_FILE: Final = "digest.key"
SECRET_BYTES: Final = 32
ADMIN_TOKEN_FILE: Final = "admin.token"


class StateError(Exception):
    """The state directory can't be used. The text says what to do."""


class AdminToken(NamedTuple):
    """What opens the admin listener. `is_new`: it was made just now, and nobody has seen it yet."""

    text: str
    is_new: bool


def load_admin_token(state_dir: Path) -> AdminToken:
    """Give the admin token, made at the first start, readable by the owner alone.

    Raises:
        StateError: the file can't be read or written, or is empty.
    """
    path = state_dir / ADMIN_TOKEN_FILE
    try:
        made = secrets.token_urlsafe(SECRET_BYTES)
        if _make(path, made.encode()):
            return AdminToken(made, is_new=True)
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: {error}. Remove it to have it made anew.") from error
    if not text:
        raise StateError(f"{path}: it is empty. Remove it to have it made anew.")
    return AdminToken(text, is_new=False)


def load_secret(state_dir: Path) -> bytes:
    """Give the key of all digests, made at the first start: 32 random bytes, readable by the owner alone.

    With it the same stream bears the same name in log lines of different days, and idempotency keys can't be read back.

    Raises:
        StateError: the directory or the file can't be read or written, or the file isn't a key.
    """
    path = state_dir / SECRET_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read_or_make(path)
    except OSError as error:
        raise StateError(
            f"{path}: {error.strerror}. Give the process a writable directory with SUBAK_STATE_DIR."
        ) from error


def _read_or_make(path: Path) -> bytes:
    secret = secrets.token_bytes(SECRET_BYTES)
    return secret if _make(path, secret) else _read(path)


def _make(path: Path, content: bytes) -> bool:
    """Write a file that wasn't there; whether it wasn't."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return True


def _read(path: Path) -> bytes:
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StateError(f"{path}: expected {SECRET_BYTES} bytes, found {len(secret)}. Remove it to have it made anew.")
    return secret

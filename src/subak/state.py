"""The state directory: everything that one installation keeps between starts."""

import os
import secrets
from pathlib import Path
from typing import Final

SECRET_FILE: Final = "digest.key"
SECRET_BYTES: Final = 32


class StateError(Exception):
    """The state directory can't be used. The text says what to do."""


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
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    secret = secrets.token_bytes(SECRET_BYTES)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    return secret


def _read(path: Path) -> bytes:
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StateError(f"{path}: expected {SECRET_BYTES} bytes, found {len(secret)}. Remove it to have it made anew.")
    return secret

"""The state directory: whether the next start can use it, and who else can read it. Makes nothing that stays."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from subak.doctor.findings import Check, Finding, failed, fine, warning
from subak.state import SECRET_BYTES, SECRET_FILE

LITTLE_SPACE_BYTES: Final = 256 * 1024 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MIB: Final = 1024 * 1024
_ANOTHER: Final = "give the process a directory of its own with SUBAK_STATE_DIR"


def look_at_state(directory: Path) -> Iterator[Finding]:
    """Look at the directory, its key and the space around it."""
    looks = (
        (Check.STATE_DIR, _look_at_directory),
        (Check.STATE_KEY, _look_at_key),
        (Check.STATE_SPACE, _look_at_space),
    )
    for check, look in looks:
        try:
            yield look(directory)
        except OSError as error:
            yield failed(check, f"{error.filename or directory}: {error.strerror}", _ANOTHER)


def _nearest(directory: Path) -> Path:
    """Give the directory, or the nearest above it that exists."""
    return next((path for path in (directory, *directory.absolute().parents) if path.exists()), Path("/"))


def _look_at_directory(directory: Path) -> Finding:
    if not directory.exists():
        return _look_at_parent(directory, _nearest(directory))
    if not directory.is_dir():
        return failed(Check.STATE_DIR, f"{directory.absolute()} is no directory", _ANOTHER)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-"):
        pass
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & _OTHERS:
        return warning(
            Check.STATE_DIR, f"{directory.absolute()} is open to others (mode {mode:04o})", f"chmod 700 {directory}"
        )
    return fine(Check.STATE_DIR, f"{directory.absolute()} is writable, mode {mode:04o}")


def _look_at_parent(directory: Path, parent: Path) -> Finding:
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return fine(Check.STATE_DIR, f"{directory.absolute()} doesn't exist yet; the first start makes it")
    return failed(Check.STATE_DIR, f"{directory.absolute()} can't be made in {parent.absolute()}", _ANOTHER)


def _look_at_key(directory: Path) -> Finding:
    path = directory / SECRET_FILE
    if not path.exists():
        return fine(Check.STATE_KEY, f"{SECRET_FILE} doesn't exist yet; the first start makes it")
    with path.open("rb") as file:
        has_its_size = len(file.read(SECRET_BYTES + 1)) == SECRET_BYTES
    mode = stat.S_IMODE(path.stat().st_mode)
    if not has_its_size:
        return failed(
            Check.STATE_KEY,
            f"{SECRET_FILE} isn't a key of {SECRET_BYTES} bytes: the gateway won't start",
            f"put it back from a copy, or remove {path} to have it made anew",
        )
    if mode & _OTHERS:
        return warning(Check.STATE_KEY, f"{SECRET_FILE} is open to others (mode {mode:04o})", f"chmod 600 {path}")
    return fine(Check.STATE_KEY, f"{SECRET_FILE} is there, mode {mode:04o}")


def _look_at_space(directory: Path) -> Finding:
    free_bytes = shutil.disk_usage(_nearest(directory)).free
    seen = f"{free_bytes // _MIB} MiB are free"
    if free_bytes < LITTLE_SPACE_BYTES:
        fix = "make room, or move the directory with SUBAK_STATE_DIR"
        return warning(Check.STATE_SPACE, seen, fix, free_bytes=free_bytes)
    return fine(Check.STATE_SPACE, seen, free_bytes=free_bytes)

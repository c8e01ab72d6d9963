"""A disk that loses power: what a process wrote is on it as far as it was synced, and of the rest whatever chance left.

`power_loss.c` notes every write, sync and change of a directory that a process makes below one folder. From those notes
the folder is made anew as a power loss at any moment could have left it:

- what was written before a file's last sync is there;
- of what was written after it, each sector of 512 bytes is there or isn't, in any combination;
- files that were made, renamed or removed after the directory's last sync are so up to some point.

That is stricter than most file systems, where syncing a new file also keeps its name.
"""

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.settings import child_environment

_SOURCE: Final = Path(__file__).with_suffix(".c")
_ROOT: Final = Path(__file__).parents[2]
_HEAD: Final = struct.Struct("<cQQQ")
_SECTOR_BYTES: Final = 512
_VOLATILE: Final = b"-shm"
"""The end of the name of a file that SQLite makes anew."""


class Entry(NamedTuple):
    """One call, as `power_loss.c` describes it."""

    kind: bytes
    file: int
    at: int
    content: bytes


def noted(script: Path, folder: Path, *arguments: str) -> list[Entry]:
    """Run a script of ours until its end; give what it did below `folder`, and what it said."""
    journal = folder.parent / "journal"
    environment = child_environment(
        PYTHONPATH=f"{_ROOT / 'src'}:{_ROOT}",
        LD_PRELOAD=str(_library(folder.parent / "power_loss.so")),
        POWER_ROOT=str(folder),
        POWER_LOG=str(journal),
    )
    subprocess.run([sys.executable, script, folder, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
    return list(_entries(journal.read_bytes()))


def said(entries: Sequence[Entry]) -> list[bytes]:
    """Give the lines that a process printed."""
    return b"".join(entry.content for entry in entries if entry.kind == b"A").splitlines()


def left_by_power_loss(entries: Sequence[Entry], dice: random.Random, folder: Path, target: Path) -> None:
    """Write into `target` what may be on the disk of `folder` when power is lost after these calls."""
    disk = _Disk()
    for entry in entries:
        disk.take(entry)
    disk.lose_power(dice)
    for path, content in disk.files(bytes(folder)):
        target.joinpath(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(target / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)


def _library(path: Path) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (apt-get install gcc libc6-dev)")
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", path, _SOURCE], check=True)
    return path


def _entries(journal: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(journal):
        kind, file, place, length = _HEAD.unpack_from(journal, at)
        at += _HEAD.size
        yield Entry(kind, file, place, journal[at : at + length])
        at += length


class _File:
    """One file: what is on the disk for certain, and what was written since."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._pending: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self._pending.append(entry)

    def sync(self) -> None:
        for entry in self._pending:
            self._apply(entry)
        self._pending.clear()

    def lose_power(self, dice: random.Random) -> None:
        share = dice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for entry in self._pending:
            for piece in _sectors(entry):
                if dice.random() < share:
                    self._apply(piece)

    def _apply(self, entry: Entry) -> None:
        content, end = self.content, entry.at + len(entry.content)
        if entry.kind == b"T":
            del content[entry.at :]
        content.extend(bytes(max(0, end - len(content))))
        content[entry.at : end] = entry.content


def _sectors(entry: Entry) -> Iterator[Entry]:
    """Give a write as the writes of single sectors; anything else as it is."""
    if entry.kind != b"W":
        yield entry
        return
    start, end = entry.at, entry.at + len(entry.content)
    while start < end:
        stop = min(end, (start // _SECTOR_BYTES + 1) * _SECTOR_BYTES)
        yield entry._replace(at=start, content=entry.content[start - entry.at : stop - entry.at])
        start = stop


class _Disk:
    """All files below a folder by their paths, None for a folder, and what of the directories wasn't synced yet."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._names: dict[bytes, _File | None] = {}
        self._pending: list[tuple[Entry, _File | None]] = []

    def take(self, entry: Entry) -> None:
        """Take the next call."""
        match entry.kind:
            case b"C":
                self._files[entry.file] = _File()
                self._pending.append((entry, self._files[entry.file]))
            case b"W" | b"T":
                self._files[entry.file].write(entry)
            case b"S":
                self._files[entry.file].sync()
            case b"M" | b"R" | b"U":
                self._pending.append((entry, None))
            case b"D":
                self._keep_changes([one for one in self._pending if _parent(one[0].content) == entry.content])
            case _:
                pass

    def lose_power(self, dice: random.Random) -> None:
        """Keep what chance keeps."""
        for file in self._files.values():
            file.lose_power(dice)
        self._keep_changes(self._pending[: dice.randint(0, len(self._pending))])

    def files(self, folder: bytes) -> Iterator[tuple[Path, bytes]]:
        """Give what is there, by its path below the folder, of which only what is volatile is left out."""
        for path, file in self._names.items():
            parent = _parent(path)
            if file is not None and not path.endswith(_VOLATILE) and (parent == folder or parent in self._names):
                yield Path(os.path.relpath(path, folder).decode()), bytes(file.content)

    def _keep_changes(self, changes: Sequence[tuple[Entry, _File | None]]) -> None:
        for change, file in changes:
            self._pending.remove((change, file))
            path, _, renamed_to = change.content.partition(b"\0")
            match change.kind:
                case b"R":
                    self._names[renamed_to] = self._names.pop(path)
                case b"U":
                    self._names.pop(path, None)
                case _:
                    self._names[path] = file


def _parent(path: bytes) -> bytes:
    """Give the folder of a path, or of the first of two."""
    return path.partition(b"\0")[0].rpartition(b"/")[0]

"""The subjects' keys, outside the database and its back-up: to destroy one erases what it encrypts, in every copy.

One file a month, of records of one size: the pseudonym, and a wrapped key. A row of the log names a record by its
number, which tells nothing by itself; that it was about somebody can be confirmed only here, by the pseudonym. So an
erasure overwrites the record where it stands, and whatever a database leaves of former rows in its free pages, its
write-ahead log or a back-up is noise from then on. (Pseudonyms as columns did stay behind: SQLite's `secure_delete`
doesn't wipe what its pages leave when they are balanced.)

    record   name 32 · nonce 12 · wrapped key 48 · zero 4;  all zero once destroyed
    number   month, counted from year 0: 2 bytes · record in its file: 6 bytes
"""

import errno
import os
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from subak.audit.errors import StoreDamaged, StoreUnavailable, trouble_of
from subak.audit.keys import sync_directory
from subak.core.randomness import Randomness

SUBJECT_FOLDER: Final = "audit-subjects"
NUMBER_BYTES: Final = 8
RECORD_BYTES: Final = 96
_NAME_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_USED_BYTES: Final = 92
_MONTH_BYTES: Final = 2
_MONTHS: Final = 12
_GONE: Final = bytes(RECORD_BYTES)
_MAX_CACHED: Final = 8192
_PAGE_RECORDS: Final = 1000
_WIPE_BYTES: Final = 1 << 20


class SubjectKey:
    """One key, and the number by which a row names it."""

    __slots__ = ("_secret", "number")

    def __init__(self, number: bytes, secret: bytes) -> None:
        """Keep the key as bytes: as a cipher it would take 2.5 KB of each open stream. To make one takes 1 µs."""
        self.number = number
        self._secret = secret

    @property
    def cipher(self) -> AESGCM:
        """What encrypts with it, made anew."""
        return AESGCM(self._secret)


class Named(NamedTuple):
    """A record of the file: whose key it is, by pseudonym, and the key."""

    name: bytes
    cipher: AESGCM


class SubjectKeyReader:
    """Finds keys, beside a writer."""

    def __init__(self, folder: Path, wrapping_key: bytes) -> None:
        """`folder` holds the files; nothing is opened before it is needed."""
        self._folder = folder
        self._wrapping = AESGCM(wrapping_key)
        self._handles: dict[str, int] = {}

    def find(self, number: bytes) -> Named | None:
        """Give a record; None when there is none (any more).

        Raises:
            StoreUnavailable: the file can't be read. StoreDamaged: the wrapped key doesn't open.
        """
        month, _ = _place_of(number)
        record = self._record(number)
        if len(record) < RECORD_BYTES or record == _GONE:
            return None
        return self._read(month, record)

    def is_destroyed(self, number: bytes) -> bool:
        """Whether there was a key that an erasure destroyed. Raises: StoreUnavailable."""
        return self._record(number) == _GONE

    def numbers_of(self, month: str, names: Collection[bytes]) -> Iterator[bytes]:
        """Give the numbers of all records of a month with one of these names: reads the file through."""
        with _translated():
            handle = self._open(month)
            page = b"" if handle is None else os.pread(handle, RECORD_BYTES * _PAGE_RECORDS, 0)
        record = 0
        while handle is not None and len(page) >= RECORD_BYTES:
            for start in range(0, len(page) - RECORD_BYTES + 1, RECORD_BYTES):
                if page[start : start + _NAME_BYTES] in names:
                    yield _number(month, record)
                record += 1
            with _translated():
                page = os.pread(handle, RECORD_BYTES * _PAGE_RECORDS, record * RECORD_BYTES)

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def _record(self, number: bytes) -> bytes:
        month, place = _place_of(number)
        with _translated():
            handle = self._open(month)
            return b"" if handle is None else os.pread(handle, RECORD_BYTES, place)

    def _open(self, month: str) -> int | None:
        """Give the file of a month; None when there is none."""
        handle = self._handles.get(month)
        if handle is None:
            try:
                handle = self._handles[month] = os.open(self._path(month), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        return handle

    def _path(self, month: str) -> Path:
        return self._folder / f"{month}.keys"

    def _read(self, month: str, record: bytes) -> Named:
        name, sealed = record[:_NAME_BYTES], record[_NAME_BYTES:_USED_BYTES]
        try:
            key = self._wrapping.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name)
        except InvalidTag as error:
            raise StoreDamaged(f"{self._path(month)}: a key doesn't open. Put back its own key file.") from error
        return Named(name, AESGCM(key))


class SubjectKeys(SubjectKeyReader):
    """Makes and destroys keys. New ones are on disk after `commit`, which precedes the rows that need them."""

    def __init__(self, folder: Path, wrapping_key: bytes) -> None:
        """Open the folder, made if there is none. Raises: StoreUnavailable."""
        super().__init__(folder, wrapping_key)
        self._cache: OrderedDict[bytes, SubjectKey] = OrderedDict()
        self._ends: dict[str, int] = {}
        self._fresh: dict[str, list[bytes]] = {}
        self._randomness = Randomness(secrets.token_bytes)
        with _translated():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(folder.parent)

    def key_for(self, month: str, name: bytes, owner: bytes = b"") -> SubjectKey:
        """Give the key of a pseudonym in a month: the one used lately, else a new one.

        What belongs to one `owner` has keys of its own, so that it can be destroyed without the others'.
        """
        wanted = month.encode() + name + owner
        cached = self._cache.get(wanted)
        if cached is not None:
            self._cache.move_to_end(wanted)
            return cached
        key = self._cache[wanted] = self._make(month, name)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return key

    def commit(self) -> None:
        """Make new keys durable. Raises: StoreUnavailable."""
        if not self._fresh:
            return
        with _translated():
            for month, records in self._fresh.items():
                handle = self._open(month)
                assert handle is not None, "a writer makes what it opens"
                content = b"".join(records)
                written = os.pwrite(handle, content, self._ends[month] * RECORD_BYTES)
                if written < len(content):
                    raise OSError(errno.ENOSPC, "the disk took a part only")
                os.fdatasync(handle)
        for month, records in self._fresh.items():
            self._ends[month] += len(records)
        self._fresh.clear()

    def roll_back(self) -> None:
        """Forget the new keys that aren't durable."""
        self._cache.clear()
        self._fresh.clear()

    def destroy(self, numbers: Collection[bytes]) -> None:
        """Overwrite these records, durably. Raises: StoreUnavailable."""
        self._cache.clear()
        with _translated():
            touched: set[int] = set()
            for number in numbers:
                month, place = _place_of(number)
                handle = self._open(month) if self._path(month).exists() else None
                if handle is not None and place < os.fstat(handle).st_size:
                    os.pwrite(handle, _GONE, place)
                    touched.add(handle)
            for handle in touched:
                os.fdatasync(handle)

    def destroy_months(self, months: Collection[str]) -> None:
        """Overwrite and remove the files of these months. Raises: StoreUnavailable."""
        self._cache.clear()
        with _translated():
            for month in months:
                handle = self._open(month)
                assert handle is not None, "a writer makes what it opens"
                _wipe(handle)
                self._path(month).unlink()
                os.close(self._handles.pop(month))
                self._ends.pop(month, None)

    def _make(self, month: str, name: bytes) -> SubjectKey:
        with _translated():
            self._open(month)
        key = self._randomness.take(_KEY_BYTES)
        nonce = self._randomness.take(_NONCE_BYTES)
        record = name + nonce + self._wrapping.encrypt(nonce, key, name)
        fresh = self._fresh.setdefault(month, [])
        number = _number(month, self._ends[month] + len(fresh))
        fresh.append(record.ljust(RECORD_BYTES, b"\x00"))
        return SubjectKey(number, key)

    def _open(self, month: str) -> int | None:
        """Give the file of a month, made if there is none. Half a record at its end was never used."""
        handle = self._handles.get(month)
        if handle is None:
            handle = self._handles[month] = os.open(self._path(month), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._ends[month] = os.fstat(handle).st_size // RECORD_BYTES
            sync_directory(self._folder)
        return handle


def _number(month: str, record: int) -> bytes:
    year, of_year = month.split("-")
    return (int(year) * _MONTHS + int(of_year) - 1).to_bytes(_MONTH_BYTES) + record.to_bytes(
        NUMBER_BYTES - _MONTH_BYTES
    )


def _place_of(number: bytes) -> tuple[str, int]:
    """Give the month and the offset in its file."""
    year, of_year = divmod(int.from_bytes(number[:_MONTH_BYTES]), _MONTHS)
    return f"{year:04}-{of_year + 1:02}", int.from_bytes(number[_MONTH_BYTES:NUMBER_BYTES]) * RECORD_BYTES


def _wipe(handle: int) -> None:
    size_bytes = os.fstat(handle).st_size
    for start in range(0, size_bytes, _WIPE_BYTES):
        os.pwrite(handle, bytes(min(_WIPE_BYTES, size_bytes - start)), start)
    os.fdatasync(handle)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(trouble_of(error)) from error

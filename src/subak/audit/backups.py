"""Copies of a log: made beside its writer, and put back in a way that neither breaks the log nor hides itself.

A copy is one SQLite file, whichever store it comes from, without the keys: who has it alone can verify it, and read
nothing personal. The keys are copied apart from it (`back_up_keys`), and best for a short time: a copy of a subject's
key outlives its erasure.

A log that is put back has lost what was written after the copy. It says so, in the first row of a new boot:
`log.restore` with the size that it once had. What was erased in the meantime is erased again, by three tokens: the rows
`gdpr.erase` in the copy itself, those of the log that it replaces, where they can still be read, and the keys that are
destroyed. Holds that began in the meantime begin again; those that were lifted hold again, until they are lifted.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import msgspec

from subak.audit.errors import StoreDamaged, StoreUnavailable
from subak.audit.keys import KEY_FILE, month_of
from subak.audit.operations import Operation
from subak.audit.records import Record, Row
from subak.audit.retention import Hold, erase_again, erased_by, hold, holds, spans_of
from subak.audit.sqlite import LOG_FILE, SqliteReader, SqliteStore
from subak.audit.sqlite_files import WriterLock
from subak.audit.store import Batch, LogReader, LogStore, Query
from subak.audit.subjects import SUBJECT_FOLDER
from subak.audit.writer import LogWriter
from subak.core.merkle import CompactRange, MalformedRange, Span

ERASED_AGAIN: Final = "erased before the log was put back from a back-up"
_BATCH_ROWS: Final = 2000
_SIDE_FILES: Final = ("", "-wal", "-shm")


class Former(NamedTuple):
    """What is known of the log that is replaced: its size, and what was erased and held after the copy was made.

    `is_readable`: all of it could be read, so that no erasure and no hold is unknown.
    """

    size: int
    erased: tuple[Span, ...]
    is_readable: bool
    holds: tuple[Hold, ...] = ()


class Restored(NamedTuple):
    """What a restore did: its row, the rows that are gone, the rows whose personal part was erased again."""

    seq: int
    lost: int
    erased: int


def back_up(reader: LogReader, target: Path) -> int:
    """Write a copy of the log as `reader` sees it to a new file, for its owner alone; give its size in rows.

    Raises:
        FileExistsError, OSError: the file is there, or can't be made. StoreUnavailable, StoreDamaged.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        if isinstance(reader, SqliteReader):
            reader.back_up(target)
        else:
            _fill_file(reader, target)
        _sync(target)
        with closing(SqliteReader(target)) as copy:
            return copy.end()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def back_up_keys(directory: Path, target: Path, *others: str) -> list[Path]:
    """Copy the key file, the subjects' keys and `others` of a state directory to a new folder; give what was copied.

    Raises:
        OSError: the folder is there, or something can't be read or written.
    """
    target.mkdir(mode=0o700)
    return list(_copy_missing(directory, target, others))


def put_back_keys(source: Path, directory: Path, *others: str) -> list[Path]:
    """Copy what `back_up_keys` wrote to a state directory, where it is missing; nothing there is overwritten.

    Raises:
        OSError: something can't be read or written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return list(_copy_missing(source, directory, others))


def put_back_file(copy: SqliteReader, directory: Path, *, suffix: str) -> Path | None:
    """Put a copy in the place of a state directory's log; give where that one lies now, None if there was none.

    `suffix` is for the names of the replaced files.

    Raises:
        LogInUse: a process writes the log. StoreUnavailable, StoreDamaged, OSError: nothing was replaced.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / LOG_FILE
    fresh = path.with_name(f"{LOG_FILE}.restoring")
    with closing(WriterLock(path.with_name(path.name + ".lock"))):
        fresh.unlink(missing_ok=True)
        back_up(copy, fresh)
        had_one = path.exists()
        for side in _SIDE_FILES:
            there = path.with_name(path.name + side)
            if there.exists():
                there.rename(path.with_name(path.name + suffix + side))
        fresh.rename(path)
        _sync(directory)
    return path.with_name(path.name + suffix) if had_one else None


def put_back_rows(copy: LogReader, store: LogStore) -> None:
    """Write a copy into a store that has nothing of this log.

    Raises:
        StoreDamaged: it has. StoreUnavailable: some of it may be written; empty the store and do it again.
    """
    if store.end() > 0:
        raise StoreDamaged(
            f"The database still has rows of the log {store.origin}: put it back into an empty one, or, if the "
            "database itself was put back, run `subak audit restore` without a file."
        )
    _fill(copy, store)


def look_at_former(reader: LogReader, copied_size: int) -> Former:
    """Give what is known of a log that is about to be replaced by a copy of `copied_size` rows."""
    size = copied_size
    erased: list[Span] = []
    try:
        size = max(size, reader.end())
        for row in reader.search(Query(operations=(Operation.GDPR_ERASE,), after_seq=copied_size - 1)):
            erased += (Span(start, min(stop, copied_size)) for start, stop in erased_by(row) if start < copied_size)
        held = tuple(one for one in holds(reader, now_ms=0) if one.seq >= copied_size)
    except (StoreDamaged, StoreUnavailable, msgspec.MsgspecError, RecursionError):
        return Former(size, tuple(erased), is_readable=False)
    return Former(size, tuple(erased), is_readable=True, holds=held)


def resume(writer: LogWriter, former: Former, *, why: str) -> Restored:
    """Begin a new boot of a log that was put back: say so, erase and hold again what was since the copy.

    Raises:
        StoreUnavailable: try again: to say it twice does no harm.
    """
    copied_size = writer.size
    size = max(copied_size, former.size)
    fields: dict[str, object] = {"size": size} | ({"why": why} if why else {})
    restore = writer.write(Record(Operation.LOG_RESTORE, fields))
    writer.seal()
    again = set[int]().union(*(range(start, stop) for start, stop in former.erased))
    spans = spans_of(row.seq for row in writer.store.rows(0) if _is_to_erase(writer, row, again))
    erased = erase_again(writer, spans, why=ERASED_AGAIN) if spans else 0
    for one in former.holds:
        if one.until_ms > writer.clock.time_ms():
            hold(writer, until_ms=one.until_ms, why=one.why)
    writer.seal()
    writer.store.scrub()
    return Restored(restore.seq, size - copied_size, erased)


def _is_to_erase(writer: LogWriter, row: Row, again: set[int]) -> bool:
    if row.subject is None:
        return False
    is_aged_out = month_of(row.time_ms) not in writer.keys.months
    return row.seq in again or is_aged_out or writer.subjects.is_destroyed(row.subject)


def _fill_file(reader: LogReader, target: Path) -> None:
    """Write a log file of rows from elsewhere, and a copy of that: one file, with nothing beside it."""
    with TemporaryDirectory(prefix=".subak-copy-", dir=target.parent) as name:
        path = Path(name, LOG_FILE)
        with closing(SqliteStore(path, reader.origin)) as store:
            _fill(reader, store)
            store.back_up(target)


def _fill(reader: LogReader, store: LogStore) -> None:
    """Write everything that a log has into an empty store: certificates before the rows, seals after them."""
    size, hashes = reader.base()
    try:
        base = CompactRange.from_bytes(size, hashes)
    except MalformedRange as error:
        raise StoreDamaged("What stands for the pruned rows is damaged: run `subak audit verify`.") from error
    if size:
        store.prune(base)
    for rotation in reader.rotations():
        store.append(Batch(rotation=rotation))
    for rows in _chunks(reader.rows(size)):
        store.append(Batch(rows=rows))
    for checkpoint in reader.checkpoints():
        store.append(Batch(checkpoint=checkpoint))


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, _BATCH_ROWS)):
        yield chunk


def _copy_missing(source: Path, target: Path, others: Iterable[str]) -> Iterator[Path]:
    folder = source / SUBJECT_FOLDER
    (target / SUBJECT_FOLDER).mkdir(mode=0o700, exist_ok=True)
    months = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in (source / KEY_FILE, *(source / name for name in others), *months):
        there = target / path.relative_to(source)
        if path.exists() and not there.exists():
            handle = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with path.open("rb") as content, os.fdopen(handle, "wb") as file:
                shutil.copyfileobj(content, file)
                file.flush()
                os.fsync(file.fileno())
            yield there


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

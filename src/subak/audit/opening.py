"""Opens a log to be written: keys, store and subjects' keys of one state directory, and what a crash left undone."""

from collections.abc import Callable
from pathlib import Path

from subak.audit.keys import KEY_FILE, AuditKeys, KeyFileError, load_keys
from subak.audit.retention import finish_erasures
from subak.audit.sqlite import LOG_FILE, SqliteStore
from subak.audit.store import LogStore
from subak.audit.subjects import SUBJECT_FOLDER, SubjectKeys
from subak.audit.writer import LogWriter
from subak.core.clock import Clock
from subak.core.notes import VerifierKey


def open_sqlite(directory: Path) -> Callable[[str], SqliteStore]:
    """Give what opens the store in a state directory, by the log's name."""
    return lambda origin: SqliteStore(directory / LOG_FILE, origin)


def open_writer(
    directory: Path,
    clock: Clock,
    *,
    open_store: Callable[[str], LogStore],
    digest_secret: bytes,
    publish: Callable[[str], None],
    on_keys_created: Callable[[Path, VerifierKey], None],
) -> LogWriter:
    """Open the log whose keys are in `directory`, made at the first start. Blocks: not on a loop.

    `publish` is given each checkpoint as a signed note. `on_keys_created` tells the operator what to back up
    (`audit.keys.BACK_UP`).

    Raises:
        KeyFileError, LogInUse, StoreUnavailable, StoreDamaged: the text says what to do.
    """
    _check_keys_are_not_lost(directory)
    keys = load_keys(directory, on_created=on_keys_created)
    store = open_store(keys.origin)
    try:
        return _start(directory, clock, keys, store, digest_secret=digest_secret, publish=publish)
    except BaseException:
        store.close()
        raise


def _check_keys_are_not_lost(directory: Path) -> None:
    """Make no keys where a log stands that has its own: they would take the place that the back-up belongs in."""
    log, keys = directory / LOG_FILE, directory / KEY_FILE
    if log.exists() and not keys.exists():
        raise KeyFileError(
            f"{keys}: it is missing, and {log} was sealed with it. Put its back-up there, "
            "or move the log away to begin a new one."
        )


def _start(
    directory: Path,
    clock: Clock,
    keys: AuditKeys,
    store: LogStore,
    *,
    digest_secret: bytes,
    publish: Callable[[str], None],
) -> LogWriter:
    subjects = SubjectKeys(directory / SUBJECT_FOLDER, keys.wrapping_key)
    try:
        writer = LogWriter(store, keys, subjects, clock, digest_secret=digest_secret, publish=publish)
        finish_erasures(writer)
    except BaseException:
        subjects.close()
        raise
    return writer

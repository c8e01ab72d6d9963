"""From settings to whoever looks into the audit trail: its store and its keys, beside the gateway that writes them.

Nothing is made here: a state directory without a log is the wrong one.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from subak.audit.anchors import read_anchors
from subak.audit.errors import StoreDamaged
from subak.audit.inspection import Claim, KeysNeeded, Names
from subak.audit.keys import KEY_FILE, AuditKeys, load_keys
from subak.audit.opening import open_sqlite
from subak.audit.rows import Finder, PersonalReader, Pseudonyms
from subak.audit.sqlite import LOG_FILE, SqliteReader
from subak.audit.store import LogReader, LogStore
from subak.audit.subjects import SUBJECT_FOLDER, SubjectKeyReader
from subak.audit.verdict import DAY_MS, Evidence, Report
from subak.audit.verify import unreadable, verify
from subak.core.notes import MalformedNote, VerifierKey
from subak.settings import Audit, Settings
from subak.state import SECRET_FILE, StateError, load_secret

_WHERE: Final = "Name its state directory with SUBAK_STATE_DIR or --config"


class NoLog(StateError):
    """There is no audit log where one was looked for. The text says what to do."""


def read_keys(settings: Settings) -> AuditKeys:
    """Read the key file, which must be there.

    Raises:
        NoLog, KeyFileError: it isn't, or can't be read.
    """
    path = settings.state_dir / KEY_FILE
    if not path.exists():
        raise NoLog(f"{path}: there is no key file. {_WHERE}, or put the key file back from its back-up.")
    return load_keys(settings.state_dir)


def open_reader(settings: Settings) -> LogReader:
    """Open the log of these settings as it is at this moment.

    Raises:
        NoLog, KeyFileError, StateError, StoreUnavailable, StoreDamaged: the text says what to do.
    """
    if settings.audit.store == "sqlite":
        return open_file(settings.state_dir / LOG_FILE, _WHERE)
    reader: LogReader = _postgres("PostgresReader")(_dsn(settings.audit), read_keys(settings).origin)
    return reader


def store_of(settings: Settings) -> Callable[[str], LogStore]:
    """Give what opens the store to write, by the log's name. Raises: StateError."""
    if settings.audit.store == "sqlite":
        return open_sqlite(settings.state_dir)
    kind = _postgres("PostgresStore")
    return lambda origin: kind(_dsn(settings.audit), origin)


def open_file(path: Path, where: str = "Give the path of one") -> SqliteReader:
    """Open a log file, which may be a copy.

    Raises:
        NoLog, StoreUnavailable, StoreDamaged: the text says what to do.
    """
    if not path.is_file():
        raise NoLog(f"{path}: there is no audit log. {where}.")
    return SqliteReader(path)


@contextmanager
def names_of(settings: Settings, origin: str) -> Iterator[Names]:
    """Open what finds people and streams in the log `origin`, until left.

    Raises:
        KeysNeeded, NoLog, KeyFileError, StateError: there are no keys of that log.
    """
    keys = read_keys(settings)
    if keys.origin != origin:
        raise KeysNeeded(f"The keys in {settings.state_dir} belong to the log {keys.origin}, and this one is {origin}.")
    secret = settings.state_dir / SECRET_FILE
    if not secret.exists():
        raise KeysNeeded(f"{secret}: it is missing. Put it back from its back-up.")
    pseudonyms = Pseudonyms(keys, load_secret(settings.state_dir))
    with closing(SubjectKeyReader(settings.state_dir / SUBJECT_FOLDER, keys.wrapping_key)) as subjects:
        finder = Finder(pseudonyms, subjects)
        yield Names(pseudonyms, finder, PersonalReader(origin, subjects), subjects, frozenset(keys.months))


def judge(
    settings: Settings, claim: Claim, on_progress: Callable[[int, int], None] | None = None, *, file: Path | None = None
) -> Report:
    """Verify the log of these settings, or the one in `file`.

    Raises:
        NoLog, KeyFileError, StateError, MalformedNote, KeysNeeded, StoreUnavailable: it can't be tried.
    """
    try:
        reader = open_reader(settings) if file is None else open_file(file)
    except StoreDamaged as error:
        return unreadable(first_key(settings, claim.vkey)[0].name, error)
    with closing(reader):
        evidence = _evidence(settings, claim)
        if not claim.with_keys:
            return verify(reader, evidence, on_progress=on_progress)
        with names_of(settings, reader.origin) as names:
            return verify(reader, evidence, unlocked=names.unlocked, on_progress=on_progress)


def first_key(settings: Settings, given: str) -> tuple[VerifierKey, bool]:
    """Give the log's first public key, and whether it comes from elsewhere than beside the log.

    Raises:
        MalformedNote, NoLog, KeyFileError: there is none.
    """
    if given:
        return VerifierKey.parse(given), True
    try:
        return read_keys(settings).first_vkey, False
    except NoLog as error:
        raise NoLog(f"{error} Or give the log's first public key with --vkey.") from error


def read_anchor_files(*paths: Path) -> tuple[str, ...]:
    """Give the signed notes of anchor files.

    Raises:
        OSError: one can't be read. MalformedNote: there is no note in one.
    """
    found: list[str] = []
    for path in paths:
        notes = read_anchors(path.read_text(encoding="utf-8", errors="replace"))
        if not notes:
            raise MalformedNote(f"{path}: there is no checkpoint in it")
        found += notes
    return tuple(found)


def _evidence(settings: Settings, claim: Claim) -> Evidence:
    vkey, is_pinned = first_key(settings, claim.vkey)
    term_ms = settings.audit.retention_days * DAY_MS
    return Evidence(vkey, is_pinned=is_pinned, anchors=claim.anchors, least_term_ms=term_ms)


def _dsn(audit: Audit) -> str:
    assert audit.dsn is not None, "settings see to it"
    return audit.dsn.reveal()


def _postgres(kind: str) -> type[Any]:
    try:
        found: type[Any] = getattr(importlib.import_module("subak.audit.postgres"), kind)
    except ImportError:
        raise StateError("PostgreSQL's driver is not installed: pip install 'subak[postgres]'.") from None
    return found

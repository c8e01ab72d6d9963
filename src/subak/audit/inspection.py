"""Looking into a log: searches, the answer to an access request, and what may be shown of each row.

Everything here reads, beside a live writer. That a search was after a person is recorded by whoever lets it be made.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple

import msgspec

from subak.audit.operations import Operation
from subak.audit.orders import BadOrder, HoldOut, Moment, Place, PrunedOut, address_of, ms_of, subject_of
from subak.audit.records import Content, Row
from subak.audit.retention import Exported, export_subject, holds, prune_point
from subak.audit.rows import Finder, PersonalMismatch, PersonalReader, Pseudonyms
from subak.audit.store import LogReader, Query
from subak.audit.subjects import SubjectKeyReader
from subak.audit.verdict import Report
from subak.audit.verify_rows import Unlocked

MAX_ROWS: Final = 10_000
OLD_NAMES: Final[Mapping[str, tuple[Operation, ...]]] = {
    "stream.chat": (Operation.STREAM_START, Operation.STREAM_END),
    "auth.auth_failure": (Operation.AUTH_FAILURE,),
}
"""Names that operations once had."""


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a verification is given: the first public key, signed notes that left the host, whether to look inside."""

    vkey: str = ""
    anchors: tuple[str, ...] = ()
    with_keys: bool = False


class KeysNeeded(Exception):
    """What is asked needs the keys of the log, and there are none. The text says what to do."""


class NoQuestion(Exception):
    """There is no question that a text could be compared with. The text says why."""


class Names(NamedTuple):
    """What it takes to find people and streams in a log, and to read what is said about them."""

    pseudonyms: Pseudonyms
    finder: Finder
    personal: PersonalReader
    subjects: SubjectKeyReader
    months: frozenset[str]

    @property
    def unlocked(self) -> Unlocked:
        """What a verification with keys is given."""
        return Unlocked(self.personal, self.pseudonyms, self.subjects, self.months)


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for; every part that is given must hold. `until` isn't counted.

    `operation`: a name, an old name, or the beginning of one, as `stream.*`. `stream`: an id, or the name that log
    lines give it. `after`: the seq where the page before ended.
    """

    since: Moment | None = None
    until: Moment | None = None
    operation: str = ""
    outcome: str = ""
    stream: str = ""
    subject: str = ""
    address: str = ""
    show_personal: bool = False
    after: Place | None = None
    oldest_first: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)] = 100

    @property
    def is_personal(self) -> bool:
        """Whether it is after a person, or shows what is said about one."""
        return bool(self.subject or self.address or self.show_personal)

    @property
    def needs_names(self) -> bool:
        """Whether it takes the keys of the log."""
        return self.is_personal or bool(self.stream)


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row as it is shown. `core` is what was sealed; `personal` is there when it was asked for and is kept.

    `unreadable` says why a personal part that is kept can't be opened.
    """

    seq: int
    time: datetime
    operation: str
    core: msgspec.Raw
    outcome: str | None = None
    stream: str | None = None
    has_personal: bool = False
    personal: Content | None = None
    unreadable: str = ""


class Page(msgspec.Struct, frozen=True):
    """Rows that were found; `next`: what `after` takes to go on, None when these are all."""

    rows: list[Found]
    next: int | None


def search(reader: LogReader, wanted: Search, names: Names | None) -> Page:
    """Give a page of rows.

    Raises:
        BadOrder: a part can't be meant. KeysNeeded: it needs the keys. StoreUnavailable, StoreDamaged.
    """
    if wanted.needs_names and names is None:
        raise KeysNeeded("To find or show a person, an address or a stream the log's keys are needed.")
    query = _query(wanted, names)
    rows = [_found(row, names if wanted.show_personal else None) for row in reader.search(query)]
    has_more = len(rows) > wanted.limit
    kept = rows[: wanted.limit]
    return Page(kept, kept[-1].seq if has_more else None)


def confirm(reader: LogReader, seq: int, question: str, names: Names) -> bool:
    """Whether the row was written for this question.

    Raises:
        NoQuestion: the row tells of none. PersonalMismatch: what it tells was changed. StoreUnavailable, StoreDamaged.
    """
    first, end = reader.base().size, reader.end()
    if not first <= seq < end:
        raise NoQuestion(f"There is no row {seq}: the log has rows {first} to {end - 1}.")
    row = next(reader.rows(seq))
    found = names.personal.is_question(row, question)
    if found is None:
        raise NoQuestion(f"Row {seq} ({row.operation}) tells of no question, or no longer does.")
    return found


def export(reader: LogReader, subject: str, names: Names) -> Iterator[Exported]:
    """Give everything that is kept about a subject, oldest first (Art. 15 GDPR). Raises: PersonalMismatch."""
    return export_subject(reader, names.finder, names.personal, subject_of(subject))


def would_prune(reader: LogReader, *, now_ms: int, term_ms: int) -> PrunedOut:
    """Give what a pruning would delete now."""
    held = tuple(holds_in(reader, now_ms=now_ms))
    point = prune_point(reader, before_ms=now_ms - term_ms)
    base_size = reader.base().size
    size = base_size if point is None else point.size
    return PrunedOut(size - base_size, size, is_dry_run=True, holds=held)


def holds_in(reader: LogReader, *, now_ms: int) -> Iterator[HoldOut]:
    """Give the holds in force."""
    for one in holds(reader, now_ms=now_ms):
        yield HoldOut(one.seq, _moment(one.until_ms), one.why)


def shown_report(report: Report) -> dict[str, object]:
    """Give a verdict as it is shown."""
    return {
        "ok": not report.finding_count,
        "origin": report.origin,
        "size": report.size,
        "pruned": report.base_size,
        "sealed": report.sealed_size,
        "checkpoints": report.checkpoints,
        "finding_count": report.finding_count,
        "findings": [
            {"flaw": one.flaw.name.lower(), "seq": one.seq, "about": one.flaw.value, "detail": one.detail}
            for one in report.findings
        ],
        "warnings": [
            {"doubt": one.doubt.name.lower(), "seq": one.seq, "about": one.doubt.value} for one in report.warnings
        ],
    }


def _query(wanted: Search, names: Names | None) -> Query:
    subjects = addresses = None
    stream = None
    if names is not None:
        subjects = names.finder.numbers_of(subject_of(wanted.subject)) if wanted.subject else None
        addresses = names.finder.numbers_of_address(address_of(wanted.address)) if wanted.address else None
        stream = _stream_name(wanted.stream, names)
    return Query(
        since_ms=None if wanted.since is None else ms_of(wanted.since),
        until_ms=None if wanted.until is None else ms_of(wanted.until),
        operations=_operations(wanted.operation),
        outcome=wanted.outcome or None,
        stream=stream,
        subjects=subjects,
        addresses=addresses,
        after_seq=wanted.after,
        is_newest_first=not wanted.oldest_first,
        limit=wanted.limit + 1,
    )


def _stream_name(text: str, names: Names) -> str | None:
    if not text:
        return None
    return names.pseudonyms.stream(text.partition(".")[0]) if text.startswith("st_") else text


def _operations(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    beginning = text.removesuffix("*")
    found = OLD_NAMES.get(text) or tuple(
        one for one in Operation if one == text or (text.endswith(".*") and one.startswith(beginning))
    )
    if not found:
        raise BadOrder("$.operation", f"one of {', '.join((*Operation, *OLD_NAMES))}, or a beginning such as stream.*")
    return found


def _found(row: Row, names: Names | None) -> Found:
    personal, unreadable = None, ""
    if names is not None:
        try:
            personal = names.personal.read(row)
        except PersonalMismatch as error:
            unreadable = str(error)
    return Found(
        seq=row.seq,
        time=_moment(row.time_ms),
        operation=row.operation,
        core=msgspec.Raw(row.core),
        outcome=row.outcome,
        stream=row.stream,
        has_personal=row.ct is not None,
        personal=personal,
        unreadable=unreadable,
    )


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC)

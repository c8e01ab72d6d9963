"""What leaves the log again, and what keeps it from leaving: terms, erasures, holds; also export and key rotation.

Each of these is itself a row. A deletion is announced by a sealed row before it happens, so that a log that was cut off
in between is finished at the next start and verifies either way.

Everything here runs on the log's writer (`audit.log.AuditLog.perform`), apart from what takes a reader.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from subak.audit.errors import StoreDamaged
from subak.audit.operations import MAX_SPANS, Operation
from subak.audit.records import Content, Personal, Record, Row, Subject
from subak.audit.rows import Finder, PersonalReader
from subak.audit.store import LogReader, LogStore, Query, StoredCheckpoint
from subak.audit.writer import Committed, LogWriter
from subak.core.merkle import CompactRange, MalformedRange, Span

_MOST_NUMBERS: Final = 10_000
"""In one query; SQLite takes 32 766 values."""


class Held(Exception):
    """A hold keeps everything where it is. The text names it."""


class Hold(NamedTuple):
    """A hold that is in force: the row that began it, its end in ms since the epoch, and its reason."""

    seq: int
    until_ms: int
    why: str


class Pruned(NamedTuple):
    """What a pruning deleted: the rows below `size`, `rows` of them."""

    size: int
    rows: int


class Erased(NamedTuple):
    """What an erasure took. `is_scrubbed` is False while a reader keeps former pages of the file alive."""

    rows: int
    is_scrubbed: bool


class Exported(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of an answer to an access request: what is kept of it, and what it says about the person."""

    seq: int
    core: msgspec.Raw
    personal: Content | None


class _HoldCore(msgspec.Struct):
    until_ms: int
    why: str


class _ReleaseCore(msgspec.Struct):
    hold: int


class _EraseCore(msgspec.Struct):
    seqs: list[tuple[int, int]]


def prune_point(reader: LogReader, *, before_ms: int) -> StoredCheckpoint | None:
    """Give the newest checkpoint whose rows, and the row after them, are all older; None when nothing is.

    The row after them stays, so that a verifier sees that what went before it was old enough.
    """
    first_kept = reader.first_since(before_ms) - 1
    point = reader.checkpoint_at_most(first_kept)
    return None if point is None or point.size <= reader.base().size else point


def prune(writer: LogWriter, *, term_ms: int) -> Pruned | None:
    """Delete rows past their term, then the peppers and keys that only they needed; None when nothing was due.

    Raises:
        Held: a hold is in force. StoreUnavailable: try again.
    """
    now_ms = writer.clock.time_ms()
    writer.keys.destroy_query_peppers(now_ms=now_ms)
    refuse_if_held(writer.store, now_ms=now_ms)
    point = prune_point(writer.store, before_ms=now_ms - term_ms)
    pruned = None if point is None else _prune_to(writer, point, term_ms)
    _destroy_months(writer, before_ms=now_ms - term_ms)
    return pruned


def _prune_to(writer: LogWriter, point: StoredCheckpoint, term_ms: int) -> Pruned:
    try:
        base = CompactRange.from_bytes(point.size, point.hashes)
    except MalformedRange as error:
        raise StoreDamaged("A checkpoint lost its hashes: run `subak audit verify`. Nothing was deleted.") from error
    rows = point.size - writer.store.base().size
    writer.write(Record(Operation.RETENTION_PRUNE, {"size": point.size, "rows": rows, "term_ms": term_ms}))
    writer.seal()
    writer.store.prune(base)
    writer.store.scrub()
    return Pruned(point.size, rows)


def _destroy_months(writer: LogWriter, *, before_ms: int) -> None:
    """Destroy what no kept row needs: rows may be older than the term where none of them was sealed in between."""
    oldest = next(writer.store.rows(writer.store.base().size), None)
    if oldest is not None:
        before_ms = min(before_ms, oldest.time_ms)
    months = writer.keys.destroy_month_peppers(before_ms=before_ms)
    if months:
        writer.subjects.destroy_months(months)


def hold(writer: LogWriter, *, until_ms: int, why: str, actor: Personal | None = None) -> Committed:
    """Keep everything until then. Raises: NotPermitted, StoreUnavailable."""
    return writer.write(Record(Operation.RETENTION_HOLD, {"until_ms": until_ms, "why": why}, personal=actor))


def release(writer: LogWriter, held: Hold, *, why: str, actor: Personal | None = None) -> Committed:
    """Lift a hold before its end."""
    return writer.write(Record(Operation.RETENTION_RELEASE, {"hold": held.seq, "why": why}, personal=actor))


def holds(reader: LogReader, *, now_ms: int) -> list[Hold]:
    """Give the holds in force. While there is one nothing is pruned, so their rows are there."""
    released = {
        msgspec.json.decode(row.core, type=_ReleaseCore).hold
        for row in reader.search(Query(operations=(Operation.RETENTION_RELEASE,)))
    }
    found = [
        Hold(row.seq, *msgspec.structs.astuple(msgspec.json.decode(row.core, type=_HoldCore)))
        for row in reader.search(Query(operations=(Operation.RETENTION_HOLD,)))
    ]
    return [one for one in found if one.until_ms > now_ms and one.seq not in released]


def refuse_if_held(reader: LogReader, *, now_ms: int) -> None:
    """Raise Held if a hold is in force."""
    for one in holds(reader, now_ms=now_ms):
        raise Held(f"The hold of row {one.seq} keeps everything ({one.why}). Release it first, or wait for its end.")


def erase_subject(
    writer: LogWriter, subject: Subject, *, keep_evidence_because: str = "", actor: Personal | None = None
) -> Erased:
    """Erase everything personal about one subject (Art. 17 GDPR).

    With a reason to keep evidence, rows of security and administration stay (Art. 17(3)(b), (e)).

    Raises:
        Held: a hold is in force. StoreUnavailable: try again; what was announced is finished at the next start.
    """
    finder = writer.finder
    numbers = finder.ordinary_numbers_of(subject) if keep_evidence_because else finder.numbers_of(subject)
    rows = rows_about(writer.store, numbers)
    erased = _erase(writer, spans_of(row.seq for row in rows), why=keep_evidence_because, actor=actor)
    writer.subjects.destroy(numbers)  # of those, too, whose rows a crash kept from being written
    return erased


def erase_stream(writer: LogWriter, stream_id: str, *, actor: Personal | None = None) -> Erased:
    """Erase everything personal about one stream, as its anonymous caller may ask.

    The stream of a principal shares a key with the principal's others; it stays as long as they do.
    """
    rows = writer.store.search(Query(stream=writer.pseudonyms.stream(stream_id)))
    return _erase(writer, spans_of(row.seq for row in rows if row.subject is not None), why="", actor=actor)


def erase_again(writer: LogWriter, spans: Sequence[Span], *, why: str) -> int:
    """Carry out erasures that the log knows nothing of; give how many rows. No hold keeps back what was erased."""
    for start in range(0, len(spans), MAX_SPANS):
        writer.write(announcement(spans[start : start + MAX_SPANS], why=why))
    writer.seal()
    _carry_out(writer, spans)
    return sum(span.stop - span.start for span in spans)


def finish_erasures(writer: LogWriter) -> None:
    """Carry out what was announced before a crash, or before the back-up that this log was put back from."""
    spans = [span for row in writer.store.search(Query(operations=(Operation.GDPR_ERASE,))) for span in erased_by(row)]
    if any(row.subject is not None for row in _rows_in(writer.store, spans)):
        _carry_out(writer, spans)


def erased_by(row: Row) -> list[Span]:
    """Give the spans that a row `gdpr.erase` names. Raises: msgspec.DecodeError."""
    core = msgspec.json.decode(row.core, type=_EraseCore)
    return [Span(first, last + 1) for first, last in core.seqs]


def export_subject(reader: LogReader, finder: Finder, personal: PersonalReader, subject: Subject) -> Iterator[Exported]:
    """Give everything that is kept about a subject, oldest first (Art. 15 GDPR).

    Raises:
        PersonalMismatch: a row doesn't open: run `subak audit verify --with-keys`.
    """
    for row in rows_about(reader, finder.numbers_of(subject)):
        yield Exported(row.seq, msgspec.Raw(row.core), personal.read(row))


def rows_about(reader: LogReader, numbers: Sequence[bytes]) -> Iterator[Row]:
    """Give the rows that name their subject by one of these numbers, oldest first: as many numbers as there are."""
    pages = [
        reader.search(Query(subjects=tuple(numbers[at : at + _MOST_NUMBERS])))
        for at in range(0, len(numbers), _MOST_NUMBERS)
    ]
    return merge(*pages, key=_seq)


_seq = attrgetter("seq")


def spans_of(seqs: Iterable[int]) -> list[Span]:
    """Give ascending seqs as runs."""
    spans: list[Span] = []
    for seq in seqs:
        if spans and spans[-1].stop == seq:
            spans[-1] = Span(spans[-1].start, seq + 1)
        else:
            spans.append(Span(seq, seq + 1))
    return spans


def announcement(spans: Sequence[Span], *, why: str, actor: Personal | None = None) -> Record:
    """Give the record that says which rows are about to be erased, at most `MAX_SPANS` runs of them."""
    fields: dict[str, object] = {
        "seqs": [[span.start, span.stop - 1] for span in spans],
        "rows": sum(span.stop - span.start for span in spans),
    }
    return Record(Operation.GDPR_ERASE, fields | ({"why": why} if why else {}), personal=actor)


def _erase(writer: LogWriter, spans: Sequence[Span], *, why: str, actor: Personal | None) -> Erased:
    refuse_if_held(writer.store, now_ms=writer.clock.time_ms())
    rows = sum(span.stop - span.start for span in spans)
    if not rows:
        return Erased(0, is_scrubbed=True)
    for start in range(0, len(spans), MAX_SPANS):
        writer.write(announcement(spans[start : start + MAX_SPANS], why=why, actor=actor))
    writer.seal()
    return Erased(rows, is_scrubbed=_carry_out(writer, spans))


def _carry_out(writer: LogWriter, spans: Sequence[Span]) -> bool:
    """Destroy the keys that only these rows need, then null the rows; whether no file holds them any more."""
    erased = set[int]().union(*(range(span.start, span.stop) for span in spans))
    subjects: set[bytes] = set()
    addresses: set[bytes] = set()
    for row in _rows_in(writer.store, spans):
        if row.subject is not None:
            subjects.add(row.subject)
        if row.address is not None:
            addresses.add(row.address)
    orphans = [one for one in subjects if _is_only_in(erased, writer.store.search(Query(subjects=(one,))))]
    orphans += [one for one in addresses if _is_only_in(erased, writer.store.search(Query(addresses=(one,))))]
    writer.subjects.destroy(orphans)
    writer.store.redact(spans)
    return writer.store.scrub()


def _is_only_in(seqs: Container[int], rows: Iterable[Row]) -> bool:
    return all(row.seq in seqs for row in rows)


def _rows_in(store: LogStore, spans: Iterable[Span]) -> Iterator[Row]:
    for span in spans:
        yield from store.search(Query(after_seq=span.start - 1, limit=span.stop - span.start))


def rotate_key(writer: LogWriter) -> Committed:
    """Let a new key seal from now on; the old one is destroyed.

    Raises:
        StoreUnavailable: the old key stays, try again.
    """
    writer.seal()
    return writer.rotate(writer.keys.prepare_successor())

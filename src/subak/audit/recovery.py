"""What a process that was killed couldn't say: written by the next one, before it takes requests.

A stream that began and didn't end is `interrupted`. Refusals whose count was still to come have at least been one.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from subak.audit.folding import WINDOW_S
from subak.audit.operations import Operation
from subak.audit.records import Personal, Record, Row, Subject
from subak.audit.rows import PersonalMismatch
from subak.audit.store import LogReader, Query
from subak.audit.writer import MAX_BATCH_ROWS, LogWriter

INTERRUPTED: Final = "interrupted"
"""The outcome of a stream whose process was killed."""
_WINDOW_MS: Final = int(WINDOW_S * 1000)
_LOOKED_AT: Final = (
    Operation.GATEWAY_START,
    Operation.GATEWAY_STOP,
    Operation.STREAM_START,
    Operation.STREAM_END,
    Operation.RATE_LIMIT_VIOLATION,
)


class _Core(msgspec.Struct):
    boot: str
    mono_ms: int
    policy: str = ""
    code: str = ""
    status: int = 0
    count: int = 0


class _Left(NamedTuple):
    """What may have been left open, newest first: digests of streams, and refusals with what counts them."""

    streams: list[str]
    violations: list[tuple[Row, _Core]]


def recover(writer: LogWriter, *, max_age_s: float) -> int:
    """Write what the last process couldn't; give how many streams were interrupted.

    `max_age_s`: no stream lives longer.

    Raises:
        StoreUnavailable: try again; what was written isn't written twice.
    """
    left = _left_open(writer.store, int(max_age_s * 1000))
    records = [Record(Operation.STREAM_END, {"outcome": INTERRUPTED}, stream=stream) for stream in left.streams]
    records += _uncounted(writer, left.violations)
    stamped = [writer.stamp(record) for record in records]
    for start in range(0, len(stamped), MAX_BATCH_ROWS):
        writer.append(stamped[start : start + MAX_BATCH_ROWS])
    return len(left.streams)


def _left_open(store: LogReader, max_age_ms: int) -> _Left:
    """Walk back through the last process' rows, for as long as one of its streams could have lived."""
    ended: set[str | None] = set()
    left = _Left([], [])
    newest_ms: dict[str, int] = {}
    for row, core in _last_process(store):
        age_ms = newest_ms.setdefault(core.boot, core.mono_ms) - core.mono_ms
        if age_ms > 2 * max_age_ms:  # twice, for the setting may have been larger then
            break
        if row.operation == Operation.STREAM_END:
            ended.add(row.stream)
        elif row.operation == Operation.STREAM_START:
            left.streams.extend([] if row.stream is None or row.stream in ended else [row.stream])
        elif age_ms <= _WINDOW_MS:
            left.violations.append((row, core))
    return left


def _last_process(store: LogReader) -> Iterator[tuple[Row, _Core]]:
    """Give the rows that matter of a process that didn't say that it leaves, newest first."""
    for row in store.search(Query(operations=_LOOKED_AT, is_newest_first=True)):
        if row.operation in {Operation.GATEWAY_START, Operation.GATEWAY_STOP}:
            return
        yield row, msgspec.json.decode(row.core, type=_Core)


def _uncounted(writer: LogWriter, violations: list[tuple[Row, _Core]]) -> Iterator[Record]:
    """Give a lower bound for each refusal that no count came after."""
    counted: set[tuple[Subject | None, str]] = set()
    for row, core in violations:
        who = _person_of(writer, row)
        account = (None if who is None else who.subject, core.policy)
        if core.count:
            counted.add(account)
        elif account not in counted:
            yield _at_least_one(core, who)


def _at_least_one(core: _Core, who: Personal | None) -> Record:
    fields = {"outcome": "refused", "policy": core.policy, "code": core.code, "status": core.status}
    return Record(Operation.RATE_LIMIT_VIOLATION, fields | {"count": 1, "is_lower_bound": True}, personal=who)


def _person_of(writer: LogWriter, row: Row) -> Personal | None:
    try:
        content = writer.personal.read(row)
    except PersonalMismatch:  # for `subak audit verify` to find: nothing is made up here
        return None
    if content is None:
        return None
    return Personal(Subject(content.kind, content.subject, content.tenant), address=content.address)

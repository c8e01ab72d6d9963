"""What a verifier checks of each row by itself, and against the one before it."""

from typing import Final, NamedTuple

import msgspec

from subak.audit.errors import StoreDamaged
from subak.audit.keys import month_of
from subak.audit.operations import Operation
from subak.audit.records import Row, Subject, seal_of
from subak.audit.retention import erased_by
from subak.audit.rows import PersonalMismatch, PersonalReader, Pseudonyms
from subak.audit.subjects import SubjectKeyReader
from subak.audit.verdict import Doubt, Findings, Flaw
from subak.audit.writer import MAX_SILENCE_MS
from subak.core.merkle import Span

MAX_BACKWARDS_MS: Final = 1000
"""How far a clock may go back without a word."""


class Unlocked(NamedTuple):
    """What it takes to look into personal parts as well."""

    personal: PersonalReader
    pseudonyms: Pseudonyms
    subjects: SubjectKeyReader
    months: frozenset[str]


class Core(msgspec.Struct):
    """What every row's core says."""

    v: int
    op: str
    time_ms: int
    mono_ms: int
    boot: str
    outcome: str | None = None
    stream: str | None = None


class _PruneCore(msgspec.Struct):
    size: int
    term_ms: int


class _RestoreCore(msgspec.Struct):
    size: int


class _RotateCore(msgspec.Struct):
    vkey: str
    signature: str


class Prune(NamedTuple):
    """A row `retention.prune`: its place, its time, and how long the rows it deleted had been kept at least."""

    seq: int
    time_ms: int
    term_ms: int


_decode_core = msgspec.json.Decoder(Core).decode


class RowChecks:
    """What is checked of each row by itself and against the one before it."""

    def __init__(self, findings: Findings, unlocked: Unlocked | None) -> None:
        self._findings = findings
        self._unlocked = unlocked
        self._boot = ""
        self._time_ms = 0
        self._mono_ms = 0
        self.redacted: list[Span] = []
        self.erased: list[Span] = []
        self.rotations: dict[int, tuple[str, str]] = {}
        self.prunes: dict[int, Prune] = {}
        self.given_up: list[Span] = []
        """Rows that were there until the log was put back from a back-up."""
        self.first_time_ms = 0
        """When the oldest row was written."""

    def check(self, row: Row) -> Core | None:
        """Look at one row; None when it can't be understood."""
        try:
            core = _decode_core(row.core)
            self._check_columns(row, core)
            self._check_personal(row)
            self._check_time(row, core)
            self._note(row, core)
        except (msgspec.MsgspecError, RecursionError, TypeError, ValueError, OverflowError) as error:
            self._findings.add(Flaw.MALFORMED_ROW, row.seq, type(error).__name__)
            return None
        return core

    def _check_columns(self, row: Row, core: Core) -> None:
        if (row.time_ms, row.operation, row.outcome, row.stream) != (core.time_ms, core.op, core.outcome, core.stream):
            self._findings.add(Flaw.ALTERED_COLUMNS, row.seq, "time, operation, outcome or stream")

    def _check_personal(self, row: Row) -> None:
        if row.pii_commit is None:
            if row[7:12] != (None,) * 5:
                self._findings.add(Flaw.ALTERED_PERSONAL, row.seq, "a personal part where there was none")
        elif row.is_redacted:
            _extend(self.redacted, row.seq)
        elif seal_of(row.personal_columns) != row.pii_seal:
            self._findings.add(Flaw.ALTERED_PERSONAL, row.seq, "subject, address, nonce or content")
        elif self._unlocked is not None:
            self._look_inside(row, self._unlocked)

    def _look_inside(self, row: Row, unlocked: Unlocked) -> None:
        try:
            content = unlocked.personal.read(row)
        except (PersonalMismatch, StoreDamaged) as error:
            self._findings.add(Flaw.PERSONAL_MISMATCH, row.seq, str(error))
            return
        month = month_of(row.time_ms)
        if content is None or row.subject is None or month not in unlocked.months:
            return
        named = unlocked.subjects.find(row.subject)
        is_evidence = Operation(row.operation).rule.is_evidence
        subject = Subject(content.kind, content.subject, content.tenant)
        name = unlocked.pseudonyms.subject(month, subject, is_evidence=is_evidence)
        if named is None or named.name != name:
            self._findings.add(Flaw.PERSONAL_MISMATCH, row.seq, "its key belongs to another subject")

    def _check_time(self, row: Row, core: Core) -> None:
        if core.boot == self._boot:
            if core.mono_ms - self._mono_ms > MAX_SILENCE_MS and core.op != Operation.LOG_GAP:
                silent_s = (core.mono_ms - self._mono_ms) // 1000
                self._findings.add(Flaw.SILENCE, row.seq, f"{silent_s} s before it")
            if min(core.mono_ms - self._mono_ms, core.time_ms - self._time_ms) < -MAX_BACKWARDS_MS:
                self._findings.warn(Doubt.CLOCK_WENT_BACK, row.seq)
        self.first_time_ms = self.first_time_ms or core.time_ms
        self._boot, self._time_ms, self._mono_ms = core.boot, core.time_ms, core.mono_ms

    def _note(self, row: Row, core: Core) -> None:
        match core.op:
            case Operation.GDPR_ERASE:
                self.erased += (span for span in erased_by(row) if span.stop <= row.seq)
            case Operation.KEY_ROTATE:
                rotation = msgspec.json.decode(row.core, type=_RotateCore)
                self.rotations[row.seq] = (rotation.vkey, rotation.signature)
            case Operation.RETENTION_PRUNE:
                prune = msgspec.json.decode(row.core, type=_PruneCore)
                self.prunes[prune.size] = Prune(row.seq, core.time_ms, prune.term_ms)
            case Operation.LOG_RESTORE:
                self.given_up.append(Span(row.seq, msgspec.json.decode(row.core, type=_RestoreCore).size))
                self._findings.warn(Doubt.RESTORED, row.seq)
            case _:
                pass


def _extend(spans: list[Span], seq: int) -> None:
    """Add a seq above all others."""
    if spans and spans[-1].stop == seq:
        spans[-1] = Span(spans[-1].start, seq + 1)
    else:
        spans.append(Span(seq, seq + 1))

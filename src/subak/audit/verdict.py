"""The words of a verdict on a log: what can be wrong, what it was judged by, and what was found."""

from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

import msgspec

from subak.audit.operations import TERM_DAYS
from subak.core.notes import VerifierKey

MAX_FINDINGS: Final = 100
"""More are counted, not kept."""
DAY_MS: Final = 86_400_000


class Flaw(StrEnum):
    """Why a log doesn't verify."""

    ROOT_MISMATCH = "rows aren't the ones that were sealed"
    MISSING_ROWS = "rows are missing"
    TRUNCATED = "rows at the end are missing: a checkpoint covers more than there are"
    MALFORMED_ROW = "a row isn't of the form that rows have"
    ALTERED_COLUMNS = "what a row is found by isn't what it says"
    ALTERED_PERSONAL = "a personal part isn't the one that was sealed"
    SILENT_REDACTION = "a personal part was taken away without an erasure"
    MALFORMED_CHECKPOINT = "a checkpoint isn't of the form that checkpoints have"
    BAD_SIGNATURE = "a checkpoint isn't signed by this log's key"
    BAD_KEY_CHAIN = "a key isn't named by the key before it"
    ROGUE_PRUNE = "rows were deleted outside the rules"
    SEALS_APART = "rows stand too long without a checkpoint"
    SILENCE = "a running log was silent without saying so"
    FORK = "two roots were signed for one size"
    BEHIND_ANCHOR = "the log is older than a checkpoint that was published"
    BAD_ANCHOR = "an anchor isn't a checkpoint of this log"
    BAD_RECEIPT = "a receipt isn't kept"
    PERSONAL_MISMATCH = "a personal part doesn't open, or isn't the one committed to"
    UNREADABLE = "the store's files are damaged"


class Doubt(StrEnum):
    """What a verdict rests on that could be firmer."""

    NO_ANCHOR = "no anchor was given: going back to an older signed state can't be seen"
    KEY_NOT_PINNED = "the key was taken from the state directory: give the noted one with --vkey"
    ANCHOR_PRUNED = "an anchor is older than the oldest row that is kept: it can't be compared"
    RESTORED = "the log was put back from a back-up: rows that were written after it are gone"
    GIVEN_UP = "an anchor or a receipt is of rows that a restore gave up: it can't be compared"
    CLOCK_WENT_BACK = "the clock went back while the log ran"
    UNSEALED_ROWS = "the newest rows aren't sealed yet"


class Finding(NamedTuple):
    """One flaw. `seq` is the row, or the size of the checkpoint, where it shows; `detail` says more."""

    flaw: Flaw
    seq: int
    detail: str


class Warned(NamedTuple):
    """One doubt, at a row or size."""

    doubt: Doubt
    seq: int


class Verdict(IntEnum):
    """What `subak audit verify` exits with; 2 is for what couldn't be tried."""

    WHOLE = 0
    TAMPERED = 1


class Report(NamedTuple):
    """What was found. `size` rows the log has, `base_size` of them pruned; at most `MAX_FINDINGS` findings are kept."""

    origin: str
    size: int
    base_size: int
    sealed_size: int
    checkpoints: int
    findings: tuple[Finding, ...]
    finding_count: int
    warnings: tuple[Warned, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether the log is whole, as far as can be seen."""
        return Verdict.TAMPERED if self.finding_count else Verdict.WHOLE


class Receipt(msgspec.Struct, frozen=True):
    """A promise given to a reader: row `seq` of this log has this leaf hash."""

    origin: str
    seq: int
    leaf: bytes
    signature: bytes


class Evidence(msgspec.Struct, frozen=True):
    """What is known from outside the log.

    `vkey` is the log's first public key; `is_pinned` when it doesn't come from beside the log. `anchors` are signed
    notes that left the host. `least_term_ms` is how long rows must have been kept.
    """

    vkey: VerifierKey
    is_pinned: bool
    anchors: tuple[str, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    least_term_ms: int = TERM_DAYS * DAY_MS


class Findings:
    """What was found so far, bounded."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.count = 0
        self.warnings: list[Warned] = []

    def add(self, flaw: Flaw, seq: int, detail: str) -> None:
        """Note a flaw."""
        self.count += 1
        if len(self.kept) < MAX_FINDINGS:
            self.kept.append(Finding(flaw, seq, detail))

    def warn(self, doubt: Doubt, seq: int) -> None:
        """Note a doubt."""
        if len(self.warnings) < MAX_FINDINGS:
            self.warnings.append(Warned(doubt, seq))

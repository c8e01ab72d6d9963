"""What an administrator may order of a log, in the one form that the command line and the admin API share.

An order is carried out on the log's writer. Each leaves a row of its own that says who gave it; where the operation
itself has no room for that, `admin.action` says it, which the admin API writes for all of them.
"""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Protocol, assert_never

import msgspec

from subak.audit import retention
from subak.audit.errors import StoreDamaged
from subak.audit.operations import SENTENCE, Operation
from subak.audit.records import Personal, Record, Subject
from subak.audit.writer import LogWriter

MAX_PLACE: Final = 2**53
"""No log has as many rows. Stores and JSON have a bound, and an operator's number may be past it."""
_MS: Final = 1000
_STREAM: Final = "st_"

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Place = Annotated[int, msgspec.Meta(ge=0, le=MAX_PLACE)]
"""A row's place, or a number of rows."""


class BadOrder(ValueError):
    """The order can't be meant. `path` names the field, the text completes "expected …"."""

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}")
        self.path = path
        self.expected = expected


class Authority(NamedTuple):
    """Who orders, and the term that rows are kept for, in ms."""

    actor: Personal
    term_ms: int


class Order(Protocol):
    """One kind of order; its fields are the body of a request."""

    name: ClassVar[str]

    def carry_out(self, writer: LogWriter, by: Authority) -> object:
        """Do it; give what came of it, as something that has a JSON form.

        Raises:
            BadOrder, retention.Held, StoreUnavailable, StoreDamaged: it isn't done.
        """


class ErasedOut(msgspec.Struct, frozen=True):
    """What an erasure took: `rows` lost their personal part. `is_scrubbed`: no file holds former pages any more."""

    rows: int
    is_scrubbed: bool


class HoldOut(msgspec.Struct, frozen=True):
    """A hold, by the row that began it."""

    seq: int
    until: datetime
    why: str


class PrunedOut(msgspec.Struct, frozen=True):
    """What a pruning deleted, or would: `rows` rows, all below `size`. `holds` kept it from that."""

    rows: int
    size: int
    is_dry_run: bool
    holds: tuple[HoldOut, ...] = ()


class RowOut(msgspec.Struct, frozen=True):
    """The row that says what was done."""

    seq: int


class RotatedOut(msgspec.Struct, frozen=True):
    """The row that names the next key, and that key."""

    seq: int
    vkey: str


class CheckpointOut(msgspec.Struct, frozen=True):
    """The newest checkpoint, a signed note, over `size` rows."""

    size: int
    note: str


class Erase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Erase everything personal about a subject, or about one stream.

    With `keep_evidence_because`, a subject's rows of security and administration stay (Art. 17(3) GDPR).
    """

    name: ClassVar[str] = "erase"
    subject: str = ""
    stream: str = ""
    keep_evidence_because: str = ""

    def carry_out(self, writer: LogWriter, by: Authority) -> ErasedOut:
        """Do it."""
        if bool(self.subject) is bool(self.stream):
            raise BadOrder("$.subject", "a subject or a stream, and not both")
        if self.stream and self.keep_evidence_because:
            raise BadOrder("$.keep_evidence_because", "nothing with a stream: it has no evidence of its own")
        if self.keep_evidence_because:
            _check_reason("$.keep_evidence_because", self.keep_evidence_because)
        if self.stream:
            erased = retention.erase_stream(writer, self.stream, actor=by.actor)
        else:
            subject = subject_of(self.subject)
            why = self.keep_evidence_because
            erased = retention.erase_subject(writer, subject, keep_evidence_because=why, actor=by.actor)
        return ErasedOut(erased.rows, erased.is_scrubbed)


class HoldOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep everything until then, whatever its term and whoever asks for an erasure."""

    name: ClassVar[str] = "hold"
    until: Moment
    why: str

    def carry_out(self, writer: LogWriter, by: Authority) -> HoldOut:
        """Do it."""
        until_ms = ms_of(self.until)
        if until_ms <= writer.clock.time_ms():
            raise BadOrder("$.until", "a time to come")
        _check_reason("$.why", self.why)
        held = retention.hold(writer, until_ms=until_ms, why=self.why, actor=by.actor)
        return HoldOut(held.seq, self.until, self.why)


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lift the hold that row `hold` began, before its end."""

    name: ClassVar[str] = "release"
    hold: Place
    why: str

    def carry_out(self, writer: LogWriter, by: Authority) -> RowOut:
        """Do it."""
        _check_reason("$.why", self.why)
        for one in retention.holds(writer.store, now_ms=writer.clock.time_ms()):
            if one.seq == self.hold:
                return RowOut(retention.release(writer, one, why=self.why, actor=by.actor).seq)
        raise BadOrder("$.hold", "the row of a hold that is in force")


class Prune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delete what is past its term now, as happens by itself once an hour."""

    name: ClassVar[str] = "prune"

    def carry_out(self, writer: LogWriter, by: Authority) -> PrunedOut:
        """Do it."""
        pruned = retention.prune(writer, term_ms=by.term_ms)
        if pruned is None:
            return PrunedOut(0, writer.store.base().size, is_dry_run=False)
        return PrunedOut(pruned.rows, pruned.size, is_dry_run=False)


class RotateKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let a new key seal from now on."""

    name: ClassVar[str] = "rotate-key"

    def carry_out(self, writer: LogWriter, by: Authority) -> RotatedOut:
        """Do it."""
        del by
        return RotatedOut(retention.rotate_key(writer).seq, str(writer.keys.sealing.vkey))


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seal what is written, and give the newest checkpoint."""

    name: ClassVar[str] = "checkpoint"

    def carry_out(self, writer: LogWriter, by: Authority) -> CheckpointOut:
        """Do it."""
        del by
        writer.seal()
        newest = writer.store.checkpoint_at_most(writer.size)
        if newest is None:
            raise StoreDamaged("The log has no checkpoint: run `subak audit verify`.")
        return CheckpointOut(newest.size, newest.note)


class Disclose(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Record that personal data is about to be shown, or the log to be copied: before it is.

    `rows`: how many rows tell of somebody; of a back-up how many there are.
    """

    name: ClassVar[str] = "disclosure"
    kind: Literal["export", "search", "backup", "backup_with_keys"]
    rows: Place
    why: str = ""

    def carry_out(self, writer: LogWriter, by: Authority) -> RowOut:
        """Do it."""
        fields: dict[str, object] = {"why": self.why} if self.why else {}
        if self.why:
            _check_reason("$.why", self.why)
        operation, said = self._said()
        return RowOut(writer.write(Record(operation, fields | said, personal=by.actor)).seq)

    def _said(self) -> tuple[Operation, dict[str, object]]:
        match self.kind:
            case "export":
                return Operation.GDPR_EXPORT, {"rows": self.rows}
            case "search":
                return Operation.ADMIN_ACTION, {"action": "audit/search", "count": self.rows}
            case "backup":
                return Operation.LOG_BACKUP, {"size": self.rows, "mode": "log"}
            case "backup_with_keys":
                return Operation.LOG_BACKUP, {"size": self.rows, "mode": "log_and_keys"}
            case _:
                assert_never(self.kind)


ORDERS: Final[Mapping[str, type[Order]]] = {
    order.name: order for order in (Erase, HoldOn, Release, Prune, RotateKey, Seal, Disclose)
}
"""Every order by its name, which is its route below `/-/audit/` and its command."""


def subject_of(text: str) -> Subject:
    """Give whom an operator means: a principal as `user:42`, an anonymous stream by its id, or an address."""
    try:
        return Subject("address", address_of(text))
    except BadOrder:
        return Subject("stream" if text.startswith(_STREAM) else "principal", text)


def address_of(text: str) -> str:
    """Give an address as rows have it. Raises: BadOrder."""
    try:
        return str(ip_address(text.strip()))
    except ValueError:
        raise BadOrder("$.address", "an IPv4 or IPv6 address") from None


def _check_reason(path: str, text: str) -> None:
    if not SENTENCE.takes(text):
        raise BadOrder(path, SENTENCE.about)


def ms_of(moment: datetime) -> int:
    """Give a time in milliseconds since the epoch."""
    return int(moment.timestamp() * _MS)

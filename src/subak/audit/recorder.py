"""From facts to records: who hears of everything, and what answers wait for.

As an observer it can stop nothing. As the ledger it can, in strict mode: no new stream while nothing can be recorded,
and no token of one whose start isn't on disk. In degraded mode nobody waits; what is lost is counted, and the log says
so itself once it is back.

The table of `audit.operations` decides what may be written. What a caller chose is left out where the table has no form
for it, so that nothing that comes from outside can make a record be refused.
"""

import re
from collections.abc import Callable, Hashable
from functools import partial
from socket import AF_INET6, inet_pton
from typing import Final

from subak.audit.folding import Folding, Kind
from subak.audit.log import AuditLog
from subak.audit.operations import FIELDS, Operation, PersonalField
from subak.audit.records import Personal, Record, Subject
from subak.audit.starts import COMMIT_S, Start, Starts
from subak.audit.writer import Committed
from subak.core.clock import Clock
from subak.core.errors import (
    AuditUnavailable,
    ErrorCode,
    RateLimited,
    StreamNotFound,
    Unauthenticated,
)
from subak.core.facts import (
    AdminActed,
    AuditRecovered,
    AuditTroubled,
    Authenticated,
    AuthReported,
    DrainEnded,
    DrainStarted,
    Fact,
    FlagChanged,
    Person,
    ReaderAttached,
    Refused,
    StopRequested,
    StreamEnded,
    StreamOpened,
)
from subak.core.ledger import Receipt

STALLED: Final = "stalled"
"""The trouble of a store that neither takes records nor says why not."""
_REFUSED: Final = "refused"
_FIRST_FAILURE: Final = 400
_TICK_S: Final = 0.25
_REFUSALS: Final = {
    RateLimited.code: Operation.RATE_LIMIT_VIOLATION,
    Unauthenticated.code: Operation.AUTH_FAILURE,
    StreamNotFound.code: Operation.FOREIGN_STREAM,
}
_REPORTED: Final = {
    "login": Operation.AUTH_LOGIN,
    "logout": Operation.AUTH_LOGOUT,
    "token_refresh": Operation.AUTH_TOKEN_REFRESH,
}
_MADE_HERE: Final = re.compile(r"c_[0-9a-f]{20}")
"""A connection's label that the gateway made up. One that a client chose may name somebody: it stays out."""
_HEARD: Final = frozenset(
    {
        StreamEnded,
        ReaderAttached,
        StopRequested,
        Refused,
        AdminActed,
        Authenticated,
        AuthReported,
        FlagChanged,
        DrainStarted,
        DrainEnded,
    }
)
"""Of each question some facts are told that are none of these: one look instead of ten."""
_NO_WORD: Final = re.compile(r"[^A-Za-z0-9_.:/{}+=-]+")
_MAX_WORD: Final = 128


class Recorder:
    """Records what it hears (`core.facts.Observer`, `core.ledger.Ledger`, `core.deadlines.Watched`).

    Everything here runs in one event loop; nothing of it waits for the disk.
    """

    def __init__(
        self,
        log: AuditLog,
        clock: Clock,
        *,
        is_strict: bool,
        tell: Callable[[Fact], None],
        sign: Callable[[Committed], Receipt] | None = None,
    ) -> None:
        """`tell` hears when nothing can be recorded, and when that is over; `sign` makes receipts, if there are any."""
        self._starts = Starts(sign)
        self._log = log
        self._clock = clock
        self._is_strict = is_strict
        self._tell = tell
        self._folding = Folding(log.submit)
        self._told: str | None = None
        self._lost_streams = 0
        self._is_drained = False

    def notify(self, fact: Fact) -> None:
        """Record it, if it is to be recorded. Takes some microseconds and never waits."""
        if type(fact) in _HEARD:
            self._hear(fact)

    def _hear(self, fact: Fact) -> None:
        match fact:
            case StreamEnded():
                self._lost_streams += fact.outcome == ErrorCode.PRODUCER_LOST
                self._log.submit(_ended(fact))
            case ReaderAttached(is_resume=True):
                self._log.submit(_resumed(fact))
            case StopRequested():
                self._log.submit(_stopped(fact))
            case Refused():
                self._on_refused(fact)
            case AdminActed():
                self._on_admin_acted(fact)
            case Authenticated() | AuthReported():
                self._log.submit(_signed_in(fact))
            case FlagChanged():
                self._log.submit(_flag_changed(fact))
            case DrainStarted():
                self._log.submit(Record(Operation.GATEWAY_DRAIN, {"live_streams": fact.live_streams}))
            case DrainEnded():
                self._is_drained = True
            case _:
                pass

    def _on_refused(self, fact: Refused) -> None:
        operation = _REFUSALS.get(fact.code, Operation.REQUEST_REFUSED)
        kind = Kind(operation, fact.code, fact.reason)
        self._folding.note(kind, _account(fact.who), self._clock.monotonic(), partial(_refused, operation, fact))

    def _on_admin_acted(self, fact: AdminActed) -> None:
        if fact.status < _FIRST_FAILURE:
            self._log.submit(_admin_acted(fact))
            return
        kind = Kind(Operation.ADMIN_ACTION, str(fact.status), fact.action)
        self._folding.note(kind, _account(fact.who), self._clock.monotonic(), partial(_admin_acted, fact))

    def check(self) -> None:
        """Tell whether the start of a stream could be recorded now.

        Raises:
            AuditUnavailable: it couldn't, and no answer is given unrecorded.
        """
        if self._is_strict and self.trouble is not None:
            raise AuditUnavailable("Answers can't be recorded at the moment. Please try again.", retry_after_s=1)

    def begin(self, opened: StreamOpened) -> Start | None:
        """Put a start on its way; None in degraded mode, where nobody waits for it."""
        ticket = self._log.submit(_started(opened))
        return self._starts.take(ticket, self._clock.monotonic()) if self._is_strict else None

    def on_deadline(self, now: float) -> float:
        """Close what is due: windows of refusals, and waits for a disk that doesn't answer."""
        self._starts.give_up_late(now)
        self._folding.close_due(now)
        self._tell_of_trouble()
        return now + _TICK_S

    def _tell_of_trouble(self) -> None:
        trouble = self.trouble
        if trouble == self._told:
            return
        self._told = trouble
        self._tell(AuditRecovered(self._log.state.lost) if trouble is None else AuditTroubled(trouble))

    @property
    def trouble(self) -> str | None:
        """Why nothing can be recorded now; None while it can."""
        log = self._log
        return STALLED if log.trouble is None and log.oldest_waiting_s > COMMIT_S else log.trouble

    def open(self, *, version: str, store: str) -> None:
        """Record that the process begins to take requests."""
        mode = "strict" if self._is_strict else "degraded"
        self._log.submit(Record(Operation.GATEWAY_START, _kept(version=version, mode=mode, store=store)))

    def close(self) -> None:
        """Record all that is still to be said: what was counted, and that the process leaves."""
        self._folding.close_all()
        outcome = "drained" if self._is_drained else "stopped"
        fields = {"lost_streams": self._lost_streams, "outcome": outcome}
        self._log.submit(Record(Operation.GATEWAY_STOP, fields))


def _started(fact: StreamOpened) -> Record:
    who = fact.who
    email = who.email if who.subject and who.email else ""
    personal = Personal(_owner(who, fact.stream_id), email=email, question=who.query)
    return Record(Operation.STREAM_START, _asked(fact), fact.stream_id, personal)


def _ended(fact: StreamEnded) -> Record:
    fields = _asked(fact) | {
        "outcome": str(fact.outcome),
        "tokens": fact.tokens,
        "size_bytes": fact.size_bytes,
        "duration_ms": fact.duration_ms,
    }
    if fact.first_token_ms is not None:
        fields["first_token_ms"] = fact.first_token_ms
    if fact.reason:
        fields |= _kept(reason=fact.reason)
    return Record(Operation.STREAM_END, fields, fact.stream_id, Personal(_owner(fact.who, fact.stream_id)))


def _resumed(fact: ReaderAttached) -> Record:
    fields = _connection(fact.connection_id) | {"cursor": fact.cursor}
    return Record(Operation.STREAM_RESUME, fields, fact.stream_id, Personal(_owner(fact.who, fact.stream_id)))


def _stopped(fact: StopRequested) -> Record:
    fields = {"was_live": fact.was_live}
    return Record(Operation.STREAM_STOP, fields, fact.stream_id, Personal(_owner(fact.who, fact.stream_id)))


def _refused(operation: Operation, fact: Refused) -> Record:
    said = {"policy": fact.reason, "reason": fact.reason}
    fields = _kept(
        outcome=_REFUSED,
        route=fact.route,
        method=fact.method,
        status=fact.status,
        code=fact.code,
        **{name: value for name, value in said.items() if name in operation.rule.fields},
    )
    return Record(operation, fields, fact.stream_id or "", _caller(operation, fact.who))


def _admin_acted(fact: AdminActed) -> Record:
    method, _, path = fact.action.partition(" ")
    outcome = _REFUSED if fact.status >= _FIRST_FAILURE else "done"
    fields = _kept(outcome=outcome, action=path.removeprefix("/-/"), method=method, status=fact.status)
    return Record(Operation.ADMIN_ACTION, fields, personal=_caller(Operation.ADMIN_ACTION, fact.who))


def _signed_in(fact: Authenticated | AuthReported) -> Record:
    operation = _REPORTED[fact.kind] if isinstance(fact, AuthReported) else Operation.AUTH_SUCCESS
    subject = Subject("principal", fact.who.subject)
    return Record(operation, personal=Personal(subject, email=fact.who.email or ""))


def _flag_changed(fact: FlagChanged) -> Record:
    """Give who changed a flag, and from what to what, as far as that names nobody: `percentage_5_to_25_allow_+2_-0`."""
    operation = Operation.ROLLOUT_CHANGE if "rollout" in fact.summary else Operation.FLAG_CHANGE
    change = _NO_WORD.sub("_", fact.summary.replace("→", "to"))[:_MAX_WORD].strip("_")
    return Record(operation, _kept(flag=fact.key, change=change), personal=_caller(operation, fact.who))


def _asked(fact: StreamOpened | StreamEnded) -> dict[str, object]:
    """Give how a stream was asked for: its facts have method and route in one, `GET chat-stream`."""
    method, _, name = fact.route.partition(" ")
    return _connection(fact.connection_id) | {"method": method, "route": f"/{name}"}


def _connection(label: str) -> dict[str, object]:
    return {"connection": label} if _MADE_HERE.fullmatch(label) else {}


def _kept(**fields: object) -> dict[str, object]:
    """Leave out what isn't known and what the table has no form for."""
    return {name: value for name, value in fields.items() if value not in {None, ""} and FIELDS[name].takes(value)}


def _owner(who: Person, stream_id: str) -> Subject:
    """Give whom a stream belongs to: a principal, whose id has the tenant in it, else nobody but itself."""
    return Subject("principal", who.subject) if who.subject else Subject("stream", stream_id)


def _caller(operation: Operation, who: Person) -> Personal | None:
    """Give who made a request, with the address where the table has it."""
    takes_address = PersonalField.ADDRESS in operation.rule.personal
    address = who.address if takes_address else ""
    if who.subject:
        return Personal(Subject("principal", who.subject), address=address)
    return Personal(Subject("address", address), address=address) if address else None


def _account(who: Person) -> Hashable:
    """Give on whose account refusals are counted: the principal's, else that of the host behind an address."""
    return who.subject or _host(who.address)


def _host(address: str) -> Hashable:
    """Give an address as it is, of IPv6 the /64 that one host draws its addresses from."""
    return inet_pton(AF_INET6, address)[:8] if ":" in address else address

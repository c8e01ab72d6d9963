"""What may be written where: operation × field × purpose × legal basis × term, as a table that decides.

A record with a field that its operation doesn't list is refused before it is queued. Fields of the core are kept as
they are for the whole term and are never personal; personal fields are encrypted and can be erased. The question is no
field: of it there are only digests. The e-mail exists only where a caller was authenticated, the address only for the
security of the service.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

TERM_DAYS: Final = 90
"""How long rows are kept unless the operator says otherwise."""
MAX_SPANS: Final = 10_000
"""Of rows that one row may name."""
_MAX_COUNT: Final = 2**63 - 1


class Purpose(StrEnum):
    """Why something is recorded. Nothing recorded for one purpose may be used for another (Art. 5(1)(b) GDPR)."""

    SERVICE = "to show what the service did, for whom and with which outcome"
    SECURITY = "to find, limit and prove misuse and attacks"
    ADMINISTRATION = "to show who changed or read what, and when"
    INTEGRITY = "to prove that the log is whole"


class Basis(StrEnum):
    """The legal basis of the processing (GDPR)."""

    INTEREST = "Art. 6(1)(f): legitimate interest in a service that can be accounted for"
    SECURITY = "Art. 6(1)(f) with recital 49: legitimate interest in network and information security"
    DUTY = "Art. 6(1)(c) with Art. 5(2), 17, 30 and 32: duty to account for the processing"


class PersonalField(StrEnum):
    """What is encrypted and erasable."""

    SUBJECT = "subject"
    TENANT = "tenant"
    EMAIL = "email"
    ADDRESS = "address"
    QUERY_HASH = "query_hash"
    QUERY_COMMIT = "query_commit"


class Form(NamedTuple):
    """What values a core field takes. `about` completes "expected …"."""

    about: str
    takes: Callable[[object], bool]


_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/{}+=-]{0,127}")
_PATH: Final = re.compile(rf"/+({_WORD.pattern})?")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_path(value: object) -> bool:
    return isinstance(value, str) and _PATH.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_milliseconds(value: object) -> bool:
    return (type(value) is float or type(value) is int) and 0 <= value < inf


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 300 and value.isprintable()  # noqa: PLR2004 — the form says it


def _is_key(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 512 and value.isascii() and value.isprintable()  # noqa: PLR2004


def _is_spans(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_SPANS and all(map(_is_span, value))


def _is_span(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)) and value[0] <= value[1]  # noqa: PLR2004 — first and last


WORD: Final = Form("a word of ours: letters, digits and _.:/{}+=-, at most 128", _is_word)
PATH: Final = Form("a route of ours, with a leading slash", _is_path)
COUNT: Final = Form("a whole number from 0", _is_count)
MILLISECONDS: Final = Form("milliseconds from 0", _is_milliseconds)
FLAG: Final = Form("true or false", _is_flag)
SENTENCE: Final = Form("an operator's reason that names no person, one line of at most 300 characters", _is_sentence)
KEY: Final = Form("a public key or signature as text", _is_key)
SPANS: Final = Form(f"first and last seq of at most {MAX_SPANS} runs of rows", _is_spans)

FIELDS: Final[Mapping[str, Form]] = {
    "outcome": WORD,
    "connection": WORD,
    "route": PATH,
    "method": WORD,
    "status": COUNT,
    "reason": WORD,
    "tokens": COUNT,
    "size_bytes": COUNT,
    "first_token_ms": MILLISECONDS,
    "duration_ms": MILLISECONDS,
    "cursor": COUNT,
    "was_live": FLAG,
    "is_replay": FLAG,
    "policy": WORD,
    "limit": COUNT,
    "count": COUNT,
    "is_lower_bound": FLAG,
    "window_s": COUNT,
    "code": WORD,
    "scheme": WORD,
    "flag": WORD,
    "change": WORD,
    "percentage": COUNT,
    "action": WORD,
    "mode": WORD,
    "store": WORD,
    "version": WORD,
    "live_streams": COUNT,
    "lost_streams": COUNT,
    "lost": COUNT,
    "silent_ms": MILLISECONDS,
    "size": COUNT,
    "rows": COUNT,
    "term_ms": COUNT,
    "seqs": SPANS,
    "until_ms": COUNT,
    "hold": COUNT,
    "why": SENTENCE,
    "vkey": KEY,
    "signature": KEY,
}
"""Every core field there is. Each row also has its operation, its times, its boot and, if it has one, its stream."""


class Rule(NamedTuple):
    """What one operation may write. `about` says when it is written."""

    about: str
    purpose: Purpose
    basis: Basis
    fields: frozenset[str]
    personal: frozenset[PersonalField] = frozenset()
    has_stream: bool = False
    is_evidence: bool = False
    """Whether an erasure may leave it standing, with a stated reason (Art. 17(3)(b), (e))."""
    term_days: int = TERM_DAYS


class Operation(StrEnum):
    """All operations. The value stands in the row."""

    STREAM_START = "stream.start"
    STREAM_END = "stream.end"
    STREAM_RESUME = "stream.resume"
    STREAM_STOP = "stream.stop"
    REQUEST_REFUSED = "request.refused"
    RATE_LIMIT_VIOLATION = "security.rate_limit_violation"
    FOREIGN_STREAM = "security.foreign_stream"
    LIMITER_CHANGE = "security.limiter_change"
    AUTH_FAILURE = "auth.failure"
    AUTH_SUCCESS = "auth.success"
    AUTH_LOGIN = "auth.login"
    AUTH_LOGOUT = "auth.logout"
    AUTH_TOKEN_REFRESH = "auth.token_refresh"
    FLAG_CHANGE = "flag.change"
    ROLLOUT_CHANGE = "rollout.change"
    ADMIN_ACTION = "admin.action"
    GATEWAY_START = "gateway.start"
    GATEWAY_DRAIN = "gateway.drain"
    GATEWAY_STOP = "gateway.stop"
    LOG_OPEN = "log.open"
    LOG_GAP = "log.gap"
    LOG_BACKUP = "log.backup"
    LOG_RESTORE = "log.restore"
    SEAL = "seal"
    KEY_ROTATE = "key.rotate"
    RETENTION_PRUNE = "retention.prune"
    RETENTION_HOLD = "retention.hold"
    RETENTION_RELEASE = "retention.release"
    GDPR_ERASE = "gdpr.erase"
    GDPR_EXPORT = "gdpr.export"

    __hash__ = str.__hash__

    @property
    def rule(self) -> Rule:
        """What it may write."""
        return RULES[self]


_REQUEST: Final = frozenset({"connection", "route", "method", "outcome"})
_CALLER: Final = frozenset({PersonalField.SUBJECT, PersonalField.TENANT})
_AUTHENTICATED: Final = _CALLER | {PersonalField.EMAIL}
_QUESTION: Final = frozenset({PersonalField.QUERY_HASH, PersonalField.QUERY_COMMIT})
_AT_ADDRESS: Final = _CALLER | {PersonalField.ADDRESS}


def _service(about: str, *fields: str, personal: frozenset[PersonalField] = _CALLER) -> Rule:
    return Rule(about, Purpose.SERVICE, Basis.INTEREST, _REQUEST | {*fields}, personal, has_stream=True)


def _security(about: str, *fields: str, has_stream: bool = False) -> Rule:
    return Rule(
        about,
        Purpose.SECURITY,
        Basis.SECURITY,
        _REQUEST | {"status", "code", *fields},
        _AT_ADDRESS,
        has_stream=has_stream,
        is_evidence=True,
    )


def _signed_in(about: str) -> Rule:
    return Rule(about, Purpose.SECURITY, Basis.SECURITY, frozenset({"scheme", "outcome"}), _AUTHENTICATED)


def _administration(
    about: str, *fields: str, personal: frozenset[PersonalField] = _AUTHENTICATED, has_stream: bool = False
) -> Rule:
    return Rule(
        about,
        Purpose.ADMINISTRATION,
        Basis.DUTY,
        frozenset({"outcome", *fields}),
        personal,
        has_stream=has_stream,
        is_evidence=True,
    )


def _process(about: str, *fields: str) -> Rule:
    return Rule(about, Purpose.SERVICE, Basis.INTEREST, frozenset(fields))


def _integrity(about: str, *fields: str) -> Rule:
    return Rule(about, Purpose.INTEGRITY, Basis.DUTY, frozenset(fields))


RULES: Final[Mapping[Operation, Rule]] = {
    Operation.STREAM_START: _service(
        "a question was admitted and its stream began", "is_replay", "mode", personal=_AUTHENTICATED | _QUESTION
    ),
    Operation.STREAM_END: _service(
        "the stream's terminal event was appended; `interrupted` at the next start if the process was killed",
        *("reason", "tokens", "size_bytes", "first_token_ms", "duration_ms"),
    ),
    Operation.STREAM_RESUME: _service("a reader came back with a cursor", "cursor"),
    Operation.STREAM_STOP: _service("somebody who may asked for the stream's end", "was_live"),
    Operation.REQUEST_REFUSED: _service("a request was refused before its first byte", "status", "code", "count"),
    Operation.RATE_LIMIT_VIOLATION: _security(
        "a limit was passed: the first time in a window, and once more with the exact count when it closes",
        *("policy", "limit", "window_s", "count", "is_lower_bound"),
    ),
    Operation.FOREIGN_STREAM: _security("somebody asked for a stream that isn't theirs", "count", has_stream=True),
    Operation.LIMITER_CHANGE: Rule(
        "limits are held by another store than before",
        Purpose.SECURITY,
        Basis.SECURITY,
        frozenset({"policy", "store", "mode", "reason"}),
        is_evidence=True,
    ),
    Operation.AUTH_FAILURE: _security("credentials were refused", "scheme", "reason", "count"),
    Operation.AUTH_SUCCESS: _signed_in("credentials were accepted: once per token and day"),
    Operation.AUTH_LOGIN: _signed_in("the host application reports a login"),
    Operation.AUTH_LOGOUT: _signed_in("the host application reports a logout"),
    Operation.AUTH_TOKEN_REFRESH: _signed_in("the host application reports a refreshed token"),
    Operation.FLAG_CHANGE: _administration("a feature flag was changed", "flag", "change", "percentage"),
    Operation.ROLLOUT_CHANGE: _administration("a rollout took a step", "flag", "change", "percentage", "reason"),
    Operation.ADMIN_ACTION: _administration(
        "an administrator read or changed something",
        *("action", "route", "method", "status", "count", "why"),
        personal=_AUTHENTICATED | _AT_ADDRESS,
        has_stream=True,
    ),
    Operation.GATEWAY_START: _process("the process takes requests", "version", "mode", "store"),
    Operation.GATEWAY_DRAIN: _process("the process takes no new streams", "live_streams"),
    Operation.GATEWAY_STOP: _process("the process is about to leave", "lost_streams", "outcome"),
    Operation.LOG_OPEN: _integrity("the log was made: always its first row", "vkey"),
    Operation.LOG_GAP: _integrity(
        "nothing could be recorded for a while; `lost` records never will be", "lost", "silent_ms", "reason"
    ),
    Operation.LOG_BACKUP: _administration(
        "a copy of the log is about to be made; `mode` says whether the keys are copied too", *("size", "mode", "why")
    ),
    Operation.LOG_RESTORE: _integrity("the log was put back from a back-up", "size", "count", "why"),
    Operation.SEAL: _integrity("nothing happened for a while: the log is alive"),
    Operation.KEY_ROTATE: _integrity("another key seals from here on", "vkey", "signature"),
    Operation.RETENTION_PRUNE: _integrity("rows past their term were deleted", "size", "rows", "term_ms"),
    Operation.RETENTION_HOLD: _administration("nothing may be deleted until then", "until_ms", "why"),
    Operation.RETENTION_RELEASE: _administration("a hold was lifted", "hold", "why"),
    Operation.GDPR_ERASE: _administration("the personal part of rows was erased", "seqs", "rows", "why"),
    Operation.GDPR_EXPORT: _administration("everything about one person was handed out", "rows", "why"),
}


_PERMITTED: Final = {operation: {name: FIELDS[name].takes for name in rule.fields} for operation, rule in RULES.items()}


class NotPermitted(ValueError):
    """The table doesn't let this be written. A defect of the caller; the text names the field, never a value."""


def check_fields(operation: Operation, fields: Mapping[str, object]) -> None:
    """Raise NotPermitted unless the operation may write these core fields with these values."""
    permitted = _PERMITTED[operation]
    for name, value in fields.items():
        takes = permitted.get(name)
        if takes is None:
            raise NotPermitted(f"{operation}: the field {name} isn't written here")
        if not takes(value):
            raise NotPermitted(f"{operation}.{name}: expected {FIELDS[name].about}")

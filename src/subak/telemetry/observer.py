"""Observers: who hears facts. They can't refuse, delay or raise."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import structlog

from subak.core.digests import digest_name
from subak.core.facts import (
    AnchorFailed,
    AuditKeysMade,
    AuditTroubled,
    ClientReported,
    Crashed,
    CredentialsIgnored,
    DescriptorsExhausted,
    Fact,
    FlagsRefused,
    FlagValues,
    KeysRefused,
    OriginRefused,
    Person,
    ProxyForgotten,
    ReaderAttached,
    ReaderLeft,
    Refused,
    StreamEnded,
    StreamOpened,
    TokensTimed,
)
from subak.core.trace import TraceContext
from subak.telemetry.logs import LEVELS

_UNSHOWN: Final = frozenset({type(None), Person, FlagValues})
UNSAID: Final = 0
"""Below every level: told for its numbers, and no line."""
_FIXED_LEVELS: Final[Mapping[type[Fact], int]] = {
    TokensTimed: UNSAID,
    ClientReported: LEVELS["debug"],
    StreamOpened: LEVELS["info"],
    **dict.fromkeys((AuditKeysMade, CredentialsIgnored, KeysRefused, OriginRefused, ProxyForgotten), LEVELS["warning"]),
    **dict.fromkeys((AnchorFailed, AuditTroubled, Crashed, DescriptorsExhausted, FlagsRefused), LEVELS["error"]),
}
"""Of facts that are always as grave."""


class LogObserver:
    """Writes each fact as one log line; a stream's id as a keyed digest (PROTOCOL §1), of persons nothing."""

    def __init__(self, logger: structlog.typing.FilteringBoundLogger, secret: bytes) -> None:
        """`secret` keys the digests: the same stream has the same name in all lines of one state directory."""
        self._logger = logger
        self._secret = secret
        self._names: dict[type[Fact], str] = {}

    def notify(self, fact: Fact) -> None:
        """Write the line: starts, ends, refusals and resumes at `info`, what is as expected of a reader at `debug`."""
        level = _level(fact)
        if not self._logger.is_enabled_for(level):
            return
        fields = {name: value for name, value in msgspec.structs.asdict(fact).items() if type(value) not in _UNSHOWN}
        trace = fields.pop("trace", None)
        if isinstance(trace, TraceContext):
            fields["trace_id"] = trace.trace_id
        stream_id = fields.pop("stream_id", None)
        if stream_id is not None:
            fields = {"stream": digest_name(self._secret, "stream", stream_id)} | fields
        self._logger.log(level, self._name_of(type(fact)), **fields)

    def _name_of(self, kind: type[Fact]) -> str:
        """Give `stream_opened` for `StreamOpened`; there are as many as there are kinds of facts."""
        name = self._names.get(kind)
        if name is None:
            name = self._names[kind] = _event_name(kind)
        return name


def _level(fact: Fact) -> int:
    fixed = _FIXED_LEVELS.get(type(fact))
    if fixed is not None:
        return fixed
    match fact:
        case ReaderAttached(is_resume=False) | ReaderLeft(departure="completed"):
            return LEVELS["debug"]
        case StreamEnded(reason=reason) if reason:
            return LEVELS["warning"]
        case Refused(status=status) if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return LEVELS["warning"]
        case _:
            return LEVELS["info"]


def _event_name(kind: type[Fact]) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("_")

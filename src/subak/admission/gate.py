"""The gate: the one door in front of the stream routes.

Every question that would cost the upstream something passes here; the first refusal wins. Attaching to a stream that
exists (cursor, idempotency key) and `/chat` do not pass it (PROTOCOL §2).
"""

from typing import Final

import msgspec

from subak.core.principal import Principal

FLAG: Final = "ENABLE_SSE_STREAMING"


class Admitted(msgspec.Struct, frozen=True):
    """The caller may stream."""

    principal: Principal


class Refused(msgspec.Struct, frozen=True):
    """The caller may not: `code` is stable, `flag` names what would have to be on."""

    code: str
    flag: str


class Gate:
    """Decides who may open a stream."""

    __slots__ = ("_is_streaming_on",)

    def __init__(self, *, is_streaming_on: bool) -> None:
        """`is_streaming_on` is the value of ENABLE_SSE_STREAMING."""
        self._is_streaming_on = is_streaming_on

    def admit(self, principal: Principal) -> Admitted | Refused:
        """Let a caller in, or say what stands in the way."""
        if not self._is_streaming_on:
            return Refused("feature_flag_disabled", FLAG)
        return Admitted(principal)

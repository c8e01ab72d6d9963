"""Trace context as it travels in `traceparent` (W3C Trace Context, https://www.w3.org/TR/trace-context/)."""

import re
from typing import Final

import msgspec

SAMPLED: Final = 0x01
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NONE: Final = re.compile("0+")


class TraceContext(msgspec.Struct, frozen=True):
    """One hop of a trace. `span_id` is who calls on; `parent_id` who called it, empty for the first hop."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    is_sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.is_sampled else 0:02x}"

    def child(self, span_id: str) -> "TraceContext":
        """Give the hop after this one."""
        return TraceContext(self.trace_id, span_id, self.span_id, self.is_sampled)


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Read a header; None for none, or one that isn't valid: a trace begins anew then (§3.2.2.5)."""
    found = _FORM.fullmatch(text or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if _NONE.fullmatch(trace_id) or _NONE.fullmatch(span_id):
        return None
    return TraceContext(trace_id, span_id, is_sampled=bool(int(flags, 16) & SAMPLED))

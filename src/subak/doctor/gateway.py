"""What a gateway with these settings would have on this machine: connections, and whether it streams at all."""

import resource
from typing import Final

from subak.app import SPARE_DESCRIPTORS
from subak.doctor.findings import Check, Finding, fine, warning
from subak.settings import Settings

FEW_CONNECTIONS: Final = 1000
_RAISE: Final = "raise it: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536 for a container, or ulimit -Hn"


def look_at_open_files(max_connections: int) -> Finding:
    """Look at the limit of open files. `max_connections` is the setting; 0 takes what the limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge_open_files(soft, hard, max_connections)


def judge_open_files(soft: int, hard: int, max_connections: int) -> Finding:
    """Judge the limit by the connections that fit below it; the gateway raises the soft one to the hard one."""
    room = connections_below(soft, hard)
    seen = f"soft {_shown(soft)}, hard {_shown(hard)}: room for {room} connections"
    figures = {"soft": soft, "hard": hard, "connections": room}
    if max_connections > room:
        return warning(Check.OPEN_FILES, f"{seen}, and server.max_connections is {max_connections}", _RAISE, **figures)
    if room < FEW_CONNECTIONS:
        return warning(Check.OPEN_FILES, seen, _RAISE, **figures)
    return fine(Check.OPEN_FILES, seen, **figures)


def connections_below(soft: int, hard: int) -> int:
    """Give how many connections fit, as `subak.app.max_connections` reckons, without raising anything."""
    usable = soft if hard == resource.RLIM_INFINITY else hard
    return max(1, (usable - SPARE_DESCRIPTORS) // 2)


def look_at_streaming(settings: Settings) -> Finding:
    """Say whether the stream routes answer."""
    if settings.features.sse_streaming:
        return fine(Check.STREAMING, "on")
    return warning(
        Check.STREAMING,
        "off: the stream routes answer 403",
        "set ENABLE_SSE_STREAMING=true (`subak demo` does so by itself)",
    )


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)

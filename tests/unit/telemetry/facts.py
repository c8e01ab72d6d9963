"""Facts and views for the tests here."""

from typing import Final

import msgspec

from subak.core.breaker import BreakerState
from subak.core.facts import StreamEnded, StreamOpened
from subak.core.lifecycle import Status
from subak.core.live import AuditState, KeySourceState, LiveReader, LiveStream, Load, Occupancy, UpstreamState
from subak.telemetry.stats import Present

ROUTE: Final = "GET chat-stream"
STREAM_ID: Final = "st_AAAAAAAAAAAAAAAAAAAAAAAAAAAA"

STREAMS: Final = (LiveStream(STREAM_ID, ROUTE, "on", Status.STREAMING, 2.5, 4, 300, 41.5, readers=1),)
READERS: Final = (
    LiveReader("st_BBBBBBBBBBBBBBBBBBBBBBBBBBBB", None, 7.5, 2, 9, 700, 0, is_live=False),
    LiveReader(STREAM_ID, STREAMS[0], 2.4, 5, 1, 200, 64, is_live=True),
)
PRESENT: Final = Present(
    load=lambda: Load(streams=1, readers=2, lag_bytes=900, max_lag_bytes=700, buffered_bytes=64),
    streams=lambda limit: STREAMS[:limit],
    readers=lambda limit: READERS[:limit],
    connections=lambda: Occupancy(3, 100, refused=2),
    replay_bytes=lambda: Occupancy(4_096, 1_000_000),
    upstreams=lambda: (UpstreamState("rag.test:8000", BreakerState.CLOSED, 1, 2, 30, 40),),
    audit=lambda: AuditState(queued=5, lost=0, oldest_waiting_s=0.5, failed_checkpoints=0, rows=77),
    key_sources=lambda: (KeySourceState("api_keys", "", 0), KeySourceState("jwks", "timeout", 3, 660.5)),
    upstream_retries=lambda: 6,
    log_lines_dropped=lambda: 0,
    is_draining=lambda: False,
)


def opened(route: str = ROUTE, arm: str = "on") -> StreamOpened:
    """Give the beginning of a stream."""
    return StreamOpened(STREAM_ID, "c_1", route, arm=arm)


def ended(**figures: object) -> StreamEnded:
    """Give the end of a stream: of one that went well, unless `figures` say otherwise."""
    return msgspec.structs.replace(_WELL, **figures)


_WELL: Final = StreamEnded(STREAM_ID, "c_1", ROUTE, "stop", "", 3, 90, 80.0, 900.0)

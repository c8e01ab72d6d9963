"""The numbers that operators and the rollout's controller look at, counted from facts.

What ended streams, refusals and `/chat` add up to is counted as it happens (see `tally`). What is under way is read at
the moment somebody asks, from the call-backs of a `Present`: it costs nothing until then.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from subak.core.clock import Clock
from subak.core.digests import digest_name
from subak.core.facts import (
    ChatAnswered,
    ClientReported,
    Crashed,
    Fact,
    ReaderAttached,
    ReaderLeft,
    Refused,
    StopRequested,
    StreamEnded,
    StreamOpened,
    TokensTimed,
)
from subak.core.histogram import Histogram
from subak.core.lifecycle import Status
from subak.core.live import AuditState, KeySourceState, LiveReader, LiveStream, Load, Occupancy, UpstreamState
from subak.telemetry.host import ProcessState, look_at_process
from subak.telemetry.tally import (
    Labels,
    RefusalKind,
    ReportTally,
    RouteArm,
    StreamTally,
    Tallies,
    Tally,
    Window,
    ratio,
    refusal_kind,
    requests_and_errors,
    rows_of,
)

MAX_ROUTE_ARMS: Final = 32
MAX_REFUSAL_KINDS: Final = 256
OTHER: Final = "other"
QUANTILES: Final = (0.5, 0.95, 0.99)
MAX_ROWS: Final = 1_000
"""How many streams, and how many readers, a page of connections shows: the oldest."""


class Present(NamedTuple):
    """Where to look for what is under way; each is called when somebody asks, from the event loop.

    `streams` and `readers` give the oldest, at most as many as they are asked for.
    """

    load: Callable[[], Load]
    streams: Callable[[int], Sequence[LiveStream]]
    readers: Callable[[int], Sequence[LiveReader]]
    connections: Callable[[], Occupancy]
    replay_bytes: Callable[[], Occupancy]
    upstreams: Callable[[], Sequence[UpstreamState]]
    audit: Callable[[], AuditState | None]
    key_sources: Callable[[], Sequence[KeySourceState]]
    upstream_retries: Callable[[], int]
    log_lines_dropped: Callable[[], int]
    is_draining: Callable[[], bool]


class Latency(msgspec.Struct, frozen=True):
    """A distribution of times in milliseconds; None of nothing. The mean is exact, quantiles are within 1 %."""

    count: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class StreamFigures(msgspec.Struct, frozen=True):
    """Streams of one route and arm: opened in a window, and what those that ended in it came to.

    `delivered`: a first event reached a reader; `gateway_share` is our part of the first token's time.
    """

    route: str
    arm: str
    opened: int
    ended: int
    delivered: int
    failed: int
    outcomes: dict[str, int]
    tokens: int
    tokens_unread: int
    size_bytes: int
    first_token: Latency
    gateway_share: Latency
    inter_token: Latency
    duration: Latency


class RefusalFigures(msgspec.Struct, frozen=True):
    """How often requests were answered with an error before the first byte, by what they were refused for."""

    route: str
    method: str
    status: int
    code: str
    reason: str
    count: int


class ChatFigures(msgspec.Struct, frozen=True):
    """What came of `/chat`: answers by the class of their status, and how long they took."""

    answers: int
    errors: int
    latency: Latency


class ReportFigures(msgspec.Struct, frozen=True):
    """What browser clients told of their own answers (`POST /v1/streams/{id}/report`): as they saw it, unchecked.

    Beside `StreamFigures` of the same window it says what the way between gateway and reader costs.
    """

    count: int
    reconnects: int
    duplicates: int
    gaps: int
    first_token: Latency
    inter_token_p95: Latency


class WindowFigures(msgspec.Struct, frozen=True):
    """Everything over one window, which holds `covers_s` seconds.

    Requests are streams that ended and questions refused with a 5xx (while draining none). `error_rate`: those that
    failed; `connection_success`: those that delivered a first event. `reconnection_frequency`: resumes for each stream
    opened.
    """

    covers_s: float
    requests: int
    errors: int
    error_rate: float | None
    connection_success: float | None
    resumes: int
    reconnection_frequency: float | None
    resumes_per_minute: float | None
    tokens_per_s: float | None
    rate_limit_violations: int
    slow_readers: int
    departures: dict[str, int]
    stops: int
    crashes: int
    streams: StreamFigures
    by_route: tuple[StreamFigures, ...]
    refusals: tuple[RefusalFigures, ...]
    reports: ReportFigures
    chat: ChatFigures
    loop_lag: Latency


class PresentFigures(msgspec.Struct, frozen=True):
    """What is under way."""

    load: Load
    connections: Occupancy
    replay_bytes: Occupancy
    upstreams: tuple[UpstreamState, ...]
    upstream_retries: int
    audit: AuditState | None
    key_sources: tuple[KeySourceState, ...]
    log_lines_dropped: int
    is_draining: bool
    process: ProcessState


class Snapshot(msgspec.Struct, frozen=True):
    """The body of `/-/stats`."""

    at_ms: int
    uptime_s: float
    present: PresentFigures
    last_minute: WindowFigures
    last_quarter_hour: WindowFigures
    since_start: WindowFigures


class StreamRow(msgspec.Struct, frozen=True):
    """A stream under way, for people. `stream` is the keyed digest that log lines name it by."""

    stream: str
    route: str
    arm: str
    status: Status
    age_s: float
    tokens: int
    size_bytes: int
    first_token_ms: float | None
    readers: int


class ReaderRow(msgspec.Struct, frozen=True):
    """A response under way, for people; `route`, `tokens` and `first_token_ms` of a stream that still goes on."""

    stream: str
    route: str | None
    age_s: float
    tokens: int | None
    first_token_ms: float | None
    cursor: int
    lag_events: int
    lag_bytes: int
    buffered_bytes: int
    is_live: bool


class ConnectionsSnapshot(msgspec.Struct, frozen=True):
    """The body of `/-/connections`: the oldest of each kind. The counts are of all."""

    stream_count: int
    reader_count: int
    streams: tuple[StreamRow, ...]
    readers: tuple[ReaderRow, ...]


class Stats:
    """An observer that counts. The same streams give the same counts here, in the audit trail and at `/metrics`."""

    def __init__(self, clock: Clock) -> None:
        """Start at nothing."""
        self._clock = clock
        self._tallies = Tallies(clock.monotonic())
        self._route_arms = Labels(MAX_ROUTE_ARMS, RouteArm(OTHER, OTHER))
        self._refusal_kinds = Labels(MAX_REFUSAL_KINDS, RefusalKind(OTHER, OTHER, 0, OTHER, ""))

    def notify(self, fact: Fact) -> None:
        """Count it."""
        tally = self._tallies.running(self._clock.monotonic())
        match fact:
            case TokensTimed(route, arm, gaps_us):
                self._streams(tally, route, arm).inter_token.record_all(gaps_us)
            case StreamOpened(route=route, arm=arm):
                self._streams(tally, route, arm).opened += 1
            case StreamEnded(route=route, arm=arm):
                self._streams(tally, route, arm).count(fact)
            case ReaderAttached(is_resume=is_resume):
                tally.attached += 1
                tally.resumed += is_resume
            case ReaderLeft(departure=departure):
                tally.departures[departure] += 1
            case Refused():
                tally.refusals[self._refusal_kinds.admit(refusal_kind(fact))] += 1
            case _:
                _count_rare(tally, fact)

    def note_loop_lag(self, late_s: float) -> None:
        """Count by how much the event loop was late for its ticker."""
        self._tallies.running(self._clock.monotonic()).loop_lag.record(max(0, int(late_s * 1_000_000)))

    def over(self, window: Window) -> Tally:
        """Give what a window adds up to: to be read at once, and not changed."""
        return self._tallies.over(window, self._clock.monotonic())

    def figures(self, window: Window) -> WindowFigures:
        """Give what a window adds up to, for people."""
        covers_s = self._tallies.covers_s(window, self._clock.monotonic())
        return _window_figures(self.over(window), covers_s)

    def snapshot(self, present: Present) -> Snapshot:
        """Give the body of `/-/stats`."""
        return Snapshot(
            at_ms=self._clock.time_ms(),
            uptime_s=round(self.uptime_s, 3),
            present=present_figures(present),
            last_minute=self.figures(Window.LAST_MINUTE),
            last_quarter_hour=self.figures(Window.LAST_QUARTER),
            since_start=self.figures(Window.SINCE_START),
        )

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._clock.monotonic() - self._tallies.started_at

    def _streams(self, tally: Tally, route: str, arm: str) -> StreamTally:
        return tally.of(self._route_arms.admit(RouteArm(route, arm)))


def _count_rare(tally: Tally, fact: Fact) -> None:
    match fact:
        case ClientReported():
            tally.reports.add(fact)
        case ChatAnswered():
            tally.count_chat(fact)
        case StopRequested():
            tally.stops += 1
        case Crashed():
            tally.crashes += 1
        case _:
            pass


def present_figures(present: Present) -> PresentFigures:
    """Look at everything that is under way."""
    return PresentFigures(
        load=present.load(),
        connections=present.connections(),
        replay_bytes=present.replay_bytes(),
        upstreams=tuple(present.upstreams()),
        upstream_retries=present.upstream_retries(),
        audit=present.audit(),
        key_sources=tuple(present.key_sources()),
        log_lines_dropped=present.log_lines_dropped(),
        is_draining=present.is_draining(),
        process=look_at_process(),
    )


def connections_snapshot(present: Present, secret: bytes, most: int = MAX_ROWS) -> ConnectionsSnapshot:
    """Give the body of `/-/connections`, at `most` so many rows. `secret` keys the digests, as those of log lines."""
    load = present.load()
    return ConnectionsSnapshot(
        stream_count=load.streams,
        reader_count=load.readers,
        streams=tuple([_stream_row(stream, secret) for stream in present.streams(most)]),
        readers=tuple([_reader_row(reader, secret) for reader in present.readers(most)]),
    )


def _stream_row(stream: LiveStream, secret: bytes) -> StreamRow:
    return StreamRow(
        stream=digest_name(secret, "stream", stream.stream_id),
        route=stream.route,
        arm=stream.arm,
        status=stream.status,
        age_s=stream.age_s,
        tokens=stream.tokens,
        size_bytes=stream.size_bytes,
        first_token_ms=stream.first_token_ms,
        readers=stream.readers,
    )


def _reader_row(reader: LiveReader, secret: bytes) -> ReaderRow:
    stream = reader.stream
    return ReaderRow(
        stream=digest_name(secret, "stream", reader.stream_id),
        route=None if stream is None else stream.route,
        age_s=reader.age_s,
        tokens=None if stream is None else stream.tokens,
        first_token_ms=None if stream is None else stream.first_token_ms,
        cursor=reader.cursor,
        lag_events=reader.lag_events,
        lag_bytes=reader.lag_bytes,
        buffered_bytes=reader.buffered_bytes,
        is_live=reader.is_live,
    )


def _window_figures(tally: Tally, covers_s: float) -> WindowFigures:
    streams = tally.all_streams()
    requests, errors = requests_and_errors(tally, streams)
    return WindowFigures(
        covers_s=round(covers_s, 3),
        requests=requests,
        errors=errors,
        error_rate=ratio(errors, requests),
        connection_success=ratio(streams.delivered, requests),
        resumes=tally.resumed,
        reconnection_frequency=ratio(tally.resumed, streams.opened),
        resumes_per_minute=ratio(tally.resumed * 60, covers_s),
        tokens_per_s=ratio(streams.tokens, covers_s),
        rate_limit_violations=tally.rate_limit_violations,
        slow_readers=tally.departures["slow_reader"],
        departures=dict(tally.departures),
        stops=tally.stops,
        crashes=tally.crashes,
        streams=_stream_figures(RouteArm("all", "all"), streams),
        by_route=tuple([_stream_figures(key, part) for key, part in sorted(tally.streams.items())]),
        refusals=tuple([RefusalFigures(*kind, count=count) for kind, count in rows_of(tally.refusals)]),
        reports=_report_figures(tally.reports),
        chat=ChatFigures(tally.chat.count, tally.chat_classes["5xx"], _latency(tally.chat)),
        loop_lag=_latency(tally.loop_lag),
    )


def _report_figures(reports: ReportTally) -> ReportFigures:
    return ReportFigures(
        count=reports.count,
        reconnects=reports.reconnects,
        duplicates=reports.duplicates,
        gaps=reports.gaps,
        first_token=_latency(reports.first_token),
        inter_token_p95=_latency(reports.inter_token_p95),
    )


def _stream_figures(key: RouteArm, tally: StreamTally) -> StreamFigures:
    return StreamFigures(
        route=key.route,
        arm=key.arm,
        opened=tally.opened,
        ended=tally.ended,
        delivered=tally.delivered,
        failed=tally.failed,
        outcomes=dict(rows_of(tally.outcomes)),
        tokens=tally.tokens,
        tokens_unread=tally.tokens_unread,
        size_bytes=tally.size_bytes,
        first_token=_latency(tally.first_token),
        gateway_share=_latency(tally.gateway_share),
        inter_token=_latency(tally.inter_token),
        duration=_latency(tally.duration),
    )


def _latency(times: Histogram) -> Latency:
    count = times.count
    if not count:
        return Latency(0, None, None, None, None, None)
    p50, p95, p99 = map(_ms, times.quantiles(QUANTILES))
    return Latency(count, _ms(times.total / count), p50, p95, p99, _ms(times.maximum))


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 3)

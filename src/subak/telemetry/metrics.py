"""`/metrics` for Prometheus: the numbers of `stats`, read when it asks. The one file that knows prometheus_client.

Counting is done elsewhere, in plain ints; a scrape makes families of them and costs what it costs once in 15 seconds.
Labels are bounded: routes, arms, outcomes and codes are closed sets, refusals and crashes have a limit.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from subak.core.breaker import BreakerState
from subak.core.histogram import Histogram
from subak.core.live import Occupancy
from subak.telemetry.stats import QUANTILES, Present, PresentFigures, Stats, present_figures
from subak.telemetry.tally import StreamTally, Tally, Window, requests_and_errors

_US: Final = 1_000_000
_OWN_BOUNDS_US: Final = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000)
_TOKEN_BOUNDS_US: Final = (
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000),
    *(150_000, 200_000, 300_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000),
)
"""With the targets among them (50 and 100 ms), the alert's (150 ms) and the roll-back's (200 ms)."""
_ANSWER_BOUNDS_US: Final = tuple(
    int(seconds * _US) for seconds in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
)
_LAG_BOUNDS_US: Final = (1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000)


class Kind(StrEnum):
    """The types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


class Definition(NamedTuple):
    """One metric: its name, type and labels, and what it means."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


_STREAM: Final = ("route", "arm")


def _define(kind: Kind, *rows: tuple[str, tuple[str, ...], str]) -> list[Definition]:
    return [Definition(name, kind, labels, meaning) for name, labels, meaning in rows]


COUNTERS: Final = _define(
    Kind.COUNTER,
    ("subak_requests_total", (), "Questions that came to something: streams that ended, and refusals with a 5xx."),
    ("subak_requests_failed_total", (), "Those of them that failed, before or after their first event."),
    ("subak_requests_delivered_total", (), "Those of them that delivered a first event."),
    ("subak_streams_opened_total", _STREAM, "Streams that began."),
    ("subak_streams_ended_total", (*_STREAM, "outcome"), "Streams that ended, by finish reason or error code."),
    ("subak_tokens_total", _STREAM, "Tokens of streams that have ended."),
    ("subak_tokens_unread_total", _STREAM, "Tokens of abandoned and cancelled answers that no reader got: paid for."),
    ("subak_upstream_read_bytes_total", _STREAM, "Body bytes read from upstreams for streams that have ended."),
    ("subak_readers_attached_total", (), "Responses that began to read a stream."),
    ("subak_readers_resumed_total", (), "Those of them that came back with a cursor."),
    ("subak_readers_left_total", ("departure",), "Responses that are over, by why."),
    (
        "subak_refusals_total",
        ("route", "method", "status", "code", "reason"),
        "Requests answered with an error before the first byte.",
    ),
    ("subak_rate_limit_violations_total", (), "Those of them that were over a quota."),
    ("subak_stops_total", (), "Requests to end an answer."),
    ("subak_crashes_total", (), "Unexpected exceptions: defects of Subak."),
    ("subak_chat_answers_total", ("status_class",), "Answers of /chat."),
    ("subak_connections_refused_total", (), "Connections turned away because there were too many."),
    ("subak_upstream_connections_opened_total", ("upstream",), "Connections made to an upstream."),
    ("subak_upstream_connections_reused_total", ("upstream",), "Questions asked over a kept connection."),
    ("subak_upstream_retries_total", (), "Questions asked a second time."),
    ("subak_audit_lost_records_total", (), "Audit records that could not be kept."),
    ("subak_audit_failed_checkpoints_total", (), "Checkpoints of the audit trail that could not be made or published."),
    ("subak_key_source_failures_total", ("source",), "Times that callers' keys could not be read: api_keys or jwks."),
    ("subak_log_lines_dropped_total", (), "Log lines that found no room, because stdout was not read."),
    ("process_cpu_seconds_total", (), "Processor time."),
)
HISTOGRAMS: Final = _define(
    Kind.HISTOGRAM,
    ("subak_first_token_seconds", _STREAM, "From the request to the first token."),
    ("subak_gateway_share_seconds", _STREAM, "What of the first token's time was the gateway's own."),
    ("subak_inter_token_seconds", _STREAM, "From one token to the next."),
    ("subak_stream_duration_seconds", _STREAM, "From the request to the stream's end."),
    ("subak_chat_duration_seconds", (), "How long /chat took to answer."),
    ("subak_loop_lag_seconds", (), "How late the event loop ran its ticker."),
)
SUMMARIES: Final = _define(
    Kind.SUMMARY,
    ("subak_recent_first_token_seconds", (), "As subak_first_token_seconds; quantiles over the last minute."),
    ("subak_recent_gateway_share_seconds", (), "As subak_gateway_share_seconds; quantiles over the last minute."),
    ("subak_recent_inter_token_seconds", (), "As subak_inter_token_seconds; quantiles over the last minute."),
)
GAUGES: Final = _define(
    Kind.GAUGE,
    ("subak_build_info", ("version",), "Always 1; its label tells the version."),
    ("subak_streams", (), "Streams under way."),
    ("subak_readers", (), "Responses under way."),
    ("subak_lag_bytes", (), "What all readers together still have to read of their streams."),
    ("subak_lag_max_bytes", (), "The same of the reader furthest behind."),
    ("subak_buffered_bytes", (), "What was written to clients and their sockets have not taken yet."),
    ("subak_connections", (), "Open connections of clients."),
    ("subak_connections_limit", (), "How many there may be."),
    ("subak_replay_bytes", (), "What kept answers take in memory."),
    ("subak_replay_limit_bytes", (), "What they may take (stream.memory_budget_bytes)."),
    ("subak_upstream_connections", ("upstream", "state"), "Connections to an upstream, busy and idle."),
    ("subak_upstream_breaker_state", ("upstream", "state"), "1 for the state that an upstream's breaker is in."),
    ("subak_loop_lag_max_seconds", (), "The event loop's greatest lag in the last minute."),
    ("subak_draining", (), "1 while the process takes no new streams."),
    ("subak_audit_queued_records", (), "Audit records that wait to be committed."),
    ("subak_audit_oldest_record_seconds", (), "How long the oldest of them has waited."),
    ("subak_key_source_up", ("source",), "1 while callers' keys can be read, 0 while those from before go on."),
    ("subak_key_source_age_seconds", ("source",), "How long ago the issuer's keys in force were fetched."),
    (
        "subak_memory_limit_bytes",
        (),
        "The memory that this process may take: the container's bound, else the machine's.",
    ),
    ("process_resident_memory_bytes", (), "The memory that it takes."),
    ("process_open_fds", (), "Open file descriptors."),
    ("process_max_fds", (), "How many there may be."),
    ("process_start_time_seconds", (), "When the process started, in seconds since the epoch."),
)
CATALOGUE: Final = (*COUNTERS, *HISTOGRAMS, *SUMMARIES, *GAUGES)
"""Every metric, in the order of the page that explains them."""

Samples = list[tuple[tuple[str, ...], float]]
"""Label values with the figure that they have."""


class Metrics(Collector):
    """What a scrape gets."""

    def __init__(self, stats: Stats, present: Present, *, version: str, started_at_ms: int) -> None:
        """`started_at_ms`: the process' start, milliseconds since the epoch."""
        self._stats = stats
        self._present = present
        self._version = version
        self._started_at_ms = started_at_ms
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Give body and content type, in the format that the request's `Accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not call `collect` to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Make all families anew."""
        ever, recent = self._stats.over(Window.SINCE_START), self._stats.over(Window.LAST_MINUTE)
        present = present_figures(self._present)
        counts = _stream_counts(ever) | _other_counts(ever) | _present_counts(present)
        for metric in COUNTERS:
            yield _counter(metric, counts[metric.name])
        yield from _histograms(ever)
        yield from _summaries(ever.all_streams(), recent.all_streams())
        gauges = _gauges(present) | {
            "subak_build_info": [((self._version,), 1.0)],
            "subak_loop_lag_max_seconds": _one(recent.loop_lag.maximum / _US),
            "process_start_time_seconds": _one(self._started_at_ms / 1000),
        }
        for metric in GAUGES:
            yield _gauge(metric, gauges[metric.name])


def _one(value: float | None) -> Samples:
    """Give the figure of a metric without labels; of one that isn't known here, no sample."""
    return [] if value is None else [((), float(value))]


def _by_stream(tally: Tally, figure: Callable[[StreamTally], int]) -> Samples:
    return [(tuple(key), float(figure(part))) for key, part in sorted(tally.streams.items())]


def _stream_counts(ever: Tally) -> dict[str, Samples]:
    streams = ever.all_streams()
    requests, failed = requests_and_errors(ever, streams)
    return {
        "subak_requests_total": _one(requests),
        "subak_requests_failed_total": _one(failed),
        "subak_requests_delivered_total": _one(streams.delivered),
        "subak_streams_opened_total": _by_stream(ever, lambda part: part.opened),
        "subak_streams_ended_total": [
            ((*key, outcome), float(count))
            for key, part in sorted(ever.streams.items())
            for outcome, count in sorted(part.outcomes.items())
        ],
        "subak_tokens_total": _by_stream(ever, lambda part: part.tokens),
        "subak_tokens_unread_total": _by_stream(ever, lambda part: part.tokens_unread),
        "subak_upstream_read_bytes_total": _by_stream(ever, lambda part: part.size_bytes),
    }


def _other_counts(ever: Tally) -> dict[str, Samples]:
    return {
        "subak_readers_attached_total": _one(ever.attached),
        "subak_readers_resumed_total": _one(ever.resumed),
        "subak_readers_left_total": [((name,), float(count)) for name, count in sorted(ever.departures.items())],
        "subak_refusals_total": [
            (tuple(map(str, kind)), float(count)) for kind, count in sorted(ever.refusals.items())
        ],
        "subak_rate_limit_violations_total": _one(ever.rate_limit_violations),
        "subak_stops_total": _one(ever.stops),
        "subak_crashes_total": _one(ever.crashes),
        "subak_chat_answers_total": [((name,), float(count)) for name, count in sorted(ever.chat_classes.items())],
    }


def _present_counts(present: PresentFigures) -> dict[str, Samples]:
    upstreams, audit = present.upstreams, present.audit
    return {
        "subak_connections_refused_total": _one(present.connections.refused),
        "subak_upstream_connections_opened_total": [((up.name,), float(up.opened_connections)) for up in upstreams],
        "subak_upstream_connections_reused_total": [((up.name,), float(up.reused_connections)) for up in upstreams],
        "subak_upstream_retries_total": _one(present.upstream_retries),
        "subak_audit_lost_records_total": _one(None if audit is None else audit.lost),
        "subak_audit_failed_checkpoints_total": _one(None if audit is None else audit.failed_checkpoints),
        "subak_key_source_failures_total": [((keys.source,), float(keys.failures)) for keys in present.key_sources],
        "subak_log_lines_dropped_total": _one(present.log_lines_dropped),
        "process_cpu_seconds_total": _one(present.process.cpu_s),
    }


def _gauges(present: PresentFigures) -> dict[str, Samples]:
    load, process, audit = present.load, present.process, present.audit
    return {
        "subak_streams": _one(load.streams),
        "subak_readers": _one(load.readers),
        "subak_lag_bytes": _one(load.lag_bytes),
        "subak_lag_max_bytes": _one(load.max_lag_bytes),
        "subak_buffered_bytes": _one(load.buffered_bytes),
        "subak_upstream_connections": [
            ((up.name, state), float(count))
            for up in present.upstreams
            for state, count in (("busy", up.busy_connections), ("idle", up.idle_connections))
        ],
        "subak_upstream_breaker_state": [
            ((up.name, state), float(up.breaker is state)) for up in present.upstreams for state in BreakerState
        ],
        "subak_draining": _one(present.is_draining),
        "subak_audit_queued_records": _one(None if audit is None else audit.queued),
        "subak_audit_oldest_record_seconds": _one(None if audit is None else audit.oldest_waiting_s),
        "subak_key_source_up": [((keys.source,), float(not keys.problem)) for keys in present.key_sources],
        "subak_key_source_age_seconds": [
            ((keys.source,), keys.age_s) for keys in present.key_sources if keys.age_s is not None
        ],
        "subak_memory_limit_bytes": _one(process.memory_limit_bytes),
        "process_resident_memory_bytes": _one(process.resident_bytes),
        "process_open_fds": _one(process.open_descriptors),
        "process_max_fds": _one(process.max_descriptors),
        **_occupancy("subak_connections", "subak_connections_limit", present.connections),
        **_occupancy("subak_replay_bytes", "subak_replay_limit_bytes", present.replay_bytes),
    }


def _occupancy(used: str, limit: str, occupancy: Occupancy) -> dict[str, Samples]:
    return {used: _one(occupancy.used), limit: _one(occupancy.limit)}


def _counter(metric: Definition, samples: Samples) -> Metric:
    family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _gauge(metric: Definition, samples: Samples) -> Metric:
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _histograms(ever: Tally) -> Iterator[Metric]:
    streams = sorted(ever.streams.items())
    parts: tuple[tuple[Sequence[tuple[tuple[str, ...], Histogram]], tuple[int, ...]], ...] = (
        ([(key, part.first_token) for key, part in streams], _TOKEN_BOUNDS_US),
        ([(key, part.gateway_share) for key, part in streams], _OWN_BOUNDS_US),
        ([(key, part.inter_token) for key, part in streams], _TOKEN_BOUNDS_US),
        ([(key, part.duration) for key, part in streams], _ANSWER_BOUNDS_US),
        ([((), ever.chat)], _ANSWER_BOUNDS_US),
        ([((), ever.loop_lag)], _LAG_BOUNDS_US),
    )
    for metric, (rows, bounds_us) in zip(HISTOGRAMS, parts, strict=True):
        family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, times in rows:
            family.add_metric(labels, _buckets(times, bounds_us), times.total / _US)
        yield family


def _buckets(times: Histogram, bounds_us: tuple[int, ...]) -> list[tuple[str, float]]:
    upto = zip(bounds_us, times.counts_upto(bounds_us), strict=True)
    return [*((f"{bound / _US:g}", float(count)) for bound, count in upto), ("+Inf", float(times.count))]


def _summaries(ever: StreamTally, recent: StreamTally) -> Iterator[Metric]:
    parts = (
        (ever.first_token, recent.first_token),
        (ever.gateway_share, recent.gateway_share),
        (ever.inter_token, recent.inter_token),
    )
    for metric, (since_start, last_minute) in zip(SUMMARIES, parts, strict=True):
        family = Metric(metric.name, metric.meaning, Kind.SUMMARY)
        for share, value in zip(QUANTILES, last_minute.quantiles(QUANTILES), strict=True):
            family.add_sample(metric.name, {"quantile": f"{share:g}"}, float("nan") if value is None else value / _US)
        family.add_sample(f"{metric.name}_sum", {}, since_start.total / _US)
        family.add_sample(f"{metric.name}_count", {}, since_start.count)
        yield family

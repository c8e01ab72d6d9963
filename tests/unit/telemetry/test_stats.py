"""What facts add up to."""

import msgspec
import pytest

from subak.core.facts import (
    ChatAnswered,
    Crashed,
    DrainEnded,
    Fact,
    ProcessStarted,
    ReaderAttached,
    ReaderLeft,
    Refused,
    StopRequested,
    StreamEnded,
    StreamOpened,
    TokensTimed,
)
from subak.core.lifecycle import Status
from subak.core.live import Load
from subak.telemetry.stats import MAX_ROWS, Stats, connections_snapshot
from subak.telemetry.tally import Window
from subak.testing import FakeClock
from tests.unit.telemetry.facts import PRESENT, ROUTE, STREAM_ID, ended, opened


def stats_of(*facts: Fact, clock: FakeClock | None = None) -> Stats:
    stats = Stats(clock or FakeClock())
    for fact in facts:
        stats.notify(fact)
    return stats


def test_nothing_happened_and_nothing_is_divided_by_nothing() -> None:
    figures = stats_of().figures(Window.SINCE_START)
    assert (figures.requests, figures.errors, figures.error_rate, figures.connection_success) == (0, 0, None, None)
    assert figures.reconnection_frequency is None
    assert figures.streams.first_token.p95_ms is None


def test_streams_are_counted_by_route_and_arm_and_in_all() -> None:
    figures = stats_of(
        opened(), ended(), opened("POST streams", "canary"), ended(route="POST streams", arm="canary", outcome="length")
    ).figures(Window.LAST_MINUTE)
    assert [(row.route, row.arm, row.opened, row.ended) for row in figures.by_route] == [
        (ROUTE, "on", 1, 1),
        ("POST streams", "canary", 1, 1),
    ]
    assert (figures.streams.opened, figures.streams.outcomes) == (2, {"length": 1, "stop": 1})
    assert (figures.streams.tokens, figures.streams.size_bytes) == (6, 180)


def test_times_of_tokens_and_answers() -> None:
    gaps = (20_000,) * 98 + (90_000, 90_000)
    figures = stats_of(TokensTimed(ROUTE, "on", gaps), ended(first_token_ms=80.0, gateway_ms=0.4)).figures(
        Window.LAST_MINUTE
    )
    inter_token = figures.streams.inter_token
    assert (inter_token.count, inter_token.mean_ms, inter_token.max_ms) == (100, 21.4, 90.0)
    assert inter_token.p50_ms == pytest.approx(20, rel=0.01)
    assert inter_token.p99_ms == pytest.approx(90, rel=0.01)
    assert figures.streams.first_token.mean_ms == 80
    assert figures.streams.gateway_share.mean_ms == pytest.approx(0.4)


def test_a_question_refused_with_a_5xx_is_a_request_that_failed() -> None:
    figures = stats_of(
        ended(),
        ended(outcome="upstream_timeout", tokens=0, first_token_ms=None),
        Refused("/v1/streams", "POST", 503, "upstream_unavailable"),
        Refused("/v1/streams", "POST", 503, "draining"),
        Refused("/v1/streams", "POST", 403, "feature_flag_disabled"),
    ).figures(Window.LAST_MINUTE)
    assert (figures.requests, figures.errors) == (3, 2)
    assert figures.error_rate == pytest.approx(2 / 3)
    assert figures.connection_success == pytest.approx(1 / 3)


def test_reconnection_frequency_is_resumes_for_each_stream() -> None:
    clock = FakeClock()
    stats = stats_of(
        *(opened() for _ in range(4)),
        ReaderAttached(STREAM_ID, "c", 0, is_resume=False),
        *(ReaderAttached(STREAM_ID, "c", 3, is_resume=True) for _ in range(3)),
        clock=clock,
    )
    clock.advance(30)
    figures = stats.figures(Window.LAST_MINUTE)
    assert (figures.resumes, figures.reconnection_frequency, figures.resumes_per_minute) == (3, 0.75, 6)


def test_departures_refusals_stops_and_crashes() -> None:
    figures = stats_of(
        ReaderLeft(STREAM_ID, "c", "slow_reader", 3),
        ReaderLeft(STREAM_ID, "c", "completed", 5),
        ReaderLeft(STREAM_ID, "c", "completed", 5),
        *(Refused("/v1/streams", "POST", 429, "rate_limit_exceeded", "user") for _ in range(3)),
        Refused("/v1/streams", "POST", 401, "unauthenticated", "token_expired"),
        StopRequested(STREAM_ID, was_live=True),
        Crashed("KeyError", "x.py:3 f"),
        ProcessStarted("1", "rag"),
        DrainEnded(0),
    ).figures(Window.SINCE_START)
    assert figures.departures == {"slow_reader": 1, "completed": 2}
    assert (figures.slow_readers, figures.stops, figures.crashes, figures.rate_limit_violations) == (1, 1, 1, 3)
    assert [(row.code, row.reason, row.count) for row in figures.refusals] == [
        ("rate_limit_exceeded", "user", 3),
        ("unauthenticated", "token_expired", 1),
    ]


def test_what_grace_costs_is_counted_in_tokens() -> None:
    figures = stats_of(ended(outcome="abandoned", tokens=30, tokens_unread=12), ended()).figures(Window.LAST_MINUTE)
    assert (figures.streams.tokens, figures.streams.tokens_unread) == (33, 12)


def test_chat_has_its_latency_and_its_errors() -> None:
    chat = (
        stats_of(ChatAnswered(200, 100.0), ChatAnswered(422, 20.0), ChatAnswered(502, 300.0))
        .figures(Window.LAST_MINUTE)
        .chat
    )
    assert (chat.answers, chat.errors, chat.latency.mean_ms, chat.latency.max_ms) == (3, 1, 140, 300)


def test_loop_lag_is_counted_and_never_negative() -> None:
    stats = stats_of()
    for late_s in (0.002, 0.3, -0.001):
        stats.note_loop_lag(late_s)
    lag = stats.figures(Window.LAST_MINUTE).loop_lag
    assert (lag.count, lag.max_ms) == (3, 300)


def test_made_up_labels_end_in_one_row() -> None:
    stats = stats_of(
        *(Refused(f"/{number}", "GET", 404, "x", "") for number in range(1_000)),
        *(ended(route=f"GET /{number}") for number in range(1_000)),
    )
    figures = stats.figures(Window.SINCE_START)
    assert len(figures.refusals) == 257
    assert len(figures.by_route) == 33
    assert figures.streams.ended == 1_000
    assert sum(row.count for row in figures.refusals) == 1_000


def test_the_snapshot_is_json_and_tells_what_is_under_way() -> None:
    snapshot = msgspec.json.decode(msgspec.json.encode(stats_of(ended()).snapshot(PRESENT)))
    assert snapshot["present"]["load"]["streams"] == 1
    assert snapshot["present"]["load"]["readers"] == 2
    assert snapshot["present"]["load"]["max_lag_bytes"] == 700
    assert snapshot["present"]["load"]["lag_bytes"] == 900
    assert snapshot["present"]["upstreams"][0]["breaker"] == "closed"
    assert snapshot["present"]["process"]["resident_bytes"] > 1_000_000
    assert snapshot["last_minute"]["streams"]["ended"] == 1


def test_connections_are_named_by_a_digest_that_only_the_secret_gives() -> None:
    body = connections_snapshot(PRESENT, b"secret")
    assert STREAM_ID.encode() not in msgspec.json.encode(body)
    (stream,) = body.streams
    ended_one, live_one = body.readers
    assert (stream.route, stream.tokens, stream.readers, stream.status) == (ROUTE, 4, 1, Status.STREAMING)
    assert live_one.stream == stream.stream != connections_snapshot(PRESENT, b"another").streams[0].stream
    assert (live_one.route, live_one.tokens, live_one.first_token_ms) == (ROUTE, 4, 41.5)
    assert (live_one.lag_events, live_one.lag_bytes, live_one.buffered_bytes) == (1, 200, 64)
    assert (ended_one.route, ended_one.tokens, ended_one.lag_bytes) == (None, None, 700)


def test_connections_ask_for_a_bounded_number_and_count_all() -> None:
    asked_for = []

    def none_of(limit: int) -> tuple[()]:
        asked_for.append(limit)
        return ()

    load = Load(streams=5_000, readers=6_000, lag_bytes=0, max_lag_bytes=0, buffered_bytes=0)
    body = connections_snapshot(PRESENT._replace(load=lambda: load, streams=none_of, readers=none_of), b"secret")
    assert (body.stream_count, body.reader_count) == (5_000, 6_000)
    assert asked_for == [MAX_ROWS, MAX_ROWS]


@pytest.mark.parametrize(
    "fact", [StreamOpened("st_1", "c", "r"), StreamEnded("st_1", "c", "r", "stop", "", 0, 0, None, 0)]
)
def test_what_was_counted_outlives_its_window(fact: Fact) -> None:
    clock = FakeClock()
    stats = stats_of(fact, clock=clock)
    clock.advance(3_600)
    assert stats.figures(Window.LAST_QUARTER).by_route == ()
    assert len(stats.figures(Window.SINCE_START).by_route) == 1

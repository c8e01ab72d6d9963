"""What a rollout is judged by, counted from facts."""

from subak.core.facts import ChatAnswered, Refused, StreamEnded, StreamOpened, TokensTimed
from subak.core.rollout_plan import RolloutTotals, figures_between
from subak.telemetry.rollout_totals import StatsTotals
from subak.telemetry.stats import Stats
from subak.testing import FakeClock

ROUTE = "/v1/streams"


def ended(outcome: str, first_token_ms: float | None, tokens: int = 3) -> StreamEnded:
    return StreamEnded(
        stream_id="st_x",
        connection_id="c",
        route=ROUTE,
        outcome=outcome,
        reason="",
        tokens=tokens,
        size_bytes=100,
        first_token_ms=first_token_ms,
        duration_ms=500.0,
    )


def test_totals_are_what_streams_refusals_and_chat_came_to() -> None:
    stats = Stats(FakeClock())
    for fact in (
        StreamOpened("st_x", "c", ROUTE),
        TokensTimed(ROUTE, "on", (10_000, 30_000)),
        ended("stop", 60.0),
        ended("upstream_timeout", None, tokens=0),
        Refused(ROUTE, "POST", 503, "upstream_unavailable"),
        Refused(ROUTE, "POST", 403, "feature_flag_disabled"),
        ChatAnswered(200, 700.0),
        ChatAnswered(502, 900.0),
    ):
        stats.notify(fact)
    totals = StatsTotals(stats).rollout_totals()
    assert totals == RolloutTotals(
        requests=3,
        connected=1,
        errors=2,
        first_tokens=1,
        first_token_sum_ms=60.0,
        token_gaps=2,
        token_gap_sum_ms=40.0,
        chat_requests=2,
        chat_errors=1,
        chat_sum_ms=1_600.0,
    )


def test_totals_never_go_back_whatever_windows_end() -> None:
    clock = FakeClock()
    stats = Stats(clock)
    source = StatsTotals(stats)
    stats.notify(ended("stop", 60.0))
    before = source.rollout_totals()
    clock.advance(3_600)
    stats.notify(ended("stop", 100.0))
    after = source.rollout_totals()
    assert (before.requests, after.requests) == (1, 2)
    assert figures_between(before, after).first_token_mean_ms == 100.0

"""Windows: what is in the last minute, the last quarter of an hour, and since the start."""

from hypothesis import given
from hypothesis import strategies as st

from subak.core.facts import ChatAnswered, StreamEnded
from subak.telemetry.tally import (
    MINUTES,
    SLICE_S,
    SLICES_A_MINUTE,
    Labels,
    RefusalKind,
    RouteArm,
    StreamTally,
    Tallies,
    Tally,
    Window,
)
from tests.unit.telemetry.facts import ROUTE, ended

KEY = RouteArm(ROUTE, "on")


def stops_over(tallies: Tallies, now: float) -> tuple[int, int, int]:
    minute, quarter, ever = (tallies.over(window, now).stops for window in Window)
    return minute, quarter, ever


def test_what_was_just_counted_is_in_every_window() -> None:
    tallies = Tallies(now=7.0)
    tallies.running(7.0).stops += 1
    assert stops_over(tallies, 7.0) == (1, 1, 1)


def test_it_leaves_the_minute_then_the_quarter_and_stays_since_the_start() -> None:
    tallies = Tallies(now=0.0)
    tallies.running(0.0).stops += 1
    assert stops_over(tallies, 59.9) == (1, 1, 1)
    assert stops_over(tallies, 60.0) == (0, 1, 1)
    assert stops_over(tallies, 15 * 60 - 0.1) == (0, 1, 1)
    assert stops_over(tallies, 15 * 60) == (0, 0, 1)
    assert stops_over(tallies, 1e6) == (0, 0, 1)


def test_a_window_says_how_much_it_holds() -> None:
    tallies = Tallies(now=100.0)
    assert [tallies.covers_s(window, 103.0) for window in Window] == [3, 3, 3]
    later = 100.0 + 3600
    assert tallies.covers_s(Window.LAST_MINUTE, later) == later - (later // 10 - 5) * 10
    assert 50 <= tallies.covers_s(Window.LAST_MINUTE, later) <= 60
    assert 14 * 60 <= tallies.covers_s(Window.LAST_QUARTER, later) <= 15 * 60
    assert tallies.covers_s(Window.SINCE_START, later) == 3600


@given(st.lists(st.tuples(st.floats(0, 400), st.integers(1, 5)), max_size=40))
def test_a_window_has_what_its_slices_were_given_and_nothing_else(steps: list[tuple[float, int]]) -> None:
    now, tallies, counted = 0.0, Tallies(now=0.0), list[tuple[float, int]]()
    for pause_s, stops in steps:
        now += pause_s
        tallies.running(now).stops += stops
        counted.append((now, stops))
    oldest = {
        Window.LAST_MINUTE: (now // SLICE_S - SLICES_A_MINUTE + 1) * SLICE_S,
        Window.LAST_QUARTER: (now // 60 - MINUTES + 1) * 60,
        Window.SINCE_START: 0.0,
    }
    for window, begins_at in oldest.items():
        assert tallies.over(window, now).stops == sum(stops for at, stops in counted if at >= begins_at)


def state(tally: Tally) -> tuple[object, ...]:
    """Give all that a tally has counted, but the greatest times."""
    histograms = [tally.chat, tally.loop_lag]
    rows = []
    for key, part in sorted(tally.streams.items()):
        histograms += [part.first_token, part.gateway_share, part.inter_token, part.duration]
        rows.append((key, part.opened, part.outcomes, part.delivered, part.tokens, part.tokens_unread, part.size_bytes))
    counts = (tally.departures, tally.refusals, tally.chat_classes)
    return rows, [(times.counts, times.total) for times in histograms], counts, tally.stops, tally.crashes


STREAMS = st.lists(
    st.builds(
        ended,
        route=st.sampled_from(["GET", "POST"]),
        outcome=st.sampled_from(["stop", "abandoned", "upstream_error"]),
        tokens=st.integers(0, 9),
        tokens_unread=st.integers(0, 9),
        first_token_ms=st.none() | st.floats(0, 1e6),
        gateway_ms=st.none() | st.floats(0, 1e3),
        duration_ms=st.floats(0, 1e6),
    ),
    max_size=8,
)


def tally_of(streams: list[StreamEnded]) -> Tally:
    tally = Tally()
    for stream in streams:
        part = tally.of(RouteArm(stream.route, stream.arm))
        part.opened += 1
        part.count(stream)
        part.inter_token.record(int(stream.duration_ms))
        tally.count_chat(ChatAnswered(200, stream.duration_ms))
        tally.departures[stream.outcome] += 1
        tally.stops += 1
        tally.crashes += 2
    return tally


@given(STREAMS, STREAMS)
def test_what_is_added_and_taken_away_again_leaves_nothing(kept: list[StreamEnded], old: list[StreamEnded]) -> None:
    window = Tally()
    window.merge(tally_of(old))
    window.merge(tally_of(kept))
    window.take_away(tally_of(old))
    assert state(window) == state(tally_of(kept))


def test_streams_of_all_routes_and_arms_are_put_together() -> None:
    tallies = Tallies(now=0.0)
    for route, arm in (("GET", "on"), ("POST", "on"), ("GET", "canary")):
        tallies.running(0.0).of(RouteArm(route, arm)).count(ended())
    everything = tallies.over(Window.LAST_MINUTE, 0.0)
    assert len(everything.streams) == 3
    assert everything.all_streams().ended == 3


def test_a_stream_delivered_when_somebody_got_a_first_event_or_could_have_got_the_whole_answer() -> None:
    tally = StreamTally()
    for undelivered in (
        ended(outcome="upstream_error", tokens=0, first_token_ms=None),
        ended(outcome="abandoned", tokens=3, tokens_unread=3),
        ended(outcome="cancelled", tokens=0, first_token_ms=None),
    ):
        tally.count(undelivered)
    assert tally.delivered == 0
    for delivered in (
        ended(),
        ended(tokens=0, first_token_ms=None),
        ended(outcome="upstream_truncated"),
        ended(outcome="abandoned", tokens=3, tokens_unread=2),
    ):
        tally.count(delivered)
    assert tally.delivered == 4
    assert tally.failed == 2
    assert tally.tokens_unread == 5


def test_what_callers_can_bring_about_at_will_is_set_aside() -> None:
    tally = StreamTally()
    for set_aside in (
        ended(outcome="upstream_error", reason="status_422", tokens=0, first_token_ms=None),
        ended(outcome="abandoned", tokens=3, tokens_unread=3, first_token_ms=4_999),
        ended(outcome="cancelled", tokens=0, first_token_ms=None, duration_ms=4_999),
    ):
        tally.count(set_aside)
    assert (tally.ended, tally.judged, tally.failed, tally.delivered) == (3, 0, 0, 0)
    for judged in (
        ended(outcome="upstream_error", reason="status_500", tokens=0, first_token_ms=None),
        ended(outcome="abandoned", tokens=3, tokens_unread=3, first_token_ms=5_000),
        ended(outcome="cancelled", tokens=0, first_token_ms=None, duration_ms=5_000),
    ):
        tally.count(judged)
    assert (tally.judged, tally.failed, tally.delivered) == (3, 1, 0)
    other = StreamTally()
    other.merge(tally)
    other.take_away(tally)
    assert (other.judged, other.refused_questions, other.left_early) == (0, 0, 0)


def test_only_failures_of_ours_and_of_the_upstream_count_as_failed_questions() -> None:
    def is_failure(route: str, status: int, code: str) -> bool:
        return RefusalKind(route, "POST", status, code, "").is_failure

    assert is_failure("/v1/streams", 503, "upstream_unavailable")
    assert is_failure("/api/v2/bali-zero/chat-stream", 503, "memory_budget")
    assert not is_failure("/v1/streams", 503, "draining")
    assert not is_failure("/v1/streams", 429, "rate_limit_exceeded")
    assert not is_failure("/api/v2/bali-zero/chat", 502, "upstream_error")


def test_labels_past_the_limit_are_counted_together() -> None:
    labels = Labels(2, "other")
    assert [labels.admit(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", "other", "a", "other", "b"]

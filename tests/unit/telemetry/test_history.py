"""An hour of latency and load, noted every five seconds."""

from subak.core.facts import TokensTimed
from subak.core.live import Load
from subak.telemetry.history import EVERY_S, KEPT, Historian
from subak.telemetry.stats import Stats
from subak.testing import FakeClock


def watched(clock: FakeClock) -> tuple[Stats, Historian]:
    stats = Stats(clock)
    return stats, Historian(stats, lambda: Load(3, 4, 0, 0, 0), clock)


def note(historian: Historian, clock: FakeClock, times: int = 1) -> None:
    for _ in range(times):
        assert historian.on_deadline(clock.monotonic()) == clock.monotonic() + EVERY_S
        clock.advance(EVERY_S)


def test_a_moment_has_the_last_minutes_quantiles() -> None:
    clock = FakeClock()
    stats, historian = watched(clock)
    begun_ms = clock.time_ms()
    note(historian, clock)
    stats.notify(TokensTimed("r", "on", (10_000,) * 94 + (80_000,) * 6))
    note(historian, clock)
    history = historian.since()
    assert history.at_ms == (begun_ms, begun_ms + 5_000)
    assert history.streams == (3, 3)
    assert history.inter_token_p50_ms[0] is None
    assert history.first_token_p95_ms == (None, None)
    median, high = history.inter_token_p50_ms[1], history.inter_token_p95_ms[1]
    assert median is not None
    assert high is not None
    assert abs(median - 10) < 0.1
    assert abs(high - 80) < 0.8


def test_only_what_is_newer_is_given() -> None:
    clock = FakeClock()
    _, historian = watched(clock)
    note(historian, clock, 3)
    times = historian.since().at_ms
    assert historian.since(times[0]).at_ms == times[1:]
    assert historian.since(times[-1]).at_ms == ()


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    clock = FakeClock()
    _, historian = watched(clock)
    note(historian, clock, KEPT + 10)
    times = historian.since().at_ms
    assert len(times) == KEPT
    assert times[-1] - times[0] == (KEPT - 1) * EVERY_S * 1000

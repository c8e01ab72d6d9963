"""The page that Prometheus reads."""

import math
from itertools import pairwise

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from subak.core.breaker import BreakerState
from subak.core.facts import ChatAnswered, Fact, ReaderAttached, ReaderLeft, Refused, TokensTimed
from subak.core.live import Occupancy, UpstreamState
from subak.telemetry.metrics import CATALOGUE, HISTOGRAMS, Metrics
from subak.telemetry.stats import Present, Stats
from subak.testing import FakeClock
from tests.unit.telemetry.facts import PRESENT, ROUTE, STREAM_ID, ended, opened

FACTS: tuple[Fact, ...] = (
    opened(),
    opened(),
    TokensTimed(ROUTE, "on", (20_000, 40_000, 60_000)),
    ended(first_token_ms=90.0, gateway_ms=0.3),
    ended(outcome="upstream_timeout", tokens=0, first_token_ms=None),
    ReaderAttached(STREAM_ID, "c", 3, is_resume=True),
    ReaderLeft(STREAM_ID, "c", "lost", 3),
    Refused("/v1/streams", "POST", 429, "rate_limit_exceeded", "user"),
    ChatAnswered(200, 300.0),
)


def metrics_of(*facts: Fact, present: Present = PRESENT, clock: FakeClock | None = None) -> Metrics:
    stats = Stats(clock or FakeClock())
    for fact in facts:
        stats.notify(fact)
    return Metrics(stats, present, version="1.2.3", started_at_ms=1_700_000_000_500)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Give each sample by its name and label values, in the order of their names."""
    body, _ = metrics.render()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_counts_are_those_of_the_facts() -> None:
    read = samples(metrics_of(*FACTS))
    assert read["subak_requests_total",] == 2
    assert read["subak_requests_failed_total",] == 1
    assert read["subak_requests_delivered_total",] == 1
    assert read["subak_streams_opened_total", "on", ROUTE] == 2
    assert read["subak_streams_ended_total", "on", "upstream_timeout", ROUTE] == 1
    assert read["subak_tokens_total", "on", ROUTE] == 3
    assert read["subak_readers_resumed_total",] == 1
    assert read["subak_readers_left_total", "lost"] == 1
    assert read["subak_rate_limit_violations_total",] == 1
    assert read["subak_refusals_total", "rate_limit_exceeded", "POST", "user", "/v1/streams", "429"] == 1
    assert read["subak_chat_answers_total", "2xx"] == 1


def test_what_is_under_way_is_read_when_asked() -> None:
    read = samples(metrics_of())
    assert read["subak_streams",] == 1
    assert read["subak_readers",] == 2
    assert (read["subak_lag_bytes",], read["subak_lag_max_bytes",]) == (900, 700)
    assert (read["subak_connections",], read["subak_connections_limit",]) == (3, 100)
    assert read["subak_connections_refused_total",] == 2
    assert read["subak_upstream_connections", "idle", "rag.test:8000"] == 2
    assert read["subak_upstream_breaker_state", "closed", "rag.test:8000"] == 1
    assert read["subak_upstream_breaker_state", "open", "rag.test:8000"] == 0
    assert read["subak_audit_queued_records",] == 5
    assert read["subak_build_info", "1.2.3"] == 1
    assert read["process_start_time_seconds",] == 1_700_000_000.5
    assert read["process_resident_memory_bytes",] > 1_000_000
    assert 0 < read["process_open_fds",] < read["process_max_fds",]


def test_what_does_not_exist_has_no_sample() -> None:
    read = samples(metrics_of(present=PRESENT._replace(audit=lambda: None, connections=lambda: Occupancy(3, None))))
    names = {name for name, *_ in read}
    assert "subak_connections" in names
    assert not names & {"subak_connections_limit", "subak_audit_queued_records", "subak_audit_lost_records_total"}


def test_an_open_breaker_shows() -> None:
    state = UpstreamState("rag.test:8000", BreakerState.OPEN)
    read = samples(metrics_of(present=PRESENT._replace(upstreams=lambda: [state])))
    assert read["subak_upstream_breaker_state", "open", "rag.test:8000"] == 1
    assert read["subak_upstream_breaker_state", "closed", "rag.test:8000"] == 0


def test_histograms_are_cumulative_and_have_the_targets_among_their_bounds() -> None:
    body, _ = metrics_of(*FACTS).render()
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    for definition in HISTOGRAMS:
        family = families[definition.name]
        buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
        values = [sample.value for sample in buckets]
        bounds = [float(sample.labels["le"]) for sample in buckets]
        assert all(one <= following for one, following in pairwise(values))
        assert all(one < following for one, following in pairwise(bounds))
        (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
        assert values[-1] == count
    read = samples(metrics_of(*FACTS))
    assert read["subak_first_token_seconds_bucket", "on", "0.075", ROUTE] == 0
    assert read["subak_first_token_seconds_bucket", "on", "0.1", ROUTE] == 1
    assert read["subak_first_token_seconds_sum", "on", ROUTE] == pytest.approx(0.09)
    assert read["subak_inter_token_seconds_bucket", "on", "0.05", ROUTE] == 2
    assert {"0.05", "0.1", "0.15", "0.2"} <= {
        bound for name, *labels in read if name == "subak_first_token_seconds_bucket" for bound in labels
    }


def test_recent_quantiles_forget_and_their_counts_do_not() -> None:
    clock = FakeClock()
    metrics = metrics_of(*FACTS, clock=clock)
    assert samples(metrics)["subak_recent_inter_token_seconds", "0.5"] == pytest.approx(0.04, rel=0.01)
    clock.advance(120)
    read = samples(metrics)
    assert math.isnan(read["subak_recent_inter_token_seconds", "0.5"])
    assert read["subak_recent_inter_token_seconds_count",] == 3
    assert read["subak_inter_token_seconds_count", "on", ROUTE] == 3


def test_the_page_has_each_metric_of_the_catalogue_and_no_other() -> None:
    body, content_type = metrics_of(*FACTS).render("text/plain")
    families = list(text_string_to_metric_families(body.decode()))
    kinds = {(family.name, family.type) for family in families}
    expected = {(metric.name.removesuffix("_total"), str(metric.kind)) for metric in CATALOGUE}
    assert kinds == expected
    assert content_type.startswith("text/plain; version=0.0.4")
    labels = {
        family.name: sorted(family.samples[0].labels) for family in families if family.type in {"counter", "gauge"}
    }
    for metric in CATALOGUE:
        if metric.name.removesuffix("_total") in labels:
            assert labels[metric.name.removesuffix("_total")] == sorted(metric.labels)


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    body, content_type = metrics_of(*FACTS).render("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"subak_requests", "subak_streams"}


def test_random_paths_and_labels_do_not_let_the_page_grow() -> None:
    def page_lines(count: int) -> int:
        facts: list[Fact] = []
        for number in range(count):
            facts += [
                Refused(f"/x/{number}", f"M{number}", 400 + number % 100, f"code_{number}", f"reason {number}"),
                ended(route=f"GET /{number}", arm=f"arm-{number}"),
                ChatAnswered(number % 1_000, 1.0),
            ]
        return len(metrics_of(*facts).render()[0].splitlines())

    assert page_lines(3_000) <= page_lines(1_500) + 10


def test_no_id_is_on_the_page() -> None:
    body, _ = metrics_of(*FACTS).render()
    assert STREAM_ID.encode() not in body
    assert b"c_1" not in body

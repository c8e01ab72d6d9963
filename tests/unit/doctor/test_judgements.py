"""How `subak doctor` judges what it saw of the line, of upstreams and of their URLs."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from multidict import CIMultiDict

from subak.doctor.findings import Check, Status
from subak.doctor.line import Heard, advice_for, judge_gateway, judge_line
from subak.doctor.reach import judge_date, judge_health
from subak.doctor.wiring import is_loopback, judge_callers, judge_method, judge_scheme
from subak.settings import load

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def heard(
    *arrivals_ms: float,
    status: int = 200,
    content_type: str = "text/event-stream",
    headers: Mapping[str, str] | None = None,
    is_whole: bool = True,
) -> Heard:
    return Heard(NOON, status, content_type, "HTTP/1.1", headers or CIMultiDict[str](), arrivals_ms, is_whole)


@pytest.mark.parametrize(
    ("arrivals_ms", "status"),
    [
        ((8.0, 1008.0, 2009.0), Status.OK),
        ((8.0, 1700.0, 2300.0), Status.OK),  # a slow moment of the network
        ((8.0, 3000.0, 9000.0), Status.OK),  # gaps that grow are no buffer's work
        ((2009.0, 2009.0, 2009.0), Status.FAILED),
        ((8.0, 2009.0, 2009.0), Status.FAILED),
        ((1009.0, 1009.0, 2009.0), Status.FAILED),
        ((8.0, 1800.0, 2200.0), Status.FAILED),
        ((8.0, 1008.0), Status.FAILED),
        ((), Status.FAILED),
    ],
)
def test_events_must_come_one_by_one(arrivals_ms: tuple[float, ...], status: Status) -> None:
    finding = judge_line(heard(*arrivals_ms))
    assert (finding.check, finding.status) == (Check.URL_EVENTS, status)
    assert bool(finding.fix) is (status is not Status.OK)


def test_all_gaps_and_arrivals_are_figures() -> None:
    finding = judge_line(heard(8.0, 1008.0, 2009.5))
    assert finding.figures == {
        "event_1_ms": 8.0,
        "event_2_ms": 1008.0,
        "event_3_ms": 2009.5,
        "gap_1_ms": 1000.0,
        "gap_2_ms": 1001.5,
    }


def test_a_line_that_was_cut_is_told_even_after_the_last_event() -> None:
    finding = judge_line(heard(8.0, 1008.0, 2009.0, is_whole=False))
    assert finding.status is Status.FAILED
    assert "cut" in finding.detail


def test_compression_is_a_warning_where_events_come_through() -> None:
    finding = judge_line(heard(8.0, 1008.0, 2009.0, headers=CIMultiDict({"content-encoding": "GZip"})))
    assert finding.status is Status.WARNING
    assert "compressed by gzip" in finding.detail


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_no_compression_is_none(encoding: str) -> None:
    headers = CIMultiDict({"Content-Encoding": encoding})
    assert judge_line(heard(8.0, 1008.0, 2009.0, headers=headers)).status is Status.OK


@pytest.mark.parametrize(
    ("status", "content_type", "fix"),
    [
        (200, "text/html", "something else than a Subak answers"),
        (301, "text/html", "the URL to which it redirects"),
        (401, "text/html", "a login stands before it"),
        (404, "application/json", "have the proxies pass this path on"),
        (503, "application/problem+json", "try again"),
    ],
)
def test_an_answer_that_is_no_test_says_what_to_do(status: int, content_type: str, fix: str) -> None:
    finding = judge_line(heard(status=status, content_type=content_type))
    assert finding.status is Status.FAILED
    assert finding.detail == f"/livez/stream answers {status}"
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("headers", "first"),
    [
        ({"Server": "nginx/1.22.1"}, "nginx:"),
        ({"Server": "Caddy"}, "Caddy:"),
        ({"Via": "1.1 Caddy"}, "Caddy:"),
        ({"Server": "cloudflare"}, "Cloudflare:"),
        ({"CF-RAY": "8f-SIN"}, "Cloudflare:"),
        ({}, "nginx:"),
    ],
)
def test_advice_begins_with_the_proxy_that_shows_itself(headers: dict[str, str], first: str) -> None:
    advice = advice_for(CIMultiDict(headers))
    assert advice[0].startswith(first)
    assert len(advice) == 4


def test_only_printable_and_short_headers_are_shown() -> None:
    headers = CIMultiDict({"Server": "a\x1b[31mb", "Via": "v" * 500, "X-Cache": "Miss"})
    (seen, *_) = judge_line(heard(1.0, 1.0, 1.0, headers=headers)).notes
    assert seen == f"seen: HTTP/1.1, Via: {'v' * 80}, X-Cache: Miss"


@pytest.mark.parametrize(
    ("status", "body", "judged"),
    [
        (200, b'{"sse":true}', Status.OK),
        (200, b'{"sse":false}', Status.WARNING),
        (200, b"<!doctype html>", Status.WARNING),
        (200, b'{"other":1}', Status.WARNING),
        (200, b"[[[[", Status.WARNING),
        (200, b"\xff", Status.WARNING),
        (404, b'{"sse":true}', Status.WARNING),
    ],
)
def test_only_a_subak_that_streams_is_fine(status: int, body: bytes, judged: Status) -> None:
    assert judge_gateway(status, body).status is judged


@pytest.mark.parametrize(
    ("status", "body", "judged"),
    [
        (200, b'{"status":"healthy"}', Status.OK),
        (200, b'{"status":"OK","checks":{}}', Status.OK),
        (200, b'{"status":"degraded"}', Status.WARNING),
        (200, b"{}", Status.WARNING),
        (200, b"fine", Status.WARNING),
        (503, b'{"status":"healthy"}', Status.WARNING),
    ],
)
def test_a_backend_is_healthy_when_it_says_so(status: int, body: bytes, judged: Status) -> None:
    finding = judge_health("rag:8000/health", status, body, 2.0)
    assert finding.status is judged
    assert "degraded" not in finding.detail + finding.fix


@pytest.mark.parametrize(("skew_s", "status"), [(0, Status.OK), (60, Status.OK), (61, Status.WARNING)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_that_is_off_is_told(skew_s: int, status: Status, sign: int) -> None:
    theirs = (NOON - timedelta(seconds=sign * skew_s)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    finding = judge_date("rag:8000", theirs, NOON)
    assert finding is not None
    assert (finding.status, finding.figures["skew_s"]) == (status, sign * skew_s)
    if status is Status.WARNING:
        assert ("ahead of" if sign > 0 else "behind") in finding.detail


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Nov 2026 12:00:00 GMT"])
def test_a_date_that_is_none_says_nothing(date: str | None) -> None:
    assert judge_date("rag:8000", date, NOON) is None


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://rag.example.org", Status.OK),
        ("http://127.0.0.1:8000", Status.OK),
        ("http://127.8.9.1", Status.OK),
        ("http://[::1]:8000", Status.OK),
        ("http://localhost:8000", Status.OK),
        ("http://rag.localhost", Status.OK),
        ("http://rag.example.org", Status.WARNING),
        ("http://10.0.0.7:8000", Status.WARNING),
        ("http://localhost.example.org", Status.WARNING),
        ("http://0x7f.1", Status.WARNING),
    ],
)
def test_http_to_another_machine_is_a_warning(url: str, status: Status) -> None:
    assert judge_scheme(Check.UPSTREAM_SCHEME, url).status is status


def test_this_machine_is_known_by_name_and_address() -> None:
    assert [is_loopback(host) for host in ("localhost", "::1", "127.0.0.2", "", "::2", "local")] == [True] * 3 + [
        False
    ] * 3


@pytest.mark.parametrize(("method", "status"), [("get", Status.WARNING), ("auto", Status.WARNING), ("post", Status.OK)])
def test_questions_in_urls_are_a_warning(method: str, status: Status) -> None:
    finding = judge_method(method)
    assert finding.status is status
    assert ("access log" in finding.detail) is (status is Status.WARNING)


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_proxies_that_are_everybody_are_a_failure(network: str, tmp_path: Path) -> None:
    settings = load(
        {"SUBAK_HTTP__TRUSTED_PROXIES": f"10.0.0.0/8,{network}", "SUBAK_STATE_DIR": str(tmp_path)}, None, {}
    )
    (finding,) = judge_callers(settings.settings)
    assert (finding.check, finding.status) == (Check.TRUSTED_PROXIES, Status.FAILED)


def test_credentials_that_nobody_can_have_are_a_failure(tmp_path: Path) -> None:
    demanding = {"SUBAK_AUTH__REQUIRED": "true", "SUBAK_STATE_DIR": str(tmp_path)}
    (finding,) = judge_callers(load(demanding, None, {}).settings)
    assert (finding.check, finding.status) == (Check.CREDENTIALS, Status.FAILED)
    with_keys = demanding | {"API_KEYS_INTERNAL": "a-key-of-the-host-itself"}
    assert not list(judge_callers(load(with_keys, None, {}).settings))
    (tmp_path / "api-keys.json").write_text("[]")
    assert not list(judge_callers(load(demanding, None, {}).settings))

"""What is decided without a socket: the target, the response's head, and how long to wait."""

from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.deadlines import Deadlines
from subak.core.errors import ErrorCode
from subak.core.events import Failed
from subak.testing import FakeClock
from subak.upstream.http1 import Origin, parse_base_url, tls_context
from subak.upstream.http_answers import MAX_RETRY_AFTER_S, judge_head, parse_retry_after
from subak.upstream.rag import RagTarget, RagUpstream

NOW_MS = 1_795_359_600_000


def _upstream(target: RagTarget) -> RagUpstream:
    return RagUpstream(target, clock=FakeClock(), deadlines=Deadlines())


@pytest.mark.parametrize(
    ("url", "origin", "prefix", "authority"),
    [
        ("http://rag:8000", Origin("http", "rag", 8000), "", "rag:8000"),
        ("http://rag", Origin("http", "rag", 80), "", "rag"),
        ("HTTPS://RAG.example.org/", Origin("https", "rag.example.org", 443), "", "rag.example.org"),
        ("http://[::1]:8000/a/b/", Origin("http", "::1", 8000), "/a/b", "[::1]:8000"),
        ("https://münchen.example", Origin("https", "xn--mnchen-3ya.example", 443), "", "xn--mnchen-3ya.example"),
    ],
)
def test_a_base_url_is_split(url: str, origin: Origin, prefix: str, authority: str) -> None:
    assert parse_base_url(url) == (origin, prefix)
    assert origin.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "ftp://rag",
        "rag:8000",
        "http://",
        "http://u:p@rag",
        "http://rag?x=1",
        "http://rag#x",
        "http://rag:99999",
        "http://a..b",
    ],
)
def test_a_url_that_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - urllib and the IDNA codec word theirs
        parse_base_url(url)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "5"},
        {"transfer-encoding": "x"},
        {"X-Session-Id": "s"},
        {"x-continuity-id": "c"},
        {"X": "a\r\nY: b"},
        {"X Y": "a"},
        {"X": "è"},
        {"X": ""},
    ],
    ids=repr,
)
def test_headers_that_could_break_the_request_are_refused_at_start(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="upstream header"):
        _upstream(RagTarget(url="http://127.0.0.1:9", headers=headers))


def test_two_credentials_are_refused_at_start() -> None:
    target = RagTarget(url="http://127.0.0.1:9", headers={"authorization": "Basic x"}, token_file=Path("token"))
    with pytest.raises(ValueError, match="give one of them"):
        _upstream(target)


def test_certificates_and_names_are_always_verified() -> None:
    context = tls_context()
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (200, {"content-type": "text/event-stream"}, None),
        (200, {"content-type": "TEXT/EVENT-STREAM;charset=UTF-8", "content-encoding": "identity"}, None),
        (200, {"content-type": "text/event-stream", "content-encoding": "gzip"}, "content_encoding"),
        (200, {"content-type": "text/html"}, "content_type"),
        (200, {}, "content_type"),
        (201, {"content-type": "text/event-stream"}, "status_201"),
        (304, {}, "redirect"),
        (401, {}, "auth"),
        (403, {}, "auth"),
        (502, {"retry-after": "5"}, "status_502"),
    ],
)
def test_only_a_plain_event_stream_is_taken(status: int, headers: dict[str, str], reason: str | None) -> None:
    expected = None if reason is None else Failed(ErrorCode.UPSTREAM_ERROR, reason)
    assert judge_head(status, headers, NOW_MS) == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 34 ", 34),
        ("999999999", MAX_RETRY_AFTER_S),
        ("99999999999", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("Sun, 22 Nov 2026 15:00:30 GMT", 30),
        ("Sun, 22 Nov 2026 15:00:30 -0000", 30),
        ("Sun, 22 Nov 2020 15:00:30 GMT", 0),
        ("Sun, 22 Nov 2036 15:00:30 GMT", MAX_RETRY_AFTER_S),
        ("Sunday, 22-Nov-26 15:00:30 GMT", 30),
        ("Sun, 99 Nov 2026 15:00:30 GMT", None),
        ("Sun, 22 Nov 99999999999 15:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str, seconds: int | None) -> None:
    assert parse_retry_after(value, NOW_MS) == seconds


DATE_PARTS = ["Sun", ",", " ", "22", "Nov", "2026", "99999999999", ":", "15", "00", "GMT", "+2400", "-9999", "-", "."]


@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(DATE_PARTS), max_size=16).map("".join)))
def test_no_retry_after_raises(value: str) -> None:
    seconds = parse_retry_after(value, NOW_MS)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_http_date_is_read(date: datetime) -> None:
    expected = round(date.replace(microsecond=0).timestamp() - NOW_MS / 1000)
    assert parse_retry_after(format_datetime(date, usegmt=True), NOW_MS) == min(max(0, expected), MAX_RETRY_AFTER_S)

"""Where a gateway's routes are, and what its refusals say."""

from datetime import UTC, datetime

import pytest

from subak.client.line import Place, retry_after_s
from subak.client.wire import refusal_of

NOW = datetime(2026, 11, 23, 6, 0, 0, tzinfo=UTC)
STREAM_ID = "st_" + "aB3-_x" + "0" * 22


@pytest.mark.parametrize(
    ("url", "ask_url", "streams_url"),
    [
        ("http://h", "http://h/api/v2/bali-zero/chat-stream", "http://h/v1/streams"),
        ("https://h:8/gw/", "https://h:8/gw/api/v2/bali-zero/chat-stream", "https://h:8/gw/v1/streams"),
        ("http://h/v1/streams", "http://h/v1/streams", "http://h/v1/streams"),
        (
            "http://h/gw/api/v2/bali-zero/chat-stream?on_disconnect=cancel",
            "http://h/gw/api/v2/bali-zero/chat-stream?on_disconnect=cancel",
            "http://h/gw/v1/streams",
        ),
    ],
)
def test_a_base_url_or_that_of_a_route_will_do(url: str, ask_url: str, streams_url: str) -> None:
    assert Place.of(url) == Place(ask_url, streams_url)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("34", 34.0),
        (" 0 ", 0.0),
        ("Mon, 23 Nov 2026 06:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 05:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 06:00:30 -0000", 30.0),
        ("Mon, 23 Nov 99999999999999999999 06:00:30 GMT", None),
        ("9" * 400, None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


def test_a_refusal_is_read_in_either_form_and_from_anybody() -> None:
    seed = refusal_of(429, b'{"ok":false,"error":"RATE_LIMIT_EXCEEDED","message":"Wait.","retryAfter":34}', None)
    assert (seed.code, seed.message, seed.retry_after_s) == ("RATE_LIMIT_EXCEEDED", "Wait.", 34)
    body = b'{"code":"cursor_expired","detail":"Gone.","status_url":"/v1/streams/%b"}' % STREAM_ID.encode()
    problem = refusal_of(410, body, 2.0)
    assert (problem.code, problem.message, problem.retry_after_s) == ("cursor_expired", "Gone.", 2.0)
    assert problem.stream_id == STREAM_ID
    for foreign in (b"", b"<html>", b"[1]", b'{"code": 7}', b"\xff"):
        assert refusal_of(502, foreign, None).code == "refused"


def test_the_texts_of_a_refusal_fit_on_a_line_of_a_terminal() -> None:
    refusal = refusal_of(400, b'{"code":"a\\u001b[2Jb","detail":"x\\ny%b"}' % (b"z" * 1000), None)
    assert refusal.code == "a [2Jb"
    assert refusal.message.startswith("x yzz")
    assert len(refusal.message) == 500

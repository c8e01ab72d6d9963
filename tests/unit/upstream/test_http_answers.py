"""What a response's head is worth, for every dialect."""

import pytest

from subak.core.errors import ErrorCode
from subak.core.events import Failed
from subak.upstream.http_answers import judge_head

NOW_MS = 1_795_359_600_000
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_a_reason_of_their_own(status: int) -> None:
    assert judge_head(status, STREAM, NOW_MS) == Failed(ErrorCode.UPSTREAM_ERROR, "auth")


@pytest.mark.parametrize(
    ("status", "headers", "failed"),
    [
        (200, {}, None),
        (201, {}, Failed(ErrorCode.UPSTREAM_ERROR, "status_201")),
        (307, {}, Failed(ErrorCode.UPSTREAM_ERROR, "redirect")),
        (400, {}, Failed(ErrorCode.UPSTREAM_ERROR, "status_400")),
        (429, {"retry-after": "34"}, Failed(ErrorCode.UPSTREAM_RATE_LIMITED, "status_429", 34)),
        (429, {}, Failed(ErrorCode.UPSTREAM_RATE_LIMITED, "status_429")),
        (503, {"retry-after": "7"}, Failed(ErrorCode.UPSTREAM_ERROR, "status_503", 7)),
        (200, {"content-encoding": "gzip"}, Failed(ErrorCode.UPSTREAM_ERROR, "content_encoding")),
        (200, {"content-type": "application/json"}, Failed(ErrorCode.UPSTREAM_ERROR, "content_type")),
    ],
)
def test_only_a_plain_event_stream_is_taken(status: int, headers: dict[str, str], failed: Failed | None) -> None:
    assert judge_head(status, STREAM | headers, NOW_MS) == failed


def test_another_content_type_may_be_asked_for() -> None:
    assert judge_head(200, {"content-type": "Application/JSON; x=y"}, NOW_MS, "application/json") is None
    refused = judge_head(200, STREAM, NOW_MS, "application/json")
    assert refused == Failed(ErrorCode.UPSTREAM_ERROR, "content_type")

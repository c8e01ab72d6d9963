"""The tree of errors: every leaf knows its status, its code and whose fault it is (PROTOCOL §2, §3)."""

from pathlib import Path

import msgspec
import pytest

import subak
from subak.core import errors
from subak.core.errors import ErrorCode, RequestError, SubakError, UpstreamError

# PROTOCOL §3, the closed set, written out here so that a change of either is noticed.
CODES_OF_THE_PROTOCOL = {
    "upstream_error",
    "upstream_timeout",
    "upstream_truncated",
    "upstream_rate_limited",
    "event_too_large",
    "too_long",
    "producer_lost",
    "audit_unavailable",
    "internal_error",
}

# PROTOCOL §2, "Other refusals".
STATUSES_OF_THE_PROTOCOL = {400, 401, 403, 404, 405, 408, 409, 410, 413, 414, 415, 422, 429, 431, 502, 503, 504}

LEAVES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, SubakError) and value is not SubakError
]


def test_the_codes_are_those_of_the_protocol() -> None:
    assert {code.value for code in ErrorCode} == CODES_OF_THE_PROTOCOL


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_told_by_something_else_than_its_definition(code: ErrorCode) -> None:
    sources = [path for path in Path(subak.__file__).parent.rglob("*.py") if path != Path(errors.__file__)]
    assert any(f"ErrorCode.{code.name}" in path.read_text(encoding="utf-8") for path in sources)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_sentence_of_its_own(code: ErrorCode) -> None:
    assert code.message.endswith(".")
    assert code.message not in {other.message for other in ErrorCode if other is not code}


def test_what_would_fail_again_is_not_retryable() -> None:
    assert {code.value for code in ErrorCode if not code.is_retryable} == {
        "event_too_large",
        "too_long",
    }


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_error_says_whose_fault_it_is(leaf: type[SubakError]) -> None:
    assert leaf.http_status in STATUSES_OF_THE_PROTOCOL
    assert issubclass(leaf, RequestError) == (leaf.http_status < 500)


def test_codes_tell_errors_apart() -> None:
    codes = [leaf.code for leaf in LEAVES if leaf.__subclasses__() == []]
    assert len(codes) == len(set(codes))


def test_an_expired_cursor_tells_where_the_state_is() -> None:
    error = errors.CursorExpired("Gone.", stream_id="st_x")
    assert (error.http_status, error.members) == (410, {"status_url": "/v1/streams/st_x"})


def test_an_upstreams_failure_shows_the_reader_the_sentence_of_its_code() -> None:
    error = UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, "first_byte", retry_after_s=3)
    assert error.detail == ErrorCode.UPSTREAM_TIMEOUT.message == str(error)
    assert (error.error_code, error.reason, error.retry_after_s) == (ErrorCode.UPSTREAM_TIMEOUT, "first_byte", 3)


def test_a_field_that_is_wrong_is_named_and_its_content_is_not() -> None:
    error = errors.InvalidField("$.conversation_history[2].role", "user or assistant")
    assert error.detail == "$.conversation_history[2].role: expected user or assistant."
    assert error.members == {"errors": [{"path": "$.conversation_history[2].role", "expected": "user or assistant"}]}


def test_the_flag_is_refused_with_the_seeds_body() -> None:
    error = errors.FlagDisabled("ENABLE_SSE_STREAMING", reason="outside")
    assert error.members == {"ok": False, "code": "feature_flag_disabled", "flag": "ENABLE_SSE_STREAMING"}
    assert (error.http_status, error.reason) == (403, "outside")


def test_members_are_the_errors_own() -> None:
    members = {"a": 1}
    error = SubakError("x", members=members)
    members["b"] = 2
    assert error.members == {"a": 1}
    assert msgspec.json.encode(error.members) == b'{"a":1}'

"""Facts as log lines."""

import io
from typing import get_args

import msgspec
import pytest

from subak.core.digests import digest_name
from subak.core.facts import (
    ChatAnswered,
    Crashed,
    Fact,
    KeysRefused,
    KeysTaken,
    Person,
    ReaderAttached,
    ReaderLeft,
    Refused,
    StreamEnded,
    StreamOpened,
    TokensTimed,
)
from subak.telemetry.logs import LineWriter, make_logger
from subak.telemetry.observer import LogObserver
from tests.unit.telemetry.facts import ROUTE, STREAM_ID, ended, opened

SECRET = b"s" * 32
CANARY = "kanarienvogel"
WHO = Person(CANARY, CANARY, f"{CANARY}@example.org", CANARY, CANARY)


def lines_of(*facts: Fact, level: str = "debug") -> list[dict[str, object]]:
    """Give what is written for facts."""
    target = io.StringIO()
    sink = LineWriter(target)
    observer = LogObserver(make_logger(sink, level=level, form="json"), SECRET)
    for fact in facts:
        observer.notify(fact)
    sink.close()
    return [msgspec.json.decode(line) for line in target.getvalue().splitlines()]


def test_an_outcome_is_one_line_with_all_that_is_known_of_it() -> None:
    (line,) = lines_of(ended(inter_token_ms=20.5, gateway_ms=0.4))
    assert line.pop("ts")
    assert line == {
        "event": "stream_ended",
        "level": "info",
        "stream": digest_name(SECRET, "stream", STREAM_ID),
        "connection_id": "c_1",
        "route": ROUTE,
        "arm": "on",
        "outcome": "stop",
        "reason": "",
        "tokens": 3,
        "tokens_unread": 0,
        "size_bytes": 90,
        "first_token_ms": 80.0,
        "inter_token_ms": 20.5,
        "gateway_ms": 0.4,
        "duration_ms": 900.0,
    }


def test_times_between_tokens_are_numbers_and_no_line() -> None:
    assert lines_of(TokensTimed(ROUTE, "on", (1, 2, 3))) == []


@pytest.mark.parametrize(
    ("fact", "level"),
    [
        (Crashed("KeyError", "x.py:1 f"), "error"),
        (ended(outcome="upstream_error", reason="connect_refused"), "warning"),
        (Refused("/v1/streams", "POST", 503, "upstream_unavailable"), "warning"),
        (Refused("/v1/streams", "POST", 429, "rate_limit_exceeded", "user"), "info"),
        (opened(), "info"),
        (ChatAnswered(200, 3.5), "info"),
        (ReaderAttached(STREAM_ID, "c_1", 3, is_resume=True), "info"),
        (ReaderAttached(STREAM_ID, "c_1", 0, is_resume=False), "debug"),
        (ReaderLeft(STREAM_ID, "c_1", "completed", 5), "debug"),
        (ReaderLeft(STREAM_ID, "c_1", "slow_reader", 5), "info"),
        (KeysRefused("jwks", "status_500"), "warning"),
        (KeysTaken("jwks"), "info"),
    ],
)
def test_how_loud_a_fact_is(fact: Fact, level: str) -> None:
    (line,) = lines_of(fact)
    assert line["level"] == level
    assert bool(lines_of(fact, level="info")) == (level != "debug")


def test_no_person_and_no_stream_s_id_is_in_a_line() -> None:
    lines = lines_of(
        StreamOpened(STREAM_ID, "c_1", ROUTE, WHO),
        Refused("/v1/streams", "POST", 401, "unauthenticated", "token_expired", WHO),
        msgspec.structs.replace(ended(), who=WHO),
    )
    assert len(lines) == 3
    assert CANARY not in repr(lines)
    assert STREAM_ID not in repr(lines)


def test_whatever_has_a_person_hides_it_by_the_type() -> None:
    """Facts to come as well: what is personal is a `Person`, and no fact has its parts as fields of its own."""
    personal = set(Person.__struct_fields__)
    for kind in get_args(Fact):
        assert not personal & set(kind.__struct_fields__), kind


def test_none_is_left_out() -> None:
    (line,) = lines_of(StreamEnded(STREAM_ID, "c_1", ROUTE, "stop", "", 0, 0, None, 1.0))
    assert not {"first_token_ms", "inter_token_ms", "gateway_ms"} & set(line)

"""JSON bodies: numbers as JSON has them, and errors that name the place."""

from datetime import datetime

import msgspec
import pytest

from subak.core.json_bodies import decode_body
from subak.core.json_errors import NOT_JSON


class Body(msgspec.Struct, forbid_unknown_fields=True):
    count: int = 0
    share: float = 0.0
    counts: dict[str, tuple[int, ...]] = {}
    at: datetime | None = None
    secret: bytes = b""


@pytest.mark.parametrize("text", ["10", "10.0", "1e1", "100e-1"])
def test_a_number_without_a_fraction_is_whole(text: str) -> None:
    body = f'{{"count": {text}, "counts": {{"a": [{text}]}}}}'.encode()
    assert decode_body(body, Body) == Body(count=10, counts={"a": (10,)})


@pytest.mark.parametrize("text", ["1", "1.0", "0.5", "-0.0", "1e300", "9007199254740993"])
def test_a_number_with_one_stays_what_it_is(text: str) -> None:
    assert decode_body(f'{{"share": {text}}}'.encode(), Body).share == float(text)


@pytest.mark.parametrize("text", ["0.5", '"1"', "true", "null", "1e300"])
def test_what_is_no_whole_number_is_told_by_its_place(text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"at `\$\.count`$"):
        decode_body(f'{{"count": {text}}}'.encode(), Body)


def test_text_is_read_as_the_type_says() -> None:
    body = decode_body(b'{"at": "2026-01-01T00:00:00Z", "secret": "AAE="}', Body)
    assert body.at is not None
    assert (body.at.year, body.secret) == (2026, b"\x00\x01")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"count": NaN}'], ids=lambda body: repr(body[:20]))
def test_no_json_is_an_error_of_the_known_ones(body: bytes) -> None:
    with pytest.raises(NOT_JSON):
        decode_body(body, Body)

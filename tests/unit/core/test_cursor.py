"""Stream ids and cursors (PROTOCOL §1)."""

import re
import secrets

import pytest

from subak.core.cursor import (
    ENTROPY_BYTES,
    TAG_LENGTH,
    Cursor,
    is_stream_id,
    make_stream_id,
    make_tag,
    tag_of,
)
from subak.core.errors import MalformedCursor

STREAM_ID = "st_" + "AbC-_9" + "0123456789abcdefghijkl"


def test_a_stream_id_is_prefix_tag_and_22_characters() -> None:
    stream_id = make_stream_id("AbC-_9", bytes(range(ENTROPY_BYTES)))
    assert re.fullmatch(r"st_AbC-_9[A-Za-z0-9_-]{22}", stream_id)
    assert is_stream_id(stream_id)
    assert tag_of(stream_id) == "AbC-_9"


def test_every_bit_of_entropy_counts() -> None:
    ids = {make_stream_id("AbC-_9", (1 << bit).to_bytes(ENTROPY_BYTES)) for bit in range(8 * ENTROPY_BYTES)}
    assert len(ids) == 8 * ENTROPY_BYTES


@pytest.mark.parametrize("size_bytes", [0, ENTROPY_BYTES - 1, ENTROPY_BYTES + 1])
def test_too_little_or_too_much_entropy_is_a_mistake(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="16 random bytes"):
        make_stream_id("AbC-_9", bytes(size_bytes))


@pytest.mark.parametrize("size_bytes", [5, 6, 32])
def test_a_tag_has_six_characters_that_may_stand_in_an_id(size_bytes: int) -> None:
    tag = make_tag(secrets.token_bytes(size_bytes))
    assert len(tag) == TAG_LENGTH
    assert is_stream_id(make_stream_id(tag, secrets.token_bytes(ENTROPY_BYTES)))


def test_a_cursor_is_written_as_id_and_seq() -> None:
    assert str(Cursor(STREAM_ID, 42)) == f"{STREAM_ID}.42"


@pytest.mark.parametrize("seq", [0, 1, 9, 10, 20_000, 999_999_999])
def test_a_cursor_that_was_written_can_be_read(seq: int) -> None:
    assert Cursor.parse(str(Cursor(STREAM_ID, seq))) == Cursor(STREAM_ID, seq)


def test_a_cursor_is_ascii_of_at_most_128_bytes() -> None:
    longest = str(Cursor(STREAM_ID, 999_999_999))
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", longest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        STREAM_ID,
        f"{STREAM_ID}.",
        f"{STREAM_ID}.01",
        f"{STREAM_ID}.00",
        f"{STREAM_ID}.-1",
        f"{STREAM_ID}.+1",
        f"{STREAM_ID}.1_0",
        f"{STREAM_ID}.1.2",
        f"{STREAM_ID}.1 ",
        f" {STREAM_ID}.1",
        f"{STREAM_ID}.1\n",
        f"{STREAM_ID}.1\r\n",
        f"{STREAM_ID}.1000000000",
        f"{STREAM_ID}.١",
        f"{STREAM_ID}.²",
        f"{STREAM_ID}:1",
        f"{STREAM_ID}x.1",
        f"{STREAM_ID[:-1]}.1",
        f"{STREAM_ID[:-1]}é.1",
        f"{STREAM_ID[:-1]}=.1",
        f"{STREAM_ID[:-1]}/.1",
        f"ST_{STREAM_ID[3:]}.1",
        "1",
        "st_.1",
        "0" * 100_000,
    ],
)
def test_anything_else_is_no_cursor(text: str) -> None:
    with pytest.raises(MalformedCursor) as caught:
        Cursor.parse(text)
    assert caught.value.detail == "A cursor has the form {stream_id}.{seq}, as in the id of the last event received."


@pytest.mark.parametrize("text", ["", "st_", STREAM_ID[:-1], STREAM_ID + "0", STREAM_ID + "\n", "x" + STREAM_ID])
def test_what_only_looks_like_a_stream_id_is_none(text: str) -> None:
    assert not is_stream_id(text)

"""Keyed digests: what may be told apart, and what may not be read back."""

import hmac
import itertools
import re

import pytest

from subak.core.digests import DigestKey, digest_name, join_parts, keyed_digest

SECRET = b"s" * 32


def test_no_two_lists_of_parts_join_to_the_same_bytes() -> None:
    pieces: list[bytes | None] = [None, b"", b"a", b"b", b"ab", b"\x00", b"\x01", b"\x01" + bytes(7) + b"\x01a"]
    lists = [parts for length in range(4) for parts in itertools.product(pieces, repeat=length)]
    joined = {join_parts(*parts) for parts in lists}
    assert len(joined) == len(lists)


def test_a_digest_has_32_bytes_and_is_the_same_each_time() -> None:
    assert len(keyed_digest(SECRET, "use", b"a")) == 32
    assert keyed_digest(SECRET, "use", b"a", None) == keyed_digest(SECRET, "use", b"a", None)


@pytest.mark.parametrize("size_bytes", [0, 1, 32, 63, 64, 65, 200])
def test_a_digest_is_the_standard_librarys_hmac(size_bytes: int) -> None:
    secret, parts = bytes(range(size_bytes)), (b"a" * 300, None, b"")
    expected = hmac.digest(secret, join_parts(b"use", *parts), "sha256")
    assert keyed_digest(secret, "use", *parts) == expected
    assert DigestKey(secret).digest("use", *parts) == expected


def test_a_key_gives_one_digest_after_another_as_if_each_were_its_first() -> None:
    key = DigestKey(SECRET)
    for part in (b"a", b"b", b"a"):
        assert key.digest("use", part) == keyed_digest(SECRET, "use", part)
        assert key.name("use", part.decode()) == digest_name(SECRET, "use", part.decode())


def test_a_digest_depends_on_secret_label_and_each_part() -> None:
    digests = [
        keyed_digest(SECRET, "use", b"a", b"b"),
        keyed_digest(b"other", "use", b"a", b"b"),
        keyed_digest(SECRET, "other", b"a", b"b"),
        keyed_digest(SECRET, "use", b"ab"),
        keyed_digest(SECRET, "use", b"a", b"b", None),
        keyed_digest(SECRET, "use", b"b", b"a"),
        keyed_digest(SECRET, "usea", b"b"),
    ]
    assert len(set(digests)) == len(digests)


def test_a_name_for_log_lines_is_short_and_says_nothing() -> None:
    name = digest_name(SECRET, "stream", "st_secret")
    assert re.fullmatch(r"[A-Za-z0-9_-]{16}", name)
    assert name == digest_name(SECRET, "stream", "st_secret")
    assert name != digest_name(b"other", "stream", "st_secret")
    assert name != digest_name(SECRET, "stream", "st_secreu")

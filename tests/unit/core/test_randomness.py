"""Secret bytes from a stock: as long as wanted, and never the same twice."""

import secrets

from subak.core.randomness import Randomness

SALTS = 1000


def test_bytes_are_as_many_as_wanted_and_nobody_is_given_the_same() -> None:
    randomness = Randomness(secrets.token_bytes)
    taken = [randomness.take(32) for _ in range(SALTS)]
    assert {len(salt) for salt in taken} == {32}
    assert len(set(taken)) == SALTS


def test_what_is_taken_does_not_overlap() -> None:
    randomness = Randomness(secrets.token_bytes)
    taken = b"".join(randomness.take(size) for size in (5, 12, 32, 4096, 1) * 20)
    windows = {taken[at : at + 8] for at in range(len(taken) - 7)}
    assert len(windows) == len(taken) - 7


def test_two_have_nothing_in_common() -> None:
    assert Randomness(secrets.token_bytes).take(16) != Randomness(secrets.token_bytes).take(16)

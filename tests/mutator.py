"""Bytes made wrong, over and over: seeds that are right, and a dice that breaks them.

A failure names the dice's seed and the input; with that seed the same inputs come again.
"""

import itertools
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from tests.settings import fuzz_s, profile

FUZZ_S: Final = fuzz_s()
FUZZ_MARKS: Final = (pytest.mark.timeout(300 + 4 * FUZZ_S), pytest.mark.repeats(seconds=int(FUZZ_S)))

ODD_BYTES: Final = (
    *(
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\r\r\n",
        b" ",
        b"\t",
        b"\x0b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(b":", b";", b",", b"=", b'"', b"\\", b"%0d%0a", b"%00", b"%", b"+", b"-", b"_", b"0x", b"\xc3", b"\xed\xa0\x80"),
    *(b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\\ud800", b"\\udc00", b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e999"),
    *(b"9" * 20, b"9" * 4301, b"[" * 2000, b'{"a":' * 500, b"A" * 5000, b"true", b"-1", b"0" * 50),
)


class Mutator:
    """Breaks bytes."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes] = (), *, seed: int | None = None) -> None:
        """`seeds` are well-formed, `words` mean something in their language. `seed` repeats a run."""
        self.seed = secrets.randbits(32) if seed is None else seed
        if profile() == "fast":
            self.seed = 0
        self.dice = random.Random(self.seed)
        self._seeds = seeds
        self._words = (*words, *ODD_BYTES)

    def inputs(self, seconds: float = FUZZ_S) -> Iterator[bytes]:
        """Give inputs for so long."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            yield self.one()

    def one(self) -> bytes:
        """Give one input: a seed with some wounds."""
        content = self.dice.choice(self._seeds)
        for _ in range(self.dice.choice((0, 1, 1, 2, 3, 5, 8))):
            content = self._wound(content)
        return content

    def slices(self, content: bytes) -> list[bytes]:
        """Cut it anywhere: as few reads, or as many."""
        if not content:
            return []
        count = self.dice.choice((1, 2, 3, len(content)))
        edges = sorted({0, len(content), *(self.dice.randrange(len(content)) for _ in range(count - 1))})
        return [content[start:end] for start, end in itertools.pairwise(edges)]

    def _wound(self, content: bytes) -> bytes:
        dice = self.dice
        at = dice.randrange(len(content) + 1)
        to = min(len(content), at + dice.choice((1, 1, 2, 8, 64)))
        match dice.randrange(7):
            case 0:
                return content[:at] + content[to:]
            case 1:
                return content[:at] + dice.choice(self._words) + content[at:]
            case 2:
                return content[:at] + dice.choice(self._words) + content[to:]
            case 3:
                return content[:to] + content[at:]
            case 4:
                return content[:at] + dice.randbytes(to - at) + content[to:]
            case 5:
                return content[:at] + dice.choice(self._seeds)[at:]
            case _:
                return content[:at]

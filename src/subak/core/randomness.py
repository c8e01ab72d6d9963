"""Secret bytes for what is made often: ids, salts, nonces."""

from collections.abc import Callable
from typing import Final

_STOCK_BYTES: Final = 4096


class Randomness:
    """Random bytes, drawn in stock. For one thread, and for a process that doesn't fork.

    For each draw from the system the interpreter is let go of: where another thread wants it, it is gone for up to half
    a millisecond.
    """

    __slots__ = ("_draw", "_stock", "_taken")

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        """`draw` gives so many random bytes: `secrets.token_bytes`. It isn't called before it is needed."""
        self._draw = draw
        self._stock = b""
        self._taken = 0

    def take(self, count: int) -> bytes:
        """Give `count` bytes, at most 4 096, that nobody else is given."""
        start = self._taken
        if start + count > len(self._stock):
            self._stock = self._draw(_STOCK_BYTES)
            start = 0
        self._taken = start + count
        return self._stock[start : self._taken]

"""What a rehearsal expects, and how it says that it isn't so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tests.integration.gateway import eventually

_LOOK_S: Final = 0.25


class Unmet(Exception):
    """An expectation isn't met; the message is the expectation, and what was seen instead."""


def expect(is_met: object, sentence: str) -> None:
    """Go on only where it is met.

    Raises:
        Unmet: it isn't.
    """
    if not is_met:
        raise Unmet(sentence)


async def expect_within(timeout_s: float, is_met: Callable[[], bool], sentence: Callable[[], str]) -> None:
    """Go on once it is met; `sentence` is made when it isn't.

    Raises:
        Unmet: it still isn't after so many seconds.
    """
    try:
        await eventually(is_met, sentence, timeout_s)
    except AssertionError as error:
        raise Unmet(f"within {timeout_s:g} s: {error}") from None


async def expect_to_see(timeout_s: float, look: Callable[[], Awaitable[bool]], sentence: str) -> None:
    """Look four times a second; go on once it is so.

    Raises:
        Unmet: it still isn't after so many seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not await look():  # noqa: ASYNC110 - another process decides it
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise Unmet(f"within {timeout_s:g} s: {sentence}") from None

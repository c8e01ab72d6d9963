"""Whose credentials were accepted: told once for each credential and day."""

from typing import Final

from subak.core.clock import Clock
from subak.core.facts import Authenticated, Observer
from subak.core.principal import Caller
from subak.web.outcome import person_of

MAX_REMEMBERED: Final = 10_000
_DAY_MS: Final = 86_400_000


class SignIns:
    """Remembers who was told of today (UTC). Past its bound it forgets the oldest: they may be told of again."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._day = 0
        self._told: dict[tuple[str, float | None], None] = {}

    def note(self, caller: Caller) -> None:
        """Take note of a caller whose credentials hold. Two tokens of one user differ in when they expire."""
        principal = caller.principal
        day = self._clock.time_ms() // _DAY_MS
        if day != self._day:
            self._day = day
            self._told.clear()
        credential = (principal.id, principal.expires_at)
        if credential in self._told:
            return
        if len(self._told) >= MAX_REMEMBERED:
            del self._told[next(iter(self._told))]
        self._told[credential] = None
        self._observer.notify(Authenticated(person_of(caller)))

"""How a source of callers' keys does: whoever may look knows it, and each change is told once.

Keys from before go on while their source is in trouble, so nobody notices but those who are told here.
"""

from typing import Final

from subak.core.facts import KeysRefused, KeysTaken, Observer

API_KEYS: Final = "api_keys"
JWKS: Final = "jwks"
TOO_OLD: Final = "too_old"


class KeyWatch:
    """The latest look at one source. `problem`: why it failed, "" when it went well. `failures`: how many failed."""

    __slots__ = ("_observer", "failures", "problem", "source")

    def __init__(self, source: str, observer: Observer | None, problem: str = "") -> None:
        """`source`: as in `KeysRefused`. `problem`: what there is to say before the first look."""
        self.source = source
        self.problem = problem
        self.failures = 0
        self._observer = observer

    def went_well(self) -> None:
        """The keys in force are the source's."""
        self._note("")

    def failed(self, problem: str) -> None:
        """The keys in force are those from before, if there are any. `problem` holds no secret."""
        self.failures += 1
        self._note(problem)

    def ran_out(self) -> None:
        """There are no keys left: those from before are too old."""
        self._note(TOO_OLD)

    def _note(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if self._observer is not None:
            self._observer.notify(KeysRefused(self.source, problem) if problem else KeysTaken(self.source))

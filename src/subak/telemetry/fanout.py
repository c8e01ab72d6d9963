"""One observer that tells several, none of which can stop the others or the gateway."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from subak.core.facts import Crashed, Fact, Observer


class Observers:
    """Tells each fact to all, in their order. `failures` counts what they raised, by the observer's class."""

    def __init__(self, observers: tuple[Observer, ...], site_of: Callable[[BaseException], str]) -> None:
        """`site_of` tells where an exception came from, without what it carries."""
        self.failures: Counter[str] = Counter()
        self._observers = observers
        self._site_of = site_of

    def notify(self, fact: Fact) -> None:
        """Tell it. What one of them raises is a defect of ours: all hear of that too, as of any crash."""
        for observer in self._observers:
            try:
                observer.notify(fact)
            except Exception as error:  # noqa: BLE001 - whoever tells a fact must not pay for who hears it
                self._on_failure(observer, error)

    def _on_failure(self, broken: Observer, error: Exception) -> None:
        self.failures[type(broken).__name__] += 1
        crashed = Crashed(type(error).__name__, self._site_of(error))
        for observer in self._observers:
            with suppress(Exception):
                observer.notify(crashed)

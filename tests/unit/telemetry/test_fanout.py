"""Several observers as one."""

from subak.core.facts import Crashed, DescriptorsFreed, Fact
from subak.relay.crash import crash_site
from subak.telemetry.fanout import Observers
from subak.testing import RecordingObserver


class Broken:
    """Raises at whatever it is told."""

    def notify(self, fact: Fact) -> None:
        raise KeyError(f"no place for {fact}")


def test_all_hear_everything_in_order() -> None:
    one, other = RecordingObserver(), RecordingObserver()
    observers = Observers((one, other), crash_site)
    facts: list[Fact] = [DescriptorsFreed(), Crashed("KeyError", "x")]
    for fact in facts:
        observers.notify(fact)
    assert one.facts == other.facts == facts


def test_one_that_raises_stops_nobody_and_is_a_crash() -> None:
    one, other = RecordingObserver(), RecordingObserver()
    observers = Observers((one, Broken(), other), crash_site)
    observers.notify(DescriptorsFreed())
    line = Broken.notify.__code__.co_firstlineno + 1
    crashed = Crashed("KeyError", f"test_fanout.py:{line} notify")
    assert one.facts == [DescriptorsFreed(), crashed]
    assert other.facts == [crashed, DescriptorsFreed()]
    assert observers.failures == {"Broken": 1}


def test_two_that_raise_are_both_counted_and_nothing_goes_on_for_ever() -> None:
    heard = RecordingObserver()
    observers = Observers((Broken(), heard, Broken()), crash_site)
    observers.notify(DescriptorsFreed())
    assert observers.failures == {"Broken": 2}
    assert heard.facts.count(DescriptorsFreed()) == 1

"""Who keeps what was said: by an upstream adapter to its stream, by the gateway to its observers."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from subak.clocks import SystemClock
from subak.core.clock import Clock
from subak.core.events import TOKEN, Ending, Event
from subak.core.facts import Fact, StreamEnded
from subak.testing.waiting import PATIENCE_S, Changes

_F = TypeVar("_F")


class RecordingSink:
    """Keeps what an upstream reports (`subak.core.events.UpstreamSink`).

    `reads` counts the calls, `size_bytes` what they said, `late_reads` the calls after the ending: there may be none.
    """

    __slots__ = ("_changes", "endings", "events", "late_reads", "reads", "size_bytes")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.endings: list[Ending] = []
        self.reads = 0
        self.late_reads = 0
        self.size_bytes = 0
        self._changes = Changes()

    @property
    def text(self) -> str:
        """The tokens so far, joined."""
        return "".join(msgspec.json.decode(event.data, type=str) for event in self.events if event.type == TOKEN)

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Keep it."""
        if self.endings:
            self.late_reads += 1
        self.reads += 1
        self.size_bytes += size_bytes
        self.events.extend(events)
        if ending is not None:
            self.endings.append(ending)
        self._changes.note()

    async def wait_ended(self, timeout_s: float = PATIENCE_S) -> Ending:
        """Give the ending, once it has come."""
        await self.wait_until(lambda: bool(self.endings), timeout_s)
        return self.endings[0]

    async def wait_events(self, count: int, timeout_s: float = PATIENCE_S) -> None:
        """Return once that many events have come."""
        await self.wait_until(lambda: len(self.events) >= count, timeout_s)

    async def wait_until(self, is_met: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Return once a condition holds; it is looked at after every call."""
        await self._changes.until(is_met, timeout_s)


class RecordingObserver:
    """Keeps facts (`subak.core.facts.Observer`) in the order in which they were heard.

    `heard`: each fact after the monotonic second at which it came. They are kept until `clear`: call it now and then in
    a test that runs for long.
    """

    __slots__ = ("_changes", "_clock", "_counts", "heard")

    def __init__(self, clock: Clock | None = None) -> None:
        """`clock` is the system's, unless the gateway was given another."""
        self.heard: list[tuple[float, Fact]] = []
        self._clock = clock or SystemClock()
        self._counts: Counter[type] = Counter()
        self._changes = Changes()

    @property
    def facts(self) -> list[Fact]:
        """The facts so far, without their times."""
        return [fact for _, fact in self.heard]

    def notify(self, fact: Fact) -> None:
        """Keep it."""
        self.heard.append((self._clock.monotonic(), fact))
        self._counts[type(fact)] += 1
        self._changes.note()

    def clear(self) -> None:
        """Forget what was heard."""
        self.heard.clear()
        self._counts.clear()

    def of(self, kind: type[_F]) -> list[_F]:
        """Give the facts of one kind, such as `subak.core.facts.StreamEnded`."""
        return [fact for _, fact in self.heard if isinstance(fact, kind)]

    async def wait_for(self, kind: type[_F], count: int = 1, timeout_s: float = PATIENCE_S) -> list[_F]:
        """Give the facts of one kind once there are that many."""
        await self._changes.until(lambda: self._counts[kind] >= count, timeout_s)
        return self.of(kind)

    async def ended(self, timeout_s: float = PATIENCE_S) -> tuple[str, str, int]:
        """Give how the first stream ended, once it has: outcome, the operator's reason for a failure, tokens."""
        fact = (await self.wait_for(StreamEnded, timeout_s=timeout_s))[0]
        return fact.outcome, fact.reason, fact.tokens

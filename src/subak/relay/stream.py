"""One live stream: its publisher, its readers, and what their coming and going means (PROTOCOL §4).

A stream is what the hub knows of an answer under way; the log outlives it.

    readers        what happens
    -------------  ---------------------------------------------------------------
    one or more    the answer goes on; all of them lag too far -> the upstream is paused
    none           it goes on for the grace time (or to its end, or not at all), then `abandoned`
"""

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.errors import ErrorCode
from subak.core.events import FinishReason
from subak.core.lifecycle import OnDisconnect
from subak.core.live import LiveStream
from subak.relay.publisher import Publisher
from subak.relay.subscriber import Subscriber
from subak.replay.base import StreamLog


class Stream:
    """A live stream. It is forgotten by the hub when its terminal event is in the log.

    `likeness`: what the same question asked again bears too (see `Hub.lookup_orphan`), None where that can't be told.
    """

    __slots__ = (
        "_clock",
        "_deadlines",
        "_grace_s",
        "_left_at",
        "_max_lag_bytes",
        "_read_upto",
        "_readers",
        "likeness",
        "log",
        "on_disconnect",
        "publisher",
    )

    def __init__(
        self,
        log: StreamLog,
        publisher: Publisher,
        *,
        on_disconnect: OnDisconnect,
        grace_s: float,
        max_lag_bytes: int,
        clock: Clock,
        deadlines: Deadlines,
    ) -> None:
        """`grace_s` in seconds: how long it waits for a reader, the first one included."""
        self.log = log
        self.publisher = publisher
        self.likeness: bytes | None = None
        self.on_disconnect = on_disconnect
        self._grace_s = grace_s
        self._max_lag_bytes = max_lag_bytes
        self._clock = clock
        self._deadlines = deadlines
        self._read_upto = 0
        self._readers: list[Subscriber] = []
        self._left_at: float | None = clock.monotonic()
        deadlines.watch(self, self._next_deadline())

    def look(self, now: float) -> LiveStream:
        """Tell how it stands at `now` (monotonic seconds)."""
        return self.publisher.look(now, readers=len(self._readers))

    def join(self, reader: Subscriber) -> None:
        """A reader has come: the grace timer stops."""
        self._readers.append(reader)
        self._left_at = None
        self.publisher.read_upto = None
        self.on_lag()

    def leave(self, reader: Subscriber) -> None:
        """A reader has gone; with the last one the grace timer starts."""
        self._readers.remove(reader)
        self._read_upto = max(self._read_upto, reader.cursor)
        if self._readers:
            self.on_lag()
            return
        self.publisher.read_upto = self._read_upto
        self.publisher.resume()
        if not self.publisher.is_live:
            return
        if self.on_disconnect is OnDisconnect.CANCEL:
            self.publisher.stop(FinishReason.ABANDONED)
            return
        self._left_at = self._clock.monotonic()
        self._deadlines.watch(self, self._next_deadline())

    @property
    def is_abandoned_for_now(self) -> bool:
        """Whether the answer goes on and waits for a reader."""
        return self._left_at is not None and self.publisher.is_live

    def close(self) -> None:
        """The terminal event is in the log: nothing is due any more."""
        self._deadlines.forget(self)

    def on_lag(self) -> None:
        """Hold the upstream back while every reader is too far behind; let it go when one has caught up."""
        if not self._readers:
            return
        if min([reader.lag_bytes for reader in self._readers]) > self._max_lag_bytes:
            self.publisher.pause()
        else:
            self.publisher.resume()

    def on_deadline(self, now: float) -> float | None:
        """End an answer that is too old, or that nobody came back for."""
        if now >= self.publisher.expires_at:
            self.publisher.fail(ErrorCode.TOO_LONG, "stream_age")
        elif now >= self._next_deadline():
            self.publisher.stop(FinishReason.ABANDONED)
        return self._next_deadline() if self.publisher.is_live else None

    def _next_deadline(self) -> float:
        if self._left_at is None or self.on_disconnect is OnDisconnect.CONTINUE:
            return self.publisher.expires_at
        return min(self.publisher.expires_at, self._left_at + self._grace_s)

"""The subscriber: reads a log from a cursor and writes frames to one response.

    mode       who writes                              until
    ---------  --------------------------------------  --------------------------------------------
    catch-up   `run`, batch by batch from the log      it has reached the tail: live
    live       `on_batch`, inside the log's append     the outlet takes no more: catch-up
    departed   nobody                                  for ever; `departure` says why

A subscriber has no queue. A response that doesn't take bytes makes it lag, and it catches up from the log: resume and
slow reader are one path. The step from catch-up to live has no `await` between *nothing is left to read* and *I am
live*, so no event falls between the two and none comes twice (PROTOCOL §4, §7 I2).

In live mode no task wakes up: `run` sleeps until the outlet is writable again, or the reader departs.
"""

import asyncio
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from subak.core.clock import Clock
from subak.core.envelope import COMMENT, encode_heartbeat
from subak.core.live import LiveReader, LiveStream
from subak.replay.base import Batch, StreamLog

CATCH_UP_BYTES: Final = 64 * 1024


class Outlet(Protocol):
    """Where frames go: one response's transport, seen through a keyhole."""

    @property
    def is_writable(self) -> bool:
        """Whether little enough waits in its buffer to write more."""

    @property
    def buffered_bytes(self) -> int:
        """What was written and the socket hasn't taken yet."""

    def write(self, frames: bytes) -> None:
        """Send, or buffer what the socket doesn't take. Must not raise; a lost connection swallows it."""

    def write_last(self, frames: bytes) -> None:
        """Send what ends with the terminal event, and with it the body's end. Must not raise either."""


class Departure(StrEnum):
    """Why a response is over. Only `completed` may end it cleanly (PROTOCOL §3)."""

    COMPLETED = "completed"
    LOST = "lost"
    SLOW_READER = "slow_reader"
    MAX_AGE = "max_age"
    DRAIN = "drain"
    AUTH_EXPIRED = "auth_expired"


class ReaderTimes(msgspec.Struct, frozen=True):
    """What one response is held to, in seconds; `max_age_s` is None without a bound."""

    heartbeat_s: float
    comment_s: float
    slow_reader_s: float
    max_age_s: float | None


class Audience(Protocol):
    """The readers of a live stream, as one of them sees it."""

    def on_lag(self) -> None:
        """A reader's lag has changed."""


class Subscriber:
    """One response's way through one log."""

    __slots__ = (
        "_audience",
        "_blocked_since",
        "_clock",
        "_expires_at",
        "_is_live",
        "_log",
        "_opened_at",
        "_outlet",
        "_retry_ms",
        "_spoke_at",
        "_times",
        "_waiter",
        "_wrote_at",
        "cursor",
        "departure",
        "lag_bytes",
    )

    def __init__(
        self,
        log: StreamLog,
        cursor: int,
        *,
        times: ReaderTimes,
        retry_ms: int,
        clock: Clock,
        audience: Audience | None,
        expires_at: float | None = None,
    ) -> None:
        """`cursor` is the last seq the reader has; `retry_ms` is said before an abort of ours.

        `expires_at`: when its credentials no longer hold, monotonic seconds; None when that doesn't matter.
        """
        self.cursor = cursor
        self.departure: Departure | None = None
        self.lag_bytes = log.size_after(cursor)
        self._log = log
        self._times = times
        self._retry_ms = retry_ms
        self._clock = clock
        self._audience = audience
        self._outlet: Outlet | None = None
        self._is_live = False
        self._waiter: asyncio.Future[None] | None = None
        self._opened_at = self._wrote_at = self._spoke_at = clock.monotonic()
        self._blocked_since: float | None = None
        self._expires_at = expires_at

    @property
    def log(self) -> StreamLog:
        """What it reads."""
        return self._log

    @property
    def is_live(self) -> bool:
        """Whether it is at the tail and written to inside the append."""
        return self._is_live

    @property
    def buffered_bytes(self) -> int:
        """What was written and the socket hasn't taken yet."""
        return 0 if self._outlet is None else self._outlet.buffered_bytes

    def look(self, now: float, stream: LiveStream | None) -> LiveReader:
        """Tell how the response stands at `now` (monotonic seconds); `stream` is what it reads, if that is live."""
        return LiveReader(
            stream_id=self._log.meta.stream_id,
            stream=stream,
            age_s=round(now - self._opened_at, 3),
            cursor=self.cursor,
            lag_events=self._log.last_seq - self.cursor,
            lag_bytes=self.lag_bytes,
            buffered_bytes=self.buffered_bytes,
            is_live=self._is_live,
        )

    async def first_batch(self) -> bytes:
        """Give the first frames, for the same write as the headers; empty when nothing is past the cursor."""
        if self.cursor >= self._log.last_seq:
            return b""
        batch = await self._log.read(self.cursor, CATCH_UP_BYTES)
        self._advance(batch)
        return batch.frames

    async def run(self, outlet: Outlet) -> Departure:
        """Write until the stream's end or the reader's, and say which. The log is subscribed to meanwhile."""
        self._outlet = outlet
        if not outlet.is_writable:
            self.on_blocked()
        self._log.subscribe(self)
        self._measure_lag()
        try:
            while self.departure is None:
                if self._must_wait(outlet):
                    await self._woken()
                else:
                    await self._catch_up()
            return self.departure
        finally:
            self._is_live = False
            self._log.unsubscribe(self)

    def _must_wait(self, outlet: Outlet) -> bool:
        """Whether nothing can be done: the outlet takes no bytes, or the tail is reached, where one is live."""
        if not outlet.is_writable:
            return True
        if self.cursor < self._log.last_seq or self._log.is_ended:
            return False
        self._is_live = True
        self.lag_bytes = 0
        return True

    async def _catch_up(self) -> None:
        """Write the next batch; depart where there will be none."""
        if self.cursor == self._log.last_seq:
            self.departure = Departure.COMPLETED
            return
        self._is_live = False
        batch = await self._log.read(self.cursor, CATCH_UP_BYTES)
        if self.departure is None:
            self._write(batch)
            self._advance(batch)

    def on_batch(self, first_seq: int, batch: Batch) -> None:
        """Write what has just become safe, if at the tail; else lag behind it (see `LogReader`)."""
        if not self._is_live or self._outlet is None:
            self._fall_behind(batch)
        elif self._blocked_since is not None or first_seq != self.cursor + 1:
            self._is_live = False
            self._fall_behind(batch)
            self._wake()
        else:
            self._write(batch)
            self.cursor = batch.last_seq
            if batch.is_end:
                self._is_live = False
                self._wake()

    def on_writable(self) -> None:
        """The outlet takes bytes again."""
        self._blocked_since = None
        self._wake()

    def on_blocked(self) -> None:
        """The outlet takes no more bytes for now."""
        self._blocked_since = self._clock.monotonic()

    def on_lost(self) -> None:
        """The client has gone."""
        self._depart(Departure.LOST)

    def dismiss(self, departure: Departure) -> None:
        """End the response, not the stream: say when to come back, if the socket takes it, then depart."""
        if self.departure is not None:
            return
        if self._outlet is not None and self._outlet.is_writable:
            if self._has_ending:
                self._depart(Departure.COMPLETED)
                return
            self._outlet.write(encode_heartbeat(self.cursor, self._clock.time_ms(), self._retry_ms))
        self._depart(departure)

    def on_deadline(self, now: float) -> float | None:
        """Keep the response alive, or end it when its time is up."""
        if self.departure is not None:
            return None
        times = self._times
        if self._blocked_since is not None and now >= self._blocked_since + times.slow_reader_s:
            self._depart(Departure.SLOW_READER)
            return None
        if times.max_age_s is not None and now >= self._opened_at + times.max_age_s:
            self.dismiss(Departure.MAX_AGE)
            return None
        if self._expires_at is not None and now >= self._expires_at:
            self.dismiss(Departure.AUTH_EXPIRED)
            return None
        self._keep_alive(now)
        return self.next_deadline(now)

    def next_deadline(self, now: float) -> float:
        """Give the earliest time at which something may be due; what is overdue is tried again after `comment_s`."""
        times = self._times
        due = [self._spoke_at + times.heartbeat_s, self._wrote_at + times.comment_s]
        if times.max_age_s is not None:
            due.append(self._opened_at + times.max_age_s)
        if self._expires_at is not None:
            due.append(self._expires_at)
        blocked_since = now if self._blocked_since is None else self._blocked_since
        due.append(blocked_since + times.slow_reader_s)
        return min(time if time > now else now + times.comment_s for time in due)

    @property
    def _has_ending(self) -> bool:
        """Whether the terminal event was written: nothing may follow it."""
        return self._log.is_ended and self.cursor == self._log.last_seq

    def _keep_alive(self, now: float) -> None:
        if self._outlet is None or not self._outlet.is_writable or self._has_ending:
            return
        if now >= self._spoke_at + self._times.heartbeat_s:
            self._outlet.write(encode_heartbeat(self.cursor, self._clock.time_ms()))
            self._spoke_at = self._wrote_at = now
        elif now >= self._wrote_at + self._times.comment_s:
            self._outlet.write(COMMENT)
            self._wrote_at = now

    def _write(self, batch: Batch) -> None:
        assert self._outlet is not None, "only a running subscriber writes"
        if batch.is_end:
            self._outlet.write_last(batch.frames)
        else:
            self._outlet.write(batch.frames)
        self._wrote_at = self._clock.monotonic()

    def _advance(self, batch: Batch) -> None:
        self.cursor = batch.last_seq
        self.lag_bytes = max(0, self.lag_bytes - batch.size_bytes)
        if self._audience is not None:
            self._audience.on_lag()

    def _measure_lag(self) -> None:
        """Count what came between attaching and subscribing: the first write of a response may take its time."""
        self.lag_bytes = self._log.size_after(self.cursor)
        if self._audience is not None:
            self._audience.on_lag()

    def _fall_behind(self, batch: Batch) -> None:
        self.lag_bytes += batch.size_bytes
        if self._audience is not None:
            self._audience.on_lag()

    def _depart(self, departure: Departure) -> None:
        if self.departure is None:
            self.departure = departure
            self._is_live = False
            self._wake()

    def _woken(self) -> "asyncio.Future[None]":
        """Give what `_wake` settles. A coroutine that awaits it would take 0.2 KB more of each open stream."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

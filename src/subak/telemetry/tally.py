"""Tallies: what facts add up to, over the last minute, the last quarter of an hour, and since the start.

Facts are counted into one running tally. Every ten seconds, or when somebody asks, it is added to each window and to
the slice of each that is being filled; a slice that has become too old is taken away from its window. So a fact costs
one count, a look costs no more after a busy quarter of an hour than after an idle one (merging that many slices took
tens of milliseconds, in which no token would move), and no label can grow without end: see `Labels`.
"""

from collections import Counter, deque
from collections.abc import Hashable, Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Generic, NamedTuple, TypeVar

from subak.core.errors import QUESTION_REFUSED, ErrorCode, RateLimited
from subak.core.events import FinishReason
from subak.core.facts import ChatAnswered, ClientReported, Refused, StreamEnded
from subak.core.histogram import Histogram

SLICE_S: Final = 10
SLICES_A_MINUTE: Final = 6
MINUTES: Final = 15
FAILURES: Final = frozenset(ErrorCode)
DELIVERED_WHOLE: Final = frozenset({FinishReason.STOP, FinishReason.LENGTH, FinishReason.CONTENT_FILTER})
LEFT: Final = frozenset({FinishReason.CANCELLED, FinishReason.ABANDONED})
PATIENCE_MS: Final = 5_000.0
"""Who leaves sooner without a token was in a hurry; who waited longer was kept waiting."""
DRAINING: Final = "draining"
ASKED_AT: Final = frozenset({"/api/v2/bali-zero/chat-stream", "/v1/streams"})
"""The routes at which a refusal means that there is no stream."""

_K = TypeVar("_K", bound=Hashable)


class Window(StrEnum):
    """What figures are over."""

    LAST_MINUTE = "last_minute"
    LAST_QUARTER = "last_quarter_hour"
    SINCE_START = "since_start"


class RouteArm(NamedTuple):
    """Where a stream was asked for, and the rollout's arm that its caller was in."""

    route: str
    arm: str


class RefusalKind(NamedTuple):
    """What refusals are counted by: `route` is a pattern, `reason` the quota or what was wrong with credentials."""

    route: str
    method: str
    status: int
    code: str
    reason: str

    @property
    def is_failure(self) -> bool:
        """Whether a question failed here. A draining instance fails nobody: another one answers."""
        is_ours = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR and self.code != DRAINING
        return is_ours and self.route in ASKED_AT


class Labels(Generic[_K]):
    """Keeps a set of labels from growing: whatever comes after the first `limit` is counted as `other`."""

    __slots__ = ("_known", "_limit", "_other")

    def __init__(self, limit: int, other: _K) -> None:
        self._limit = limit
        self._other = other
        self._known: set[_K] = set()

    def admit(self, label: _K) -> _K:
        """Give the label, or `other` when there are too many."""
        if label in self._known:
            return label
        if len(self._known) >= self._limit:
            return self._other
        self._known.add(label)
        return label


class StreamTally:
    """Streams of one route and arm that have ended. Times in microseconds.

    `delivered`: those of which a token reached a reader, or a whole answer was there to be read. Set aside are
    `refused_questions`, which the upstream wouldn't answer, and `left_early`, whose caller left within `PATIENCE_MS`
    without a token: anybody can make as many of either as they like, so they say nothing about how well we do.
    """

    __slots__ = (
        "delivered",
        "duration",
        "first_token",
        "gateway_share",
        "inter_token",
        "left_early",
        "opened",
        "outcomes",
        "refused_questions",
        "size_bytes",
        "tokens",
        "tokens_unread",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.outcomes: Counter[str] = Counter()
        self.delivered = 0
        self.refused_questions = 0
        self.left_early = 0
        self.tokens = 0
        self.tokens_unread = 0
        self.size_bytes = 0
        self.first_token = Histogram()
        self.gateway_share = Histogram()
        self.inter_token = Histogram()
        self.duration = Histogram()

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.outcomes.total()

    @property
    def judged(self) -> int:
        """How many of them say how well we do."""
        return self.ended - self.refused_questions - self.left_early

    @property
    def failed(self) -> int:
        """How many of those broke."""
        return sum(count for outcome, count in self.outcomes.items() if outcome in FAILURES) - self.refused_questions

    def count(self, ended: StreamEnded) -> None:
        """Count a stream that has ended."""
        self.outcomes[ended.outcome] += 1
        is_delivered = ended.outcome in DELIVERED_WHOLE or ended.tokens > ended.tokens_unread
        self.delivered += is_delivered
        self.refused_questions += ended.reason in QUESTION_REFUSED
        self.left_early += not is_delivered and _has_left_early(ended)
        self.tokens += ended.tokens
        self.tokens_unread += ended.tokens_unread
        self.size_bytes += ended.size_bytes
        self.duration.record(_to_us(ended.duration_ms))
        if ended.first_token_ms is not None:
            self.first_token.record(_to_us(ended.first_token_ms))
        if ended.gateway_ms is not None:
            self.gateway_share.record(_to_us(ended.gateway_ms))

    def merge(self, other: "StreamTally") -> None:
        """Add all that the other one counted."""
        self.opened += other.opened
        self.outcomes.update(other.outcomes)
        self.delivered += other.delivered
        self.refused_questions += other.refused_questions
        self.left_early += other.left_early
        self.tokens += other.tokens
        self.tokens_unread += other.tokens_unread
        self.size_bytes += other.size_bytes
        self.first_token.merge(other.first_token)
        self.gateway_share.merge(other.gateway_share)
        self.inter_token.merge(other.inter_token)
        self.duration.merge(other.duration)

    def take_away(self, other: "StreamTally") -> None:
        """Take away what was added before."""
        self.opened -= other.opened
        self.outcomes -= other.outcomes
        self.delivered -= other.delivered
        self.refused_questions -= other.refused_questions
        self.left_early -= other.left_early
        self.tokens -= other.tokens
        self.tokens_unread -= other.tokens_unread
        self.size_bytes -= other.size_bytes
        self.first_token.take_away(other.first_token)
        self.gateway_share.take_away(other.gateway_share)
        self.inter_token.take_away(other.inter_token)
        self.duration.take_away(other.duration)

    @property
    def is_empty(self) -> bool:
        """Whether it counts nothing."""
        return not (self.opened or self.outcomes or self.inter_token.counts)


def _has_left_early(ended: StreamEnded) -> bool:
    """Whether the caller went, or said stop, before anybody could call it slow; with grace the answer ran on."""
    waited_ms = ended.duration_ms if ended.first_token_ms is None else ended.first_token_ms
    return ended.outcome in LEFT and waited_ms < PATIENCE_MS


class ReportTally:
    """What readers told of their own answers. Times in microseconds; nobody has checked them."""

    __slots__ = ("count", "duplicates", "first_token", "gaps", "inter_token_p95", "reconnects")

    def __init__(self) -> None:
        self.count = 0
        self.reconnects = 0
        self.duplicates = 0
        self.gaps = 0
        self.first_token = Histogram()
        self.inter_token_p95 = Histogram()

    def add(self, report: ClientReported) -> None:
        """Count a report."""
        self.count += 1
        self.reconnects += report.reconnects
        self.duplicates += report.duplicates
        self.gaps += report.gaps
        if report.first_token_ms is not None:
            self.first_token.record(_to_us(report.first_token_ms))
        if report.inter_token_p95_ms is not None:
            self.inter_token_p95.record(_to_us(report.inter_token_p95_ms))

    def merge(self, other: "ReportTally") -> None:
        """Add all that the other one counted."""
        self.count += other.count
        self.reconnects += other.reconnects
        self.duplicates += other.duplicates
        self.gaps += other.gaps
        self.first_token.merge(other.first_token)
        self.inter_token_p95.merge(other.inter_token_p95)

    def take_away(self, other: "ReportTally") -> None:
        """Take away what was added before."""
        self.count -= other.count
        self.reconnects -= other.reconnects
        self.duplicates -= other.duplicates
        self.gaps -= other.gaps
        self.first_token.take_away(other.first_token)
        self.inter_token_p95.take_away(other.inter_token_p95)


class Tally:
    """Everything that was counted in a stretch of time. Times in microseconds."""

    __slots__ = (
        "attached",
        "chat",
        "chat_classes",
        "crashes",
        "departures",
        "loop_lag",
        "refusals",
        "reports",
        "resumed",
        "stops",
        "streams",
    )

    def __init__(self) -> None:
        self.streams: dict[RouteArm, StreamTally] = {}
        self.attached = 0
        self.resumed = 0
        self.departures: Counter[str] = Counter()
        self.refusals: Counter[RefusalKind] = Counter()
        self.reports = ReportTally()
        self.stops = 0
        self.crashes = 0
        self.chat = Histogram()
        self.chat_classes: Counter[str] = Counter()
        self.loop_lag = Histogram()

    def of(self, key: RouteArm) -> StreamTally:
        """Give the tally of one route and arm."""
        found = self.streams.get(key)
        if found is None:
            found = self.streams[key] = StreamTally()
        return found

    def all_streams(self) -> StreamTally:
        """Give those of all routes and arms as one."""
        total = StreamTally()
        for part in self.streams.values():
            total.merge(part)
        return total

    @property
    def failed_refusals(self) -> int:
        """How many requests failed before there was a stream."""
        return sum(count for kind, count in self.refusals.items() if kind.is_failure)

    @property
    def rate_limit_violations(self) -> int:
        """How many requests were over a quota."""
        return sum(count for kind, count in self.refusals.items() if kind.code == RateLimited.code)

    def count_chat(self, answered: ChatAnswered) -> None:
        """Count an answer of `/chat`."""
        self.chat.record(_to_us(answered.duration_ms))
        self.chat_classes[f"{answered.status // 100}xx"] += 1

    def merge(self, other: "Tally") -> None:
        """Add all that the other one counted."""
        for key, part in other.streams.items():
            self.of(key).merge(part)
        self.attached += other.attached
        self.resumed += other.resumed
        self.departures.update(other.departures)
        self.refusals.update(other.refusals)
        self.stops += other.stops
        self.crashes += other.crashes
        self.reports.merge(other.reports)
        self.chat.merge(other.chat)
        self.chat_classes.update(other.chat_classes)
        self.loop_lag.merge(other.loop_lag)

    def take_away(self, other: "Tally") -> None:
        """Take away what was added before."""
        for key, part in other.streams.items():
            left = self.of(key)
            left.take_away(part)
            if left.is_empty:
                del self.streams[key]
        self.attached -= other.attached
        self.resumed -= other.resumed
        self.departures -= other.departures
        self.refusals -= other.refusals
        self.stops -= other.stops
        self.crashes -= other.crashes
        self.reports.take_away(other.reports)
        self.chat.take_away(other.chat)
        self.chat_classes -= other.chat_classes
        self.loop_lag.take_away(other.loop_lag)


class _Sliding:
    """A window that slides by slices: `total` is what its newest `count` slices come to."""

    __slots__ = ("_count", "_slice_s", "_slices", "total")

    def __init__(self, slice_s: int, count: int) -> None:
        self.total = Tally()
        self._slice_s = slice_s
        self._count = count
        self._slices: deque[tuple[int, Tally]] = deque()

    def add(self, tally: Tally, at: float) -> None:
        """Add what was counted in the slice of this time."""
        number = int(at // self._slice_s)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append((number, Tally()))
        self._slices[-1][1].merge(tally)
        self.total.merge(tally)

    def slide_to(self, now: float) -> None:
        """Let go of what is too old."""
        oldest = int(now // self._slice_s) - self._count + 1
        while self._slices and self._slices[0][0] < oldest:
            self.total.take_away(self._slices.popleft()[1])

    def begins_at(self, now: float) -> float:
        """Give the time of the beginning of its oldest slice."""
        return (now // self._slice_s - self._count + 1) * self._slice_s


class Tallies:
    """The running tally, and those of the windows. `now` is monotonic seconds throughout and never goes back."""

    __slots__ = ("_minute", "_quarter", "_running", "_running_since", "_since_start", "started_at")

    def __init__(self, now: float) -> None:
        """Start empty."""
        self.started_at = now
        self._running = Tally()
        self._running_since = now
        self._minute = _Sliding(SLICE_S, SLICES_A_MINUTE)
        self._quarter = _Sliding(60, MINUTES)
        self._since_start = Tally()

    def running(self, now: float) -> Tally:
        """Give the tally to count into."""
        if now // SLICE_S != self._running_since // SLICE_S:
            self._settle(now)
        return self._running

    def over(self, window: Window, now: float) -> Tally:
        """Give what a window comes to: to be read at once, and not changed."""
        self._settle(now)
        match window:
            case Window.LAST_MINUTE:
                return self._minute.total
            case Window.LAST_QUARTER:
                return self._quarter.total
            case Window.SINCE_START:
                return self._since_start

    def covers_s(self, window: Window, now: float) -> float:
        """Give how many seconds of the past a window holds: up to one slice less than its name says."""
        begins_at = {
            Window.LAST_MINUTE: self._minute.begins_at(now),
            Window.LAST_QUARTER: self._quarter.begins_at(now),
            Window.SINCE_START: self.started_at,
        }
        return now - max(self.started_at, begins_at[window])

    def _settle(self, now: float) -> None:
        """Add the running tally to everything that it belongs to, and begin another one."""
        finished, since = self._running, self._running_since
        self._running, self._running_since = Tally(), now
        self._since_start.merge(finished)
        for window in (self._minute, self._quarter):
            window.add(finished, since)
            window.slide_to(now)


def requests_and_errors(tally: Tally, streams: StreamTally) -> tuple[int, int]:
    """Give how many requests came to something, and how many of them to a failure of ours or of the upstream."""
    return streams.judged + tally.failed_refusals, streams.failed + tally.failed_refusals


def refusal_kind(refused: Refused) -> RefusalKind:
    """Give what a refusal is counted by."""
    return RefusalKind(refused.route, refused.method, refused.status, refused.code, refused.reason)


def ratio(part: float, whole: float) -> float | None:
    """Give a share, None of nothing."""
    return part / whole if whole else None


def rows_of(counts: Mapping[_K, int]) -> list[tuple[_K, int]]:
    """Give counts in a stable order: the most frequent first."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))


def _to_us(milliseconds: float) -> int:
    return max(0, int(milliseconds * 1000))

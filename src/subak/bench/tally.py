"""What a run has seen so far: ints and histograms, in microseconds; a row for each second of the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from subak.client.wire import Refusal
from subak.core.histogram import Histogram

MAX_KINDS: Final = 50
OTHER: Final = "other"
"""Where errors go whose kind is one too many."""


class Crowd:
    """How many answers are open: `now`, at `most`, and on average. Times are monotonic seconds."""

    __slots__ = ("_area", "_changed_at", "_since", "mean", "most", "now")

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.mean: float | None = None
        """While questions came, from the first answer's end on: what comes before and after is a slope."""
        self._area = 0.0
        self._changed_at = 0.0
        self._since: float | None = None

    def come(self, at: float) -> None:
        """One more."""
        self._pass_to(at)
        self.now += 1
        self.most = max(self.most, self.now)
        if self._since is not None and self._changed_at > self._since:
            self.mean = self._area / (self._changed_at - self._since)

    def go(self, at: float) -> None:
        """One less."""
        self._pass_to(at)
        self.now -= 1
        if self._since is None:
            self._since = self._changed_at

    def _pass_to(self, at: float) -> None:
        moment = max(at, self._changed_at)
        if self._since is not None:
            self._area += self.now * (moment - self._changed_at)
        self._changed_at = moment


@dataclass(slots=True)
class Second:
    """One second of the run. `asked`: questions whose time came in it, and their first tokens; `open` at its end."""

    first_token: Histogram = field(default_factory=Histogram)
    asked: int = 0
    tokens: int = 0
    errors: int = 0
    open: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """The first refusal of its kind. `limit`: its `X-RateLimit-Limit`."""

    told: Refusal
    limit: str | None


@dataclass(slots=True)
class Tally:
    """Everything that is counted.

    `opened`: answers whose first event came; `whole`: those that ended as an answer ends; `stopped`: of them, those
    that we ended. `refused`: questions that met a 4xx. `waited`: questions that found every place taken. `joined`:
    tokens that came in one read with the one before. `lateness`: how long after its time our own timer let a question
    go. `transit`: from a token's stamp to our read, where tokens are stamped.
    """

    first_token: Histogram = field(default_factory=Histogram)
    inter_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)
    transit: Histogram = field(default_factory=Histogram)
    asked: int = 0
    opened: int = 0
    whole: int = 0
    stopped: int = 0
    refused: int = 0
    waited: int = 0
    events: int = 0
    tokens: int = 0
    joined: int = 0
    size_bytes: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    crowd: Crowd = field(default_factory=Crowd)
    errors: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, Refused] = field(default_factory=dict)
    seconds: list[Second] = field(default_factory=list)
    started_at: float = 0.0
    cpu_started_s: float = 0.0
    took_s: float = 0.0
    cpu_s: float = 0.0

    def begin(self, now: float, cpu_s: float) -> None:
        """Start the clock: `now` in monotonic seconds, `cpu_s` of this process so far."""
        self.started_at = now
        self.cpu_started_s = cpu_s

    def finish(self, now: float, cpu_s: float) -> None:
        """Stop the clock."""
        self.took_s = now - self.started_at
        self.cpu_s = cpu_s - self.cpu_started_s

    def second(self, at: float) -> Second:
        """Give the row of a moment."""
        index = max(0, int(at - self.started_at))
        while len(self.seconds) <= index:
            self.seconds.append(Second(open=self.crowd.now))
        return self.seconds[index]

    def ask(self, due_at: float) -> None:
        """A question's time has come."""
        self.asked += 1
        self.crowd.come(due_at)
        row = self.second(due_at)
        row.asked += 1
        row.open = self.crowd.now

    def leave(self, at: float) -> None:
        """A question is over, by whatever end."""
        self.crowd.go(at)
        self.second(at).open = self.crowd.now

    def fail(self, kind: str, at: float) -> None:
        """Something went wrong; `kind` is a short constant or a code that the other side gave."""
        if kind not in self.errors and len(self.errors) >= MAX_KINDS:
            kind = OTHER
        self.errors[kind] = self.errors.get(kind, 0) + 1
        self.second(at).errors += 1

    def refuse(self, refusal: Refusal, headers: Mapping[str, str], at: float) -> None:
        """A question was refused before the first byte of an answer."""
        kind = f"{refusal.status} {refusal.code}"
        self.refused += 400 <= refusal.status < 500  # noqa: PLR2004 - the caller's class of HTTP statuses
        self.fail(kind, at)
        if len(self.refusals) < MAX_KINDS:
            self.refusals.setdefault(kind, Refused(refusal, headers.get("x-ratelimit-limit")))

    @property
    def failed(self) -> int:
        """How many questions got no whole answer."""
        return sum(self.errors.values())

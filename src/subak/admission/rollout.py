"""The controller of a gradual rollout: reads figures, has `core.rollout_plan` judge them, and changes the flag.

Every process of a state directory watches its own figures. Each of them may roll back; only one raises, learns the
baseline and writes the status file: the one that holds the lock of `rollout.lock`, which the system hands on when it
dies. Every change is made in one transaction on the condition that the rollout still is what was judged, so two of
them never act upon the same step twice.

What is kept across a restart is the step and since when it holds. Figures are a process' own: after a restart a step
needs its requests anew.
"""

import fcntl
import os
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from subak.admission.flag_store import FlagsUnusable
from subak.admission.flags import Flags
from subak.core.clock import Clock
from subak.core.flag_state import FlagDocument, with_rollout
from subak.core.rollout import STREAMING
from subak.core.rollout_plan import (
    WINDOWS_S,
    Outcome,
    Rollout,
    RolloutFigures,
    RolloutTotals,
    TotalsSource,
    Verdict,
    advance,
    figures_between,
    with_baseline,
    worst,
)

EVALUATE_S: Final = 5.0
ACTOR: Final = "rollout"
LOCK_FILE: Final = "rollout.lock"
STATUS_FILE: Final = "rollout-status.json"

_KEPT_S: Final = max(WINDOWS_S)
_NOTHING_COUNTED: Final = RolloutTotals()


class RolloutStatus(msgspec.Struct, frozen=True):
    """What the controller last saw of the step that began at `step_since`.

    `figures`: of the last minute, the last quarter of an hour and the whole step.
    """

    at: datetime
    key: str
    step_since: datetime
    percentage: float
    verdict: Verdict
    figures: tuple[RolloutFigures, ...]


def read_status(state_dir: Path) -> RolloutStatus | None:
    """Give the last status of a state directory, None when there is none."""
    try:
        return msgspec.json.decode((state_dir / STATUS_FILE).read_bytes(), type=RolloutStatus)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


class _StepWatch:
    """What was counted since a step began, or since this process first saw it, with a reading every few seconds."""

    def __init__(self, rollout: Rollout, totals: RolloutTotals, now: float) -> None:
        self._mark = (rollout.started_at, rollout.step, rollout.step_since)
        self._first = totals
        self._readings: deque[tuple[float, RolloutTotals]] = deque([(now, totals)])

    def is_of(self, rollout: Rollout) -> bool:
        """Whether it is this step that is watched."""
        return self._mark == (rollout.started_at, rollout.step, rollout.step_since)

    def figures(self, totals: RolloutTotals, now: float) -> tuple[RolloutFigures, ...]:
        """Take a reading; give the figures of each window that ends now, and last those of the whole step."""
        while len(self._readings) > 1 and self._readings[1][0] <= now - _KEPT_S:
            self._readings.popleft()
        earlier = [self._reading_at(now - window_s) for window_s in WINDOWS_S]
        self._readings.append((now, totals))
        return tuple(figures_between(each, totals) for each in (*earlier, self._first))

    def _reading_at(self, time: float) -> RolloutTotals:
        """Give the last reading that isn't younger, else the oldest."""
        found = self._readings[0][1]
        for taken_at, totals in self._readings:
            if taken_at > time:
                break
            found = totals
        return found


class _Lock:
    """A file lock that one process, and in it one controller, holds until it lets go or ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def is_held(self) -> bool:
        """Whether it is ours; take it if it is nobody's."""
        if self._handle is not None:
            return True
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        """Give it up."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class RolloutController:
    """Carries one flag's rollout forward, or takes it back."""

    def __init__(
        self, flags: Flags, source: TotalsSource, clock: Clock, *, state_dir: Path, key: str = STREAMING
    ) -> None:
        """Watch it by `core.deadlines`; it does nothing while no rollout is under way."""
        self._flags = flags
        self._source = source
        self._clock = clock
        self._state_dir = state_dir
        self._key = key
        self._step: _StepWatch | None = None
        self._lock = _Lock(state_dir / LOCK_FILE)

    def close(self) -> None:
        """Let another process carry on."""
        self._lock.release()

    def on_deadline(self, now: float) -> float:
        """Evaluate; give when to do so again."""
        try:
            self._evaluate()
        except (FlagsUnusable, OSError):  # the state directory can't be written now: `Flags` tells, we come back
            return now + EVALUATE_S
        return now + EVALUATE_S

    def _evaluate(self) -> None:
        rollout = self._flags.document(self._key).live_rollout
        if rollout is None or not self._flags.is_permitted(self._key):
            self._step = None
            self._lock.release()
            return
        step = self._watch_step(rollout)
        totals = self._source.rollout_totals()
        figures = step.figures(totals, self._clock.monotonic())
        verdict = worst(rollout, figures)
        if verdict.outcome is Outcome.BAD:
            self._put(rollout, advance(rollout, verdict, self._flags.now()))
        elif self._lock.is_held():
            learned = with_baseline(rollout, figures_between(_NOTHING_COUNTED, totals))
            self._put(rollout, advance(learned, verdict, self._flags.now()))
        if self._lock.is_held():
            self._write_status(rollout, verdict, figures)

    def _put(self, judged: Rollout, following: Rollout) -> None:
        """Put the next state in place of the one that was judged, unless somebody else has been quicker."""
        if following is judged:
            return

        def change(document: FlagDocument) -> FlagDocument:
            return with_rollout(document, following) if document.rollout == judged else document

        why = following.why if following.why != judged.why else "took the baseline of /chat"
        document = self._flags.change(self._key, change, actor=ACTOR, why=why)
        if document.live_rollout is not None:
            self._watch_step(document.live_rollout)

    def _watch_step(self, rollout: Rollout) -> _StepWatch:
        """Give the watch over a rollout's present step, one that begins now where it is another step."""
        if self._step is None or not self._step.is_of(rollout):
            self._step = _StepWatch(rollout, self._source.rollout_totals(), self._clock.monotonic())
        return self._step

    def _write_status(self, rollout: Rollout, verdict: Verdict, figures: tuple[RolloutFigures, ...]) -> None:
        """Leave the figures for `subak rollout status`. Not for ever: no fsync."""
        status = RolloutStatus(self._flags.now(), self._key, rollout.step_since, rollout.percentage, verdict, figures)
        path = self._state_dir / STATUS_FILE
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(status))
        new.replace(path)

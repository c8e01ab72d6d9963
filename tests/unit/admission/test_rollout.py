"""The controller: raises step by step, takes back at once, once for all processes, across restarts."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.admission.flag_store import FlagStore
from subak.admission.flags import Flags
from subak.admission.rollout import EVALUATE_S, RolloutController, read_status
from subak.core.deadlines import Deadlines
from subak.core.facts import FlagChanged
from subak.core.flag_state import overridden, paused, resumed, started
from subak.core.rollout import STREAMING, Overrides
from subak.core.rollout_plan import ChatBaseline, Outcome, Phase, Rollout, RolloutTotals
from subak.testing import FakeClock, RecordingObserver

HOLD_S: Final = 300
STEPS: Final = (5.0, 25.0, 50.0, 100.0)
STREAM: Final = RolloutTotals(1, 1, 0, 1, 60, 10, 200)
FAILURE: Final = RolloutTotals(requests=1, errors=1)
CHAT: Final = RolloutTotals(chat_requests=1, chat_sum_ms=800)
SLOW_CHAT: Final = RolloutTotals(chat_requests=1, chat_sum_ms=1_600)


@dataclass
class Counters:
    """A process' totals, which a test adds to."""

    now: RolloutTotals = field(default_factory=RolloutTotals)

    def add(self, one: RolloutTotals, count: int) -> None:
        """Count the same thing so many times."""
        added = {name: getattr(self.now, name) + count * getattr(one, name) for name in one.__struct_fields__}
        self.now = RolloutTotals(**added)

    def rollout_totals(self) -> RolloutTotals:
        """Give them."""
        return self.now


class Worker:
    """One process of the gateway: its flags, its figures, its controller."""

    def __init__(self, here: "Installation") -> None:
        self.observer = RecordingObserver(here.clock)
        self.figures = Counters()
        self.flags = Flags(
            FlagStore.open(here.directory, patience_s=1),
            permits={STREAMING: True},
            file=None,
            clock=here.clock,
            observer=self.observer,
        )
        self._deadlines = here.deadlines
        self.controller = RolloutController(self.flags, self.figures, here.clock, state_dir=here.directory)
        for each in (self.flags, self.controller):
            here.deadlines.watch(each, here.clock.monotonic())

    def close(self) -> None:
        """End it, as a kill does: the system lets its lock go."""
        for each in (self.flags, self.controller):
            self._deadlines.forget(each)
        self.controller.close()
        self.flags.close()


class Installation:
    """A state directory with workers on one clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.deadlines = Deadlines()
        self.clock = FakeClock(self.deadlines)
        self.workers: list[Worker] = []

    def worker(self) -> Worker:
        """Start one."""
        self.workers.append(Worker(self))
        return self.workers[-1]

    def start(self, worker: Worker, **other: object) -> None:
        """Begin a rollout."""
        now = worker.flags.now()
        plan = Rollout(steps=STEPS, hold_s=HOLD_S, started_at=now, step_since=now, why="started")
        plan = msgspec.structs.replace(plan, **other)
        worker.flags.change(STREAMING, partial(started, plan=plan, allow=("user:1",)), actor="cli:somebody")
        self.pass_time(1)

    def pass_time(self, evaluations: float) -> None:
        """Let that many evaluations pass."""
        self.clock.advance(evaluations * EVALUATE_S)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.close()


def rollout_of(worker: Worker) -> Rollout:
    rollout = worker.flags.document(STREAMING).rollout
    assert rollout is not None
    return rollout


def percentage(worker: Worker) -> float | None:
    return worker.flags.document(STREAMING).overrides.percentage


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    with closing(Installation(tmp_path)) as installation:
        yield installation


def test_with_good_figures_it_goes_up_step_by_step_and_finishes(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    seen = []
    for _ in STEPS:
        seen.append(percentage(worker))
        worker.figures.add(STREAM, 250)
        has_held_at = rollout_of(worker).step_since + timedelta(seconds=HOLD_S)
        here.clock.advance((has_held_at - worker.flags.now()).total_seconds() - 1)
        assert percentage(worker) == seen[-1]
        here.pass_time(1.5)
    assert seen == [5, 25, 50, 100]
    assert (percentage(worker), rollout_of(worker).phase) == (100, Phase.FINISHED)
    whys = [change.why for change in worker.flags.history(STREAMING) if change.actor == "rollout"]
    assert [why.split(" ")[0] for why in whys] == ["finished:", "raised:", "raised:", "raised:"]
    assert len(worker.observer.of(FlagChanged)) == 5


def test_a_broken_upstream_takes_it_back_within_one_evaluation(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    assert percentage(worker) == 25
    worker.figures.add(FAILURE, 200)
    here.pass_time(1)
    assert (percentage(worker), rollout_of(worker).phase) == (5, Phase.ROLLED_BACK)
    newest = worker.flags.history(STREAMING)[0]
    assert newest.why == "rolled back from 25 %: error-rate is 100 %, not below 5 %"
    assert newest.actor == "rollout"


def test_a_failure_after_a_good_day_is_not_averaged_away(here: Installation) -> None:
    worker = here.worker()
    here.start(worker, hold_s=86_400)
    worker.figures.add(STREAM, 100_000)
    here.clock.advance(1_800)
    assert percentage(worker) == 5
    worker.figures.add(FAILURE, 200)
    here.pass_time(1)
    assert percentage(worker) == 0


def test_it_is_taken_back_step_by_step_when_that_does_not_help(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    for _ in range(2):
        worker.figures.add(STREAM, 250)
        here.clock.advance(HOLD_S + EVALUATE_S)
    seen = [percentage(worker)]
    for _ in range(4):
        worker.figures.add(FAILURE, 200)
        here.pass_time(1)
        seen.append(percentage(worker))
    assert seen == [50, 25, 5, 0, 0]


def test_few_requests_decide_nothing(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(FAILURE, 199)
    here.clock.advance(3 * HOLD_S)
    assert (percentage(worker), rollout_of(worker).phase) == (5, Phase.RUNNING)
    worker.figures.add(FAILURE, 1)
    here.pass_time(1)
    assert percentage(worker) == 0


def test_middling_figures_hold_it_where_it_is(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(STREAM, 250)
    worker.figures.add(FAILURE, 5)
    here.clock.advance(3 * HOLD_S)
    assert (percentage(worker), rollout_of(worker).phase) == (5, Phase.RUNNING)


def test_requests_of_the_step_before_do_not_count(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(STREAM, 10_000)
    here.clock.advance(3 * HOLD_S)
    assert percentage(worker) == 25


def test_paused_it_does_not_rise_but_is_taken_back(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.flags.change(STREAMING, partial(paused, now=worker.flags.now()), actor="cli:somebody")
    here.pass_time(1)
    worker.figures.add(STREAM, 1_000)
    here.clock.advance(3 * HOLD_S)
    assert percentage(worker) == 5
    worker.figures.add(FAILURE, 300)
    here.pass_time(1)
    assert (percentage(worker), rollout_of(worker).phase) == (0, Phase.ROLLED_BACK)


def test_resumed_after_a_roll_back_the_old_failures_are_forgotten(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(FAILURE, 300)
    here.pass_time(1)
    worker.flags.change(STREAMING, partial(resumed, now=worker.flags.now()), actor="cli:somebody")
    worker.figures.add(STREAM, 250)
    here.pass_time(1)
    worker.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    assert (percentage(worker), rollout_of(worker).phase) == (25, Phase.RUNNING)


def test_switched_off_it_neither_rises_nor_falls(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(STREAM, 250)
    wanted = Overrides(is_off=True, percentage=5, allow=("user:1",))
    worker.flags.change(STREAMING, partial(overridden, wanted=wanted, now=worker.flags.now()), actor="admin")
    here.clock.advance(3 * HOLD_S)
    assert (percentage(worker), rollout_of(worker).phase) == (5, Phase.PAUSED)


def test_without_the_environments_permit_it_waits(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.flags.configure({STREAMING: False}, None)
    worker.figures.add(STREAM, 250)
    here.clock.advance(3 * HOLD_S)
    assert percentage(worker) == 5


def test_a_restart_keeps_step_and_hold_and_counts_requests_anew(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    worker.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S / 2)
    since = rollout_of(worker).step_since
    worker.close()
    here.workers.clear()
    restarted = here.worker()
    here.clock.advance(HOLD_S)
    assert (percentage(restarted), rollout_of(restarted).step_since) == (5, since)
    restarted.figures.add(STREAM, 200)
    here.pass_time(1)
    assert percentage(restarted) == 25


def test_of_two_workers_only_one_raises(here: Installation) -> None:
    one, other = here.worker(), here.worker()
    here.start(one)
    other.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    assert percentage(one) == 5
    one.figures.add(STREAM, 250)
    here.pass_time(1)
    assert percentage(one) == percentage(other) == 25
    assert len(one.flags.history(STREAMING)) == 2


def test_either_of_two_workers_takes_it_back_and_once(here: Installation) -> None:
    one, other = here.worker(), here.worker()
    here.start(one)
    one.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    for worker in (one, other):
        worker.figures.add(FAILURE, 300)
    here.pass_time(1)
    assert percentage(one) == percentage(other) == 5
    assert len(one.flags.history(STREAMING)) == 3


def test_a_worker_that_has_not_heard_of_it_does_not_take_it_back_again(here: Installation) -> None:
    one, other = here.worker(), here.worker()
    here.start(one)
    one.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    here.deadlines.forget(other.flags)
    one.figures.add(FAILURE, 300)
    here.pass_time(1)
    other.figures.add(FAILURE, 300)
    here.pass_time(1)
    assert percentage(one) == percentage(other) == 5
    assert len(one.flags.history(STREAMING)) == 3


def test_a_worker_that_does_not_raise_takes_back(here: Installation) -> None:
    one, other = here.worker(), here.worker()
    here.start(one)
    other.figures.add(FAILURE, 300)
    here.pass_time(1)
    assert percentage(other) == 0


def test_when_the_one_that_raises_is_gone_the_other_does(here: Installation) -> None:
    one, other = here.worker(), here.worker()
    here.start(one)
    one.close()
    here.workers.remove(one)
    other.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    assert percentage(other) == 25


def test_one_that_may_no_longer_stream_lets_the_other_raise(here: Installation) -> None:
    one, other = here.worker(), here.worker()
    here.start(one)
    one.flags.configure({STREAMING: False}, None)
    other.figures.add(STREAM, 250)
    here.clock.advance(HOLD_S + EVALUATE_S)
    assert percentage(other) == 25


def test_chat_that_got_slower_than_before_the_rollout_takes_it_back(here: Installation) -> None:
    worker = here.worker()
    worker.figures.add(CHAT, 300)
    here.start(worker)
    assert rollout_of(worker).chat_baseline == ChatBaseline(800, 0)
    assert worker.flags.history(STREAMING)[0].why == "took the baseline of /chat"
    worker.figures.add(STREAM, 250)
    worker.figures.add(SLOW_CHAT, 250)
    here.pass_time(1)
    assert percentage(worker) == 0
    assert "chat-slowdown is 100 %" in rollout_of(worker).why


def test_without_chat_before_it_the_first_step_gives_the_baseline(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    assert rollout_of(worker).chat_baseline is None
    worker.figures.add(CHAT, 200)
    here.pass_time(1)
    assert rollout_of(worker).chat_baseline == ChatBaseline(800, 0)


def test_the_status_has_the_figures_and_the_verdict(here: Installation) -> None:
    worker = here.worker()
    here.start(worker)
    assert (status := read_status(here.directory)) is not None
    assert (status.key, status.percentage, status.verdict.outcome) == (STREAMING, 5, Outcome.TOO_FEW)
    assert status.step_since == rollout_of(worker).step_since
    worker.figures.add(STREAM, 250)
    here.pass_time(1)
    here.clock.advance(100)
    assert (status := read_status(here.directory)) is not None
    assert status.verdict.outcome is Outcome.GOOD
    assert [figures.requests for figures in status.figures] == [0, 250, 250]
    assert worker.flags.now() - status.at < timedelta(seconds=EVALUATE_S + 1)


def test_the_status_is_for_its_owner_alone(here: Installation) -> None:
    old = here.directory / "rollout-status.new"
    old.write_bytes(b"half of one, of a process that was killed")
    here.start(here.worker())
    assert read_status(here.directory) is not None
    assert (here.directory / "rollout-status.json").stat().st_mode & 0o777 == 0o600
    assert not old.exists()


def test_a_directory_without_a_status_has_none(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "rollout-status.json").write_text("{", encoding="utf-8")
    assert read_status(tmp_path) is None

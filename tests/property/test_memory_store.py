"""The memory store's book-keeping: what it says it takes is what it holds, and only live logs may exceed the budget."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from subak.core.deadlines import Deadlines
from subak.core.envelope import StreamMetrics, done_event, error_event, metadata_event, token_event
from subak.core.errors import BudgetExhausted, CursorExpired, ErrorCode
from subak.core.events import Event, Failed, FinishReason
from subak.replay.base import Created, IdempotencyKey, StreamLog, StreamMeta, Tombstone
from subak.testing import FakeClock
from tests.stage import Terms, at_once, memory_store

TERMS = Terms(budget_bytes=20_000, replay_s=50, tombstone_s=100, key_ttl_s=200, max_keys=2)


class MemoryStoreMachine(RuleBasedStateMachine):
    """Streams come, grow, end and age."""

    def __init__(self) -> None:
        super().__init__()
        deadlines = Deadlines()
        self.clock = FakeClock(deadlines)
        self.store = memory_store(TERMS, self.clock)
        deadlines.watch(self.store, self.store.on_deadline(self.clock.monotonic()))
        self.live: list[StreamLog] = []
        self.known: list[str] = []
        self.ended_at: dict[str, float] = {}

    @rule(key=st.none() | st.integers(0, 3))
    def create(self, key: int | None) -> None:
        stream_id = f"st_{len(self.known):028d}"
        live_bytes = sum(log.size_bytes for log in self.live)
        try:
            made = at_once(
                self.store.create(
                    StreamMeta(stream_id, "", 0), None if key is None else IdempotencyKey(bytes([key]), b"q")
                )
            )
        except BudgetExhausted:
            assert live_bytes > TERMS.budget_bytes, "only live logs may stand in a new one's way"
            return
        except CursorExpired:
            return
        if isinstance(made, Created):
            self.known.append(stream_id)
            self.live.append(made.log)
            made.log.append([metadata_event(stream_id, "c", 0)])

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 99), sizes=st.lists(st.sampled_from((0, 10, 1000, 6000)), min_size=1, max_size=3))
    def grow(self, which: int, sizes: list[int]) -> None:
        self.live[which % len(self.live)].append([token_event("x" * size, 0) for size in sizes])

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 99), has_failed=st.booleans())
    def end(self, which: int, *, has_failed: bool) -> None:
        log = self.live.pop(which % len(self.live))
        self.ended_at[log.meta.stream_id] = self.clock.monotonic()
        log.append([self._ending(has_failed=has_failed)])

    @rule(seconds=st.sampled_from((0.5, 10, 49, 60, 120)))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_size_is_that_of_what_is_held(self) -> None:
        assert self.store.size_bytes == sum(self._size_of(stream_id) for stream_id in self.known)

    @invariant()
    def only_live_logs_may_exceed_the_budget(self) -> None:
        if self.store.size_bytes > TERMS.budget_bytes:
            assert self.store.size_bytes == sum(log.size_bytes for log in self.live)

    @invariant()
    def live_logs_are_whole(self) -> None:
        for log in self.live:
            assert at_once(self.store.find(log.meta.stream_id)) is log

    @invariant()
    def nothing_is_kept_past_its_time(self) -> None:
        now = self.clock.monotonic()
        for stream_id, ended_at in self.ended_at.items():
            found = at_once(self.store.find(stream_id))
            if now - ended_at > TERMS.replay_s + 1:
                assert found is None or isinstance(found, Tombstone)
            if now - ended_at > TERMS.replay_s + TERMS.tombstone_s + 2:
                assert found is None

    def _size_of(self, stream_id: str) -> int:
        found = at_once(self.store.find(stream_id))
        if found is None:
            return 0
        return len(found.text or b"") if isinstance(found, Tombstone) else found.size_bytes

    @staticmethod
    def _ending(*, has_failed: bool) -> Event:
        if has_failed:
            return error_event(Failed(ErrorCode.UPSTREAM_ERROR, "x"), "c", 0)
        return done_event(FinishReason.STOP, StreamMetrics(None, 0, 0, 0), None, 0)


TestMemoryStore = MemoryStoreMachine.TestCase

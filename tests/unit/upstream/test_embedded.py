"""The upstream that lives in this process."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
import pytest

from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import DONE, SOURCES, TOKEN, Ending, Event, Failed, Finished, FinishReason
from subak.core.question import Question
from subak.testing import FakeClock, RecordingSink
from subak.upstream.embedded import MAX_BACKLOG_PIECES, MAX_BATCH_PIECES, EmbeddedExchange, EmbeddedUpstream

QUESTION = Question("?")


class Piece(msgspec.Struct, frozen=True):
    type: str
    data: bytes
    size_bytes: int = 10


def token(text: str) -> Piece:
    return Piece(TOKEN, msgspec.json.encode(text))


ABC = [token("a "), token("b "), token("c")]
SOURCE = Piece(SOURCES, b'[{"source":"s","snippet":"","similarity":0.5}]', 50)
END = Piece(DONE, b'"stop"', 7)


class Scripted:
    """Answers with the given batches, one when it is asked for; an exception among them is raised."""

    def __init__(self, *batches: Sequence[Piece] | Exception | asyncio.Event) -> None:
        self.batches = batches
        self.questions: list[Question] = []
        self.given = 0
        self.is_closed = False

    async def answer(self, question: Question) -> AsyncGenerator[Sequence[Piece], None]:
        self.questions.append(question)
        try:
            for batch in self.batches:
                if isinstance(batch, Exception):
                    raise batch
                if isinstance(batch, asyncio.Event):
                    await batch.wait()
                    continue
                self.given += 1
                yield batch
        finally:
            self.is_closed = True


class ManualTimer:
    """Timers that come when the test lets them."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []
        self._due: list[Alarm] = []

    def schedule(self, delay_s: float, callback: Callable[[], None]) -> "Alarm":
        self.delays_s.append(delay_s)
        alarm = Alarm(callback)
        self._due.append(alarm)
        return alarm

    @property
    def waiting(self) -> int:
        return sum(1 for alarm in self._due if not alarm.is_cancelled)

    def fire(self) -> None:
        """Let what is due now come; what that schedules comes the next time."""
        due, self._due = self._due, []
        for alarm in due:
            if not alarm.is_cancelled:
                alarm.callback()


class Alarm:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Setting:
    """An upstream with a manual timer, and a sink that listens to it."""

    def __init__(self, answerer: Scripted, tasks: asyncio.TaskGroup, pace_ms: float) -> None:
        self.timer = ManualTimer()
        self.sink = RecordingSink()
        self.upstream = EmbeddedUpstream(
            answerer, tasks=tasks, clock=FakeClock(), pace_ms=pace_ms, schedule=self.timer.schedule
        )

    async def open(self) -> EmbeddedExchange:
        exchange = await self.upstream.open(QUESTION, self.sink)
        await settle()
        return exchange


async def settle() -> None:
    """Let every task run until it waits for something else than its turn."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_tokens_come_one_at_a_time_at_the_set_pace_and_the_first_at_once() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([*ABC, SOURCE, END]), tasks, pace_ms=35)
        await setting.open()
        assert setting.sink.events == []
        for count in (1, 2):
            setting.timer.fire()
            assert len(setting.sink.events) == count
        assert setting.timer.delays_s == [0, 0.035, 0.035]


async def test_the_last_token_brings_the_sources_and_the_end_with_it() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([*ABC, SOURCE, END]), tasks, pace_ms=35)
        await setting.open()
        for _ in range(3):
            setting.timer.fire()
        assert [event.type for event in setting.sink.events] == [TOKEN, TOKEN, TOKEN, SOURCES]
        assert setting.sink.endings == [Finished()]
        assert setting.sink.reads == 3
        assert setting.sink.size_bytes == 3 * 10 + 50 + 7
        assert setting.timer.waiting == 0


async def test_events_bear_the_answers_json_and_the_clocks_time() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([token('é "quoted"\n'), SOURCE, END]), tasks, pace_ms=0)
        await setting.open()
        setting.timer.fire()
        at_ms = FakeClock().time_ms()
        assert setting.sink.events == [
            Event(TOKEN, '"é \\"quoted\\"\\n"'.encode(), at_ms),
            Event(SOURCES, SOURCE.data, at_ms),
        ]


async def test_without_a_pace_a_flood_is_passed_on_in_bounded_batches() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([token("x")] * 200 + [END]), tasks, pace_ms=0)
        await setting.open()
        setting.timer.fire()
        assert len(setting.sink.events) == MAX_BATCH_PIECES
        for _ in range(3):
            setting.timer.fire()
        assert len(setting.sink.events) == 200
        assert setting.sink.endings == [Finished()]


async def test_a_flood_lets_others_run_in_between() -> None:
    turns = 0

    def count_turn() -> None:
        nonlocal turns
        turns += 1
        if not sink.endings:
            loop.call_soon(count_turn)

    loop = asyncio.get_running_loop()
    sink = RecordingSink()
    async with asyncio.TaskGroup() as tasks:
        upstream = EmbeddedUpstream(Scripted([token("x")] * 6_400 + [END]), tasks=tasks, clock=FakeClock(), pace_ms=0)
        await upstream.open(QUESTION, sink)
        count_turn()
        await sink.wait_ended()
    assert sink.reads >= 100
    assert turns >= 100


async def test_open_returns_before_anything_reaches_the_sink() -> None:
    async with asyncio.TaskGroup() as tasks:
        sink = RecordingSink()
        upstream = EmbeddedUpstream(Scripted([*ABC, END]), tasks=tasks, clock=FakeClock(), pace_ms=0)
        await upstream.open(QUESTION, sink)
        assert sink.reads == 0
        assert await sink.wait_ended() == Finished()


async def test_a_paused_exchange_passes_nothing_on_until_it_is_resumed() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([*ABC, END]), tasks, pace_ms=35)
        exchange = await setting.open()
        setting.timer.fire()
        exchange.pause()
        exchange.pause()
        setting.timer.fire()
        assert len(setting.sink.events) == 1
        assert setting.timer.waiting == 0
        exchange.resume()
        exchange.resume()
        assert setting.timer.waiting == 1
        setting.timer.fire()
        setting.timer.fire()
        assert setting.sink.text == "a b c"
        assert setting.sink.endings == [Finished()]


async def test_an_answer_that_comes_while_paused_waits() -> None:
    gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted(gate, [*ABC, END]), tasks, pace_ms=0)
        exchange = await setting.open()
        exchange.pause()
        gate.set()
        await settle()
        assert setting.timer.waiting == 0
        exchange.resume()
        setting.timer.fire()
        assert setting.sink.text == "a b c"


async def test_after_an_abort_the_sink_hears_nothing_and_the_answerer_is_closed() -> None:
    answerer = Scripted(ABC, asyncio.Event(), [END])
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(answerer, tasks, pace_ms=35)
        exchange = await setting.open()
        setting.timer.fire()
        exchange.abort()
        exchange.abort()
        exchange.resume()
        setting.timer.fire()
        await settle()
        assert len(setting.sink.events) == 1
        assert setting.sink.endings == []
        assert answerer.is_closed
        assert setting.timer.waiting == 0


async def test_an_abort_right_after_open_leaves_nothing_behind() -> None:
    answerer = Scripted([END])
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(answerer, tasks, pace_ms=0)
        exchange = await setting.upstream.open(QUESTION, setting.sink)
        exchange.abort()
    assert answerer.questions == []
    assert setting.sink.reads == 0


class Aborting(RecordingSink):
    """Aborts at the first token."""

    exchange: EmbeddedExchange | None = None

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        super().on_read(events, ending, size_bytes)
        if self.exchange is not None:
            self.exchange.abort()


async def test_a_sink_may_abort_while_it_is_called() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([*ABC, END]), tasks, pace_ms=35)
        sink = Aborting()
        sink.exchange = await setting.upstream.open(QUESTION, sink)
        await settle()
        setting.timer.fire()
        setting.timer.fire()
    assert sink.reads == 1
    assert setting.timer.waiting == 0


@pytest.mark.parametrize("reason", list(FinishReason))
async def test_the_finish_reason_is_the_answers(reason: FinishReason) -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([token("x"), Piece(DONE, msgspec.json.encode(reason))]), tasks, pace_ms=0)
        await setting.open()
        setting.timer.fire()
        assert setting.sink.endings == [Finished(reason)]


async def test_a_failure_comes_after_the_tokens_that_were_there() -> None:
    error = UpstreamError(ErrorCode.UPSTREAM_RATE_LIMITED, "llm_rate_limited", retry_after_s=7)
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted(ABC, error), tasks, pace_ms=35)
        await setting.open()
        for _ in range(4):
            setting.timer.fire()
        assert setting.sink.text == "a b c"
        assert setting.sink.endings == [Failed(ErrorCode.UPSTREAM_RATE_LIMITED, "llm_rate_limited", 7)]


async def test_a_failure_before_any_token_is_an_ending_too() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted(UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, "llm_timeout")), tasks, pace_ms=35)
        await setting.open()
        setting.timer.fire()
        assert setting.sink.endings == [Failed(ErrorCode.UPSTREAM_TIMEOUT, "llm_timeout")]


async def test_an_answer_without_its_end_is_truncated() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted(ABC), tasks, pace_ms=0)
        await setting.open()
        setting.timer.fire()
        assert setting.sink.text == "a b c"
        assert setting.sink.endings == [Failed(ErrorCode.UPSTREAM_TRUNCATED, "no_done")]


@pytest.fixture
async def reported() -> list[str]:
    """What the loop's exception handler was told."""
    messages: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(repr(context)))
    return messages


async def test_a_defect_ends_the_answer_and_is_reported_without_its_text(reported: list[str]) -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted(ABC, ValueError("what the caller asked")), tasks, pace_ms=0)
        await setting.open()
        setting.timer.fire()
        assert setting.sink.endings == [Failed(ErrorCode.INTERNAL_ERROR, "answerer_crash")]
    assert len(reported) == 1
    assert "ValueError" in reported[0]
    assert "what the caller asked" not in reported[0]


async def test_nothing_follows_the_end() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted([token("a"), END, token("b")], [token("c")]), tasks, pace_ms=0)
        await setting.open()
        for _ in range(3):
            setting.timer.fire()
            await settle()
        assert setting.sink.text == "a"
        assert setting.sink.endings == [Finished()]
        assert setting.sink.late_reads == 0


async def test_an_answer_that_is_faster_than_its_reader_is_held_back() -> None:
    batch = [token("x")] * 100
    answerer = Scripted(*[batch] * 50, [END])
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(answerer, tasks, pace_ms=0)
        exchange = await setting.open()
        exchange.pause()
        await settle()
        held_at = answerer.given
        assert held_at * 100 <= MAX_BACKLOG_PIECES + 2 * 100
        exchange.resume()
        while not setting.sink.endings:
            setting.timer.fire()
            await settle()
        assert answerer.given == 51
        assert setting.sink.text == "x" * 5_000


async def test_close_aborts_every_exchange_under_way() -> None:
    async with asyncio.TaskGroup() as tasks:
        setting = Setting(Scripted(ABC, asyncio.Event()), tasks, pace_ms=35)
        for _ in range(3):
            await setting.open()
        await setting.upstream.close()
        setting.timer.fire()
    assert setting.sink.events == []
    assert setting.timer.waiting == 0


async def test_the_question_reaches_the_answerer_as_it_was_asked() -> None:
    answerer = Scripted([END])
    async with asyncio.TaskGroup() as tasks:
        await Setting(answerer, tasks, pace_ms=0).open()
    assert answerer.questions == [QUESTION]

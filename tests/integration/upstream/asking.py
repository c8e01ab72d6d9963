"""What the tests here share: an upstream under a clock that they move, and a question put to it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from subak.core.deadlines import Deadlines
from subak.core.errors import ErrorCode
from subak.core.events import Ending, Failed
from subak.core.question import Question
from subak.testing import PATIENCE_S, FakeClock, RecordingSink
from subak.upstream.http1 import Http1Exchange, Http1Limits
from subak.upstream.openai import OpenAiUpstream
from subak.upstream.rag import RagBounds, RagTarget, RagUpstream

Upstream = TypeVar("Upstream", RagUpstream, OpenAiUpstream)
QUESTION = Question("What is a KITAS?")
LIMITS = Http1Limits(first_byte_timeout_s=60, idle_timeout_s=120)


async def until(is_met: Callable[[], bool]) -> None:
    """Let the loop run, round by round, until a condition holds that nobody reports."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_met():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


@dataclass
class Asker(Generic[Upstream]):
    """An upstream and its time. `patience_s`: how long, in real seconds, an ending is waited for."""

    upstream: Upstream
    clock: FakeClock
    deadlines: Deadlines
    patience_s: float = PATIENCE_S
    sinks: list[RecordingSink] = field(default_factory=list)

    async def open(self, question: Question = QUESTION) -> tuple[Http1Exchange, RecordingSink]:
        """Ask, and give what is under way and who hears of it."""
        sink = RecordingSink()
        self.sinks.append(sink)
        return await self.upstream.open(question, sink), sink

    async def ask(self, question: Question = QUESTION) -> tuple[RecordingSink, Ending]:
        """Ask, and wait for the end."""
        _, sink = await self.open(question)
        return sink, await sink.wait_ended(self.patience_s)

    async def wait_idle(self, count: int) -> None:
        """Return once that many connections are kept."""
        await until(lambda: self.upstream.client.idle_connections == count)


@asynccontextmanager
async def asking(
    target: RagTarget | str, *, limits: Http1Limits = LIMITS, bounds: RagBounds | None = None
) -> AsyncIterator[Asker[RagUpstream]]:
    """Make one that asks a RAG backend."""
    deadlines = Deadlines()
    clock = FakeClock(deadlines)
    upstream = RagUpstream(
        RagTarget(url=target) if isinstance(target, str) else target,
        clock=clock,
        deadlines=deadlines,
        limits=limits,
        bounds=bounds,
    )
    async with closed_well(Asker(upstream, clock, deadlines)) as asker:
        yield asker


@asynccontextmanager
async def closed_well(asker: Asker[Upstream]) -> AsyncIterator[Asker[Upstream]]:
    """Close its upstream; then nothing may be watched any more, and no sink may have heard two endings."""
    try:
        yield asker
    finally:
        await asker.upstream.close()
    assert len(asker.deadlines) == 0
    assert all(len(sink.endings) <= 1 and sink.late_reads == 0 for sink in asker.sinks)


def failure(code: ErrorCode, reason: str, retry_after_s: int | None = None) -> Failed:
    """Spell an expected ending."""
    return Failed(code, reason, retry_after_s)

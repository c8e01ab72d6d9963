"""What the tests of chat completions share: an upstream under a clock that they move, and a server's frames."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from subak.core.deadlines import Deadlines
from subak.core.events import Ending
from subak.core.question import Question
from subak.testing import PATIENCE_S, End, FakeClock, Frame, Head, RecordingSink, Step
from subak.upstream.http1 import Http1Exchange, Http1Limits
from subak.upstream.openai import OpenAiTarget, OpenAiUpstream
from tests.integration.upstream.asking import until

QUESTION = Question("What is a KITAS?")
LIMITS = Http1Limits(first_byte_timeout_s=60, idle_timeout_s=120)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def delta(text: str | None = None, finish_reason: str | None = None, **members: object) -> Frame:
    """A chunk with one choice."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish_reason}
    return Frame(json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [choice], **members}))


DONE = Frame("[DONE]")
ACCOUNT = Frame(json.dumps({"id": "x", "choices": [], "usage": USAGE}))
ANSWER: list[Step] = [Head(), delta("Ciao "), delta("mondo"), delta(None, "stop"), ACCOUNT, DONE, End()]


class ModelAsker:
    """An upstream of chat completions and its time."""

    def __init__(self, upstream: OpenAiUpstream, clock: FakeClock, patience_s: float) -> None:
        """`patience_s`: how long, in real seconds, an ending is waited for."""
        self.upstream = upstream
        self.clock = clock
        self.patience_s = patience_s
        self.sinks: list[RecordingSink] = []

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
async def asking_model(
    target: OpenAiTarget | str,
    *,
    limits: Http1Limits = LIMITS,
    max_event_bytes: int = 256 * 1024,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[ModelAsker]:
    """Make an asker; at the end nothing may be watched any more, and no sink may have heard two endings."""
    deadlines = Deadlines()
    clock = FakeClock(deadlines)
    upstream = OpenAiUpstream(
        OpenAiTarget(url=target) if isinstance(target, str) else target,
        clock=clock,
        deadlines=deadlines,
        limits=limits,
        max_event_bytes=max_event_bytes,
    )
    asker = ModelAsker(upstream, clock, patience_s)
    try:
        yield asker
    finally:
        await upstream.close()
    assert len(deadlines) == 0
    assert all(len(sink.endings) <= 1 and sink.late_reads == 0 for sink in asker.sinks)


def bearer(key: str) -> Mapping[str, str]:
    """The headers that carry this key."""
    return {"Authorization": f"Bearer {key}"}

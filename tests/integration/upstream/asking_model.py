"""What the tests of chat completions share: an upstream under a clock that they move, and a server's frames."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from subak.core.deadlines import Deadlines
from subak.testing import PATIENCE_S, End, FakeClock, Frame, Head, Step
from subak.upstream.http1 import Http1Limits
from subak.upstream.openai import OpenAiTarget, OpenAiUpstream
from tests.integration.upstream.asking import LIMITS, Asker, closed_well

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def delta(text: str | None = None, finish_reason: str | None = None, **members: object) -> Frame:
    """A chunk with one choice."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish_reason}
    return Frame(json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [choice], **members}))


DONE = Frame("[DONE]")
ACCOUNT = Frame(json.dumps({"id": "x", "choices": [], "usage": USAGE}))
ANSWER: list[Step] = [Head(), delta("Ciao "), delta("mondo"), delta(None, "stop"), ACCOUNT, DONE, End()]


@asynccontextmanager
async def asking_model(
    target: OpenAiTarget | str,
    *,
    limits: Http1Limits = LIMITS,
    max_event_bytes: int = 256 * 1024,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Asker[OpenAiUpstream]]:
    """Make one that asks for chat completions."""
    deadlines = Deadlines()
    clock = FakeClock(deadlines)
    upstream = OpenAiUpstream(
        OpenAiTarget(url=target) if isinstance(target, str) else target,
        clock=clock,
        deadlines=deadlines,
        limits=limits,
        max_event_bytes=max_event_bytes,
    )
    async with closed_well(Asker(upstream, clock, deadlines, patience_s)) as asker:
        yield asker


def bearer(key: str) -> Mapping[str, str]:
    """The headers that carry this key."""
    return {"Authorization": f"Bearer {key}"}

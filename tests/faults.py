"""Plans of everything that can go wrong on the way of one answer, made from a number: the same number, the same faults.

A plan has what the backend says, in which chunks and with which pauses, and what each connection of the reader is like:
cut at a byte, dead without a word, sliced, late, or held back until the answer is whole. Any reader can be put to them,
in any language: point it at the proxy of `faulty_line`, ask `plan.question`, and compare what it has with `plan.text`.

    async with ScriptedUpstream(say_planned) as upstream, running(upstream) as gateway:
        async with faulty_line(gateway.url, plan) as proxy:
            ...  # ask plan.question of proxy.url
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from subak.testing import Body, Cut, Direction, End, Gate, Head, How, Line, RecordedRequest, Step, ToxicProxy, Way

BAD_CONNECTIONS: Final = 6
"""After so many connections all are good: every answer comes to its end."""
PIECES: Final = ("a", "Ciao ", "sawah ", "è", "\u2028", "😀", "\n\n", '"', "\\", "ᬲᬸᬩᬓ ", "\0", "x" * 300)
SOURCES: Final = b'{"sources": [{"source": "kitas.md", "snippet": "A KITAS is ...", "similarity": 0.8}]}'
_QUESTION: Final = "plan "
_PAUSE_S: Final = 0.02
_DEAD: Final = (How.HALF_OPEN, How.BLACK_HOLE)


class FaultPlan:
    """One plan. `with_dead_lines`: some connections die without a word, which takes readers their silence to notice."""

    def __init__(self, number: int, *, with_dead_lines: bool = True) -> None:
        dice = random.Random(number)
        self.number = number
        self.question = f"{_QUESTION}{number}"
        self.tokens = [_token(dice) for _ in range(dice.choice([0, 1, 3, 10, 40, 80]))]
        self.has_sources = dice.random() < 0.5
        self.is_held_back = dice.random() < 0.1
        """Whether nothing comes through before the answer is whole, as behind a proxy that buffers."""
        self.leaves_after = dice.randint(1, len(self.tokens) + 1) if dice.random() < 0.25 else None
        """How many events its reader takes before it leaves and comes back; None for one that stays."""
        self._with_dead_lines = with_dead_lines
        self._dice = dice

    @property
    def text(self) -> str:
        """What every reader must have in the end."""
        return "".join(self.tokens)

    def script(self) -> Iterator[Step]:
        """Say the answer as a RAG backend, in random chunks with random pauses between them."""
        frames = [msgspec.json.encode({"text": text}) for text in self.tokens]
        if self.has_sources:
            frames.append(SOURCES)
        body = b"".join(b"data: " + frame + b"\n\n" for frame in [*frames, b'{"done": true}'])
        dice = random.Random(f"{self.number}:script")
        yield Head()
        for chunk in _chunks(body, dice):
            if dice.random() < 0.4:
                yield _pause(dice.random() * _PAUSE_S)
            yield Body(chunk)
        yield End()

    def line(self, number: int) -> Line:
        """Give the line of the n-th connection, from 0."""
        dice = random.Random(f"{self.number}:{number}")
        if number >= BAD_CONNECTIONS or dice.random() < 0.1:
            return Line()
        direction: Direction = "to_server" if dice.random() < 0.1 else "to_client"
        most = 400 if direction == "to_server" else 160 * len(self.tokens) + 1_200
        way = Way(
            slice_bytes=dice.choice([None, None, 1, 7, 100]),
            jitter_s=dice.choice([0.0, 0.0, 0.01]),
        )
        is_dead = self._with_dead_lines and dice.random() < 0.1
        how = dice.choice(_DEAD if is_dead else (How.RESET, How.CLOSE))
        return Line(to_client=way, cut=Cut(dice.randint(0, most), how, direction))


@asynccontextmanager
async def faulty_line(url: str, plan: FaultPlan, *, held_s: float = 0.2) -> AsyncIterator[ToxicProxy]:
    """Put a plan's faults before the server at `url`; a plan that is held back lets nothing through for so long."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with (
        ToxicProxy(parts.hostname, parts.port, plan.line, seed=plan.number) as proxy,
        asyncio.TaskGroup() as tasks,
    ):
        holding = tasks.create_task(_hold_back(proxy, held_s)) if plan.is_held_back else None
        yield proxy
        if holding is not None:
            holding.cancel()


def say_planned(request: RecordedRequest) -> Iterator[Step]:
    """Answer a plan's question: a script for `ScriptedUpstream`."""
    question = parse_qs(urlsplit(request.target).query)["query"][0]
    return FaultPlan(int(question.removeprefix(_QUESTION))).script()


async def _hold_back(proxy: ToxicProxy, held_s: float) -> None:
    """Pass nothing on, once the first request has gone through, until the time is over."""
    await proxy.wait_until(lambda: any(line.to_server_bytes for line in proxy.connections))
    proxy.hold()
    await asyncio.sleep(held_s)
    proxy.release()


def _token(dice: random.Random) -> str:
    return "".join(dice.choices(PIECES, k=dice.choice([1, 1, 2, 5])))


def _chunks(body: bytes, dice: random.Random) -> Iterator[bytes]:
    cuts = sorted(dice.randrange(len(body)) for _ in range(dice.choice([0, 3, 20, len(body) // 20])))
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        if end > start:
            yield body[start:end]


def _pause(seconds: float) -> Gate:
    gate = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, gate.set)
    return Gate(gate)

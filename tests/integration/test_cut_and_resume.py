"""Answers read through lines that are cut at random bytes, by several readers at once, some of them stopped midway.

Each run is made from its number: one question, one to three readers by PROTOCOL §6 with one Idempotency-Key, a proxy
that cuts their connections, and sometimes a stop. What must hold: nothing lost, doubled or reordered, every reader and
the status have the same text, and the backend was asked once a run.
"""

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from subak.testing import Body, Cut, Direction, End, Gate, Head, How, Line, RecordedRequest, ScriptedUpstream, Step, Way
from tests.integration.clients import proxy_before
from tests.integration.gateway import Running, ask, eventually, running
from tests.reader import Reader, Reading
from tests.settings import profile, runs

RUNS: Final = runs(fast=20, default=1_000, soak=10_000)
TIME_BOX_S: Final = math.inf if profile() == "soak" else 8.0
"""No new run begins after that, `LEAST_RUNS` apart. A run costs a core 30 ms, most of it for readers and proxy."""
LEAST_RUNS: Final = 20
AT_ONCE: Final = 24
RUN_S: Final = 120.0
"""Never needed: a run takes a second on a busy machine."""
CUT_CONNECTIONS: Final = 6
PIECES: Final = ("a", "Ciao ", "sawah ", "è", "\u2028", "😀", "\n\n", '"', "\\", "ᬲᬸᬩᬓ ", "\0", "x" * 300)


class Run:
    """One run, made from its number."""

    def __init__(self, number: int) -> None:
        self._dice = random.Random(number)
        self._seed = number
        self.question = f"run {number}"
        self.tokens = [self._token() for _ in range(self._dice.choice([0, 1, 3, 10, 40, 80]))]
        self.readers = self._dice.choice([1, 1, 2, 3])
        self.stop_at = self._dice.randint(1, len(self.tokens) + 1) if self._dice.random() < 0.25 else None

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def script(self) -> Iterator[Step]:
        """Say the answer in random chunks, with random pauses between them."""
        yield Head()
        frames = [msgspec.json.encode({"text": text}) for text in self.tokens] + [b'{"done": true}']
        for chunk in self._chunks(b"".join(b"data: " + frame + b"\n\n" for frame in frames)):
            if self._dice.random() < 0.4:
                yield self._pause()
            yield Body(chunk)
        yield End()

    def line(self, number: int) -> Line:
        """Give the line of the n-th connection: after enough bad ones a good one."""
        dice = random.Random(f"{self._seed}:{number}")
        if number >= CUT_CONNECTIONS * self.readers or dice.random() < 0.1:
            return Line()
        direction: Direction = "to_server" if dice.random() < 0.1 else "to_client"
        most = 400 if direction == "to_server" else 120 * len(self.tokens) + 900
        way = Way(slice_bytes=dice.choice([None, None, 7, 100]))
        return Line(to_client=way, cut=Cut(dice.randint(0, most), dice.choice([How.RESET, How.CLOSE]), direction))

    def _token(self) -> str:
        return "".join(self._dice.choices(PIECES, k=self._dice.choice([1, 1, 2, 5])))

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        cuts = sorted(self._dice.randrange(len(body)) for _ in range(self._dice.choice([0, 3, 20, len(body) // 20])))
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            if end > start:
                yield body[start:end]

    def _pause(self) -> Gate:
        gate = asyncio.Event()
        asyncio.get_running_loop().call_later(self._dice.random() * 0.02, gate.set)
        return Gate(gate)


def answer_by_run(request: RecordedRequest) -> Iterator[Step]:
    question = parse_qs(urlsplit(request.target).query)["query"][0]
    return Run(int(question.removeprefix("run "))).script()


async def play(run: Run, readers: Sequence[Reader], gateway: Running) -> None:
    """Let all readers of a run read to the end."""
    async with proxy_before(gateway.url, run.line) as proxy, asyncio.timeout(RUN_S), asyncio.TaskGroup() as tasks:
        for reader in readers:
            reader.url = proxy.url
            tasks.create_task(reader.read())
        if run.stop_at is not None:
            tasks.create_task(stop_when(readers[0].reading, run.stop_at, gateway))


async def stop_when(reading: Reading, seq: int, gateway: Running) -> None:
    """Stop the answer once this reader is so far."""
    await eventually(lambda: reading.last >= seq or reading.is_over, lambda: f"never came to {seq}", RUN_S)
    stopped = await ask(gateway, "POST", f"/v1/streams/{reading.stream_id}/stop")
    assert stopped.status == 200


async def check(run: Run, readers: Sequence[Reader], gateway: Running) -> None:
    """Compare what the readers have with each other, with the status, and with what the backend said."""
    state = (await ask(gateway, "GET", f"/v1/streams/{readers[0].reading.stream_id}")).json
    assert isinstance(state, dict)
    for reader in readers:
        reading = reader.reading
        assert reading.text == state["text"]
        assert (reading.stream_id, reading.last) == (state["id"], state["last_seq"])
        assert reading.applied == reading.last, "each seq once"
        assert (reading.dropped, reader.gaps, reader.clean_ends_too_early) == (0, 0, 0)
        assert reading.terminal is not None
        assert reading.terminal.data["finish_reason"] == state["finish_reason"]
    if state["finish_reason"] == "stop":
        assert state["text"] == run.text
    else:
        assert (state["finish_reason"], run.stop_at is not None) == ("cancelled", True)
        assert run.text.startswith(state["text"])


async def play_and_check(number: int, gateway: Running, free: asyncio.Semaphore) -> int:
    """Give how many connections the readers of a run took."""
    run = Run(number)
    key = f"key-of-{run.question:_>32}"
    readers = [Reader(gateway.url, {"query": run.question}, key) for _ in range(run.readers)]
    try:
        await play(run, readers, gateway)
        await check(run, readers, gateway)
    except BaseException as error:
        told = [(reader.attempts, reader.reading.cursor, reader.reading.is_over) for reader in readers]
        error.add_note(f"run {number}; attempts, cursor, whether over: {told}")
        raise
    finally:
        free.release()
    return sum(reader.attempts for reader in readers)


@pytest.mark.repeats(runs=RUNS)
async def test_answers_survive_cuts_at_random_bytes_whole_once_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    playing: list[asyncio.Task[int]] = []
    async with ScriptedUpstream(answer_by_run) as upstream, running(upstream, SUBAK_STREAM__REPLAY_S="20") as gateway:
        free = asyncio.Semaphore(AT_ONCE)
        began_at = loop.time()
        async with asyncio.TaskGroup() as tasks:
            while len(playing) < RUNS and (len(playing) < LEAST_RUNS or loop.time() < began_at + TIME_BOX_S):
                await free.acquire()
                playing.append(tasks.create_task(play_and_check(len(playing), gateway, free)))
        assert upstream.questions == len(playing)
        assert sum(task.result() for task in playing) > 2 * len(playing), "lines were cut"

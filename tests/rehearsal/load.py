"""Callers who ask all the time, each at its own pace: first for a stream, and where it gets none, by `/chat`."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from tests.integration.clients import last_cursor
from tests.integration.gateway import (
    CHAT,
    CHAT_STREAM,
    Answer,
    Client,
    ask,
    data_of,
    eventually,
    parse_frames,
    terminal_of,
)
from tests.rehearsal.chat import (
    BACKEND_CHAT,
    CASES,
    JSON,
    QUESTIONS,
    Case,
    Compared,
    Essence,
    ask_chat,
    asked,
    essence_of,
)
from tests.tokens import bearer

CALLER: Final = "caller"
TESTER: Final = "tester"
CALLERS: Final = 300
PERIOD_S: Final = 12.0
TESTERS: Final = 10
TESTER_PERIOD_S: Final = 4.0
"""Internal testers ask more often: a step of the rollout needs its requests. 15 a minute, of the 20 they may."""
COMPARE_S: Final = 0.5
"""Between two comparisons of `/chat` on three ways: to the backend itself, to the gateway, through the proxy."""
HOLD_S: Final = 30.0
RETRY_S: Final = 0.5
RETURNS: Final = 8
"""How often a caller comes back to an answer that was cut."""
TOKEN_S: Final = 3600.0
_FIRST_TOKEN: Final = b'"type":"token"'
_MS: Final = 1000.0


class Asked(NamedTuple):
    """One question and what came of it. `at_s` since the load began; `told_s`, when its caller was let in or refused.

    `status`: of the stream's response. `is_whole`: the stream ended with `done`; where it didn't, `chat_ms` is how long
    `/chat` took, None where that gave no answer either. `trouble`: why not, in a word.
    """

    at_s: float
    told_s: float
    caller: str
    status: int
    is_whole: bool
    first_token_ms: float | None
    chat_ms: float | None
    trouble: str

    @property
    def is_let_in(self) -> bool:
        """Whether the caller was on the streaming arm: the flag didn't refuse it."""
        return self.status != HTTPStatus.FORBIDDEN

    @property
    def is_answered(self) -> bool:
        """Whether there was an answer, on whichever way."""
        return self.is_whole or self.chat_ms is not None


class ChatTimes(NamedTuple):
    """How long one question took the backend itself, the gateway, and the whole way, in milliseconds."""

    at_s: float
    backend_ms: float
    gateway_ms: float
    proxy_ms: float


@dataclass(frozen=True, slots=True)
class Ways:
    """Base URLs: the backend itself, the gateway, and the proxy in front, where callers ask."""

    backend: str
    gateway: str
    proxy: str


@dataclass(slots=True)
class _Streamed:
    """How far a stream has come."""

    status: int = 0
    told_s: float | None = None
    is_whole: bool = False
    first_token_ms: float | None = None
    trouble: str = ""


class Load:
    """All callers. `asked` and `chat_times` grow as questions end."""

    def __init__(self, ways: Ways, compared: Compared) -> None:
        self.asked: list[Asked] = []
        self.chat_times: list[ChatTimes] = []
        self.compared = compared
        self.streaming = 0
        """Answers that stream now."""
        self._ways = ways
        self._gate = asyncio.Event()
        self._unanswered = 0
        self._questions = itertools.cycle(QUESTIONS)
        self._began_at = asyncio.get_running_loop().time()

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return asyncio.get_running_loop().time() - self._began_at

    @property
    def open_count(self) -> int:
        """How many questions are under way."""
        return self._unanswered + self.streaming

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let all of them ask until left; what is open then isn't waited for."""
        async with asyncio.TaskGroup() as tasks:
            callers = [
                *_staggered(TESTER, TESTERS, TESTER_PERIOD_S),
                *_staggered(CALLER, CALLERS, PERIOD_S),
            ]
            running = [
                tasks.create_task(self._ask_on_and_on(name, first_s, period_s)) for name, first_s, period_s in callers
            ]
            running.append(tasks.create_task(self._compare_on_and_on()))
            self._gate.set()
            yield
            for task in running:
                task.cancel()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Let nobody ask meanwhile; begins when only answers that stream already are open."""
        self._gate.clear()
        await eventually(lambda: self._unanswered == 0, lambda: f"{self._unanswered} have no answer", HOLD_S)
        try:
            yield
        finally:
            self._gate.set()

    async def _ask_on_and_on(self, name: str, first_s: float, period_s: float) -> None:
        headers = [*bearer(name, TOKEN_S).items(), JSON]
        next_at = asyncio.get_running_loop().time() + first_s
        while True:
            await asyncio.sleep(max(0.0, next_at - asyncio.get_running_loop().time()))
            await self._gate.wait()
            next_at = max(next_at + period_s, asyncio.get_running_loop().time())
            self.asked.append(await self._ask(name, headers, next(self._questions)))

    async def _ask(self, name: str, headers: Sequence[tuple[str, str]], question: str) -> Asked:
        at_s = self.now_s
        streamed = _Streamed()
        chat_ms = None
        with self._counted():
            try:
                await self._by_stream(streamed, headers, question)
            except (OSError, TimeoutError) as error:
                streamed.trouble = type(error).__name__
            chat_ms = None if streamed.is_whole else await self._by_chat(headers, question)
        return Asked(
            at_s=at_s,
            told_s=self.now_s if streamed.told_s is None else streamed.told_s,
            caller=name,
            status=streamed.status,
            is_whole=streamed.is_whole,
            first_token_ms=streamed.first_token_ms,
            chat_ms=chat_ms,
            trouble=streamed.trouble,
        )

    async def _by_stream(self, streamed: _Streamed, headers: Sequence[tuple[str, str]], question: str) -> None:
        """Read a stream to its end; come back to one that was cut, as every reader of events does."""
        answer = await self._first_part(streamed, headers, question)
        if answer.status != HTTPStatus.OK:
            streamed.trouble = str(answer.status)
            return
        parts = [answer]
        with self._streaming():
            while not parts[-1].is_clean and (cursor := last_cursor(parts[-1].body)) and len(parts) <= RETURNS:
                await asyncio.sleep(RETRY_S)
                parts.append(await ask(self._ways.proxy, "GET", CHAT_STREAM, [*headers, ("Last-Event-ID", cursor)]))
        streamed.trouble = trouble_of(parts)
        streamed.is_whole = not streamed.trouble

    async def _first_part(self, streamed: _Streamed, headers: Sequence[tuple[str, str]], question: str) -> Answer:
        began_s = self.now_s
        async with Client.connect(self._ways.proxy) as client:
            await client.begin("POST", CHAT_STREAM, headers, msgspec.json.encode({"query": question}))
            answer = await client.head()
            streamed.status, streamed.told_s = answer.status, self.now_s
            if answer.status != HTTPStatus.OK:
                return answer
            with self._streaming():
                if _FIRST_TOKEN in (await client.until(_FIRST_TOKEN)).body:
                    streamed.first_token_ms = (self.now_s - began_s) * _MS
                return await client.whole()

    async def _by_chat(self, headers: Sequence[tuple[str, str]], question: str) -> float | None:
        """Fall back to `/chat`, as the documented client does; it must say what the backend says."""
        began_s = self.now_s
        case = asked(question)._replace(headers=headers)
        try:
            answer = await ask_chat(self._ways.proxy, case)
        except (OSError, TimeoutError):
            return None
        self.compared.take(question, answer)
        return (self.now_s - began_s) * _MS

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._unanswered += 1
        try:
            yield
        finally:
            self._unanswered -= 1

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        """An answer that streams isn't waited for: it has its head."""
        self._unanswered -= 1
        self.streaming += 1
        try:
            yield
        finally:
            self.streaming -= 1
            self._unanswered += 1

    async def _compare_on_and_on(self) -> None:
        for case in itertools.cycle(CASES):
            await asyncio.sleep(COMPARE_S)
            await self._gate.wait()
            with self._counted():
                await self._compare(case)

    async def _compare(self, case: Case) -> None:
        ways = self._ways
        began_s = self.now_s
        own = await _essence(ways.backend, case, BACKEND_CHAT)
        own_s = self.now_s
        by_gateway = await _essence(ways.gateway, case)
        gateway_s = self.now_s
        by_proxy = await _essence(ways.proxy, case)
        times = (own_s - began_s, gateway_s - own_s, self.now_s - gateway_s)
        self.chat_times.append(ChatTimes(began_s, *(seconds * _MS for seconds in times)))
        self.compared.compare(f"the gateway's {case}", by_gateway, own)
        self.compared.compare(f"the proxy's {case}", by_proxy, own)


async def _essence(url: str, case: Case, path: str = CHAT) -> Essence:
    """Give what comes, or nothing where nobody answers."""
    try:
        return essence_of(await ask_chat(url, case, path))
    except (OSError, TimeoutError):
        return Essence()


def _staggered(kind: str, count: int, period_s: float) -> Iterator[tuple[str, float, float]]:
    """Give name, first question's time and period of each, evenly spread."""
    for number in range(count):
        yield f"{kind}-{number + 1}", period_s * number / count, period_s


def trouble_of(parts: Sequence[Answer]) -> str:
    """Say what is wrong with an answer that came in parts; nothing, where it is whole and in order."""
    if not parts[-1].is_clean:
        return "cut"
    try:
        last = terminal_of([frame for part in parts for frame in parse_frames(part.body, is_cut=not part.is_clean)])
    except AssertionError:
        return "garbled"
    return "" if last.type == "done" else str(data_of(last)["code"])

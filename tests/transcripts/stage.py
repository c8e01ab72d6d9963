"""Where a transcript is played: a real gateway on a clock that stands still, and a reader that keeps every byte.

What differs from one playing to the next is replaced by something of the same length or fixed beforehand: the stream
id by `STREAM_ID`, the connection id by a header, `retry:` by a setting, times by the clock.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from subak.core.facts import ReaderLeft, StreamOpened
from subak.core.principal import ANONYMOUS
from subak.testing import PATIENCE_S, FakeClock, ScriptedUpstream, Step
from tests.integration.gateway import Answer, Client, Running, question_url, running

STREAM_ID: Final = "st_sample" + "0" * 22
CONNECTION_ID: Final = "c_sample"
RETRY_MS: Final = 1840
QUESTION: Final = question_url("What is a KITAS?")

Ends = Literal["clean", "aborted", "left"]
"""How a response ended: as its framing says, without its last chunk, or by the client's hanging up."""

_HEADERS_THAT_MATTER: Final = frozenset(
    {
        "allow",
        "cache-control",
        "content-type",
        "idempotent-replayed",
        "location",
        "retry-after",
        "subak-resumed-from",
        "subak-stream-id",
        "vary",
        "x-accel-buffering",
        "x-connection-id",
        "x-content-type-options",
    }
)


class Request(NamedTuple):
    """What was asked, with the placeholder for the stream's id."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: str | None


class Exchange(NamedTuple):
    """A request and all of its answer. Header names are in lower case."""

    request: Request
    status: int
    headers: Mapping[str, str]
    body: bytes
    ends: Ends


@dataclass
class Asked:
    """A request under way."""

    stage: "Stage"
    request: Request
    client: Client

    async def until_seq(self, seq: int) -> None:
        """Return once the event with this seq has come whole."""
        await self._until(f'"sequence":{seq},'.encode())

    async def until_line(self, line: str) -> None:
        """Return once this line has come."""
        await self._until(f"\n{self.stage.real(line)}\n".encode())

    async def over(self) -> None:
        """Return once the response is over, by the server's doing."""
        answer = await self.client.whole()
        self.stage.keep(self.request, answer, "clean" if answer.is_clean else "aborted")

    async def leave(self) -> None:
        """Hang up."""
        self.stage.keep(self.request, self.client.answer, "left")
        await self.client.leave()

    async def _until(self, marker: bytes) -> None:
        answer = await self.client.until(marker)
        assert marker in answer.body, f"it ended before {marker!r}: {answer.body!r}"


@dataclass
class Stage:
    """A gateway, the backend behind it, and the exchanges so far, in the order in which they ended."""

    gateway: Running
    upstream: ScriptedUpstream
    exchanges: list[Exchange] = field(default_factory=list)

    def answers(self, *steps: Step) -> None:
        """Let the backend answer every question so."""
        self.upstream.scripts = [steps]

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the gateway."""
        self.gateway.pass_time(seconds)

    async def log_grown_to(self, seq: int) -> None:
        """Return once the stream's log has this seq."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._last_seq() < seq:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0)

    async def reader_left(self) -> None:
        """Return once the gateway knows that its reader has hung up."""
        await self.gateway.observer.wait_for(ReaderLeft)

    @asynccontextmanager
    async def asking(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> AsyncIterator[Asked]:
        """Send a request. `STREAM_ID` stands for the id of the stream in its target and headers."""
        named = {"x-connection-id": CONNECTION_ID} | dict(headers or {})
        request = Request(method, target, named, body)
        async with Client.connect(self.gateway.url) as client:
            await client.begin(
                method,
                self.real(target),
                [(name, self.real(value)) for name, value in named.items()],
                None if body is None else body.encode(),
            )
            yield Asked(self, request, client)

    async def exchange(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> None:
        """Send a request and wait for the end of its answer."""
        async with self.asking(method, target, headers, body) as asked:
            await asked.over()

    def cursor(self, seq: int) -> dict[str, str]:
        """Give the header that resumes after `seq`."""
        return {"Last-Event-ID": f"{STREAM_ID}.{seq}"}

    def keep(self, request: Request, answer: Answer, ends: Ends) -> None:
        """Note an exchange that is over."""
        headers = {
            name.lower(): self._placed(value) for name, value in answer.headers if name.lower() in _HEADERS_THAT_MATTER
        }
        body = self._placed(answer.body.decode()).encode()
        self.exchanges.append(Exchange(request, answer.status, dict(sorted(headers.items())), body, ends))

    def real(self, text: str) -> str:
        """Give `text` with the stream's own id instead of the placeholder."""
        return text.replace(STREAM_ID, self._stream_id or STREAM_ID)

    def _placed(self, text: str) -> str:
        return text.replace(self._stream_id, STREAM_ID) if self._stream_id else text

    async def _last_seq(self) -> int:
        state = await self.gateway.gateway.hub.state(self._stream_id, ANONYMOUS)
        return state.last_seq

    @property
    def _stream_id(self) -> str:
        opened = self.gateway.observer.of(StreamOpened)
        return opened[0].stream_id if opened else ""


@asynccontextmanager
async def stage(settings: Mapping[str, Any]) -> AsyncIterator[Stage]:
    """Set one up; `settings` as in the environment."""
    fixed: dict[str, Any] = {"SUBAK_STREAM__RETRY_MIN_MS": str(RETRY_MS), "SUBAK_STREAM__RETRY_MAX_MS": str(RETRY_MS)}
    async with ScriptedUpstream(()) as upstream, running(upstream, clock=FakeClock(), **fixed, **settings) as gateway:
        yield Stage(gateway, upstream)

"""What the tests here share: a running gateway, a client that sees every byte, and what the gateway noted.

The client is made for looking, not for use: it sends the bytes it is given, and tells a clean end of a response from
any other. Its reading of event streams is strict on purpose: it takes the one form of PROTOCOL §3 and no other.
"""

import asyncio
import os
import re
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, urlencode, urlsplit

import httptools
import msgspec
import pytest

from subak.app import Gateway
from subak.settings import load
from subak.testing import PATIENCE_S, End, FakeClock, Frame, Head, RecordingObserver, ScriptedUpstream, Step
from tests.settings import child_environment

STARTING_S: Final = 30.0
"""How long a process may take to start or to end, in real seconds: a busy machine needs its time to import modules."""

CHAT_STREAM: Final = "/api/v2/bali-zero/chat-stream"
CHAT: Final = "/api/v2/bali-zero/chat"
CIAO: Final = Frame('{"text": "Ciao ", "sequenceNumber": 1, "timestamp": 1.5}')
MONDO: Final = Frame('{"type": "token", "data": "mondo"}')
SOURCES: Final = Frame('{"sources": [{"source": "kitas.md", "snippet": "A KITAS is …", "similarity": 0.8}]}')
DONE: Final = Frame('{"done": true, "sequenceNumber": 4, "streamDuration": 0.2}')
ANSWER: Final = (Head(), CIAO, MONDO, SOURCES, DONE, End())
"""What a RAG backend says to a question, in both of its shapes."""

QUIET: Final = {
    "SUBAK_SERVER__PORT": "0",
    "SUBAK_ADMIN__PORT": "0",
    "SUBAK_LIMITS__ENABLED": "false",
    "SUBAK_KNOWLEDGE__PACE_MS": "0",
    "SUBAK_AUDIT__ENABLED": "false",
}
"""Settings of a gateway that takes free ports, as many questions as come, and no time for an answer; unaudited.

The audit trail costs a start 0.13 s, and time that a test moves runs away from its disk: tests of it turn it on.
"""

ONE_LOOP: Final = pytest.mark.asyncio(loop_factories=["uvloop"])
"""For tests of what happens above the event loop, with many cases: which one it is can't matter."""

_NAP_S: Final = 0.002
_READ_BYTES: Final = 256 * 1024


async def eventually(
    is_met: Callable[[], bool], otherwise: Callable[[], object], timeout_s: float = PATIENCE_S
) -> None:
    """Return once a condition holds that nothing announces.

    Raises:
        AssertionError: it still didn't after `timeout_s`; `otherwise` tells what is wrong.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not is_met():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(_NAP_S)
    except TimeoutError:
        raise AssertionError(otherwise()) from None


@dataclass
class Running:
    """A gateway that listens. `clock` is None where real time passes."""

    gateway: Gateway
    observer: RecordingObserver
    clock: FakeClock | None

    @property
    def url(self) -> str:
        """Its base URL."""
        return self.gateway.url

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the gateway, in ticks of a second."""
        assert self.clock is not None, "real time passes here"
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.gateway.deadlines.run(self.clock.monotonic())
            seconds -= 1.0


@asynccontextmanager
async def running(
    upstream: ScriptedUpstream | str | None = None,
    variables: Mapping[str, str] | None = None,
    *,
    clock: FakeClock | None = None,
    is_on: bool = True,
    kept: int = 0,
    **environment: str,
) -> AsyncIterator[Running]:
    """Run a gateway before `upstream`, or with the embedded backend; `variables` and `environment` set more.

    When it is left, everything of the questions asked of it must be gone within `PATIENCE_S`, while it still runs.
    `kept`: how many connections it may then have open to upstreams of another process.
    """
    settings: dict[str, str] = {
        **QUIET,
        "ENABLE_SSE_STREAMING": str(is_on),
    }
    if upstream is not None:
        settings["RAG_BACKEND_URL"] = upstream if isinstance(upstream, str) else upstream.url
    observer = RecordingObserver()
    with tempfile.TemporaryDirectory(prefix="subak-test-") as state_dir:
        settings["SUBAK_STATE_DIR"] = state_dir
        loaded = load(settings | dict(variables or {}) | environment, None, {})
        async with Gateway(loaded.settings, observer, clock=clock) as gateway:
            before = Leftovers()
            yield Running(gateway, observer, clock)
            await before.only_are_left(gateway, kept)


@dataclass
class Leftovers:
    """What was there when this was made: tasks and sockets of this process."""

    tasks: set[asyncio.Task[object]] = field(default_factory=lambda: _tasks())  # noqa: PLW0108 - it stands below
    sockets: int = field(default_factory=lambda: len(open_sockets()))

    async def only_are_left(self, gateway: Gateway, kept: int) -> None:
        """Wait until the gateway is as idle as before it was asked anything.

        A connection to the upstream that waits for the next question is no leftover; most have two ends here.
        """
        hub = gateway.hub
        await eventually(lambda: hub.live_count == 0, lambda: f"{hub.live_count} streams are still live")
        await eventually(lambda: hub.reader_count == 0, lambda: f"{hub.reader_count} responses are still being written")
        await eventually(lambda: _tasks() <= self.tasks, lambda: f"left: {_tasks() - self.tasks}")
        await eventually(lambda: self._more_sockets() <= kept, lambda: f"{self._more_sockets()} sockets are left")

    def _more_sockets(self) -> int:
        return len(open_sockets()) - self.sockets - 2 * _kept_connections()


def _tasks() -> set[asyncio.Task[object]]:
    """Give the tasks that aren't the tests' own: their servers have one for each open connection."""
    return {task for task in asyncio.all_tasks() if not _is_ours(task) and task is not asyncio.current_task()}


def _kept_connections() -> int:
    return sum(_is_ours(task) for task in asyncio.all_tasks())


def _is_ours(task: asyncio.Task[object]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "") in {"ScriptedConnection.serve", "RawBackend.serve"}


def open_sockets() -> set[int]:
    """Give the descriptors of this process that are sockets."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if _is_socket(number)}  # noqa: PTH208 - numbers


def _is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:  # the one by which they were listed
        return False


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator["Process"]:
    """Run `python -m subak …` with free ports; killed at the end, if it still runs."""
    async with spawned([sys.executable, "-m", "subak", *arguments], environment) as started:
        yield started


@asynccontextmanager
async def spawned(command: list[str], environment: dict[str, str]) -> AsyncIterator["Process"]:
    """Run a command that becomes `subak`, as `process` does."""
    with tempfile.TemporaryDirectory(prefix="subak-test-") as state_dir:
        settings = {"SUBAK_STATE_DIR": state_dir, **QUIET}
        started = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=child_environment(**(settings | environment)),
            cwd=state_dir,
        )
        try:
            yield Process(started)
        finally:
            if started.returncode is None:
                started.kill()
            await started.communicate()


class Process:
    """A running `subak`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.greeting = ""

    async def url(self) -> str:
        """Give the URL that it says it listens on."""
        assert self.process.stderr is not None
        async with asyncio.timeout(STARTING_S):
            while line := (await self.process.stderr.readline()).decode():
                self.greeting += line
                if found := re.search(r"http://[^ /]+:\d+", line):
                    return found[0]
        raise AssertionError(f"it ended: {self.greeting}")

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self) -> tuple[int, str, str]:
        """Wait for its end; give exit code and what it wrote, to stdout and to stderr."""
        async with asyncio.timeout(STARTING_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), self.greeting + err.decode()


def resident_bytes(pid: int | None = None) -> int:
    """Give the resident memory of a process, or of this one."""
    pages = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Answer:
    """A response as far as it has come. `is_clean`: it ended as its framing says it must."""

    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    is_clean: bool = False
    is_reset: bool = False

    @property
    def body(self) -> bytes:
        """The body as far as it has come, joined where somebody looks at it."""
        self.pieces[:] = [b"".join(self.pieces)]
        return self.pieces[0]

    def header(self, name: str) -> str | None:
        """Give a header that may come once, None without it."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} comes {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> object:
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    @property
    def frames(self) -> list["EventFrame"]:
        """The events of a body that ended cleanly."""
        assert self.is_clean, "the response didn't end cleanly"
        return parse_frames(self.body)


class Client:
    """One connection to a server: any number of requests, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser: _ResponseParser | None = None

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, receive_bytes: int | None = None) -> AsyncIterator[Self]:
        """Open a connection; `receive_bytes` is the size of the kernel's buffer on our side."""
        parts = urlsplit(url)
        raw = socket.socket()
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
        except OSError:
            raw.close()
            raise
        client = cls(*await asyncio.open_connection(sock=raw))
        try:
            yield client
        finally:
            await client.leave()

    async def leave(self) -> None:
        """Close the connection: what a browser does whose tab is closed. Idempotent."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:  # the other side had reset it
            return

    def reset(self) -> None:
        """Tear the connection down with a TCP reset."""
        linger_0 = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
        self._writer.transport.abort()

    async def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(content)
        await self._writer.drain()

    async def begin(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> None:
        """Send a request with a `Content-Length`, if it has a body."""
        self.expect(method)
        await self.send(request_bytes(method, target, headers, body))

    def expect(self, method: str) -> None:
        """Make ready for the answer to such a request."""
        self._parser = _ResponseParser(method)

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        assert self._parser is not None, "nothing was asked"
        return self._parser.answer

    async def head(self) -> Answer:
        """Give the answer once its head has come."""
        return await self._read_until(lambda answer: answer.status >= HTTPStatus.OK)

    async def until(self, marker: bytes) -> Answer:
        """Give the answer once its body has come as far as `marker`."""
        return await self._read_until(lambda answer: marker in answer.body)

    async def when(self, is_met: Callable[[Answer], bool]) -> Answer:
        """Give the answer once it is as it should be."""
        return await self._read_until(is_met)

    async def whole(self, timeout_s: float = PATIENCE_S) -> Answer:
        """Give the answer once it is over, by whatever end."""
        return await self._read_until(lambda _: False, timeout_s)

    async def is_closed_by_server(self) -> bool:
        """Whether the server ends the connection; waits for it, and expects not a byte before."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return not await self._reader.read(1)
            except ConnectionError:
                return True

    async def _read_until(self, is_met: Callable[[Answer], bool], timeout_s: float = PATIENCE_S) -> Answer:
        parser = self._parser
        assert parser is not None, "nothing was asked"
        async with asyncio.timeout(timeout_s):
            while not is_met(parser.answer) and not parser.is_over:
                await self._read_into(parser)
        return parser.answer

    async def _read_into(self, parser: "_ResponseParser") -> None:
        try:
            chunk = await self._reader.read(_READ_BYTES)
        except ConnectionError:
            parser.lost(is_reset=True)
            return
        if chunk:
            parser.feed(chunk)
        else:
            parser.lost(is_reset=False)


def request_bytes(
    method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """Spell a request."""
    lines = [f"{method} {target} HTTP/{version}", "Host: subak.test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


async def ask(
    gateway: Running | str,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
) -> Answer:
    """Ask over a connection of its own; give the whole answer."""
    async with Client.connect(gateway if isinstance(gateway, str) else gateway.url) as client:
        await client.begin(method, target, headers, body)
        return await client.whole()


async def get(gateway: Running, target: str, **headers: str) -> Answer:
    """GET; `Last_Event_ID="…"` is a header."""
    return await ask(gateway, "GET", target, _headers(headers))


async def post(gateway: Running, target: str, fields: object = None, **headers: str) -> Answer:
    """POST fields as JSON."""
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(gateway, "POST", target, given.items(), msgspec.json.encode(fields))


def _headers(named: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in named.items()]


def question_url(query: str = "What is a KITAS?", **fields: str) -> str:
    """Give the target of a GET question."""
    return f"{CHAT_STREAM}?{urlencode({'query': query} | fields, quote_via=quote)}"


class _ResponseParser:
    """Reads one response; what comes after it isn't looked at."""

    def __init__(self, method: str) -> None:
        self.answer = Answer()
        self.is_over = False
        self._method = method
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def lost(self, *, is_reset: bool) -> None:
        names = {name.lower() for name, _ in self.answer.headers}
        is_framed_by_close = self.answer.status >= HTTPStatus.OK and not names & {"content-length", "transfer-encoding"}
        self.answer.is_clean = is_framed_by_close and not is_reset
        self.answer.is_reset = is_reset
        self.is_over = True

    def on_message_begin(self) -> None:
        self.answer.headers = []
        self.answer.reason = ""

    def on_status(self, status: bytes) -> None:
        self.answer.reason = status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answer.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()
        if self._method == "HEAD":
            self._end()

    def on_body(self, body: bytes) -> None:
        self.answer.pieces.append(body)

    def on_message_complete(self) -> None:
        if self.answer.status >= HTTPStatus.OK:
            self._end()

    def _end(self) -> None:
        self.answer.is_clean = True
        self.is_over = True


@dataclass(frozen=True)
class EventFrame:
    """One event as it stood on the wire. `id` is None for a heartbeat."""

    id: str | None
    event: str
    type: str
    data: object
    sequence: int
    retry_ms: int | None


_BLOCK: Final = re.compile(
    rb"(?:: [a-z]+\n)*(?:retry: (?P<retry>\d+)\n)?(?:id: (?P<id>[A-Za-z0-9_-]+\.\d+)\n)?"
    rb"event: (?P<event>[a-z]+)\ndata: (?P<data>\{[^\r\n\x00]*\})\n\n"
)


def parse_frames(body: bytes, *, is_cut: bool = False) -> list[EventFrame]:
    """Read a body of the envelope dialect, which must have no other form; `is_cut`: its end may be missing."""
    return list(_frames(body, is_cut=is_cut))


def _frames(body: bytes, *, is_cut: bool) -> Iterator[EventFrame]:
    at = 0
    while found := _BLOCK.match(body, at):
        at = found.end()
        envelope = msgspec.json.decode(found["data"], type=_Envelope)
        retry_ms = None if found["retry"] is None else int(found["retry"])
        event_id = None if found["id"] is None else found["id"].decode("ascii")
        event = found["event"].decode("ascii")
        yield EventFrame(event_id, event, envelope.type, envelope.data, envelope.sequence, retry_ms)
    rest = re.sub(rb"^(?:: [a-z]+\n)*", b"", body[at:])
    assert is_cut or not rest, f"no block of the dialect: {rest[:200]!r}"


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    data: object
    sequence: int
    timestamp: int


def text_of(frames: Iterable[EventFrame]) -> str:
    """Give the tokens, joined."""
    return "".join(str(frame.data) for frame in frames if frame.type == "token")


def terminal_of(frames: list[EventFrame]) -> EventFrame:
    """Give the terminal event: there is one, it is the last, and the seqs have no hole."""
    kept = [frame for frame in frames if frame.event != "heartbeat"]
    assert [frame.sequence for frame in kept] == list(range(1, len(kept) + 1))
    assert kept[0].type == "metadata"
    assert [frame.type in {"done", "error"} for frame in kept] == [False] * (len(kept) - 1) + [True]
    stream_ids = {frame.id.rpartition(".")[0] for frame in kept if frame.id is not None}
    assert [frame.id for frame in kept] == [
        f"{stream_id}.{frame.sequence}" for frame in kept for stream_id in stream_ids
    ]
    assert frames[-1] is kept[-1]
    return kept[-1]


def data_of(frame: EventFrame) -> dict[str, object]:
    """Give the members of an event's data."""
    assert isinstance(frame.data, dict)
    return frame.data


def scripted(*steps: Step) -> ScriptedUpstream:
    """Give an upstream that answers every question so."""
    return ScriptedUpstream(steps or ANSWER)

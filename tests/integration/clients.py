"""Clients that people really use, unmodified, each as a function that follows one URL to its end.

A client that comes back by itself is left to itself. One that doesn't comes back by the recipe of the documentation:
the same URL, with the id of the last whole event as `Last-Event-ID`.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import httpx_sse
import msgspec
import requests
import sseclient

from subak.core.sse import SseDecoder
from subak.testing import Lines, ToxicProxy
from tests.settings import child_environment
from tests.wire import TERMINAL, decode_envelope

NODE: Final = Path(__file__).parents[1] / "node"
CLIENT_S: Final = 180.0
"""How long a client may take, its start included."""

_CURL_PARTIAL: Final = 18
_CURL_RECEIVE_FAILED: Final = 56
_WHOLE_EVENT_WITH_ID: Final = re.compile(rb"^id: (\S+)\n(?:[^\n]+\n)*(?=\n)", re.MULTILINE)


class Seen(msgspec.Struct, frozen=True):
    """One event as a client hands it over."""

    id: str
    event: str
    data: str


class Followed(NamedTuple):
    """What a client saw of one answer, and how often it had to come back by the recipe."""

    events: Sequence[Seen]
    resumed_by_hand: int = 0


Follower = Callable[[str], Awaitable[Followed]]


class _Report(msgspec.Struct):
    events: list[Seen]
    errors: list[dict[str, object]]


class Exited(NamedTuple):
    """How a process ended."""

    code: int
    out: bytes
    err: str


async def run(*command: str | Path, timeout_s: float = CLIENT_S) -> Exited:
    """Run a program to its end; it is killed when that takes too long."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=child_environment(NO_PROXY="*")
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"{command[0]} took too long: {out[-500:]!r} {err.decode()}") from None
    assert process.returncode is not None
    return Exited(process.returncode, out, err.decode())


async def curl(*arguments: str) -> Exited:
    """Run curl, without its progress meter and without buffering."""
    return await run(program("curl"), "--silent", "--show-error", "--no-buffer", *arguments)


async def with_curl(url: str) -> Followed:
    """Follow by curl, which ends with 18 (a body cut off) or 56 (a reset) when the answer isn't over."""
    events: list[Seen] = []
    cursor = ""
    for attempt in _attempts():
        ended = await curl(*(["--header", f"Last-Event-ID: {cursor}"] if cursor else []), url)
        events += read(ended.out)
        cursor = last_cursor(ended.out) or cursor
        if ended.code == 0:
            return Followed(events, attempt)
        assert ended.code in {_CURL_PARTIAL, _CURL_RECEIVE_FAILED}, ended.err
    raise AssertionError("curl never came to the end")


async def with_httpx_sse(url: str) -> Followed:
    """Follow by httpx-sse."""
    events: list[Seen] = []
    cursor = ""
    async with httpx.AsyncClient(timeout=CLIENT_S, trust_env=False) as client:
        for attempt in _attempts():
            headers = {"Last-Event-ID": cursor} if cursor else {}
            try:
                async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
                    async for event in source.aiter_sse():
                        events.append(Seen(event.id, event.event, event.data))
                        cursor = event.id or cursor
            except (httpx.RemoteProtocolError, httpx.ReadError):
                continue
            return Followed(events, attempt)
    raise AssertionError("httpx-sse never came to the end")


async def with_sseclient(url: str) -> Followed:
    """Follow by requests and sseclient-py, which block: in a thread."""
    async with asyncio.timeout(CLIENT_S):
        return await asyncio.to_thread(_sseclient, url)


def _sseclient(url: str) -> Followed:
    events: list[Seen] = []
    cursor = ""
    with requests.Session() as session:
        session.trust_env = False
        for attempt in _attempts():
            headers = {"Last-Event-ID": cursor} if cursor else {}
            try:
                with session.get(url, headers=headers, stream=True, timeout=CLIENT_S) as response:
                    for event in sseclient.SSEClient(response).events():  # type: ignore[arg-type] # as its README has it
                        events.append(Seen(event.id or "", event.event, event.data))
                        cursor = event.id or cursor
            except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
                continue
            return Followed(events, attempt)
    raise AssertionError("sseclient-py never came to the end")


async def with_eventsource(url: str) -> Followed:
    """Follow by the npm package `eventsource`, to where it gives up by itself: at a 204."""
    report = await _node("native_event_source.mjs", "eventsource", url)
    assert report.errors[-1]["code"] == 204, "it is told by a 204 that there is nothing more"
    return Followed(report.events)


async def with_undici(url: str) -> Followed:
    """Follow by undici's EventSource, to where it gives up by itself."""
    report = await _node("native_event_source.mjs", "undici", url)
    return Followed(report.events)


async def with_fetch_event_source(url: str) -> Followed:
    """Follow by `@microsoft/fetch-event-source`, which takes a clean end for the end."""
    report = await _node("fetch_event_source.mjs", url)
    return Followed(report.events)


async def _node(script: str, *arguments: str) -> _Report:
    ended = await run(program("node"), "--no-warnings", NODE / script, *arguments)
    assert ended.code == 0, f"{script} failed (npm ci in tests/node?): {ended.err}"
    return msgspec.json.decode(ended.out, type=_Report)


def program(name: str) -> str:
    """Give where a program is."""
    path = os.pathsep.join((os.defpath, "/usr/local/bin", "/usr/sbin", "/sbin"))
    found = shutil.which(name) or shutil.which(name, path=path)
    assert found is not None, f"{name} is missing: ./dev.py test installs what the tests start"
    return found


FOLLOWERS: Final[dict[str, Follower]] = {
    "curl": with_curl,
    "eventsource": with_eventsource,
    "undici": with_undici,
    "fetch-event-source": with_fetch_event_source,
    "httpx-sse": with_httpx_sse,
    "sseclient-py": with_sseclient,
}
COMES_BACK_BY_ITSELF: Final = frozenset({"eventsource", "fetch-event-source", "undici"})


def proxy_before(url: str, *lines: Lines, buffer_bytes: int | None = None) -> ToxicProxy:
    """Give a proxy before the server at `url`, with these lines."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return ToxicProxy(parts.hostname, parts.port, *lines, buffer_bytes=buffer_bytes)


def _attempts() -> Iterator[int]:
    """Count the attempts of a client that comes back by hand; more than these are no progress."""
    return iter(range(20))


def read(body: bytes) -> list[Seen]:
    """Give a body's events; half a block at its end is none."""
    return [Seen(event.id, event.event, event.data) for event in SseDecoder().feed(body)]


def last_cursor(body: bytes) -> str:
    """Give the id of the last whole event: of half a block at the end even the id may be cut."""
    ids = _WHOLE_EVENT_WITH_ID.findall(body)
    return ids[-1].decode() if ids else ""


def seqs_of(followed: Followed) -> list[int]:
    """Give the seqs that a client saw, in its order."""
    return [decode_envelope(event.data).sequence for event in followed.events if event.event != "heartbeat"]


def assert_saw_all_once(followed: Followed, text: str) -> None:
    """Fail unless a client saw seqs 1..n once each, the text, and one terminal event, at the end."""
    kept = [event for event in followed.events if event.event != "heartbeat"]
    envelopes = [decode_envelope(event.data) for event in kept]
    assert [envelope.sequence for envelope in envelopes] == list(range(1, len(kept) + 1))
    stream_ids = {event.id.rpartition(".")[0] for event in kept}
    assert len(stream_ids) == 1
    assert [event.id.rpartition(".")[2] for event in kept] == [str(envelope.sequence) for envelope in envelopes]
    assert "".join(envelope.data for envelope in envelopes if envelope.type == "token") == text
    assert [envelope.type in TERMINAL for envelope in envelopes] == [False] * (len(kept) - 1) + [True]

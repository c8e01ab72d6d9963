"""Behind a real nginx: by the documented snippet, with nginx's defaults, and with compression switched on.

That events aren't held back is shown in lockstep: the backend says its next word only when the client has the last
one. A proxy that buffers would wait for ever.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from subak.core.facts import ReaderAttached, ReaderLeft
from subak.settings_fields import Stream
from subak.testing import PATIENCE_S, End, FakeClock, Gate, Head, ScriptedUpstream, Step
from tests.integration.clients import FOLLOWERS, Followed, assert_saw_all_once, curl, last_cursor, program
from tests.integration.gateway import DONE, Client, Running, ask, question_url, running
from tests.integration.nginx import SNIPPET, HttpBlock, Nginx, bare, documented, nginx
from tests.transcripts.scenes import HOSTILE, token

pytestmark = pytest.mark.real

AGE: Final[dict[str, Any]] = {
    "SUBAK_STREAM__MAX_CONNECTION_AGE_S": "10",
    "SUBAK_STREAM__RETRY_MIN_MS": "10",
    "SUBAK_STREAM__RETRY_MAX_MS": "30",
}
WORDS: Final = ("uno ", "due ", "tre ", "quattro ")


class Lockstep:
    """A script that says each word only when it is let."""

    def __init__(self) -> None:
        self._gates = [asyncio.Event() for _ in WORDS]

    @property
    def script(self) -> list[Step]:
        steps: list[Step] = [Head()]
        for gate, word in zip(self._gates, WORDS, strict=True):
            steps += [Gate(gate), token(word)]
        return [*steps, DONE, End()]

    def say_next(self) -> str:
        gate = next(gate for gate in self._gates if not gate.is_set())
        gate.set()
        return WORDS[self._gates.index(gate)]


async def assert_words_come_one_by_one(url: str, lockstep: Lockstep) -> None:
    async with Client.connect(url) as client:
        await client.begin("GET", question_url(), [("Accept", "text/event-stream")])
        await client.until(b'"metadata"')
        for _ in WORDS:
            await client.until(f'"data":"{lockstep.say_next()}"'.encode())
        assert (await client.whole()).is_clean


PROXIES: Final[dict[str, tuple[str, ...] | None]] = {
    "the documented snippet": None,
    "nginx's defaults": (),
    "compression on": ("gzip on;",),
    "compression of everything on, for a client that takes none": ("gzip on; gzip_types *; gzip_proxied any;",),
}


def proxy_for(name: str, gateway: Running) -> HttpBlock:
    directives = PROXIES[name]
    return documented(gateway.url) if directives is None else bare(gateway.url, *directives)


@pytest.mark.parametrize("proxy", PROXIES)
async def test_c32_events_are_not_held_back_by_a_proxy(proxy: str) -> None:
    lockstep = Lockstep()
    async with (
        ScriptedUpstream(lockstep.script) as upstream,
        running(upstream) as gateway,
        nginx(proxy_for(proxy, gateway)) as server,
    ):
        await assert_words_come_one_by_one(server.url, lockstep)


async def test_c32_even_compressed_events_are_not_held_back() -> None:
    """To compress is against `no-transform`, which nginx doesn't know; but it flushes each event."""
    lockstep = Lockstep()
    directives = "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"
    async with (
        ScriptedUpstream(lockstep.script) as upstream,
        running(upstream) as gateway,
        nginx(bare(gateway.url, directives)) as server,
    ):
        command = ("--silent", "--no-buffer", "--compressed", "--dump-header", "-", server.url + question_url())
        process = await asyncio.create_subprocess_exec(program("curl"), *command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            head = await process.stdout.readuntil(b"\r\n\r\n")
            assert b"Content-Encoding: gzip" in head
            for _ in WORDS:
                await process.stdout.readuntil(f'"data":"{lockstep.say_next()}"'.encode())
            await process.stdout.read()
            assert await process.wait() == 0


def test_the_documented_snippet_waits_for_longer_than_two_heartbeats() -> None:
    text = SNIPPET.read_text(encoding="utf-8")
    found = re.search(r"proxy_read_timeout (\d+)s;", text)
    assert found is not None
    assert int(found[1]) > 2 * Stream().heartbeat_s


async def follow(client: str, server: Nginx) -> Followed:
    return await FOLLOWERS[client](server.url + question_url())


async def assert_follows_across_a_cut(
    client: str, proxy: Callable[[str], HttpBlock], before: Sequence[str], after: Sequence[str]
) -> None:
    """The connection is aborted between the two parts of the answer; the client gets both, once."""
    gate = asyncio.Event()
    script = [Head(), *map(token, before), Gate(gate), *map(token, after), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), **AGE) as gateway,
        nginx(proxy(gateway.url)) as server,
        asyncio.TaskGroup() as tasks,
    ):
        following = tasks.create_task(follow(client, server))
        await gateway.observer.wait_for(ReaderAttached)
        await upstream.wait_questions(1)
        gateway.pass_time(10)
        await gateway.observer.wait_for(ReaderAttached, 2)
        gate.set()
        followed = await following
    assert_saw_all_once(followed, "".join((*before, *after)))
    assert upstream.questions == 1


@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize("client", FOLLOWERS)
async def test_every_client_gets_all_of_an_answer_whose_connection_was_aborted_behind_the_snippet(client: str) -> None:
    await assert_follows_across_a_cut(client, documented, HOSTILE, WORDS)


@pytest.mark.parametrize("proxy", ["the documented snippet", "nginx's defaults"])
async def test_an_aborted_answer_never_looks_complete_behind_nginx(proxy: str) -> None:
    """By HTTP/1.0, its default, nginx takes an ordinary close for the end of the answer: the abort must be a reset."""
    lockstep = Lockstep()
    async with (
        ScriptedUpstream(lockstep.script) as upstream,
        running(upstream, clock=FakeClock(), **AGE) as gateway,
        nginx(proxy_for(proxy, gateway)) as server,
        Client.connect(server.url) as client,
    ):
        await client.begin("GET", question_url())
        await client.until(f'"data":"{lockstep.say_next()}"'.encode())
        gateway.pass_time(10)
        answer = await client.whole()
        assert not answer.is_clean
        assert answer.body.count(b"event: heartbeat\n") == 1
        for _ in WORDS[1:]:
            lockstep.say_next()
        await gateway.observer.ended()


@pytest.mark.parametrize("client", ["curl", "eventsource"])
async def test_an_answer_is_resumed_through_an_nginx_that_speaks_http_1_0(client: str) -> None:
    await assert_follows_across_a_cut(client, bare, WORDS[:2], WORDS[2:])


async def test_curl_behind_an_nginx_that_speaks_http_1_0_ends_with_18_when_the_answer_is_not_over() -> None:
    lockstep = Lockstep()
    async with (
        ScriptedUpstream(lockstep.script) as upstream,
        running(upstream, clock=FakeClock(), **AGE) as gateway,
        nginx(bare(gateway.url)) as server,
    ):
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(curl(server.url + question_url()))
            await gateway.observer.wait_for(ReaderAttached)
            await upstream.wait_questions(1)
            gateway.pass_time(10)
        ended = asking.result()
        assert (ended.code, last_cursor(ended.out)[-2:]) == (18, ".1")
        for _ in WORDS:
            lockstep.say_next()
        await gateway.observer.ended()


async def test_a_client_that_hangs_up_is_noticed_behind_nginx() -> None:
    lockstep = Lockstep()
    async with (
        ScriptedUpstream(lockstep.script) as upstream,
        running(upstream, SUBAK_STREAM__ON_DISCONNECT="cancel") as gateway,
        nginx(documented(gateway.url)) as server,
    ):
        async with Client.connect(server.url) as client:
            await client.begin("GET", question_url())
            await client.until(f'"data":"{lockstep.say_next()}"'.encode())
        left = await gateway.observer.wait_for(ReaderLeft)
        assert left[0].departure == "lost"
        assert (await gateway.observer.ended())[0] == "abandoned"
        await upstream.connections[0].wait_closed()


async def test_neither_questions_nor_stream_ids_stand_in_the_access_log() -> None:
    async with ScriptedUpstream([Head(), DONE, End()]) as upstream, running(upstream) as gateway:
        async with nginx(documented(gateway.url)) as server:
            ended = await curl(server.url + question_url("canary-7f3a"))
            assert ended.code == 0
            for path in ("", "/events", "/stop"):
                await curl(f"{server.url}/v1/streams/st_canary-7f3a{path}")
            log = server.access_log
        assert '"GET /api/v2/bali-zero/chat-stream HTTP/1.1" 200 ' in log
        assert '"GET /v1/streams/-/events HTTP/1.1" 404 ' in log
        assert "canary-7f3a" not in log


async def test_nobody_is_somebody_else_through_a_trusted_nginx() -> None:
    trusting = {"SUBAK_HTTP__TRUSTED_PROXIES": "127.0.0.1"}
    async with ScriptedUpstream([Head(), DONE, End()]) as upstream, running(upstream, trusting) as gateway:
        async with nginx(documented(gateway.url)) as server:
            await ask(server.url, "GET", question_url(), [("X-User-Id", "admin"), ("Forwarded", "for=203.0.113.9")])
        assert "x-user-id" not in upstream.requests[0].headers

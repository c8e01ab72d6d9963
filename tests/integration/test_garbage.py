"""What a question leaves behind is freed at once: nothing of it refers to itself, so nobody has to look for it.

One thing isn't asked of it: what is no HTTP leaves an error of aiohttp's with itself in its traceback.
"""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import pytest

from subak.testing import Close, Head, RecordedRequest, ScriptedUpstream, Stall, Step
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    CIAO,
    ONE_LOOP,
    Client,
    Running,
    eventually,
    get,
    post,
    question_url,
    running,
)

TIMES: Final = 20
OURS: Final = ("subak.", "aiohttp.web", "aiohttp.http_writer")
EVERYTHING: Final = {
    "SUBAK_AUDIT__ENABLED": "true",
    "SUBAK_LIMITS__ENABLED": "true",
    "SUBAK_LIMITS__CHAT": "100000",
    "SUBAK_LIMITS__CHAT_NETWORK": "100000",
    "SUBAK_STREAM__ON_DISCONNECT": "cancel",
}


def script(request: RecordedRequest) -> tuple[Step, ...]:
    """Answer, break off, or say a word and no more."""
    if "broken" in request.target:
        return (Head(), CIAO, Close())
    if "stalled" in request.target:
        return (Head(), CIAO, Stall())
    return ANSWER


async def by_get(gateway: Running) -> None:
    """Ask, and read the whole answer."""
    assert (await get(gateway, question_url())).status == HTTPStatus.OK


async def by_post(gateway: Running) -> None:
    """Ask by POST."""
    assert (await post(gateway, CHAT_STREAM, {"query": "What?"})).status == HTTPStatus.OK


async def passed_through(gateway: Running) -> None:
    """Ask `/chat`."""
    await post(gateway, CHAT, {"query": "What?"})


async def broken_off(gateway: Running) -> None:
    """Ask an upstream that breaks off."""
    assert (await get(gateway, question_url("broken"))).status == HTTPStatus.OK


async def resumed(gateway: Running) -> None:
    """Ask, and read the answer once more from its first event on."""
    first, *_ = (await get(gateway, question_url())).frames
    assert first.id is not None
    stream_id = first.id.rpartition(".")[0]
    again = await get(gateway, f"/v1/streams/{stream_id}/events", **{"Last-Event-ID": first.id})
    assert again.status == HTTPStatus.OK


async def left(gateway: Running) -> None:
    """Leave in the middle of an answer."""
    before = gateway.gateway.hub.live_count
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", question_url("stalled"))
        await client.until(b"Ciao")
    await eventually(lambda: gateway.gateway.hub.live_count == before, lambda: "a stream is still open")


async def refused(gateway: Running) -> None:
    """Ask what can't be answered."""
    assert (await get(gateway, CHAT_STREAM)).status == HTTPStatus.BAD_REQUEST


async def unknown(gateway: Running) -> None:
    """Ask for what isn't there."""
    assert (await get(gateway, "/v1/streams/nothing")).status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("ask", [by_get, by_post, passed_through, broken_off, resumed, left, refused, unknown])
@ONE_LOOP
async def test_a_question_leaves_nothing_that_refers_to_itself(ask: Callable[[Running], Awaitable[None]]) -> None:
    async with ScriptedUpstream(script) as upstream, running(upstream, EVERYTHING) as gateway:
        await ask(gateway)
        with looked_for() as found:
            for _ in range(TIMES):
                await ask(gateway)
        assert found == []


@contextmanager
def looked_for() -> Iterator[list[str]]:
    """Give the types of our objects that only a look through everything would have freed, once the block is left."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        names = (f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.garbage)
        found += [name for name in names if name.startswith(OURS) and not name.startswith("subak.testing")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

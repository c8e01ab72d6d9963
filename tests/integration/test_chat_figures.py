"""What is told of `/chat`: how each request was answered, and how long that took."""

import asyncio

from subak.core.facts import ChatAnswered
from subak.telemetry.tally import Window
from subak.testing import Body, End, Gate, Head, ScriptedUpstream, Stall
from tests.integration.gateway import CHAT, Client, get, post, request_bytes, running, scripted

JSON = {"Content-Type": "application/json"}


async def test_each_answer_is_told_once_with_its_status() -> None:
    async with running() as gateway:
        await post(gateway, CHAT, {"query": "What is a KITAS?"})
        await post(gateway, CHAT, {"nothing": 1})
        await get(gateway, CHAT)
        assert [fact.status for fact in gateway.observer.of(ChatAnswered)] == [200, 422]
        chat = gateway.gateway.watching.stats.figures(Window.LAST_MINUTE).chat
        assert (chat.answers, chat.errors) == (2, 0)


async def test_time_runs_until_the_whole_answer_was_passed_on() -> None:
    gate = asyncio.Event()
    async with (
        ScriptedUpstream([Head(200, JSON), Body(b'{"success": '), Gate(gate), Body(b"true}"), End()]) as upstream,
        running(upstream) as gateway,
        Client.connect(gateway.url) as client,
    ):
        client.expect("POST")
        await client.send(request_bytes("POST", CHAT, JSON.items(), b"{}"))
        await client.until(b"success")
        assert gateway.observer.of(ChatAnswered) == []
        gate.set()
        await client.whole()
        (answered,) = await gateway.observer.wait_for(ChatAnswered)
        assert answered.status == 200
        assert answered.duration_ms > 0


async def test_an_error_of_the_backend_and_one_of_ours_are_errors() -> None:
    async with scripted(Head(503, JSON), Body(b"{}"), End()) as upstream, running(upstream) as gateway:
        await post(gateway, CHAT, {"query": "x"})
    async with running("http://127.0.0.1:1") as unreachable:
        await post(unreachable, CHAT, {"query": "x"})
        assert [fact.status for fact in unreachable.observer.of(ChatAnswered)] == [502]
    assert [fact.status for fact in gateway.observer.of(ChatAnswered)] == [503]
    assert gateway.gateway.watching.stats.figures(Window.SINCE_START).chat.errors == 1


async def test_nothing_is_told_of_a_caller_who_left() -> None:
    async with scripted(Stall()) as upstream, running(upstream) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.send(request_bytes("POST", CHAT, JSON.items(), b"{}"))
            await upstream.wait_questions(1)
        await upstream.connections[0].wait_closed()
        assert gateway.observer.of(ChatAnswered) == []

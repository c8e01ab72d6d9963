"""What went wrong in the first implementation's relay, one regression test each.

It had no ids; it never aborted the upstream; it ignored the result of `write()`; it took frames without a type for
tokens and an error for a success; its sweep ended live answers without an ending and the process with them.
"""

import asyncio

from subak.core.facts import ReaderAttached, ReaderLeft, StreamOpened
from subak.core.principal import ANONYMOUS
from subak.testing import End, FakeClock, Frame, Gate, Head, ScriptedUpstream, Stall
from tests.integration.clients import read
from tests.integration.gateway import (
    DONE,
    SOURCES,
    Client,
    Running,
    ask,
    data_of,
    get,
    parse_frames,
    post,
    question_url,
    running,
    terminal_of,
    text_of,
)
from tests.transcripts.scenes import token
from tests.wire import transcribe

FLOOD = tuple(f"{number:04}" + "x" * 2000 for number in range(1800))
"""3.6 MB: more than sockets take by themselves, less than one stream may have."""


async def test_it_had_no_ids_so_every_reconnect_asked_again_and_paid_twice() -> None:
    gate = asyncio.Event()
    script = [Head(), token("Ciao "), Gate(gate), token("Bali"), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            answer = await client.until(b'"data":"Ciao "')
            seen = read(answer.body)
            assert all(event.id for event in seen)
        gate.set()
        rest = await get(gateway, question_url(), Last_Event_ID=seen[-1].id)
        assert text_of(rest.frames) == "Bali"
        assert upstream.questions == 1


async def test_it_never_aborted_the_upstream_when_the_reader_was_gone() -> None:
    script = [Head(), token("Ciao "), Stall()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b'"data":"Ciao "')
        await gateway.observer.wait_for(ReaderLeft)
        gateway.pass_time(30)
        await upstream.connections[0].wait_closed()
        assert await gateway.observer.ended() == ("abandoned", "", 1)


async def test_it_never_aborted_the_upstream_when_the_answer_was_stopped() -> None:
    async with (
        ScriptedUpstream([Head(), token("Ciao "), Stall()]) as upstream,
        running(upstream) as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("GET", question_url())
        await client.until(b'"data":"Ciao "')
        stopped = await post(gateway, f"/v1/streams/{gateway.observer.of(StreamOpened)[0].stream_id}/stop")
        assert stopped.json == {"status": "cancelled", "last_seq": 3}
        await upstream.connections[0].wait_closed()
        assert transcribe((await client.whole()).body)[-1] == "3 done cancelled"


async def test_it_ignored_the_result_of_write_so_a_slow_reader_filled_the_memory() -> None:
    """A reader that takes nothing holds the upstream back; it goes on when the reader does."""
    script = [Head(), *map(token, FLOOD * 2), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, SUBAK_STREAM__MAX_BYTES="100000000") as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url(on_disconnect="cancel"))
            await upstream.wait_questions(1)
            await upstream.connections[0].wait_blocked()
            assert await last_seq(gateway) < 600
            await client.until(f'"data":"{FLOOD[700]}"'.encode())
        outcome, _, tokens = await gateway.observer.ended()
        assert (outcome, tokens > 700) == ("abandoned", True)


async def last_seq(gateway: Running) -> int:
    """Give the newest seq in the log of the first stream."""
    stream_id = gateway.observer.of(StreamOpened)[0].stream_id
    return (await gateway.gateway.hub.state(stream_id, ANONYMOUS)).last_seq


async def test_it_forwarded_sources_and_done_without_a_type_as_tokens() -> None:
    script = [Head(), token("Ciao "), SOURCES, DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        answer = await get(gateway, question_url())
    assert [frame.type for frame in answer.frames] == ["metadata", "token", "sources", "done"]
    assert text_of(answer.frames) == "Ciao "


async def test_it_forwarded_an_error_as_a_token_and_ended_it_as_a_success() -> None:
    script = [Head(), token("Ciao "), Frame('{"error": "secret detail", "done": true}'), End()]
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        answer = await get(gateway, question_url())
        ending = terminal_of(answer.frames)
        assert (ending.type, data_of(ending)["code"]) == ("error", "upstream_error")
        assert text_of(answer.frames) == "Ciao "
        assert b"secret detail" not in answer.body
        outcome, _, tokens = await gateway.observer.ended()
        assert (outcome, tokens) == ("upstream_error", 1)


async def test_its_five_minute_sweep_ended_live_answers_without_a_terminal_event() -> None:
    gates = [asyncio.Event() for _ in range(4)]
    script = [Head(), *[step for gate in gates for step in (token("Ciao "), Gate(gate))], DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            for number, gate in enumerate(gates[:3], 2):
                await client.until(f'"sequence":{number},'.encode())
                gateway.pass_time(100)
                gate.set()
            cut = await client.whole()
        assert not cut.is_clean
        last_id = [frame.id for frame in parse_frames(cut.body) if frame.id is not None][-1]
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url(), [("Last-Event-ID", last_id)])
            await gateway.observer.wait_for(ReaderAttached, 2)
            gates[3].set()
            answer = await client.whole()
        assert answer.frames[-1].type == "done"
        assert await gateway.observer.ended() == ("stop", "", 4)
        assert upstream.questions == 1


async def test_its_sweep_crashed_the_whole_process_on_one_slow_reader() -> None:
    gate = asyncio.Event()
    script = [Head(), *map(token, FLOOD[:500]), Gate(gate), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as healthy, Client.connect(gateway.url, receive_bytes=4096) as slow:
            await healthy.begin("GET", question_url())
            await healthy.until(f'"data":"{FLOOD[499]}"'.encode())
            stream_id = gateway.observer.of(StreamOpened)[0].stream_id
            await slow.begin("GET", f"/v1/streams/{stream_id}/events")
            await gateway.observer.wait_for(ReaderAttached, 2)
            gateway.pass_time(31)
            assert (await gateway.observer.wait_for(ReaderLeft))[0].departure == "slow_reader"
            gate.set()
            assert text_of((await healthy.whole()).frames) == "".join(FLOOD[:500])
        assert (await ask(gateway, "GET", "/livez")).status == 200

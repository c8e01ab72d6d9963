"""Clients that people use, unmodified, over real sockets: the whole text once, one end, and one question."""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from subak.core.facts import ReaderAttached, ReaderLeft
from subak.testing import Cut, End, FakeClock, Frame, Gate, Head, How, Line, ScriptedUpstream
from tests.integration.clients import (
    COMES_BACK_BY_ITSELF,
    FOLLOWERS,
    Exited,
    Followed,
    assert_saw_all_once,
    curl,
    last_cursor,
    program,
    proxy_before,
    read,
    run,
    seqs_of,
)
from tests.integration.gateway import DONE, Running, question_url, running
from tests.transcripts.scenes import HOSTILE, token

pytestmark = pytest.mark.real

WORDS: Final = tuple(f"parola-{number} " for number in range(60))
TEXT: Final = "".join(WORDS)
PROTOCOL: Final = Path(__file__).parents[2] / "docs" / "PROTOCOL.md"
QUICK_RETRY: Final[dict[str, Any]] = {"SUBAK_STREAM__RETRY_MIN_MS": "10", "SUBAK_STREAM__RETRY_MAX_MS": "30"}

every_client = pytest.mark.parametrize("client", FOLLOWERS)


def words(*texts: str) -> list[Frame]:
    return [token(text) for text in texts]


def assert_came_back(client: str, followed: Followed) -> None:
    assert (followed.resumed_by_hand == 0) == (client in COMES_BACK_BY_ITSELF)


@every_client
async def test_a_client_reads_a_whole_answer(client: str) -> None:
    script = [Head(), *words(*HOSTILE), DONE, End()]
    async with ScriptedUpstream(script) as upstream, running(upstream, **QUICK_RETRY) as gateway:
        followed = await FOLLOWERS[client](gateway.url + question_url())
    assert_saw_all_once(followed, "".join(HOSTILE))
    assert followed.resumed_by_hand == 0
    assert upstream.questions == 1


CUTS: Final = (
    Line(cut=Cut(b".9\n")),  # between an event's id and its data
    Line(cut=Cut(b'"sequence":20,')),  # within its data
    Line(cut=Cut(b".31\nevent: mes", How.CLOSE)),  # within a line, by an orderly close of the connection
    Line(),
)


@pytest.mark.parametrize("client", sorted(FOLLOWERS.keys() - {"fetch-event-source"}))
async def test_a_client_that_is_cut_in_mid_event_ends_with_the_whole_text_once(client: str) -> None:
    script = [Head(), *words(*WORDS), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK_RETRY) as gateway,
        proxy_before(gateway.url, *CUTS) as proxy,
    ):
        followed = await FOLLOWERS[client](proxy.url + question_url())
        assert [connection.was_cut for connection in proxy.connections[:3]] == [How.RESET, How.RESET, How.CLOSE]
        attached = gateway.observer.of(ReaderAttached)
    assert_saw_all_once(followed, TEXT)
    assert_came_back(client, followed)
    assert upstream.questions == 1
    assert [fact.cursor for fact in attached] == [0, 8, 19, 30]


async def test_fetch_event_source_skips_an_event_whose_id_came_before_the_cut() -> None:
    """A known defect of that client: it takes an event for read when its `id:` line has come, not the whole event.

    The skipped seq shows in the events themselves, so that a page can tell (PROTOCOL §6: a gap).
    """
    script = [Head(), *words(*WORDS), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, **QUICK_RETRY) as gateway,
        proxy_before(gateway.url, *CUTS) as proxy,
    ):
        followed = await FOLLOWERS["fetch-event-source"](proxy.url + question_url())
    assert seqs_of(followed) == [seq for seq in range(1, 63) if seq not in {9, 20, 31}]
    assert upstream.questions == 1


@every_client
async def test_a_client_whose_connection_grew_too_old_ends_with_all_of_it(client: str) -> None:
    gate = asyncio.Event()
    script = [Head(), *words(*WORDS[:20]), Gate(gate), *words(*WORDS[20:]), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="10", **QUICK_RETRY) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        following = tasks.create_task(follow(client, gateway))
        await gateway.observer.wait_for(ReaderAttached)
        gateway.pass_time(10)
        left = await gateway.observer.wait_for(ReaderLeft)
        await gateway.observer.wait_for(ReaderAttached, 2)
        gate.set()
        followed = await following
    assert left[0].departure == "max_age"
    assert_saw_all_once(followed, TEXT)
    assert_came_back(client, followed)
    assert upstream.questions == 1


async def follow(client: str, gateway: Running) -> Followed:
    return await FOLLOWERS[client](gateway.url + question_url())


async def test_curl_ends_with_18_when_a_connection_is_aborted_and_resumes_by_hand() -> None:
    gate = asyncio.Event()
    script = [Head(), *words("Ciao ", "bella "), Gate(gate), *words("Bali"), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="10") as gateway,
    ):
        url = gateway.url + question_url()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(curl(url))
            await gateway.observer.wait_for(ReaderAttached)
            await upstream.wait_questions(1)
            gateway.pass_time(10)
        first = asking.result()
        assert first.code == 18
        assert "transfer closed with outstanding read data remaining" in first.err
        gate.set()
        await gateway.observer.ended()
        cursor = last_cursor(first.out)
        rest = await curl("--include", "--header", f"Last-Event-ID: {cursor}", url)
        assert rest.code == 0
        assert f"Subak-Resumed-From: {cursor}" in rest.out.decode()
        assert b'"data":"Bali"' in rest.out
        at_end = await curl("--include", "--header", f"Last-Event-ID: {last_cursor(rest.out)}", url)
        assert at_end.out.startswith(b"HTTP/1.1 204 ")
        assert upstream.questions == 1


async def test_the_documented_commands_resume_an_answer_by_hand(tmp_path: Path) -> None:
    """The console block of docs/PROTOCOL.md, "Resuming by hand", as it stands there."""
    gate = asyncio.Event()
    script = [Head(), *words("Ciao ", "bella "), Gate(gate), *words("Bali"), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="10") as gateway,
    ):
        first, *others = [command.replace("http://127.0.0.1:8080", gateway.url) for command in documented_commands()]
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(shell(first, tmp_path))
            await gateway.observer.wait_for(ReaderAttached)
            await upstream.wait_questions(1)
            gateway.pass_time(10)
        assert "curl: (18)" in asking.result().err
        gate.set()
        await gateway.observer.ended()
        assert (await shell("\n".join(others), tmp_path)).code == 0
        assert_saw_all_once(Followed(read((tmp_path / "answer.txt").read_bytes())), "Ciao bella Bali")
        assert upstream.questions == 1


def documented_commands() -> list[str]:
    section = PROTOCOL.read_text(encoding="utf-8").partition("### Resuming by hand")[2]
    block = section.partition("```console\n")[2].partition("```")[0]
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


async def shell(commands: str, folder: Path) -> Exited:
    return await run(program("bash"), "-c", f"cd {folder}\n{commands}")

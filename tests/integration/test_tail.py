"""`subak tail` as its users start it: a process, before a real gateway and a bad line."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import msgspec

from subak.core.cursor import Cursor
from subak.testing import Cut, End, Frame, Gate, Head, Line, Stall
from tests.integration.clients import proxy_before
from tests.integration.gateway import (
    CIAO,
    DONE,
    MONDO,
    ONE_LOOP,
    STARTING_S,
    Process,
    eventually,
    post,
    process,
    running,
    scripted,
)

pytestmark = ONE_LOOP
AT_ONCE = {"SUBAK_STREAM__RETRY_MIN_MS": "1", "SUBAK_STREAM__RETRY_MAX_MS": "1"}


async def stdout_until(started: Process, marker: bytes) -> bytes:
    assert started.process.stdout is not None
    async with asyncio.timeout(STARTING_S):
        return await started.process.stdout.readuntil(marker)


async def test_a_question_is_answered_on_stdout_through_cuts() -> None:
    lines = [Line(cut=Cut(30)), Line(cut=Cut(b"Ciao")), Line()]
    async with (
        scripted() as upstream,
        running(upstream, AT_ONCE) as gateway,
        proxy_before(gateway.url, *lines) as proxy,
        process("tail", proxy.url, "--question", "What is a KITAS?") as tail,
    ):
        code, out, err = await tail.ended()
        assert upstream.questions == 1
    assert (code, out) == (0, "Ciao mondo\n")
    assert len(re.findall(r"subak: the line was cut; coming back in \d\.\d s \(attempt 1\)", err)) == 2
    assert "Sources: kitas.md" in err


async def test_json_is_a_line_for_each_event() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        asked = msgspec.json.decode((await post(gateway, "/v1/streams", {"query": "Hi"})).body)
        async with process("tail", f"{gateway.url}{asked['status_url']}", "--json") as tail:
            code, out, _ = await tail.ended()
        cursor = Cursor(asked["id"], 2)
        async with process("tail", str(cursor), "--url", gateway.url) as tail:
            assert (await tail.ended())[:2] == (0, "mondo\n")
    assert code == 0
    events = [msgspec.json.decode(line) for line in out.splitlines()]
    assert [(event["type"], event["seq"]) for event in events] == [
        ("metadata", 1),
        ("token", 2),
        ("token", 3),
        ("sources", 4),
        ("done", 5),
    ]


async def test_ctrl_c_leaves_and_says_how_to_come_back() -> None:
    gate = asyncio.Event()
    async with scripted(Head(), CIAO, Gate(gate), MONDO, DONE, End()) as upstream, running(upstream) as gateway:
        async with process("tail", gateway.url, "--question", "Hi") as tail:
            await stdout_until(tail, b"Ciao ")
            tail.signal(signal.SIGINT)
            code, _, err = await tail.ended()
        found = re.search(r"To go on reading: subak tail (\S+ --url \S+)\n", err)
        assert (code, found is not None, "Traceback" in err) == (1, True, False)
        assert found is not None
        await eventually(lambda: gateway.gateway.hub.reader_count == 0, lambda: "it is still there")
        gate.set()
        async with process("tail", *found[1].split()) as tail:
            assert (await tail.ended())[:2] == (0, "mondo\n")
        assert upstream.questions == 1


async def test_an_answer_that_fails_or_is_stopped_is_exit_code_1() -> None:
    failing = [Head(), CIAO, Frame('{"error": "boom", "done": true}'), End()]
    async with scripted(*failing) as upstream, running(upstream) as gateway:
        async with process("tail", gateway.url, "-q", "Hi") as tail:
            assert await tail.ended() == (1, "Ciao \n", "subak: The answering service failed.\n")
        async with process("tail", gateway.url, "-q", "Hi", "--json") as tail:
            code, out, _ = await tail.ended()
            told = msgspec.json.decode(out.splitlines()[-1])
            assert (code, told["type"], told["code"]) == (1, "error", "upstream_error")
        upstream.scripts = [[Head(), CIAO, Stall()]]
        async with process("tail", gateway.url, "-q", "Hi", "--json") as tail:
            metadata = msgspec.json.decode(await stdout_until(tail, b"\n"))
            await post(gateway, f"/v1/streams/{metadata['stream_id']}/stop")
            code, _, err = await tail.ended()
            assert (code, err) == (1, "subak: the answer was stopped\n")


async def test_a_terminal_gets_no_control_characters_of_an_answer(tmp_path: Path) -> None:
    hostile = [Head(), Frame('{"text": "a\\u001b[2Jb\\u009b1m\\tc\\n"}'), DONE, End()]
    script = tmp_path / "terminal.py"
    script.write_text(
        "import os, pty, sys\n"
        "def read(fd):\n    return os.read(fd, 1024)\n"
        "sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-m', 'subak', *sys.argv[1:]], read)))\n",
        encoding="utf-8",
    )
    async with scripted(*hostile) as upstream, running(upstream) as gateway:
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            "tail",
            gateway.url,
            "-q",
            "Hi",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(STARTING_S):
            out, _ = await started.communicate()
        async with process("tail", gateway.url, "-q", "Hi") as tail:
            assert (await tail.ended())[1] == "a\x1b[2Jb\x9b1m\tc\n"
    assert out.decode().replace("\r\n", "\n") == "a\ufffd[2Jb\ufffd1m\tc\n"

"""SIGHUP: a running gateway takes up new settings, or says why not and goes on with the old ones."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from subak.testing import PATIENCE_S, End, Gate, Head, ScriptedUpstream
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    DONE,
    ONE_LOOP,
    Client,
    Process,
    ask,
    process,
    question_url,
    scripted,
    terminal_of,
    text_of,
)
from tests.transcripts.scenes import token

pytestmark = ONE_LOOP
JSON: Final = ("Content-Type", "application/json")
ORIGIN: Final = "https://app.example.org"
TAKEN_UP: Final = "the new settings are in force"
REFUSED: Final = "the new settings are refused"


class Reloadable:
    """A gateway with a settings file that a test writes anew."""

    def __init__(self, subak: Process, file: Path, url: str) -> None:
        self.url = url
        self.subak = subak
        self._file = file
        self._said = ""

    async def reload(self, content: str, until: str = TAKEN_UP) -> str:
        """Write the file, send SIGHUP; give what it says, up to the line after the one with `until`."""
        self._file.write_text(content, encoding="utf-8")
        self.subak.signal(signal.SIGHUP)
        said = ""
        assert self.subak.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while until not in said:
                line = await self.subak.process.stderr.readline()
                assert line, "it ended"
                said += line.decode()
        return said

    async def says(self) -> str:
        """Give its next line."""
        assert self.subak.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self.subak.process.stderr.readline()).decode()


@asynccontextmanager
async def reloadable(folder: Path, content: str) -> AsyncIterator[Reloadable]:
    """Run `subak serve` with such a settings file; it must still end cleanly."""
    file = folder / "subak.toml"
    file.write_text(content, encoding="utf-8")
    async with process("serve", "--config", str(file), "--json") as subak:
        yield Reloadable(subak, file, await subak.url())
        subak.signal(signal.SIGTERM)
        code, _, err = await subak.ended()
        assert code == 0
        assert "Traceback" not in err


def toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Spell settings."""
    lines = []
    for table, members in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in members.items())]
    return "\n".join(lines) + "\n"


def settings(upstream: ScriptedUpstream, *, is_on: bool = True, **tables: Mapping[str, object]) -> str:
    """Spell settings with this upstream."""
    return toml({"features": {"sse_streaming": is_on}, "upstream": {"url": upstream.url}, **tables})


async def test_the_flag_and_the_origins_are_taken_up(tmp_path: Path) -> None:
    async with scripted(*ANSWER) as upstream, reloadable(tmp_path, settings(upstream, is_on=False)) as gateway:
        assert (await ask(gateway.url, "GET", question_url())).status == 403
        await gateway.reload(settings(upstream, http={"cors_origins": [ORIGIN]}))
        answer = await ask(gateway.url, "GET", question_url(), [("Origin", ORIGIN)])
        assert text_of(answer.frames) == "Ciao mondo"
        assert answer.header("Access-Control-Allow-Origin") == ORIGIN
        await gateway.reload(settings(upstream, is_on=False))
        refused = await ask(gateway.url, "GET", question_url(), [("Origin", ORIGIN)])
        assert (refused.status, refused.header("Access-Control-Allow-Origin")) == (403, None)


async def test_another_upstream_is_asked_and_the_bounds_of_input_change(tmp_path: Path) -> None:
    async with (
        scripted(*ANSWER) as old,
        scripted(*ANSWER) as new,
        reloadable(tmp_path, settings(old)) as gateway,
    ):
        await ask(gateway.url, "GET", question_url())
        await gateway.reload(settings(new, http={"max_query_bytes": 10}))
        assert (await ask(gateway.url, "GET", question_url("short"))).status == 200
        await ask(gateway.url, "POST", CHAT, [JSON], b'{"query":"x"}')
        assert (await ask(gateway.url, "GET", question_url("longer than that"))).status == 422
        assert (old.questions, new.questions) == (1, 2)


async def test_a_stream_that_is_open_goes_on_to_its_end_from_the_upstream_that_began_it(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with (
        ScriptedUpstream([Head(), token("uno "), Gate(gate), token("due "), DONE, End()]) as old,
        scripted(*ANSWER) as new,
        reloadable(tmp_path, settings(old)) as gateway,
        Client.connect(gateway.url) as reader,
        Client.connect(gateway.url) as leaving,
    ):
        await reader.begin("GET", question_url())
        await reader.until(b'"uno "')
        stream_id = reader.answer.header("Subak-Stream-Id")
        await leaving.begin("GET", f"/v1/streams/{stream_id}/events")
        await leaving.until(b'"uno "')
        await gateway.reload(settings(new, is_on=False))
        await leaving.leave()
        assert (await ask(gateway.url, "GET", question_url())).status == 403
        gate.set()
        assert text_of((await reader.whole()).frames) == "uno due "
        again = await ask(gateway.url, "GET", question_url(), [("Last-Event-ID", f"{stream_id}.2")])
        assert text_of(again.frames) == "due "
        assert (old.questions, new.questions) == (1, 0)


BAD: Final = {
    "no TOML": ("[features\n", "subak.toml"),
    "unknown key": ("[features]\nsse_streeming = true\n", "sse_streeming"),
    "wrong type": ('[features]\nsse_streaming = "perhaps"\n', "features.sse_streaming"),
    "out of bounds": ("[stream]\nheartbeat_s = -1\n", "stream.heartbeat_s"),
    "contradiction": ("[stream]\nretry_min_ms = 5000\nretry_max_ms = 1000\n", "stream.retry_m"),
    "documents that are not there": ('[knowledge]\ndocs = "/nowhere/at/all"\n', "/nowhere/at/all"),
    "certificate that is not there": (
        '[upstream]\nurl = "https://127.0.0.1:1"\nca_file = "/nowhere/ca.pem"\n',
        "/nowhere/ca.pem",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_settings_are_refused_and_the_old_ones_stay_in_force(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    async with (
        scripted(*ANSWER) as upstream,
        reloadable(tmp_path, settings(upstream, http={"cors_origins": [ORIGIN]})) as gateway,
        Client.connect(gateway.url) as kept,
    ):
        await kept.begin("GET", "/livez")
        await kept.whole()
        assert said in await gateway.reload(content, said)
        await kept.begin("GET", question_url(), [("Origin", ORIGIN)])
        answer = await kept.whole()
        assert text_of(answer.frames) == "Ciao mondo"
        assert answer.header("Access-Control-Allow-Origin") == ORIGIN
        assert (await ask(gateway.url, "POST", CHAT, [JSON], b'{"query":"x"}')).status == 200
        assert upstream.questions == 2
        await gateway.reload(settings(upstream, is_on=False))
        assert (await ask(gateway.url, "GET", question_url())).status == 403, "good ones are taken up after that"


async def test_what_needs_a_restart_is_named_each_time_until_there_was_one(tmp_path: Path) -> None:
    moved = {"server": {"port": 1, "backlog": 7}, "stream": {"replay_s": 77}}
    async with scripted(*ANSWER) as upstream, reloadable(tmp_path, settings(upstream)) as gateway:
        for is_on in (True, False):
            await gateway.reload(settings(upstream, is_on=is_on, **moved))
            assert await gateway.says() == "subak: only a restart changes server.backlog, stream.replay_s.\n"
        assert (await ask(gateway.url, "GET", question_url())).status == 403


async def test_a_flood_of_signals_under_load_loses_no_answer(tmp_path: Path) -> None:
    async with scripted(*ANSWER) as upstream, reloadable(tmp_path, settings(upstream)) as gateway:
        for _ in range(10):
            gateway.subak.signal(signal.SIGHUP)
            answers = await asyncio.gather(
                *(ask(gateway.url, "POST", CHAT_STREAM, [JSON], b'{"query":"x"}') for _ in range(10))
            )
            assert [terminal_of(answer.frames).type for answer in answers] == ["done"] * 10
        assert upstream.questions == 100

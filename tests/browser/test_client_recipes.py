"""The recipes of docs/client.md in a real Chromium, as they are written there, and native EventSources beside them."""

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser

from subak.core.facts import ReaderAttached
from subak.testing import Cut, End, FakeClock, Gate, Head, How, Line, ScriptedUpstream, Step
from tests.browser.client_page import QUICK, client_page
from tests.integration.clients import proxy_before
from tests.integration.gateway import DONE, SOURCES, question_url, running
from tests.tokens import WITH_TOKENS
from tests.tokens import token as token_of
from tests.transcripts.scenes import token

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PAGE: Final = (Path(__file__).parents[2] / "docs" / "client.md").read_text("utf-8")
WORDS: Final = tuple(f"parola-{number} " for number in range(40))
ANSWER: Final = (Head(), *map(token, WORDS), SOURCES, DONE, End())
KEY: Final = "internal-key-of-the-host-application"
STAGE: Final = """
    document.body.innerHTML = '<p id="answer"></p><button id="stopButton"></button>';
    window.shown = [];
    window.showSources = (sources) => shown.push(...sources);
    window.showLine = (state) => shown.push(state);
    window.lineIsAlive = () => shown.push('heartbeat');
    window.query = 'What is a KITAS?';
    window.question = { query };
"""
"""The names that the recipes take from their page."""


def recipe(heading: str, number: int = 0) -> str:
    """Give the n-th piece of JavaScript below a heading of the page, without its markup."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    block = re.findall(r"```(?:html|js)\n(.*?)```", part, re.DOTALL)[number]
    return re.sub(r"</?script[^>]*>", "", block)


def as_body(code: str) -> str:
    """Give a function around it: imports by `await import`, as outside a module."""
    called = re.sub(r'import (\{.*?\}) from ("[^"]+");', r"const \1 = await import(\2);", code)
    return f"async () => {{ {called} }}"


async def test_the_plain_page(chromium: Browser) -> None:
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream) as gateway:
        async with client_page(chromium, gateway.url) as here:
            await here.page.evaluate(STAGE)
            await here.page.evaluate(as_body(recipe("A plain page")))
            assert await here.page.evaluate("answer.textContent") == "".join(WORDS)
            assert len(await here.page.evaluate("shown")) == 1
        assert upstream.questions == 1


async def test_the_plain_page_with_listeners_and_a_stop(chromium: Browser) -> None:
    held: list[Step] = [Head(), *map(token, WORDS[:20]), Gate(asyncio.Event())]
    opening = (
        "const { SubakStream } = await import('/static/subak-client.js'); const stream = new SubakStream({question});"
    )
    telling = "window.whole = { text, done, tokens: metrics.tokens, sources };"
    async with ScriptedUpstream(held) as upstream, running(upstream) as gateway:
        async with client_page(chromium, gateway.url) as here:
            await here.page.evaluate(STAGE)
            body = as_body(f"{opening}\n{recipe('A plain page', 1)}\n{telling}")
            await here.page.evaluate(f"() => {{ ({body})(); }}")
            await here.until("answer.textContent.includes('parola-19')")
            await here.page.click("#stopButton")
            await here.until("window.whole")
            whole = await here.page.evaluate("whole")
            assert whole["text"] == "".join(WORDS[:20])
            assert (whole["done"]["finish_reason"], whole["tokens"], whole["sources"]) == ("cancelled", 20, [])
            states = await here.page.evaluate("shown")
            assert (states[0], states[-1], "streaming" in states) == ("connecting", "ended", True)
        await upstream.connections[-1].wait_closed()


async def test_a_native_event_source_with_a_ticket_reads_on_through_a_cut(chromium: Browser) -> None:
    gate = asyncio.Event()
    script: list[Step] = [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), SOURCES, DONE, End()]
    required = WITH_TOKENS | {"SUBAK_AUTH__REQUIRED": "true"}
    # The first event after the gate is cut off on the first line that carries it.
    cuts = [Line(cut=Cut(b".25\nevent: mess", How.CLOSE))] * 3 + [Line()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, required, **QUICK) as gateway,
        proxy_before(gateway.url, *cuts) as proxy,
        client_page(chromium, proxy.url) as here,
    ):
        await here.page.evaluate(STAGE)
        await here.page.evaluate(f"window.key = '{token_of('ann')}'")
        await here.page.evaluate(as_body(recipe("The browser's own EventSource, with a ticket")))
        await here.until("answer.textContent.includes('parola-19')")
        gate.set()
        await here.until("answer.textContent.includes('parola-39')")
        assert await here.page.evaluate("answer.textContent") == "".join(WORDS)
        assert len(gateway.observer.of(ReaderAttached)) >= 2
        assert upstream.questions == 1


async def test_the_first_clients_way_of_listening_hears_messages_and_heartbeats(chromium: Browser) -> None:
    """Named events, envelopes as JSON, tokens as strings, a connection id in the metadata."""
    gate = asyncio.Event()
    script: list[Step] = [Head(), *map(token, WORDS[:20]), Gate(gate), *map(token, WORDS[20:]), SOURCES, DONE, End()]
    listen = """
    (url) => {
        const source = new EventSource(url);
        window.heard = { types: [], text: '', beats: [], connectionId: null, final: null };
        source.addEventListener('message', (event) => {
            const { type, data, sequence, timestamp } = JSON.parse(event.data);
            heard.types.push(type);
            if (typeof sequence !== 'number' || typeof timestamp !== 'number') throw new Error('no envelope');
            if (type === 'metadata') heard.connectionId = data.connectionId;
            if (type === 'token') heard.text += data;
            if (type === 'done') { heard.final = data; source.close(); }
        });
        source.addEventListener('heartbeat', (event) => heard.beats.push(JSON.parse(event.data)));
    }
    """
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, clock=FakeClock()) as gateway,
        client_page(chromium, gateway.url) as here,
    ):
        await here.page.evaluate(listen, question_url())
        await here.until("heard.text.includes('parola-19')")
        gateway.pass_time(61)
        await here.until("heard.beats.length === 2")
        gate.set()
        await here.until("heard.final")
        heard = await here.page.evaluate("heard")
        assert heard["text"] == "".join(WORDS)
        assert set(heard["types"]) == {"metadata", "token", "sources", "done"}
        assert heard["connectionId"].startswith("c_")
        assert [(beat["type"], beat["sequence"]) for beat in heard["beats"]] == [("heartbeat", 21)] * 2
        assert heard["final"]["metrics"]["tokensReceived"] == len(WORDS)
        assert upstream.questions == 1

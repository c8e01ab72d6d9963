"""The demo page in Chromium, against gateways that were started as their users start them."""

import asyncio
import json
import re
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Error, Route, expect

from subak.testing import End, Frame, Gate, Head, ScriptedUpstream, Step
from tests.browser.conftest import Visiting
from tests.browser.gateways import running_gateway
from tests.browser.visit import Visit
from tests.integration.clients import run
from tests.integration.gateway import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

DEMO_QUESTION: Final = "What documents do I need for B211A visa?"
ASKED: Final = "POST /api/v2/bali-zero/chat-stream"
WORDS: Final = [f"word{number} " for number in range(1, 41)]
DONE: Final = Frame('{"done": true}')


def spoken(words: list[str]) -> list[Step]:
    return [Frame(json.dumps({"text": word})) for word in words]


def in_two_halves(gate: asyncio.Event) -> list[Step]:
    return [Head(), *spoken(WORDS[:20]), Gate(gate), *spoken(WORDS[20:]), DONE, End()]


def asked(visit: Visit) -> list[str]:
    return [request for request in visit.requests if request == ASKED]


async def saw_half(visit: Visit) -> None:
    """Return once the first half of `in_two_halves` has come."""
    await expect(visit.page.locator("#tokens")).to_have_text("20")


async def half_told(visit: Visiting, url: str, backend: ScriptedUpstream) -> tuple[Visit, asyncio.Event]:
    """Ask, and return once half of the answer has come; the event lets the other half come."""
    gate = asyncio.Event()
    backend.scripts = [in_two_halves(gate)]
    here = await visit(url)
    await here.ask("Count.")
    await saw_half(here)
    return here, gate


async def test_the_demo_question_gets_a_sourced_answer_and_one_ending(embedded: str, visit: Visiting) -> None:
    here = await visit(embedded)
    assert await here.page.get_by_label("Your question").input_value() == DEMO_QUESTION
    await here.ask()
    await here.wait_phase("ended")

    log = await here.log()
    assert await here.text() == log.text
    assert "passport" in log.text
    frames = await here.frames()
    assert sum('"type":"done"' in frame or '"type":"error"' in frame for frame in frames) == 1
    assert len(frames) == log.last
    assert re.match(r": ok\nretry: \d+\nid: st_[\w-]+\.1\nevent: message\ndata: \{", frames[0]), "to the letter"
    assert await here.page.get_by_role("list", name="Sources").get_by_role("listitem").count() > 0
    await expect(here.page.locator("#sources .facts").first).to_contain_text(re.compile(r"similarity 0\.\d\d"))
    assert await here.figure("tokens") == str(sum(item.type == "token" for item in log.applied))
    for name in ("first-token", "p50", "p95", "p99"):
        assert re.fullmatch(r"[\d.]+ ms", await here.figure(name))
    await expect(here.page.locator("#gateway")).to_contain_text("The gateway’s own figures: first token after")
    await expect(here.status).to_have_text("Complete. (finish_reason: stop)")
    report = f"POST /v1/streams/{await here.stream_id()}/report"
    await expect(here.page.locator("#frames .mark").last).to_have_text(f"→ {report}\n")
    assert here.requests == [ASKED, report]


async def test_the_page_says_that_a_machine_answers(embedded: str, visit: Visiting) -> None:
    here = await visit(embedded)
    await expect(here.page.get_by_text("You are talking to a machine.")).to_be_visible()
    await expect(here.page.locator("#machine")).to_contain_text("check them with the official sources")


async def test_a_line_cut_in_mid_flow_resumes_at_its_cursor(embedded: str, visit: Visiting) -> None:
    here = await visit(embedded)
    await here.ask()
    await here.wait_tokens(10)
    await here.press("Cut the line")
    await here.wait_phase("cut")
    text_at_cut = await here.text()
    cursor = await here.figure("cursor")
    await here.wait_phase("ended")
    assert f"Resumed after event {cursor}. Nothing was asked twice." in await here.heard()

    log = await here.log()
    assert await here.text() == log.text == (await here.state())["text"]
    assert log.text.startswith(text_at_cut)
    assert len(text_at_cut) < len(log.text)
    stream_id = await here.stream_id()
    assert here.requests[:2] == [ASKED, f"GET /v1/streams/{stream_id}/events?on_gap=snapshot"]
    assert len(asked(here)) == 1
    await expect(here.page.locator("#curl")).to_contain_text(f"-H 'Last-Event-ID: {stream_id}.{cursor}'")
    assert await here.figure("reconnects") == "1"
    assert await here.figure("duplicates") == "0"
    marks = here.page.locator("#frames .mark")
    await expect(marks.nth(1)).to_have_text(f"✂ Line cut after event {cursor}. The gateway writes on.\n")
    await expect(here.page.locator("#answer .seam")).to_have_count(1)
    await expect(here.page.locator("#chart .gap")).to_have_count(1)
    await expect(here.page.locator("#chart-words")).to_contain_text("; no line for ")


async def test_what_is_said_while_the_line_is_cut_arrives_once(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    here, gate = await half_told(visit, scripted, backend)
    questions = backend.questions
    await here.press("Cut the line")
    await here.wait_phase("cut")
    gate.set()
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS)
    assert await here.figure("tokens") == "40"
    await expect(here.status).to_have_text("Complete. Asked once, read over 2 connections. (finish_reason: stop)")
    assert backend.questions == questions


async def test_a_line_that_the_network_loses_resumes_by_itself(
    backend: ScriptedUpstream, visit: Visiting, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    backend.scripts = [in_two_halves(gate)]
    questions = backend.questions
    short_lives = {
        "SUBAK_STREAM__MAX_CONNECTION_AGE_S": "1",
        "SUBAK_STREAM__RETRY_MIN_MS": "100",
        "SUBAK_STREAM__RETRY_MAX_MS": "100",
    }
    async with running_gateway(tmp_path, "demo", "--upstream", backend.url, **short_lives) as url:
        here = await visit(url)
        await here.ask("Count.")
        await expect(here.status).to_have_text("Resumed after event 21. Nothing was asked twice.")
        gate.set()
        await here.wait_phase("ended")
        assert await here.text() == "".join(WORDS) == (await here.log()).text
    assert int(await here.figure("reconnects")) >= 1
    assert backend.questions == questions + 1
    here.forgive("net::ERR_")


async def test_stop_keeps_what_has_come_and_hangs_up_on_the_upstream(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    here, _ = await half_told(visit, scripted, backend)
    await here.press("Stop")
    await expect(here.status).to_have_text("Stopped. What had come by then is kept. (finish_reason: cancelled)")
    await backend.connections[-1].wait_closed()
    assert await here.text() == "".join(WORDS[:20])
    state = await here.state()
    assert (state["text"], state["finish_reason"]) == ("".join(WORDS[:20]), "cancelled")


async def test_markup_stays_text_and_only_web_addresses_become_links(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    hostile = '<script>document.title = "owned"</script><img src="x" onerror="document.title = \'owned\'">'
    sources = [
        {"source": f"{hostile} (javascript:document.title='owned')", "snippet": hostile, "similarity": 0.5},
        {"source": "javascript:document.title='owned'", "snippet": "", "similarity": 0.5},
        {"source": "Directorate (https://example.org/visa?a=1&b=2)", "snippet": "", "similarity": 0.5},
    ]
    backend.scripts = [[Head(), *spoken([hostile]), Frame(json.dumps({"sources": sources})), DONE, End()]]
    here = await visit(scripted)
    await here.ask(hostile)
    await here.wait_phase("ended")
    assert await here.text() == hostile
    await here.press("Plain text")
    assert await here.page.locator("main :is(script, img)").count() == 0
    links = here.page.locator("#sources a")
    assert await links.count() == 1
    assert await links.get_attribute("href") == "https://example.org/visa?a=1&b=2"
    assert await links.get_attribute("rel") == "noopener noreferrer"
    assert await here.page.title() != "owned"


async def test_a_slip_that_makes_html_of_text_is_refused_by_the_browser(embedded: str, visit: Visiting) -> None:
    here = await visit(embedded)
    slip = "document.querySelector('#answer').innerHTML = '<b>bold</b>'"
    with pytest.raises(Error, match="TrustedHTML"):
        await here.page.evaluate(slip)
    here.forgive("TrustedHTML")


async def test_an_answer_that_breaks_off_says_why_and_keeps_what_has_come(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    backend.scripts = [[Head(), *spoken(WORDS[:3]), Frame('{"error": "out of memory", "done": true}'), End()]]
    here = await visit(scripted)
    await here.ask("Count.")
    await here.wait_phase("broken")
    await expect(here.status).to_have_text(re.compile(r"\(upstream_error\)$"))
    assert await here.text() == "".join(WORDS[:3])
    assert len(asked(here)) == 1


async def repeat_and_skip(route: Route) -> None:
    """Let the answer come whole, then send its tenth block twice and leave out the two after it."""
    response = await route.fetch()
    blocks = (await response.text()).split("\n\n")
    blocks[10:12] = [blocks[9]]
    await route.fulfill(response=response, body="\n\n".join(blocks))


async def test_a_repeat_is_dropped_and_a_gap_repaired(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    backend.scripts = [[Head(), *spoken(WORDS), DONE, End()]]
    here = await visit(scripted)
    await here.page.route("**/chat-stream", repeat_and_skip)
    await here.ask("Count.")
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS)
    assert await here.figure("gaps") == "1"
    dropped = int(await here.figure("duplicates"))
    assert dropped >= 1
    await expect(here.page.locator("#frames .dropped")).to_have_count(dropped)
    assert f"GET /v1/streams/{await here.stream_id()}" in here.requests


async def test_an_answer_that_is_gone_keeps_what_had_come(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=410, json={"code": "cursor_expired"})

    backend.scripts = [in_two_halves(asyncio.Event())]
    here = await visit(scripted)
    await here.page.route("**/events?*", refuse)
    await here.ask("Count.")
    await saw_half(here)
    await here.press("Cut the line")
    await here.wait_phase("broken")
    await expect(here.status).to_contain_text("no longer keeps this answer")
    assert await here.text() == "".join(WORDS[:20])
    assert len(asked(here)) == 1
    here.forgive("410 (Gone)")


async def test_a_tab_that_is_switched_off_catches_up_when_it_is_on_again(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    here, gate = await half_told(visit, scripted, backend)
    questions = backend.questions
    await here.press("Switch tab off")
    await here.wait_phase("off")
    before = len(here.requests)
    await here.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    gate.set()
    log = await here.log()
    assert await here.figure("tokens") == "20"
    assert here.requests[before:] == []
    await here.press("Switch tab on")
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS) == log.text
    assert backend.questions == questions


async def test_two_tabs_read_one_answer(scripted: str, backend: ScriptedUpstream, visit: Visiting) -> None:
    here, gate = await half_told(visit, scripted, backend)
    questions = backend.questions
    there = await here.second_tab()
    await saw_half(there)
    gate.set()
    for tab in (here, there):
        await tab.wait_phase("ended")
        assert await tab.text() == "".join(WORDS)
    assert await there.stream_id() == await here.stream_id()
    assert backend.questions == questions
    assert there.complaints == []


async def test_another_question_in_the_second_tab_leaves_the_first_its_answer(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    here, gate = await half_told(visit, scripted, backend)
    there = await here.second_tab()
    await saw_half(there)
    backend.scripts = [[Head(), *spoken(["Bali"]), DONE, End()]]
    await there.ask("Where?")
    await there.wait_phase("ended")
    gate.set()
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS)


async def test_a_page_that_is_reloaded_reads_on(scripted: str, backend: ScriptedUpstream, visit: Visiting) -> None:
    here, gate = await half_told(visit, scripted, backend)
    questions = backend.questions
    await here.page.reload()
    await saw_half(here)
    gate.set()
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS)
    assert backend.questions == questions


async def test_the_line_for_a_shell_reads_the_same_answer(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    backend.scripts = [[Head(), *spoken(WORDS), DONE, End()]]
    questions = backend.questions
    here = await visit(scripted)
    await here.ask("What's \"it\"; $(id) `id` \\ 'x'?")
    await here.wait_phase("ended")
    line = await here.page.locator("#curl").text_content() or ""
    said = (await run("sh", "-c", line)).out.decode()
    frames = await here.frames()
    assert said.removesuffix("\n\n").split("\n\n")[1:] == [frame.rstrip("\n") for frame in frames[1:]]
    assert backend.questions == questions + 1


async def test_markdown_is_shown_as_what_it_means(scripted: str, backend: ScriptedUpstream, visit: Visiting) -> None:
    gate = asyncio.Event()
    pieces = ["# Papers\n\nA **pass", "port**:\n1. *new* `a<b`\n", "   - [form](https://example.org/f)\n"]
    more = "[no](javascript:alert(1)) ![no](https://example.org/x.png) http://example.org/a. "
    rest = ["\n```html\n<b>\n```\n", more]
    backend.scripts = [[Head(), *spoken(pieces), Gate(gate), *spoken(rest), DONE, End()]]
    here = await visit(scripted)
    await here.ask("Format.")
    await expect(here.page.locator("#tokens")).to_have_text("3")
    await here.press("Cut the line")
    await here.wait_phase("cut")
    gate.set()
    await here.wait_phase("ended")
    answer = here.page.locator("#answer")
    shown = {name: await answer.locator(name).all_text_contents() for name in ("h3", "p > strong", "ol > li > em")}
    assert shown == {"h3": ["Papers"], "p > strong": ["passport"], "ol > li > em": ["new"]}
    assert await answer.locator("ol > li > ul > li > a").get_attribute("href") == "https://example.org/f"
    assert await answer.locator("pre > code").text_content() == "<b>\n"
    links = await answer.locator("a").evaluate_all("links => links.map(({ href, rel }) => [href, rel])")
    hrefs = ["https://example.org/f", "https://example.org/x.png", "http://example.org/a"]
    assert links == [[href, "noopener noreferrer"] for href in hrefs]
    await expect(answer).to_contain_text("[no](javascript:alert(1))")
    await expect(answer.locator(".seam")).to_have_count(1)
    assert await answer.locator("b, img").count() == 0
    assert await here.text() == "".join([*pieces, *rest])


async def test_over_the_limit_it_counts_down_and_asks_again(visit: Visiting, tmp_path: Path) -> None:
    one_question = {"SUBAK_LIMITS__CHAT": "1", "SUBAK_LIMITS__CHAT_WINDOW_S": "12"}
    async with running_gateway(tmp_path, "demo", "--pace-ms", "1", **one_question) as url:
        here = await visit(url)
        await here.ask("What is a KITAS?")
        await here.wait_phase("ended")
        await here.ask("What is a PT PMA?")
        await here.wait_phase("held")
        await expect(here.status).to_contain_text("Too many questions for now (429).")
        await expect(here.page.locator("#countdown")).to_have_text(re.compile(r"^1?\d s"))
        await here.wait_phase("ended")
        assert "PT PMA" in await here.text()
        assert len(asked(here)) == 3
        assert sum("429" in said for said in await here.heard()) == 1, "a countdown isn't read out"
    here.forgive("429 (Too Many Requests)")


async def test_a_gateway_that_wants_to_know_who_asks_is_given_a_key(visit: Visiting, tmp_path: Path) -> None:
    key = "a-key-of-the-hosts-own"
    wants = {"SUBAK_AUTH__REQUIRED": "true", "API_KEYS_INTERNAL": key}
    async with running_gateway(tmp_path, "demo", "--pace-ms", "1", **wants) as url:
        here = await visit(url)
        field = here.page.get_by_label("API key or token")
        await expect(field).to_be_hidden()
        await here.ask("What is a KITAS?")
        await here.wait_phase("broken")
        await expect(here.status).to_contain_text("(401). Give an API key or a token")
        await expect(field).to_be_focused()
        await here.page.keyboard.type(key)
        await here.page.keyboard.press("Enter")
        await here.wait_phase("ended")
        assert "KITAS" in await here.text()
        line = await here.page.locator("#curl").text_content() or ""
        assert '"Authorization: Bearer $SUBAK_KEY"' in line
        assert key not in line
    here.forgive("401 (Unauthorized)")


async def test_the_same_question_is_not_put_again_while_it_is_answered(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    gate = asyncio.Event()
    backend.scripts = [in_two_halves(gate)]
    questions = backend.questions
    here = await visit(scripted)
    await here.ask("Count.")
    await here.wait_phase("live")
    await here.ask("Count.")
    gate.set()
    await here.wait_phase("ended")
    assert backend.questions == questions + 1
    assert await here.text() == "".join(WORDS)


def _closed_count(backend: ScriptedUpstream) -> int:
    """How many connections to the backend are closed: an answer that is stopped takes its own along."""
    return sum(connection.closed.is_set() for connection in backend.connections)


async def test_another_question_stops_the_one_before(scripted: str, backend: ScriptedUpstream, visit: Visiting) -> None:
    here, _ = await half_told(visit, scripted, backend)
    closed_before = _closed_count(backend)
    backend.scripts = [[Head(), *spoken(["Bali"]), DONE, End()]]
    await here.ask("Where?")
    await expect(here.page.locator("#answer")).to_have_text("Bali")
    await here.wait_phase("ended")
    await eventually(lambda: _closed_count(backend) > closed_before, lambda: "the first answer goes on")
    assert len(await here.frames()) == (await here.log()).last


async def test_where_streaming_is_off_the_answer_comes_by_chat_and_it_says_so(visit: Visiting, tmp_path: Path) -> None:
    async with running_gateway(tmp_path, "serve") as url:
        here = await visit(url)
        await here.ask()
        await here.wait_phase("ended")
        await expect(here.status).to_contain_text("by POST /chat: streaming is off here. ENABLE_SSE_STREAMING=true")
        assert "passport" in await here.text()
        assert here.requests == [ASKED, "POST /api/v2/bali-zero/chat"]
        await expect(here.page.locator("#curl")).to_contain_text("/api/v2/bali-zero/chat'")
    here.forgive("403 (Forbidden)")


async def test_a_gateway_that_is_gone_is_explained_and_asked_again(visit: Visiting, tmp_path: Path) -> None:
    async with running_gateway(tmp_path, "demo") as url:
        here = await visit(url)
    await here.ask()
    await here.wait_phase("cut")
    await expect(here.status).to_contain_text("The gateway can’t be reached. Is it running?")
    await here.press("Stop")
    await here.wait_phase("broken")
    await expect(here.status).to_contain_text("Left.")
    here.forgive("net::ERR_")


async def test_the_keyboard_asks_cuts_and_stops_while_the_line_is_cut(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    gate = asyncio.Event()
    backend.scripts = [in_two_halves(gate)]
    here = await visit(scripted)
    keyboard = here.page.keyboard
    await here.page.get_by_label("Your question").focus()
    await keyboard.press("Enter")
    await saw_half(here)
    for _ in range(6):  # Ask, four suggestions, Cut the line
        await keyboard.press("Tab")
    await keyboard.press("Enter")
    await here.wait_phase("cut")
    await expect(here.page.get_by_role("button", name="Cut the line")).to_be_focused()
    await keyboard.press("Tab")
    await expect(here.page.get_by_role("button", name="Switch tab off")).to_be_focused()
    await keyboard.press("Tab")
    await keyboard.press("Space")
    await here.wait_phase("ended")
    await expect(here.status).to_contain_text("(finish_reason: cancelled)")
    assert await here.text() == "".join(WORDS[:20])


async def test_a_screen_reader_hears_each_state_and_the_answer_once(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    words = [*WORDS[:20], "\n\n", *WORDS[20:]]
    backend.scripts = [[Head(), *spoken(words), DONE, End()]]
    here = await visit(scripted)
    await here.ask("Count.")
    await here.wait_phase("ended")
    heard = await here.heard()
    assert heard[:2] == ["Asking …", "Live: the answer is coming."]
    paragraphs = ["".join(WORDS[:20]).rstrip(), "".join(WORDS[20:]).rstrip()]
    assert sorted(heard[2:]) == ["Complete. (finish_reason: stop)", *sorted(paragraphs)]


async def test_nothing_scrolls_sideways_on_a_phone(scripted: str, backend: ScriptedUpstream, visit: Visiting) -> None:
    unbroken = "x" * 300
    source = {"source": f"{unbroken} (https://example.org/{unbroken})", "snippet": unbroken, "similarity": 1}
    backend.scripts = [[Head(), *spoken([unbroken]), Frame(json.dumps({"sources": [source]})), DONE, End()]]
    here = await visit(scripted, width=390)
    assert await here.overflow_px() == 0
    await here.ask(unbroken)
    await here.wait_phase("ended")
    await here.page.get_by_text("Frames as they arrive").click()
    await expect(here.page.locator("#frames")).to_be_visible()
    assert await here.overflow_px() == 0
    await expect(here.page.get_by_role("button", name="Stop")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground(embedded: str, visit: Visiting, scheme: str) -> None:
    here = await visit(embedded, scheme=scheme)
    for text in ("--ink", "--soft", "--field", "--water", "--clay"):
        for ground in ("--paper", "--card", "--well"):
            assert await here.contrast(text, ground) >= 4.5, f"WCAG 2.2, 1.4.3: {text} on {ground}"
    assert await here.contrast("--on-field", "--field") >= 4.5

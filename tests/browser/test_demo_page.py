"""The demo page in Chromium, against gateways that were started as their users start them."""

import asyncio
import json
import re
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Route, expect

from subak.testing import End, Frame, Gate, Head, ScriptedUpstream, Step
from tests.browser.conftest import Visiting
from tests.browser.gateways import running_gateway
from tests.browser.visit import Visit

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

DEMO_QUESTION: Final = "What documents do I need for B211A visa?"
ASKED: Final = "GET /api/v2/bali-zero/chat-stream?query="
WORDS: Final = [f"word{number} " for number in range(1, 41)]
DONE: Final = Frame('{"done": true}')


def spoken(words: list[str]) -> list[Step]:
    return [Frame(json.dumps({"text": word})) for word in words]


def in_two_halves(gate: asyncio.Event) -> list[Step]:
    return [Head(), *spoken(WORDS[:20]), Gate(gate), *spoken(WORDS[20:]), DONE, End()]


def asked(visit: Visit) -> list[str]:
    return [request for request in visit.requests if request.startswith(ASKED)]


async def test_the_demo_question_gets_a_sourced_answer_and_one_ending(embedded: str, visit: Visiting) -> None:
    here = await visit(embedded)
    assert await here.page.get_by_label("Your question").input_value() == DEMO_QUESTION
    await here.ask()
    await here.wait_phase("ended")

    log = await here.log()
    assert await here.text() == log.text
    assert "passport" in log.text
    frames = await here.page.locator("#frames .frame").all_text_contents()
    assert sum('"type":"done"' in frame or '"type":"error"' in frame for frame in frames) == 1
    assert len(frames) == log.last
    assert await here.page.get_by_role("list", name="Sources").get_by_role("listitem").count() > 0
    await expect(here.page.locator("#sources .facts").first).to_contain_text(re.compile(r"similarity 0\.\d\d"))
    assert await here.figure("tokens") == str(sum(item.type == "token" for item in log.applied))
    for name in ("first-token", "inter-token"):
        assert re.fullmatch(r"[\d.]+ ms", await here.figure(name))
    await expect(here.status).to_have_text("Complete. (finish_reason: stop)")
    assert here.requests == asked(here)
    assert len(here.requests) == 1
    assert await here.open_lines() == 0


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
    cursor = (await here.figure("cursor")).removeprefix("event ")
    await here.wait_phase("ended")
    assert f"Resumed after event {cursor}. Nothing was asked twice." in await here.heard()

    log = await here.log()
    assert await here.text() == log.text == (await here.state())["text"]
    assert log.text.startswith(text_at_cut)
    assert len(text_at_cut) < len(log.text)
    stream_id = await here.stream_id()
    resumed = f"GET /v1/streams/{stream_id}/events?last_event_id={stream_id}.{cursor}"
    assert here.requests == [*asked(here), resumed]
    assert len(asked(here)) == 1
    assert await here.open_lines() == 0
    assert await here.figure("reconnects") == "1"
    assert await here.figure("duplicates") == "0"
    await expect(here.page.locator("#frames .mark").first).to_have_text(f"line cut after event {cursor}\n")


async def test_what_is_said_while_the_line_is_cut_arrives_once(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    gate = asyncio.Event()
    backend.scripts = [in_two_halves(gate)]
    questions = backend.questions
    here = await visit(scripted)
    await here.ask("Count.")
    await expect(here.page.locator("#tokens")).to_have_text("20")
    await here.press("Cut the line")
    await here.wait_phase("cut")
    gate.set()
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS)
    assert await here.figure("tokens") == "40"
    await expect(here.status).to_have_text("Complete. Asked once, read over 2 connections. (finish_reason: stop)")
    assert backend.questions == questions + 1


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
    backend.scripts = [in_two_halves(asyncio.Event())]
    here = await visit(scripted)
    await here.ask("Count.")
    await expect(here.page.locator("#tokens")).to_have_text("20")
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
    assert await here.page.locator("main :is(script, img)").count() == 0
    links = here.page.locator("#sources a")
    assert await links.count() == 1
    assert await links.get_attribute("href") == "https://example.org/visa?a=1&b=2"
    assert await links.get_attribute("rel") == "noopener noreferrer"
    assert await here.page.title() != "owned"


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
    await here.page.route("**/chat-stream?*", repeat_and_skip)
    await here.ask("Count.")
    await here.wait_phase("ended")
    assert await here.text() == "".join(WORDS)
    assert await here.figure("duplicates") == "1"
    assert f"GET /v1/streams/{await here.stream_id()}" in here.requests


async def test_a_repair_is_tried_again_until_the_answer_is_gone(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    attempts = 0

    async def lose_then_refuse(route: Route) -> None:
        nonlocal attempts
        attempts += 1
        await (route.abort() if attempts == 1 else route.fulfill(status=410, json={"code": "cursor_expired"}))

    backend.scripts = [[Head(), *spoken(WORDS), DONE, End()]]
    here = await visit(scripted)
    await here.page.route("**/chat-stream?*", repeat_and_skip)
    await here.page.route(re.compile(r"/v1/streams/st_[^/]*$"), lose_then_refuse)
    await here.ask("Count.")
    await here.wait_phase("broken")
    await expect(here.status).to_contain_text("no longer keeps this answer")
    assert attempts == 2
    assert await here.text() == "".join(WORDS[:9])
    assert len(asked(here)) == 1
    here.forgive("net::ERR_FAILED", "410 (Gone)")


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


async def test_another_question_stops_the_one_before(scripted: str, backend: ScriptedUpstream, visit: Visiting) -> None:
    backend.scripts = [in_two_halves(asyncio.Event())]
    here = await visit(scripted)
    await here.ask("Count.")
    await expect(here.page.locator("#tokens")).to_have_text("20")
    first = backend.connections[-1]
    backend.scripts = [[Head(), *spoken(["Bali"]), DONE, End()]]
    await here.ask("Where?")
    await expect(here.page.locator("#answer")).to_have_text("Bali")
    await here.wait_phase("ended")
    await first.wait_closed()


async def test_a_flag_that_is_off_is_explained(visit: Visiting, tmp_path: Path) -> None:
    async with running_gateway(tmp_path, "serve") as url:
        here = await visit(url)
        await here.ask()
        await here.wait_phase("broken")
        await expect(here.status).to_contain_text("ENABLE_SSE_STREAMING=true")
        assert len(asked(here)) == 1
    here.forgive("403 (Forbidden)")


async def test_a_gateway_that_is_gone_is_explained(visit: Visiting, tmp_path: Path) -> None:
    async with running_gateway(tmp_path, "demo") as url:
        here = await visit(url)
    await here.ask()
    await here.wait_phase("broken")
    await expect(here.status).to_contain_text("The gateway can’t be reached.")
    assert len(asked(here)) == 1
    assert await here.open_lines() == 0
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
    await expect(here.page.locator("#tokens")).to_have_text("20")
    for _ in range(6):  # Ask, four suggestions, Cut the line
        await keyboard.press("Tab")
    await keyboard.press("Enter")
    await here.wait_phase("cut")
    await expect(here.page.get_by_role("button", name="Cut the line")).to_be_focused()
    await keyboard.press("Tab")
    await keyboard.press("Space")
    await here.wait_phase("ended")
    await expect(here.status).to_contain_text("(finish_reason: cancelled)")
    assert await here.text() == "".join(WORDS[:20])


async def test_a_screen_reader_hears_each_state_and_the_answer_once(
    scripted: str, backend: ScriptedUpstream, visit: Visiting
) -> None:
    backend.scripts = [[Head(), *spoken(WORDS), DONE, End()]]
    here = await visit(scripted)
    await here.ask("Count.")
    await here.wait_phase("ended")
    heard = await here.heard()
    assert heard[:2] == ["Asking …", "Live: the answer is coming."]
    assert sorted(heard[2:]) == ["Complete. (finish_reason: stop)", f"{''.join(WORDS)}\nComplete."]


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
        for ground in ("--paper", "--card"):
            assert await here.contrast(text, ground) >= 4.5, f"WCAG 2.2, 1.4.3: {text} on {ground}"
    assert await here.contrast("--on-field", "--field") >= 4.5

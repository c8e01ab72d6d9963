"""The operations page in Chromium, at a running gateway that tests use meanwhile."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
import pytest
from playwright.async_api import Browser, HttpCredentials, Page, expect

from subak.audit.sqlite import LOG_FILE
from subak.core.facts import Crashed
from subak.core.flag_state import overridden
from subak.core.rollout import STREAMING, Overrides
from subak.testing import FakeClock, Gate, Head, ScriptedUpstream, Step
from tests.browser.visit import Visit
from tests.integration.gateway import ANSWER, CIAO, Client, Running, ask, get, question_url, running, scripted

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OPERATOR: Final = "on-call@example.org"
FLAG: Final = f"/-/flags/{STREAMING}"
MARKUP: Final = '<img src=x onerror="window.wasRun = true"><script>window.wasRun = true</script>&amp;\''
AUDITED: Final = {"SUBAK_AUDIT__ENABLED": "true"}
PLAN: Final = {"steps": [5, 25, 50, 100], "hold_s": 86_400, "allow": ["127.0.0.1"]}
PAIRS: Final = (
    ("--ink", "--paper"),
    ("--ink", "--card"),
    ("--soft", "--card"),
    ("--soft", "--wash"),
    ("--field", "--card"),
    ("--clay", "--card"),
    ("--sun", "--card"),
    ("--water", "--card"),
    ("--on-field", "--field"),
    ("--on-clay", "--clay"),
)


def admin_token(gateway: Running) -> str:
    operator = gateway.gateway.admin_token
    assert operator is not None
    return operator.text


async def operate(gateway: Running, method: str, target: str, fields: object = None) -> Any:  # noqa: ANN401 - JSON
    """Do something as an operator with a program; give what came back."""
    headers = [("Authorization", f"Bearer {admin_token(gateway)}"), ("Content-Type", "application/json")]
    answer = await ask(gateway.gateway.admin_url, method, target, headers, msgspec.json.encode(fields))
    assert answer.status == HTTPStatus.OK, answer.body
    return answer.json


@asynccontextmanager
async def at_the_page(chromium: Browser, gateway: Running, **options: Any) -> AsyncIterator[Visit]:  # noqa: ANN401
    """Open the page as an operator. At the end the browser may not have complained of anything."""
    origin = gateway.gateway.admin_url
    login: HttpCredentials = {"username": OPERATOR, "password": admin_token(gateway), "origin": origin}
    context = await chromium.new_context(http_credentials=login, **options)
    try:
        visit = Visit(await context.new_page(), origin)
        await visit.page.goto(f"{origin}/-/")
        yield visit
        assert visit.complaints == []
    finally:
        await context.close()


def said(page: Page, name: str) -> Any:  # noqa: ANN401 - playwright's
    """Give an assertion about an element, by its id."""
    return expect(page.locator(f"#{name}"))


async def may_stream(gateway: Running) -> int:
    """Give the status that the public route answers a question with."""
    return (await get(gateway, question_url())).status


@asynccontextmanager
async def one_open_stream(gateway: Running) -> AsyncIterator[None]:
    """Have one answer under way, of which the first token has come."""
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", question_url())
        await client.until(b"Ciao")
        yield


def unfinished(gate: asyncio.Event) -> list[Step]:
    return [Head(), CIAO, Gate(gate), *ANSWER[2:]]


async def test_switching_the_flag_off_on_the_page_closes_the_public_route(chromium: Browser) -> None:
    async with scripted() as upstream, running(upstream) as gateway, at_the_page(chromium, gateway) as here:
        assert await may_stream(gateway) == HTTPStatus.OK
        await said(here.page, "switch-on").to_be_disabled()
        await here.press("Switch off")
        await said(here.page, "flag-told").to_have_text("Done: streaming is off: switched off.")
        assert await may_stream(gateway) == HTTPStatus.FORBIDDEN
        await said(here.page, "state").to_have_text("Streaming is off")
        newest = here.page.locator("#changes tr").first
        await expect(newest).to_contain_text(OPERATOR)
        await expect(newest).to_contain_text("switched off")

        await here.press("Switch on")
        await said(here.page, "state").to_have_text("Streaming")
        assert await may_stream(gateway) == HTTPStatus.OK
        await expect(here.page.locator("#changes tr")).to_have_count(2)


async def test_a_percentage_is_set_and_taken_away_and_nothing_else_changes(chromium: Browser) -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        await operate(gateway, "PUT", FLAG, {"deny": ["203.0.113.0/24"]})
        async with at_the_page(chromium, gateway) as here:
            percentage = here.page.get_by_label("Percentage of callers")
            await percentage.fill("0")
            await percentage.press("Enter")
            await said(here.page, "effect").to_have_text("on for 0 % but not for 1 on the deny list")
            assert await may_stream(gateway) == HTTPStatus.FORBIDDEN
            assert await percentage.input_value() == "0"
            await percentage.fill("")
            await here.press("Set")
            await said(here.page, "effect").to_have_text("on for everybody but not for 1 on the deny list")
            assert await may_stream(gateway) == HTTPStatus.OK
            assert (await operate(gateway, "GET", FLAG))["overrides"]["deny"] == ["203.0.113.0/24"]


async def test_a_change_that_cannot_be_is_told_in_words(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        await here.page.get_by_label("Percentage of callers").fill("33")
        await operate(gateway, "POST", "/-/rollout/start", PLAN)
        await here.page.evaluate("document.getElementById('set-percentage').disabled = false")
        await here.press("Set")
        await said(here.page, "flag-told").to_have_text(
            "A rollout sets the percentage. Abort it first: subak rollout abort."
        )
        here.forgive("409")


async def test_what_is_being_typed_survives_a_refresh(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        percentage = here.page.get_by_label("Percentage of callers")
        await percentage.fill("12")
        await operate(gateway, "PUT", FLAG, {"percentage": 40})
        await said(here.page, "effect").to_have_text("on for 40 %")
        assert await percentage.input_value() == "12"


async def test_a_rollout_is_shown_paused_resumed_and_aborted_after_a_question(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        await said(here.page, "rollout-state").to_contain_text("No rollout has been started.")
        await operate(gateway, "POST", "/-/rollout/start", PLAN)
        state = here.page.locator("#rollout-state")
        await expect(state).to_contain_text("Running at 5 %")
        await expect(state.locator("[aria-current=step]")).to_have_text("5 %now")
        await here.press("Pause")
        await expect(state).to_contain_text("Paused at 5 %")
        await here.press("Resume")
        await expect(state).to_contain_text("Running at 5 %")

        await here.press("Abort")
        question = here.page.get_by_role("dialog", name="Abort the rollout?")
        await expect(question).to_be_visible()
        await here.page.keyboard.press("Escape")
        await expect(question).to_be_hidden()
        await expect(state).to_contain_text("Running at 5 %")
        await here.page.locator("#abort").click()
        await question.get_by_role("button", name="Abort").click()
        await expect(state).to_contain_text("Aborted at 0 %")


async def test_draining_asks_first_and_enter_leaves_things_as_they_are(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        button = here.page.get_by_role("button", name="Drain this instance")
        await button.click()
        question = here.page.get_by_role("dialog", name="Drain this instance?")
        await expect(question.get_by_role("button", name="Leave it")).to_be_focused()
        await here.page.keyboard.press("Enter")
        await expect(question).to_be_hidden()
        assert not gateway.gateway.is_dismissed.is_set()

        await button.click()
        await question.get_by_role("button", name="Drain", exact=True).click()
        await said(here.page, "drain-told").to_have_text("It drains, and leaves when its streams have ended.")
        assert gateway.gateway.is_dismissed.is_set()


async def test_streams_come_and_go_without_a_reload(chromium: Browser) -> None:
    gate = asyncio.Event()
    async with (
        ScriptedUpstream(unfinished(gate)) as upstream,
        running(upstream) as gateway,
        at_the_page(chromium, gateway) as here,
    ):
        await said(here.page, "stream-rows").to_have_text("No stream is under way.")
        async with one_open_stream(gateway):
            await said(here.page, "streams-told").to_have_text("1 stream")
            (stream,) = (await operate(gateway, "GET", "/-/connections"))["streams"]
            await expect(here.page.locator("#stream-rows th")).to_have_text(stream["stream"])
            await said(here.page, "reader-rows").to_contain_text("live")
            gate.set()
            await said(here.page, "stream-rows").to_have_text("No stream is under way.")
        await expect(here.page.locator("#outcomes th")).to_have_text("stop")


async def test_the_charts_say_what_they_show(chromium: Browser) -> None:
    async with scripted() as upstream, running(upstream) as gateway, at_the_page(chromium, gateway) as here:
        await expect(here.page.locator(".chart canvas")).to_have_count(2)
        await get(gateway, question_url())
        for name, target in (("First token", 100), ("Next token", 50)):
            chart = here.page.get_by_role("img", name=name)
            measured = re.compile(rf"{name}: p95 \d+ ms, target {target} ms")
            await expect(chart).to_have_attribute("aria-label", measured)
            await expect(chart.locator(".u-legend")).to_contain_text(re.compile(rf"p95[\d.]+ ms.*target{target} ms"))


async def test_hold_still_stops_the_refreshing_and_begins_it_again(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        await here.press("Hold still")
        await operate(gateway, "PUT", FLAG, {"percentage": 7})
        held = here.page.get_by_role("button", name="Hold still")
        await expect(held).to_have_attribute("aria-pressed", "true")
        shown = await here.page.locator("#effect").text_content()
        await held.click()
        await said(here.page, "effect").to_have_text("on for 7 %")
        assert shown == "on for everybody"


async def test_it_says_when_the_gateway_no_longer_answers(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        await here.page.context.set_offline(True)
        await said(here.page, "stale").to_have_text(", nothing newer. The gateway doesn’t answer.")
        await here.page.context.set_offline(False)
        await said(here.page, "stale").to_have_text("")
        here.forgive("ERR_INTERNET_DISCONNECTED")


async def test_all_is_readable_without_javascript_and_nothing_looks_as_if_it_worked(chromium: Browser) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream(unfinished(gate)) as upstream, running(upstream) as gateway:
        await operate(gateway, "PUT", FLAG, {"percentage": 100})
        async with one_open_stream(gateway), at_the_page(chromium, gateway, java_script_enabled=False) as here:
            (stream,) = (await operate(gateway, "GET", "/-/connections"))["streams"]
            rows = here.page.get_by_role("row")
            await expect(rows.filter(has_text=stream["stream"]).first).to_contain_text("GET chat-stream")
            await expect(rows.filter(has_text="percentage unset → 100 %")).to_have_count(1)
            await expect(here.page.locator("#tiles")).to_contain_text("1 reader")
            await expect(here.page.get_by_text("Without JavaScript this page shows")).to_be_visible()
            for button in await here.page.get_by_role("button").all():
                await expect(button).to_be_disabled()
            await expect(here.page.locator("#charts")).to_be_hidden()
            gate.set()


async def test_markup_in_a_stored_value_stays_text(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        flags = gateway.gateway.flags
        change = partial(overridden, wanted=Overrides(percentage=50), now=flags.now())
        flags.change(STREAMING, change, actor=MARKUP, why=MARKUP)
        gateway.gateway.watching.observer.notify(Crashed(MARKUP, MARKUP))
        for _ in range(2):  # as it is taken over by the script, and as it comes with the page
            changed = here.page.locator("#changes tr").first
            await expect(changed.locator("td")).to_contain_text([MARKUP, "percentage unset → 50 %", MARKUP])
            await expect(here.page.locator("#error-rows th").first).to_have_text(MARKUP)
            assert await here.page.locator("main :is(img, script)").count() == 0
            assert await here.page.evaluate("window.wasRun") is None
            await here.page.reload()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_legible_in_both_schemes_and_fits_a_narrow_phone(chromium: Browser, scheme: str) -> None:
    narrow = {"width": 320, "height": 640}
    async with running() as gateway, at_the_page(chromium, gateway, viewport=narrow, color_scheme=scheme) as here:
        await expect(here.page.locator(".chart canvas")).to_have_count(2)
        assert await here.overflow_px() <= 0
        for pair in PAIRS:
            assert await here.contrast(*pair) >= 4.5, pair


async def test_it_is_used_by_keyboard_alone(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        await here.page.keyboard.press("Tab")
        skip = here.page.get_by_role("link", name="Skip to the figures")
        await expect(skip).to_be_focused()
        await expect(skip).to_be_in_viewport()
        await here.page.keyboard.press("Enter")
        await expect(here.page.locator("#now")).to_be_focused()
        await here.page.locator("#switch-off").focus()
        await here.page.keyboard.press("Enter")
        await said(here.page, "state").to_have_text("Streaming is off")
        unnamed = here.page.locator("[tabindex='0']:not([aria-label], [aria-labelledby])")
        assert await unnamed.count() == 0


async def test_every_link_to_json_leads_somewhere(chromium: Browser) -> None:
    async with running() as gateway, at_the_page(chromium, gateway) as here:
        links = await here.page.locator("a[href^='/']").evaluate_all("found => found.map(a => a.getAttribute('href'))")
        assert {"/-/stats", "/-/history", "/-/connections", "/-/rollout", "/-/limits", "/-/errors"} <= set(links)
        for link in set(links):
            assert (await here.page.request.get(here.url + link)).status == HTTPStatus.OK, link


async def test_the_page_is_only_on_the_admin_listener_and_only_for_operators() -> None:
    async with running() as gateway:
        admin = gateway.gateway.admin_url
        for target in ("/-/", "/-/static/ops.js", "/-/history"):
            assert (await get(gateway, target)).status == HTTPStatus.NOT_FOUND
            assert (await ask(admin, "GET", target)).status == HTTPStatus.UNAUTHORIZED
        assert (await get(gateway, "/static/ops.js")).status == HTTPStatus.NOT_FOUND
        login = [("Authorization", f"Bearer {admin_token(gateway)}")]
        home = await ask(admin, "GET", "/", login)
        assert (home.status, home.header("Location")) == (HTTPStatus.FOUND, "/-/")


async def test_the_history_is_given_from_a_moment_on_and_a_moment_that_is_none_is_told() -> None:
    async with running(clock=FakeClock()) as gateway:
        gateway.pass_time(12)
        times = (await operate(gateway, "GET", "/-/history"))["at_ms"]
        assert len(times) == 3
        assert (await operate(gateway, "GET", f"/-/history?after={times[0]}"))["at_ms"] == times[1:]
        login = [("Authorization", f"Bearer {admin_token(gateway)}")]
        answer = await ask(gateway.gateway.admin_url, "GET", "/-/history?after=yesterday", login)
        assert answer.status == HTTPStatus.UNPROCESSABLE_ENTITY
        assert b"milliseconds since the epoch" in answer.body


async def test_the_audit_trail_is_searched_and_verified(chromium: Browser) -> None:
    async with scripted() as upstream, running(upstream, AUDITED) as gateway:
        await get(gateway, question_url())
        async with at_the_page(chromium, gateway) as here:
            await here.page.get_by_label("Operation").fill("stream.*")
            await here.page.get_by_label("From (UTC)").fill("2020-01-01T00:00")
            await here.press("Search")
            await said(here.page, "search-told").to_have_text("2 rows.")
            found = here.page.locator("#found-rows tr")
            await expect(found).to_contain_text(["stream.end", "stream.start"])
            await expect(found.first).to_contain_text("tokens 2")

            await here.press("Verify")
            await said(here.page, "verify-told").to_contain_text(re.compile(r"^Whole: \d+ rows of subak/"))
            await said(here.page, "verify-told").to_have_class("told good")


async def test_rows_of_the_trail_come_a_page_at_a_time(chromium: Browser) -> None:
    async with scripted() as upstream, running(upstream, AUDITED) as gateway:
        await get(gateway, question_url())
        async with at_the_page(chromium, gateway) as here:
            await here.page.get_by_label("Operation").fill("stream.*")
            await here.page.get_by_label("At most").fill("1")
            await here.press("Search")
            await said(here.page, "search-told").to_have_text("1 row, and there are more.")
            await here.press("More")
            await said(here.page, "search-told").to_have_text("2 rows.")
            await expect(here.page.locator("#found-rows tr")).to_contain_text(["stream.end", "stream.start"])


async def test_a_trail_that_was_tampered_with_is_told(chromium: Browser) -> None:
    async with scripted() as upstream, running(upstream, AUDITED) as gateway:
        await get(gateway, question_url())
        async with at_the_page(chromium, gateway) as here:
            with closing(sqlite3.connect(gateway.gateway.settings.state_dir / LOG_FILE)) as log, log:
                log.execute("UPDATE audit_event SET outcome = 'cancelled' WHERE outcome = 'stop'")
            await here.press("Verify")
            told = said(here.page, "verify-told")
            await told.to_contain_text(re.compile(r"Not whole, \d+ findings"))
            await told.to_contain_text("what a row is found by isn't what it says")
            await told.to_have_class("told bad")


async def test_a_search_that_cannot_be_is_told_in_words(chromium: Browser) -> None:
    async with running(None, AUDITED) as gateway, at_the_page(chromium, gateway) as here:
        await here.page.get_by_label("Operation").fill("nonsense")
        await here.press("Search")
        await said(here.page, "search-told").to_contain_text("$.operation: expected one of stream.start")
        here.forgive("422")

"""A real Chromium, and real gateways for it to visit: one with the embedded backend, one before a scripted backend."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from subak.testing import ScriptedUpstream
from tests.browser.client_page import PATIENCE_MS
from tests.browser.gateways import running_gateway
from tests.browser.visit import WATCHING, Visit

UNLIMITED = {"SUBAK_LIMITS__ENABLED": "false"}
CHROMIUM = "/usr/bin/chromium"
PACE_MS = "50"
"""Between two words of the demo's answer, of which there are some 130: a test has seconds to act while they come."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Visiting(Protocol):
    """Opens the demo page of a gateway in a tab of its own."""

    async def __call__(self, url: str, *, width: int = 1280, scheme: str = "light") -> Visit:
        """Width in CSS pixels; `scheme` is light or dark."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The base URL of `subak demo`."""
    async with running_gateway(tmp_path_factory.mktemp("embedded"), "demo", "--pace-ms", PACE_MS, **UNLIMITED) as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend() -> AsyncIterator[ScriptedUpstream]:
    """The RAG backend of `scripted`: a test puts what it should answer into `scripts`."""
    async with ScriptedUpstream([]) as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted(backend: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The base URL of a gateway whose answers a test scripts."""
    folder = tmp_path_factory.mktemp("scripted")
    async with running_gateway(folder, "demo", "--upstream", backend.url, **UNLIMITED) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser) -> AsyncIterator[Visiting]:
    """Tabs without history. At the end no browser may have complained of anything that its test didn't expect."""
    visits: list[Visit] = []
    async with AsyncExitStack() as stack:

        async def open_page(url: str, *, width: int = 1280, scheme: str = "light") -> Visit:
            context = await chromium.new_context(
                viewport={"width": width, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
            )
            stack.push_async_callback(context.close)
            await context.add_init_script(WATCHING)
            made = Visit(await context.new_page(), url)
            visits.append(made)
            await made.page.goto(f"{url}/demo")
            return made

        yield open_page
    assert [each.complaints for each in visits] == [[] for _ in visits]

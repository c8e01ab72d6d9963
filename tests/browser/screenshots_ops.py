"""Makes the pictures of the operations page in docs/images anew: `python -m tests.browser.screenshots_ops`.

Behind the gateway is a backend, before it are some fifty readers at a time, in processes of their own; now and then a
dozen more come, who aren't all let in; and a rollout is under way. The pictures are taken after four minutes, so that
the charts have something to show.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal, NamedTuple

import aiohttp
from playwright.async_api import Browser, HttpCredentials, async_playwright, expect

from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.screenshots import IMAGES, MOST_BYTES
from tests.integration.gateway import Running, process, question_url, running


class Picture(NamedTuple):
    """What to show: a window of this size in CSS pixels."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int


OPERATOR: Final = "on-call@example.org"
MOST_READERS: Final = 55
QUESTIONS_A_SECOND: Final = "11.5"
"""An answer takes some four seconds."""
WARM_UP_S: Final = 60.0
USE_S: Final = 180.0
APART_S: Final = 20.0
BURST: Final = 12
PLAN: Final = {"steps": [5, 25, 50, 100], "hold_s": 86_400, "min_requests": 20, "allow": ["127.0.0.1"]}
SETTINGS: Final = {
    "SUBAK_LIMITS__ENABLED": "true",
    "SUBAK_LIMITS__CHAT": "100000",
    "SUBAK_LIMITS__STREAMS_ANONYMOUS": str(MOST_READERS),
    "SUBAK_AUDIT__ENABLED": "true",
}
PICTURES: Final = (
    Picture("ops-light", "light", 1280, 1150),
    Picture("ops-dark", "dark", 1280, 1150),
    Picture("ops-phone", "light", 390, 844),
)


async def try_now_and_then(client: aiohttp.ClientSession, url: str) -> None:
    """Ask many questions at once, which goes beyond what is allowed."""
    while True:
        await asyncio.sleep(APART_S)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(BURST):
                tasks.create_task(read(client, url))


async def read(client: aiohttp.ClientSession, url: str) -> None:
    """Ask, and read to the end."""
    async with client.get(url) as answer:
        await answer.read()


async def operate(client: aiohttp.ClientSession, gateway: Running, method: str, path: str, body: object) -> None:
    """Change something as an operator."""
    login = {"Authorization": f"Bearer {token_of(gateway)}", "X-Subak-Actor": OPERATOR}
    async with client.request(method, gateway.gateway.admin_url + path, json=body, headers=login) as answer:
        answer.raise_for_status()


def token_of(gateway: Running) -> str:
    """Give what opens the admin listener."""
    token = gateway.gateway.admin_token
    assert token is not None
    return token.text


@asynccontextmanager
async def used_gateway() -> AsyncIterator[Running]:
    """Run a backend, a gateway before it, and everybody who uses it."""
    async with (
        process("backend", "--port", "0", SUBAK_KNOWLEDGE__PACE_MS="30") as backend,
        running(await backend.url(), SETTINGS, kept=MOST_READERS * 4) as gateway,
        process("bench", gateway.url, "--rate", QUESTIONS_A_SECOND, "--duration", "1h"),
        aiohttp.ClientSession() as client,
        asyncio.TaskGroup() as tasks,
    ):
        beyond = tasks.create_task(try_now_and_then(client, gateway.url + question_url()))
        flag = "/-/flags/ENABLE_SSE_STREAMING"
        await operate(client, gateway, "PUT", flag, {"off": True})
        await operate(client, gateway, "PUT", flag, {"off": False})
        await asyncio.sleep(WARM_UP_S)
        await operate(client, gateway, "POST", "/-/rollout/start", PLAN)
        yield gateway
        beyond.cancel()


async def take(picture: Picture, browser: Browser, gateway: Running) -> None:
    """Take one, once the charts are drawn."""
    origin = gateway.gateway.admin_url
    login: HttpCredentials = {"username": OPERATOR, "password": token_of(gateway), "origin": origin}
    context = await browser.new_context(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme=picture.scheme,
        http_credentials=login,
    )
    page = await context.new_page()
    await page.goto(f"{origin}/-/")
    await expect(page.get_by_role("img", name="First token").locator(".u-legend")).to_contain_text(" ms")
    path = IMAGES / f"{picture.name}.png"
    await page.screenshot(path=path)
    await context.close()
    assert path.stat().st_size <= MOST_BYTES, f"{path} has {path.stat().st_size} bytes"
    sys.stdout.write(f"{path.name} {path.stat().st_size // 1024} KiB\n")


async def main() -> None:
    """Use a gateway for a while, then look at it."""
    async with used_gateway() as gateway, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        await asyncio.sleep(USE_S)
        for picture in PICTURES:
            await take(picture, browser, gateway)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())

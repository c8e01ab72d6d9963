"""Makes docs/images anew from the running demo page: `python -m tests.browser.screenshots`, in the project's folder.

A gateway with the embedded backend, a real Chromium; each picture is taken in the middle of an answer.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal, NamedTuple

from playwright.async_api import Browser, async_playwright, expect

from tests.browser.conftest import CHROMIUM, FLAGS, UNLIMITED
from tests.browser.gateways import running_gateway
from tests.browser.visit import Visit

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES: Final = 250_000
CUT_AFTER: Final = 40
SEEN_AFTER: Final = 110
"""Tokens."""
SOON: Final = {"SUBAK_STREAM__RETRY_MIN_MS": "900", "SUBAK_STREAM__RETRY_MAX_MS": "1100"}
"""When a reader comes back."""


class Picture(NamedTuple):
    """What to show: the page in this phase, in a window of this size in CSS pixels."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int
    phase: Literal["cut", "live"]


PICTURES: Final = (
    Picture("demo-light", "light", 1280, 940, "live"),
    Picture("demo-dark", "dark", 1280, 940, "cut"),
    Picture("demo-phone", "light", 390, 844, "live"),
    Picture("demo-phone-dark", "dark", 390, 844, "cut"),
)


async def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with running_gateway(Path(folder), "demo", **UNLIMITED, **SOON) as url, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            for picture in PICTURES:
                await take(picture, browser, url)
            await browser.close()


async def take(picture: Picture, browser: Browser, url: str) -> None:
    """Ask, cut the line, and take the picture then or when it has come back."""
    context = await browser.new_context(
        viewport={"width": picture.width, "height": picture.height}, color_scheme=picture.scheme
    )
    here = Visit(await context.new_page(), url)
    await here.page.goto(f"{url}/demo")
    await here.ask()
    await saw(here, CUT_AFTER)
    await here.press("Cut the line")
    await here.wait_phase(picture.phase)
    if picture.phase == "live":
        await saw(here, SEEN_AFTER)
    await expect(here.page.locator("#chart-words")).to_contain_text("no line for")
    path = IMAGES / f"{picture.name}.png"
    await here.page.screenshot(path=path)
    await context.close()
    assert path.stat().st_size <= MOST_BYTES, f"{path} has {path.stat().st_size} bytes"
    sys.stdout.write(f"{path.name} {path.stat().st_size // 1024} KiB\n")


async def saw(here: Visit, tokens: int) -> None:
    """Return once so many tokens have come."""
    shown = "least => Number(document.querySelector('#tokens').textContent) >= least"
    await here.page.wait_for_function(shown, arg=tokens)


if __name__ == "__main__":
    asyncio.run(main())

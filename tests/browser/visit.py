"""One tab on the demo page, and what a person does and sees there."""

import re
from typing import Final

import msgspec
from playwright.async_api import ConsoleMessage, Error, Locator, Page, Request, expect

from tests.wire import FollowingReader

WATCHING: Final = """
    window.heard = [];
    const hear = (changes) => {
        const added = changes.flatMap(({ addedNodes }) => [...addedNodes]);
        window.heard.push(...added.map((node) => node.textContent));
    };
    addEventListener("DOMContentLoaded", () => {
        for (const live of document.querySelectorAll('[aria-live="polite"]')) {
            new MutationObserver(hear).observe(live, { childList: true, characterData: true, subtree: true });
        }
    });
"""
"""Runs before the page's own scripts: keeps every text that the live regions were given."""

_STREAM_ID: Final = re.compile(r"st_[A-Za-z0-9_-]{28}")
_decode_object: Final = msgspec.json.Decoder(dict[str, object]).decode


class Visit:
    """A page that keeps what the browser complained of and which requests it made beside its own files.

    `complaints`: console errors and warnings, uncaught exceptions, violations of the content security policy, and
    requests of any other server.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)
        page.on("request", self._on_request)

    @property
    def status(self) -> Locator:
        """What the page says of the line."""
        return self.page.get_by_role("status")

    async def ask(self, question: str | None = None) -> None:
        """Put a question, or the one that stands there."""
        if question is not None:
            await self.page.get_by_label("Your question").fill(question)
        await self.page.get_by_role("button", name="Ask", exact=True).click()

    async def press(self, name: str) -> None:
        """Press the button with this name."""
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def wait_tokens(self, least: int) -> None:
        """Return once that many tokens have come; `least` is 1, 10 or 100."""
        digits = len(str(least))
        await expect(self.page.locator("#tokens")).to_have_text(re.compile(rf"^[1-9]\d{{{digits - 1},}}$"))

    async def wait_phase(self, phase: str) -> None:
        """Return once the line is in this phase."""
        await expect(self.page.locator("#line")).to_have_attribute("data-phase", phase)

    async def text(self) -> str:
        """Give the answer to the character, as its plain text shows it."""
        plain = self.page.get_by_role("button", name="Plain text")
        if await plain.get_attribute("aria-pressed") == "false":
            await plain.click()
        return await self.page.locator("#answer").text_content() or ""

    async def figure(self, name: str) -> str:
        """Give one of the figures, by its element's id."""
        return await self.page.locator(f"#{name}").inner_text()

    async def stream_id(self) -> str:
        """Give the id of the stream that was read last."""
        found = _STREAM_ID.search(await self.page.locator("#frames").text_content() or "")
        assert found is not None, "the frames bear the stream's id"
        return found[0]

    async def state(self) -> dict[str, object]:
        """Give what the gateway says of the stream."""
        response = await self.page.request.get(f"{self.url}/v1/streams/{await self.stream_id()}")
        return _decode_object(await response.body())

    async def log(self) -> FollowingReader:
        """Give the stream's whole log, read by a reader that allows no gap, no repeat and nothing after the end."""
        stream_id = await self.stream_id()
        response = await self.page.request.get(f"{self.url}/v1/streams/{stream_id}/events")
        reader = FollowingReader(stream_id, 0)
        reader.take(await response.body())
        assert reader.has_ending
        return reader

    async def frames(self) -> list[str]:
        """Give the frames that are shown, without the notes between them."""
        return await self.page.locator("#frames .frame:not(.mark)").all_text_contents()

    async def second_tab(self) -> "Visit":
        """Open the answer in a second tab, as a person does."""
        async with self.page.context.expect_page() as opened:
            await self.page.get_by_role("link", name="Read it in a second tab").click()
        return Visit(await opened.value, self.url)

    async def heard(self) -> list[str]:
        """Give what a screen reader was told, in order."""
        return list(await self.page.evaluate("heard"))

    async def overflow_px(self) -> int:
        """Give how far the page reaches beyond its window's right edge."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    async def contrast(self, *names: str) -> float:
        """Give the contrast of two custom properties of the style sheet, 1 to 21 (WCAG 2.2, "contrast ratio")."""
        lightest, darkest = sorted([luminance(await self._colour(name)) for name in names], reverse=True)
        return (lightest + 0.05) / (darkest + 0.05)

    def forgive(self, *words: str) -> None:
        """Forget the complaints that a test provoked: those with one of these words in them."""
        self.complaints = [each for each in self.complaints if not any(word in each for word in words)]

    async def _colour(self, name: str) -> str:
        styled = "getComputedStyle(document.documentElement)"
        return str(await self.page.evaluate(f"(name) => {styled}.getPropertyValue(name)", name))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _on_error(self, error: Error) -> None:
        self.complaints.append(str(error))

    def _on_request(self, request: Request) -> None:
        path = request.url.removeprefix(self.url)
        if not path.startswith("/"):
            self.complaints.append(f"asked another server: {request.url}")
        if not path.startswith(("/demo", "/static/")):
            self.requests.append(f"{request.method} {path}")


def luminance(colour: str) -> float:
    """Give the relative luminance of a colour `#rrggbb`, 0 to 1 (WCAG 2.2)."""
    red, green, blue = (_linear(value / 255) for value in bytes.fromhex(colour.strip().removeprefix("#")))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)

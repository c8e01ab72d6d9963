"""A tab in which the browser client asks, reads and tells what it was told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from playwright.async_api import Browser, BrowserContext, Page

PATIENCE_MS: Final = 30_000
QUICK: Final[dict[str, Any]] = {"SUBAK_STREAM__RETRY_MIN_MS": "10", "SUBAK_STREAM__RETRY_MAX_MS": "30"}
"""Settings of a gateway whose readers come back at once."""
IMPATIENT: Final = {"reconnectDelay": 20, "maxReconnectDelay": 200, "maxReconnectAttempts": 40}
"""Options of a client that comes back at once."""

_READ: Final = """
    const told = { text: '', changes: [], sources: [], outcome: null, failure: null };
    window.told = told;
    window.read = (stream) => {
        window.stream = stream;
        stream.on('token', ({ data }) => { told.text += data; });
        stream.on('replace', ({ data }) => { told.text = data; });
        stream.on('sources', ({ data }) => { told.sources.push(...data); });
        stream.on('state', ({ data }) => { told.changes.push(data); });
        stream.start().then(
            (outcome) => { told.outcome = outcome; },
            ({ code, message, status }) => { told.failure = { code, message, status: status ?? null }; },
        );
    };
"""
_ASK: Final = """
async (options) => {
    const { ChatFallback, SubakStream } = await import('/static/subak-client.js');
    const fallback = options.fallback ? new ChatFallback() : undefined;
    window.read(new SubakStream({ ...options, fallback }));
}
"""
_RESUME: Final = """
async ([name, options]) => {
    const { SubakStream } = await import('/static/subak-client.js');
    const stream = SubakStream.resume(name, options);
    if (stream === null) return false;
    window.read(stream);
    return true;
}
"""


class Failure(msgspec.Struct):
    """Why there was no whole answer; `status` is the HTTP status of a refusal."""

    code: str
    message: str
    status: int | None


class Metrics(msgspec.Struct, rename="camel"):
    """What the client measured, as far as tests look at it."""

    tokens: int
    reconnects: int
    duplicates: int
    gaps: int
    bytes: int
    transport: str
    first_token_ms: float | None = None


class Outcome(msgspec.Struct, rename="camel"):
    """A whole answer."""

    stream_id: str
    text: str
    done: dict[str, Any]
    metrics: Metrics


class Change(msgspec.Struct, rename="camel"):
    """A change of the stream's state."""

    state: str
    attempt: int
    reason: str | None = None
    status: int | None = None
    delay_ms: float | None = None


class Told(msgspec.Struct):
    """All that the client's listeners were told; `text` is the tokens, joined."""

    text: str
    changes: list[Change]
    sources: list[dict[str, Any]]
    outcome: Outcome | None
    failure: Failure | None


class ClientPage:
    """One tab."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def ask(self, question: str = "What is a KITAS?", **options: object) -> None:
        """Ask; `options` are the client's. Returns as soon as it has begun."""
        await self.page.evaluate(_ASK, {**IMPATIENT, "question": {"query": question}, **options})

    async def follow(self, stream_id: str, **options: object) -> None:
        """Read a stream that somebody else has asked for."""
        await self.page.evaluate(_ASK, {**IMPATIENT, "streamId": stream_id, **options})

    async def resume(self, name: str, **options: object) -> bool:
        """Read on what this tab was reading under a name; False if there was nothing."""
        return bool(await self.page.evaluate(_RESUME, [name, {**IMPATIENT, **options}]))

    async def saw_tokens(self, least: int) -> None:
        """Return once that many tokens have come."""
        await self.page.wait_for_function("least => stream.metrics.tokens >= least", arg=least, timeout=PATIENCE_MS)

    async def until(self, condition: str) -> None:
        """Return once a JavaScript expression holds; `told` and `stream` may stand in it."""
        await self.page.wait_for_function(condition, timeout=PATIENCE_MS)

    async def told(self) -> Told:
        """Give what the listeners were told so far."""
        return msgspec.convert(await self.page.evaluate("told"), Told)

    async def outcome(self) -> Outcome:
        """Give the whole answer, once it is there. What was told token by token must be the same."""
        await self.until("told.outcome ?? told.failure")
        told = await self.told()
        assert told.outcome is not None, told.failure
        assert told.text == told.outcome.text
        return told.outcome

    async def failure(self) -> Failure:
        """Give why there is no whole answer, once that is known."""
        await self.until("told.outcome ?? told.failure")
        told = await self.told()
        assert told.failure is not None, told.outcome
        return told.failure

    async def stream_id(self) -> str:
        """Give the id of the stream under way."""
        await self.until("stream.streamId")
        return str(await self.page.evaluate("stream.streamId"))


@asynccontextmanager
async def new_context(chromium: Browser, **options: Any) -> AsyncIterator[BrowserContext]:  # noqa: ANN401 - playwright's
    """Give a browser profile without history."""
    context = await chromium.new_context(**options)
    try:
        await context.add_init_script(_READ)
        yield context
    finally:
        await context.close()


async def open_tab(context: BrowserContext, url: str) -> ClientPage:
    """Open a blank page of the gateway's (or a proxy's) origin."""
    page = await context.new_page()
    await page.goto(f"{url}/livez")
    return ClientPage(page)


@asynccontextmanager
async def client_page(chromium: Browser, url: str, **options: Any) -> AsyncIterator[ClientPage]:  # noqa: ANN401 - (same)
    """Open one tab without history."""
    async with new_context(chromium, **options) as context:
        yield await open_tab(context, url)

"""From settings to what answers, opened and closed together: the upstream of the stream routes, and `/chat`'s."""

import asyncio
import random
import ssl
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

import aiohttp

from subak import __version__
from subak.core.breaker import BreakerPolicy
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.knowledge.answer import Answerer, ExtractiveAnswerer
from subak.knowledge.index import BUNDLED_LIBRARY, Holdings, Index, build_index
from subak.knowledge.llm import LlmAnswerer, Model
from subak.knowledge.server import chat as chat_embedded
from subak.settings import Settings
from subak.settings import Upstream as UpstreamSettings
from subak.upstream.base import Upstream
from subak.upstream.embedded import EmbeddedUpstream
from subak.upstream.failover import FailoverUpstream
from subak.upstream.http1 import Http1Limits, parse_base_url, tls_context
from subak.upstream.rag import RagBounds, RagTarget, RagUpstream
from subak.web.chat import EmbeddedChat, ProxiedChat

ChatBackend = EmbeddedChat | ProxiedChat

_CHAT_FIELD_BYTES: Final = 64 * 1024
_CHAT_HEADERS: Final = 1_000
"""What a head of the backend of `/chat` may have: far above what servers send, so that what they send passes."""


class Surroundings(NamedTuple):
    """What every upstream is handed."""

    clock: Clock
    deadlines: Deadlines
    tasks: asyncio.TaskGroup


class Answering:
    """What answers, as one set of settings describes it. `close` ends what is still under way through it."""

    def __init__(
        self, upstream: Upstream, chat: ChatBackend, stack: AsyncExitStack, holdings: Holdings | None = None
    ) -> None:
        """See `open_answering`. `holdings` is what the embedded backend answers from."""
        self.upstream = upstream
        self.chat = chat
        self.holdings = holdings
        self._stack = stack

    async def close(self) -> None:
        """Close everything, in the opposite order."""
        await self._stack.aclose()


async def open_answering(settings: Settings, around: Surroundings) -> Answering:
    """Open what the settings name.

    Raises:
        LibraryError: the embedded backend finds nothing to answer from.
        OSError: a certificate can't be read.
    """
    async with AsyncExitStack() as stack:
        if settings.upstream.chosen_kind == "embedded" or settings.upstream.url is None:
            answerer, index = await open_answerer(settings, stack)
            upstream = EmbeddedUpstream(answerer, tasks=around.tasks, clock=around.clock, pace_ms=pace_ms(settings))
            stack.push_async_callback(upstream.close)
            chat = EmbeddedChat(partial(chat_embedded, answerer))
            return Answering(upstream, chat, stack.pop_all(), index.holdings)
        return await _open_rag(settings, settings.upstream.url, around, stack)


async def open_answerer(settings: Settings, stack: AsyncExitStack) -> tuple[Answerer, Index]:
    """Read the library and give what answers from it: extracts, or a language model where one is set.

    Raises:
        LibraryError: there is nothing to answer from.
    """
    knowledge, llm = settings.knowledge, settings.llm
    index = await asyncio.to_thread(build_index, knowledge.docs or BUNDLED_LIBRARY)
    stack.callback(index.close)
    if llm.url is None:
        return ExtractiveAnswerer(index, knowledge.max_passages), index
    session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
    model = Model(llm.url, llm.model, None if llm.key is None else llm.key.reveal())
    return LlmAnswerer(index, session, model, knowledge.max_passages), index


def pace_ms(settings: Settings) -> float:
    """Give the pause between two words: a language model has its own pace."""
    return settings.knowledge.pace_ms if settings.llm.url is None else 0.0


async def _open_rag(settings: Settings, url: str, around: Surroundings, stack: AsyncExitStack) -> Answering:
    """Several backends fail over to one another; `/chat` is the first one's alone, unchanged."""
    chosen = settings.upstream
    ssl_context = _ssl_context(chosen)
    urls = (url, *chosen.fallback_urls)
    backends = [_rag_upstream(chosen, each, around, ssl_context) for each in urls]
    names = [parse_base_url(each)[0].authority for each in urls]
    upstream = FailoverUpstream(
        tuple(zip(names, backends, strict=True)),
        policy=BreakerPolicy(chosen.breaker_failures, chosen.breaker_rest_s),
        clock=around.clock,
        tasks=around.tasks,
        chance=random.random,
    )
    stack.push_async_callback(upstream.close)
    session = await stack.enter_async_context(_chat_session(chosen, ssl_context))
    chat = ProxiedChat(
        session,
        url,
        backends[0].credentials,
        first_byte_timeout_s=chosen.first_byte_timeout_s,
        idle_timeout_s=chosen.idle_timeout_s,
        max_body_bytes=settings.http.chat_max_body_bytes,
    )
    return Answering(upstream, chat, stack.pop_all())


def _rag_upstream(
    settings: UpstreamSettings, url: str, around: Surroundings, ssl_context: ssl.SSLContext | None
) -> RagUpstream:
    headers = {name: secret.reveal() for name, secret in settings.headers.items()}
    if settings.key is not None:
        headers["Authorization"] = f"Bearer {settings.key.reveal()}"
    target = RagTarget(
        url=url,
        method=settings.method,
        headers=headers,
        token_file=settings.token_file,
        ssl_context=ssl_context,
        user_agent=f"subak/{__version__}",
    )
    limits = Http1Limits(
        connect_timeout_s=settings.connect_timeout_s,
        first_byte_timeout_s=settings.first_byte_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        max_idle_connections=settings.max_idle_connections,
    )
    return RagUpstream(
        target,
        clock=around.clock,
        deadlines=around.deadlines,
        tasks=around.tasks,
        limits=limits,
        bounds=RagBounds(max_get_url_bytes=settings.max_get_url_bytes, max_event_bytes=settings.max_event_bytes),
    )


def _ssl_context(settings: UpstreamSettings) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in (settings.url or "", *settings.fallback_urls)):
        return None
    return tls_context(ca_file=settings.ca_file, cert_file=settings.client_cert_file, key_file=settings.client_key_file)


def _chat_session(settings: UpstreamSettings, ssl_context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """Give the client of `/chat`: it adds no header, follows nothing, decodes nothing, and bounds only the head."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl_context or True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        max_line_size=_CHAT_FIELD_BYTES,
        max_field_size=_CHAT_FIELD_BYTES,
        max_headers=_CHAT_HEADERS,
    )

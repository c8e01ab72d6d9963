"""From settings to what answers, opened and closed together: the upstream of the stream routes, and `/chat`'s."""

import asyncio
import random
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

import aiohttp
import msgspec

from subak import __version__
from subak.core.breaker import BreakerPolicy, BreakerState
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.live import UpstreamState
from subak.knowledge.answer import Answerer, ExtractiveAnswerer
from subak.knowledge.index import BUNDLED_LIBRARY, Holdings, Index, build_index
from subak.knowledge.llm import LlmAnswerer, Model
from subak.knowledge.server import chat as chat_embedded
from subak.settings import Settings
from subak.settings import Upstream as UpstreamSettings
from subak.upstream.base import Upstream
from subak.upstream.embedded import EmbeddedUpstream
from subak.upstream.failover import FailoverUpstream
from subak.upstream.http1 import Http1Client, Http1Limits, parse_base_url, tls_context
from subak.upstream.openai import OpenAiTarget, OpenAiUpstream
from subak.upstream.openai_chat import OpenAiChat
from subak.upstream.rag import RagBounds, RagTarget, RagUpstream
from subak.web.chat import EmbeddedChat, ProxiedChat

USER_AGENT: Final = f"subak/{__version__}"
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
        self,
        upstream: Upstream,
        chat: ChatBackend,
        stack: AsyncExitStack,
        holdings: Holdings | None = None,
        servers: "Servers | None" = None,
    ) -> None:
        """See `open_answering`. `holdings` is what the embedded backend answers from, `servers` any other's figures."""
        self.upstream = upstream
        self.chat = chat
        self.holdings = holdings
        self.servers = servers or Servers(None, {})
        self._stack = stack

    async def close(self) -> None:
        """Close everything, in the opposite order."""
        await self._stack.aclose()


class Servers:
    """The figures of the servers that are asked, for whoever exports them. None are asked by the embedded backend."""

    def __init__(self, upstream: FailoverUpstream | None, clients: Mapping[str, Http1Client]) -> None:
        """`clients` by the names that `upstream` has for its servers."""
        self._upstream = upstream
        self._clients = clients

    @property
    def retries(self) -> int:
        """How many questions were asked a second time."""
        return 0 if self._upstream is None else self._upstream.retries

    def look(self) -> list[UpstreamState]:
        """Tell how each of them stands, in order of preference."""
        states = {} if self._upstream is None else self._upstream.states()
        return [_state_of(name, state, self._clients[name]) for name, state in states.items()]


def _state_of(name: str, breaker: BreakerState, client: Http1Client) -> UpstreamState:
    return UpstreamState(
        name=name,
        breaker=breaker,
        busy_connections=client.busy_connections,
        idle_connections=client.idle_connections,
        opened_connections=client.connections_opened,
        reused_connections=client.connections_reused,
    )


async def open_answering(settings: Settings, around: Surroundings) -> Answering:
    """Open what the settings name.

    Raises:
        LibraryError: the embedded backend finds nothing to answer from.
        OSError: a certificate can't be read.
    """
    async with AsyncExitStack() as stack:
        chosen = settings.upstream
        if chosen.chosen_kind == "embedded" or chosen.url is None:
            answerer, index = await open_answerer(settings, stack)
            upstream = EmbeddedUpstream(answerer, tasks=around.tasks, clock=around.clock, pace_ms=pace_ms(settings))
            stack.push_async_callback(upstream.close)
            chat = EmbeddedChat(partial(chat_embedded, answerer))
            return Answering(upstream, chat, stack.pop_all(), index.holdings)
        opener = _open_openai if chosen.chosen_kind == "openai" else _open_rag
        return await opener(settings, (chosen.url, *chosen.fallback_urls), around, stack)


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


async def _open_rag(
    settings: Settings, urls: tuple[str, ...], around: Surroundings, stack: AsyncExitStack
) -> Answering:
    """Several backends fail over to one another; `/chat` is the first one's alone, unchanged."""
    chosen = settings.upstream
    ssl_context = _ssl_context(chosen)
    backends = [_rag_upstream(chosen, url, around, ssl_context) for url in urls]
    upstream = _failing_over(chosen, urls, backends, around)
    servers = Servers(upstream, {name_of(url): backend.client for url, backend in zip(urls, backends, strict=True)})
    stack.push_async_callback(upstream.close)
    session = await stack.enter_async_context(_chat_session(chosen, ssl_context))
    chat = ProxiedChat(
        session,
        urls[0],
        backends[0].credentials,
        first_byte_timeout_s=chosen.first_byte_timeout_s,
        idle_timeout_s=chosen.idle_timeout_s,
        max_body_bytes=settings.http.chat_max_body_bytes,
    )
    return Answering(upstream, chat, stack.pop_all(), servers=servers)


async def _open_openai(
    settings: Settings, urls: tuple[str, ...], around: Surroundings, stack: AsyncExitStack
) -> Answering:
    """As `_open_rag`; `/chat` asks the first server for a whole answer and gives it in the RAG backend's shape."""
    chosen = settings.upstream
    ssl_context = _ssl_context(chosen)
    prompt = await _system_prompt(chosen)
    models = [_openai_upstream(chosen, url, prompt, around, ssl_context) for url in urls]
    upstream = _failing_over(chosen, urls, models, around)
    servers = Servers(upstream, {name_of(url): model.client for url, model in zip(urls, models, strict=True)})
    stack.push_async_callback(upstream.close)
    session = await stack.enter_async_context(_chat_session(chosen, ssl_context))
    whole_answer_s = chosen.first_byte_timeout_s + chosen.idle_timeout_s
    chat = OpenAiChat(session, models[0].requests, clock=around.clock, timeout_s=whole_answer_s)
    return Answering(upstream, EmbeddedChat(chat.answer), stack.pop_all(), servers=servers)


def _failing_over(
    settings: UpstreamSettings, urls: Sequence[str], upstreams: Sequence[Upstream], around: Surroundings
) -> FailoverUpstream:
    names = [name_of(url) for url in urls]
    return FailoverUpstream(
        tuple(zip(names, upstreams, strict=True)),
        policy=BreakerPolicy(settings.breaker_failures, settings.breaker_rest_s),
        clock=around.clock,
        tasks=around.tasks,
        chance=random.random,
    )


def name_of(url: str) -> str:
    """Give what operators know an upstream by: its host and port."""
    return parse_base_url(url)[0].authority


def _rag_upstream(
    settings: UpstreamSettings, url: str, around: Surroundings, ssl_context: ssl.SSLContext | None
) -> RagUpstream:
    target = RagTarget(
        url=url,
        method=settings.method,
        headers=_headers(settings),
        token_file=settings.token_file,
        ssl_context=ssl_context,
        user_agent=USER_AGENT,
    )
    return RagUpstream(
        target,
        clock=around.clock,
        deadlines=around.deadlines,
        limits=_limits(settings),
        bounds=RagBounds(max_get_url_bytes=settings.max_get_url_bytes, max_event_bytes=settings.max_event_bytes),
    )


def _openai_upstream(
    settings: UpstreamSettings,
    url: str,
    system_prompt: str | None,
    around: Surroundings,
    ssl_context: ssl.SSLContext | None,
) -> OpenAiUpstream:
    target = OpenAiTarget(
        url=url,
        model=settings.model,
        system_prompt=system_prompt,
        max_history_turns=settings.max_history_turns,
        max_history_bytes=settings.max_history_bytes,
        parameters=msgspec.json.decode(settings.parameters),
        include_usage=settings.include_usage,
        headers=_headers(settings),
        token_file=settings.token_file,
        ssl_context=ssl_context,
        user_agent=USER_AGENT,
    )
    return OpenAiUpstream(
        target,
        clock=around.clock,
        deadlines=around.deadlines,
        limits=_limits(settings),
        max_event_bytes=settings.max_event_bytes,
    )


async def _system_prompt(settings: UpstreamSettings) -> str | None:
    if settings.system_prompt_file is None:
        return settings.system_prompt
    return await asyncio.to_thread(settings.system_prompt_file.read_text, "utf-8")


def _headers(settings: UpstreamSettings) -> dict[str, str]:
    headers = {name: secret.reveal() for name, secret in settings.headers.items()}
    if settings.key is not None:
        headers["Authorization"] = f"Bearer {settings.key.reveal()}"
    return headers


def _limits(settings: UpstreamSettings) -> Http1Limits:
    return Http1Limits(
        connect_timeout_s=settings.connect_timeout_s,
        first_byte_timeout_s=settings.first_byte_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        max_idle_connections=settings.max_idle_connections,
    )


def _ssl_context(settings: UpstreamSettings) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in (settings.url or "", *settings.fallback_urls)):
        return None
    for file in (settings.ca_file, settings.client_cert_file, settings.client_key_file):
        if file is not None:
            file.open("rb").close()  # its error names the file, that of `ssl` doesn't
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

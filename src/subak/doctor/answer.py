"""One question through the gateway's own adapter: how long until the first token, and what is in the way of it.

Only the first upstream is asked, once, and its answer is aborted at the first token. Nothing of it is kept or shown.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from subak.answering import Answering, Surroundings, open_answering
from subak.clocks import SystemClock
from subak.core.deadlines import Deadlines
from subak.core.errors import UpstreamError
from subak.core.events import TOKEN, Ending, Event, Failed
from subak.core.question import Question
from subak.doctor.findings import Check, Finding, Status, failed, fine, warning
from subak.doctor.wiring import authority_of
from subak.knowledge.index import Holdings, LibraryError
from subak.settings import Settings
from subak.upstream.base import Upstream

QUESTION: Final = Question("What is a KITAS?")
SLOW_TOKEN_MS: Final = 5_000

_CREDENTIALS: Final = "give it credentials: SUBAK_UPSTREAM__KEY, __TOKEN_FILE or __HEADERS"
_ITS_LOG: Final = "the upstream's own log says more"
_SEE_CONNECT: Final = "see upstream.connect"
_FIXES: Final = {
    "auth": _CREDENTIALS,
    "connect_failed": _SEE_CONNECT,
    "connect_refused": _SEE_CONNECT,
    "connect_timeout": _SEE_CONNECT,
    "content_encoding": "have it send event streams uncompressed",
    "content_type": "it must answer with text/event-stream: is it the right URL, and the right SUBAK_UPSTREAM__KIND?",
    "dns": _SEE_CONNECT,
    "llm_unreachable": "start the server of SUBAK_LLM__URL, or correct the URL",
    "redirect": "set SUBAK_UPSTREAM__URL to where it redirects to: redirects are not followed",
    "status_404": "correct SUBAK_UPSTREAM__URL: the path of the dialect is put behind it",
    "status_405": "SUBAK_UPSTREAM__METHOD says how it is asked",
    "status_429": "it limits how often it is asked: wait, or have its limit raised",
    "tls_certificate": _SEE_CONNECT,
    "tls_handshake": _SEE_CONNECT,
    "token_file": "write the token into the file of SUBAK_UPSTREAM__TOKEN_FILE, readable for this user",
}
"""By the reasons that the upstream adapters give."""


async def look_at_answer(settings: Settings, *, may_ask: bool) -> list[Finding]:
    """Open what answers, ask it unless it may not be asked, and close it again."""
    clock = SystemClock()
    async with asyncio.TaskGroup() as tasks:
        try:
            answering = await open_answering(_first_alone(settings), Surroundings(clock, Deadlines(), tasks))
        except (LibraryError, OSError) as error:
            return [_unopened(error)]
        try:
            return [finding async for finding in _look_at_answering(settings, answering, may_ask=may_ask)]
        finally:
            await answering.close()


def _first_alone(settings: Settings) -> Settings:
    """Give settings without the further upstreams: with them a failure of the first would be hidden, or asked twice."""
    upstream = msgspec.structs.replace(settings.upstream, fallback_urls=())
    return msgspec.structs.replace(settings, upstream=upstream)


def _unopened(error: LibraryError | OSError) -> Finding:
    if isinstance(error, LibraryError):
        return failed(Check.DOCUMENTS, error.detail, "SUBAK_KNOWLEDGE__DOCS names the folder")
    seen = f"{error.filename or 'a certificate or its key'}: {error.strerror or 'not PEM'}"
    return failed(Check.UPSTREAM_ANSWER, seen, "`subak check` says which file it is, and why")


async def _look_at_answering(settings: Settings, answering: Answering, *, may_ask: bool) -> AsyncIterator[Finding]:
    if answering.holdings is not None:
        yield judge_holdings(answering.holdings)
    if not may_ask:
        yield fine(Check.UPSTREAM_ANSWER, "not asked (--no-question)")
        return
    upstream = settings.upstream
    name = "embedded" if upstream.url is None or answering.holdings is not None else authority_of(upstream.url)
    limit_s = upstream.connect_timeout_s + upstream.first_byte_timeout_s
    yield await _ask(name, answering.upstream, limit_s)


def judge_holdings(holdings: Holdings) -> Finding:
    """Judge what the embedded backend answers from."""
    seen = f"{len(holdings.titles)} documents, {holdings.passage_count} passages"
    figures = {"documents": len(holdings.titles), "passages": holdings.passage_count}
    if not holdings.skipped_count:
        return fine(Check.DOCUMENTS, seen, **figures)
    return Finding(
        Check.DOCUMENTS,
        Status.WARNING,
        f"{seen}; {holdings.skipped_count} files were left out",
        "repair them, or move them elsewhere",
        notes=tuple(f"{file.path}: {file.reason}" for file in holdings.skipped),
        figures=figures | {"skipped": holdings.skipped_count},
    )


async def _ask(name: str, upstream: Upstream, limit_s: float) -> Finding:
    now = SystemClock.monotonic
    ear = _Ear(now)
    asked_at = now()
    try:
        async with asyncio.timeout(limit_s):
            exchange = await upstream.open(QUESTION, ear)
            sent_at = now()
            try:
                await ear.has_heard.wait()
            finally:
                exchange.abort()
    except UpstreamError as error:
        return judge_failure(name, Failed(error.error_code, error.reason))
    except TimeoutError:
        return failed(Check.UPSTREAM_ANSWER, f"{name}: no token in {limit_s:.0f} s", _ITS_LOG)
    return judge_hearing(name, ear, asked_at, sent_at)


class _Ear:
    """Notes when an answer begins (`subak.core.events.UpstreamSink`), in monotonic seconds."""

    __slots__ = ("_now", "ending", "first_byte_at", "first_token_at", "has_heard")

    def __init__(self, now: Callable[[], float]) -> None:
        """`has_heard` is set with the first token or, without one, with the ending."""
        self.first_byte_at: float | None = None
        self.first_token_at: float | None = None
        self.ending: Ending | None = None
        self.has_heard = asyncio.Event()
        self._now = now

    def on_read(self, events: Sequence[Event], ending: Ending | None, size_bytes: int) -> None:
        """Note what is the first of its kind."""
        now = self._now()
        if size_bytes and self.first_byte_at is None:
            self.first_byte_at = now
        if self.first_token_at is None and any(event.type == TOKEN for event in events):
            self.first_token_at = now
        self.ending = self.ending or ending
        if self.first_token_at is not None or ending is not None:
            self.has_heard.set()


def judge_hearing(name: str, ear: _Ear, asked_at: float, sent_at: float) -> Finding:
    """Judge how an answer began."""
    if ear.first_token_at is None:
        if isinstance(ear.ending, Failed):
            return judge_failure(name, ear.ending)
        return warning(Check.UPSTREAM_ANSWER, f"{name}: an answer without a word", _ITS_LOG)
    moments = {
        "connect": sent_at,
        "first_byte": ear.first_byte_at or ear.first_token_at,
        "first_token": ear.first_token_at,
    }
    figures = {f"{moment}_ms": round((at - asked_at) * 1000, 2) for moment, at in moments.items()}
    took = ", ".join(f"{moment.replace('_', ' ')} {(at - asked_at) * 1000:.0f} ms" for moment, at in moments.items())
    seen = f"{name}: {took} (asked one question)"
    if figures["first_token_ms"] > SLOW_TOKEN_MS:
        return warning(Check.UPSTREAM_ANSWER, seen, f"readers wait for that long; {_ITS_LOG}", **figures)
    return fine(Check.UPSTREAM_ANSWER, seen, **figures)


def judge_failure(name: str, failure: Failed) -> Finding:
    """Say how asking failed, in the words of logs and metrics, and what to do."""
    seen = f"{name}: {failure.code}, {failure.reason}"
    return failed(Check.UPSTREAM_ANSWER, seen, _FIXES.get(failure.reason, _ITS_LOG))

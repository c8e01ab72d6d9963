"""The embedded backend over HTTP, in the RAG dialect (PROTOCOL §5): the same answers for whoever asks by a socket.

`GET` and `POST /bali-zero/chat-stream`, `POST /bali-zero/chat`, `GET /health`. `chat` and the pieces are free of
HTTP, so the gateway's own embedded `/chat` gives the very bytes that this server would. How requests are read and
refused stands in `core/asked.py`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import web

from subak.core.asked import (
    MAX_BODY_BYTES,
    ChatAnswer,
    ChatReply,
    Unprocessable,
    json_reply,
    question_of_body,
    question_of_parameters,
)
from subak.core.clock import Clock
from subak.core.errors import UpstreamError
from subak.core.events import DONE, SOURCES, TOKEN
from subak.core.question import Question
from subak.knowledge.answer import Answerer
from subak.knowledge.dialect import Piece, done_frame, error_frame, sources_frame, token_frame

_STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_FLUSH_PIECES: Final = 64
"""Most pieces in one write when nothing slows the answer down; between two writes the event loop serves others."""


async def chat(answerer: Answerer, body: bytes, content_type: str | None) -> ChatReply:
    """Answer the body of a `POST /bali-zero/chat` whole; `content_type` is the request's header, None without one.

    Never raises for what the request holds: 422 with the field's path, 413, 415; 502 when the answer fails.
    """
    try:
        question = question_of_body(body, content_type)
    except Unprocessable as error:
        return error.reply
    words: list[str] = []
    sources = b"[]"
    try:
        async with aclosing(answerer.answer(question)) as batches:
            async for batch in batches:
                words += [msgspec.json.decode(piece.data, type=str) for piece in batch if piece.type == TOKEN]
                sources = next((piece.data for piece in batch if piece.type == SOURCES), sources)
    except UpstreamError as error:
        return json_reply(error.http_status, {"detail": error.detail})
    answer = ChatAnswer(
        success=True,
        response="".join(words),
        model_used=answerer.model,
        ai_used=answerer.model,
        sources=msgspec.Raw(sources),
        used_rag=sources != b"[]",
    )
    return json_reply(200, answer)


def create_backend_app(answerer: Answerer, *, clock: Clock, pace_ms: float) -> web.Application:
    """Give the application. `pace_ms` is the pause between two words; a language model has its own pace: give 0."""
    backend = _Backend(answerer, clock, pace_ms / 1000)
    app = web.Application(client_max_size=MAX_BODY_BYTES + 1)
    app.router.add_get("/bali-zero/chat-stream", backend.stream_by_url, allow_head=False)
    app.router.add_post("/bali-zero/chat-stream", backend.stream_by_body)
    app.router.add_post("/bali-zero/chat", backend.chat)
    app.router.add_get("/health", backend.health, allow_head=False)
    return app


def create_backend_runner(app: web.Application) -> web.AppRunner:
    """Give the runner such an application wants: it ends the work of a client that has left, and logs no URL.

    A URL holds the question here (PROTOCOL §7, I18), so there is no access log.
    """
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)


class _Backend:
    """The handlers."""

    def __init__(self, answerer: Answerer, clock: Clock, pace_s: float) -> None:
        self._answerer = answerer
        self._clock = clock
        self._pace_s = pace_s

    async def health(self, _: web.Request) -> web.Response:
        """Say that the backend is up."""
        return web.Response(body=b'{"status":"healthy"}', content_type="application/json")

    async def chat(self, request: web.Request) -> web.Response:
        """Answer whole."""
        return _response(await chat(self._answerer, await _body(request), request.headers.get("Content-Type")))

    async def stream_by_url(self, request: web.Request) -> web.StreamResponse:
        """Answer the question in the URL word by word."""
        try:
            question = question_of_parameters(request.query)
        except Unprocessable as error:
            return _response(error.reply)
        return await self._stream(request, question)

    async def stream_by_body(self, request: web.Request) -> web.StreamResponse:
        """Answer the question in the body word by word."""
        try:
            question = question_of_body(await _body(request), request.headers.get("Content-Type"))
        except Unprocessable as error:
            return _response(error.reply)
        return await self._stream(request, question)

    async def _stream(self, request: web.Request, question: Question) -> web.StreamResponse:
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        frames = _Frames(self._clock)
        try:
            await response.prepare(request)
            try:
                async with aclosing(self._answerer.answer(question)) as batches:
                    async for batch in batches:
                        await self._send(response, frames, batch)
            except UpstreamError as error:
                await response.write(frames.failure(error))
            await response.write_eof()
        except ConnectionResetError:
            pass  # the reader has left: nobody is there to be told
        return response

    async def _send(self, response: web.StreamResponse, frames: "_Frames", batch: Sequence[Piece]) -> None:
        if not self._pace_s:
            for start in range(0, len(batch), _FLUSH_PIECES):
                await response.write(b"".join(map(frames.frame, batch[start : start + _FLUSH_PIECES])))
                await asyncio.sleep(0)
            return
        for piece in batch:
            if piece.type == TOKEN and frames.number > 0:
                await asyncio.sleep(self._pace_s)
            await response.write(frames.frame(piece))


class _Frames:
    """Numbers and dates the frames of one answer."""

    __slots__ = ("_clock", "_started_at", "number")

    def __init__(self, clock: Clock) -> None:
        self.number = 0
        self._clock = clock
        self._started_at = clock.monotonic()

    def frame(self, piece: Piece) -> bytes:
        """Give the frame of the next piece."""
        if piece.type == SOURCES:
            return sources_frame(piece.data)
        self.number += 1
        if piece.type == DONE:
            return done_frame(piece.data, self.number, self._clock.monotonic() - self._started_at)
        return token_frame(piece.data, self.number, self._clock.time_ms() / 1000)

    def failure(self, error: UpstreamError) -> bytes:
        """Give the last frame of an answer that broke."""
        return error_frame(error, self.number + 1)


def _response(reply: ChatReply) -> web.Response:
    return web.Response(status=reply.status, headers=dict(reply.headers), body=reply.body)


async def _body(request: web.Request) -> bytes:
    """Give the body, or of one that is too large as much as shows it."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return bytes(MAX_BODY_BYTES + 1)

"""`/chat` on a server of chat completions: the RAG backend's question in, its whole answer out (PROTOCOL §5).

The answer is asked for in one piece (`stream: false`). What the caller can't be helped with is refused as the RAG
backend refuses it; what the server refuses keeps its status where the caller can act on it (429, 503), with the time to
wait, and never its words.

    what happens                                         status
    ---------------------------------------------------  ------
    the body can't be understood, or is too large        422, 413, 415
    the server's limit is reached, it is overloaded      429, 503, with its `Retry-After`
    it isn't there, refuses, or gives no answer          502
    it doesn't answer in time                            504
"""

import asyncio
from typing import Final

import aiohttp
from yarl import URL

from subak.core.asked import ChatAnswer, ChatReply, Unprocessable, json_reply, question_of_body
from subak.core.clock import Clock
from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import Failed
from subak.core.question import Question
from subak.upstream.frames import usage_of, without_surrogates
from subak.upstream.http_answers import judge_head
from subak.upstream.openai import OpenAiRequests
from subak.upstream.openai_frames import (
    Completion,
    decode_completion,
    ending_of,
    failure_of,
    is_error,
    is_first,
    text_of,
)

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""The body of a whole answer: as much as a stream may have (PROTOCOL §4)."""
MAX_MODEL_CHARS: Final = 200

_JSON: Final = "application/json"
_UNNAMED: Final = "language-model"
_OVERLOADED: Final = "status_503"


class OpenAiChat:
    """Answers the bodies of `POST /bali-zero/chat`. The session is the caller's, who closes it.

    The session should decode nothing (`auto_decompress=False`) and add no headers of its own.
    """

    __slots__ = ("_clock", "_requests", "_session", "_timeout_s", "_url")

    def __init__(
        self, session: aiohttp.ClientSession, requests: OpenAiRequests, *, clock: Clock, timeout_s: float
    ) -> None:
        """`timeout_s` is what a whole answer may take, from the connection to its last byte."""
        self._session = session
        self._requests = requests
        self._url = URL(requests.url, encoded=True)
        self._clock = clock
        self._timeout_s = timeout_s

    async def answer(self, body: bytes, content_type: str | None) -> ChatReply:
        """Answer this body; `content_type` is the request's header, None without one. Never raises for what it holds.

        Cancelling it closes the connection, so that the server may stop too.
        """
        try:
            question = question_of_body(body, content_type)
        except Unprocessable as error:
            return error.reply
        try:
            return json_reply(200, self._whole(await self._ask(question)))
        except UpstreamError as error:
            return _refusal(error)

    async def _ask(self, question: Question) -> bytes:
        request = self._requests.body(question, is_streamed=False)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(
                    self._url, data=request, headers=self._requests.headers(_JSON), allow_redirects=False
                ) as response,
            ):
                headers = {name.lower(): value for name, value in response.headers.items()}
                refusal = judge_head(response.status, headers, self._clock.time_ms(), _JSON)
                if refusal is not None:
                    response.close()
                    raise _error(refusal)
                return await _read(response.content)
        except TimeoutError as error:
            raise UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, "chat_timeout") from error
        except aiohttp.ClientPayloadError as error:
            raise UpstreamError(ErrorCode.UPSTREAM_TRUNCATED, "body_cut") from error
        except aiohttp.ClientError as error:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "chat_failed") from error

    def _whole(self, body: bytes) -> ChatAnswer:
        try:
            completion = decode_completion(body)
        except ValueError as error:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "bad_json") from error
        text = _text(completion)
        model = self._model(completion.model)
        return ChatAnswer(
            success=True, response=text, model_used=model, ai_used=model, usage=usage_of(completion.usage)
        )

    def _model(self, reported: object) -> str:
        name = reported if isinstance(reported, str) and reported else self._requests.model
        return without_surrogates(name)[:MAX_MODEL_CHARS] if name else _UNNAMED


async def _read(content: aiohttp.StreamReader) -> bytes:
    chunks: list[bytes] = []
    size_bytes = 0
    while chunk := await content.readany():
        size_bytes += len(chunk)
        if size_bytes > MAX_ANSWER_BYTES:
            raise UpstreamError(ErrorCode.EVENT_TOO_LARGE, "max_answer_bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _text(completion: Completion) -> str:
    """Give the answer's text.

    Raises:
        UpstreamError: it failed, was broken off, or is no answer.
    """
    if is_error(completion):
        raise _error(failure_of(completion.error))
    choice = next(filter(is_first, completion.choices or ()), None)
    if choice is None or choice.message is None:
        raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "no_answer")
    ending = ending_of(choice.finish_reason)
    if isinstance(ending, Failed):
        raise _error(ending)
    return without_surrogates(text_of(choice.message))


def _error(failed: Failed) -> UpstreamError:
    return UpstreamError(failed.code, failed.reason, retry_after_s=failed.retry_after_s)


def _refusal(error: UpstreamError) -> ChatReply:
    status = error.http_status
    if error.error_code is ErrorCode.UPSTREAM_RATE_LIMITED:
        status = 429
    elif error.reason == _OVERLOADED:
        status = 503
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return json_reply(status, {"detail": error.detail}, headers)

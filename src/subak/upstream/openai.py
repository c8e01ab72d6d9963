"""A server of chat completions as an upstream: `POST {base}/v1/chat/completions`, answered by an event stream.

PROTOCOL §5; vLLM, Ollama, llama.cpp, LiteLLM and hosted ones speak it. Puts a question into the dialect's words and
turns the body into events by `openai_frames`. Who asks isn't told: e-mail address, role and the ids that travel with a
question have no place in this dialect.
"""

import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.events import UpstreamSink
from subak.core.question import Question, Turn
from subak.core.trace import TraceContext
from subak.upstream.http1 import Http1Client, Http1Exchange, Http1Limits, parse_base_url
from subak.upstream.http_answers import (
    EVENT_STREAM,
    Credentials,
    StreamedAnswer,
    ask,
    header_lines,
    path_of,
    user_agent_of,
)
from subak.upstream.openai_frames import OpenAiCounts, OpenAiFrames

_COMPLETIONS: Final = "/chat/completions"
_VERSION: Final = re.compile(r"v[0-9]+[a-z0-9]*")
_OWN_MEMBERS: Final = frozenset({"messages", "model", "n", "stream", "stream_options"})


class OpenAiTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is, how a question is put to it, and with which credentials.

    `url`: its base, such as `http://host:8000` or `https://host/v1`, see `completions_path`. `model` is left out when
    it is None, for servers that have only one. Of the conversation the newest turns go along, at most
    `max_history_turns` (0: none) and `max_history_bytes` of UTF-8. `parameters` are further members of the request
    (`temperature`, `max_tokens`, …); `include_usage` asks for the account, which some servers refuse to be asked for.
    `headers` go with every request. `token_file` holds a bearer token and is read again when it changes; `ssl_context`
    is for https (see `http1.tls_context`).
    """

    url: str
    model: str | None = None
    system_prompt: str | None = None
    max_history_turns: int = 20
    max_history_bytes: int = 64 * 1024
    parameters: Mapping[str, object] = {}
    include_usage: bool = True
    headers: Mapping[str, str] = {}
    token_file: Path | None = None
    ssl_context: ssl.SSLContext | None = None
    user_agent: str = "subak"


class OpenAiRequests:
    """Puts questions into the dialect's words."""

    __slots__ = ("_credentials", "_target", "_user_agent", "origin", "path", "url")

    def __init__(self, target: OpenAiTarget) -> None:
        """See `OpenAiTarget`.

        Raises:
            ValueError: the URL, a header or a parameter can't be used, or there are two credentials.
        """
        self.origin, prefix = parse_base_url(target.url)
        self.path = completions_path(prefix)
        self.url = f"{self.origin.scheme}://{self.origin.authority}{self.path}"
        _check_parameters(target.parameters)
        self._credentials = Credentials(target.headers, target.token_file)
        self._user_agent = user_agent_of(target.headers, target.user_agent)
        self._target = target

    @property
    def model(self) -> str | None:
        """The model that is asked, if one is named."""
        return self._target.model

    def headers(self, accept: str) -> dict[str, str]:
        """Give the headers of a request, but those of the connection and its framing. `accept`: a content type.

        Raises:
            UpstreamError: `token_file`: it can't be read or holds no token.
        """
        own = {"Accept": accept, "Accept-Encoding": "identity", "Content-Type": "application/json"}
        return own | self._user_agent | self._credentials.read()

    def body(self, question: Question, *, is_streamed: bool) -> bytes:
        """Give the JSON body that asks for this question's answer, in pieces or whole."""
        members: dict[str, object] = {"messages": self._messages(question), "stream": is_streamed}
        if self._target.model is not None:
            members["model"] = self._target.model
        if is_streamed and self._target.include_usage:
            members["stream_options"] = {"include_usage": True}
        return msgspec.json.encode({**self._target.parameters, **members})

    def _messages(self, question: Question) -> list[object]:
        target = self._target
        system = [{"role": "system", "content": target.system_prompt}] if target.system_prompt else []
        history = newest_turns(question.conversation_history or (), target.max_history_turns, target.max_history_bytes)
        return [*system, *history, Turn("user", question.query)]


class OpenAiUpstream:
    """Asks one server. `counts` and `client` keep figures for whoever exports them; `requests` is how it is asked."""

    __slots__ = ("_clock", "_max_event_bytes", "client", "counts", "requests")

    def __init__(
        self,
        target: OpenAiTarget,
        *,
        clock: Clock,
        deadlines: Deadlines,
        limits: Http1Limits | None = None,
        max_event_bytes: int = 256 * 1024,
    ) -> None:
        """See `OpenAiTarget`, and `Http1Client` for the others; `max_event_bytes` bounds one frame of the answer.

        Raises:
            ValueError: the URL, a header or a parameter can't be used, or there are two credentials.
        """
        self.requests = OpenAiRequests(target)
        self.counts = OpenAiCounts()
        self.client = Http1Client(
            self.requests.origin,
            limits=limits or Http1Limits(),
            ssl_context=target.ssl_context,
            clock=clock,
            deadlines=deadlines,
        )
        self._clock = clock
        self._max_event_bytes = max_event_bytes

    def check(self, question: Question) -> None:
        """Take any question: how long one may be is decided where it comes in."""

    async def open(self, question: Question, sink: UpstreamSink) -> Http1Exchange:
        """Send the question; return when it is on its way (see `Upstream.open`).

        Raises:
            UpstreamError: no connection (the reasons of `Http1Client.send`), or `token_file`.
        """
        request = self._request(self.requests.body(question, is_streamed=True), question.trace)
        frames = OpenAiFrames(self.counts, max_event_bytes=self._max_event_bytes)
        return await ask(self.client, request, StreamedAnswer(sink, self._clock, frames))

    async def close(self) -> None:
        """Close idle connections and abort the exchanges under way."""
        await self.client.close()

    def _request(self, body: bytes, trace: TraceContext | None) -> bytes:
        framing = {
            "Host": self.requests.origin.authority,
            "Connection": "keep-alive",
            "Content-Length": str(len(body)),
        }
        if trace is not None:
            framing["traceparent"] = str(trace)
        head = f"POST {self.requests.path} HTTP/1.1\r\n{header_lines(framing | self.requests.headers(EVENT_STREAM))}"
        return f"{head}\r\n".encode("latin-1") + body


def completions_path(prefix: str) -> str:
    """Give the path that is asked, for the path of a base URL.

    A base that names a version anywhere (`/v1`, `/openai/v1`, `/v1beta/openai`) is taken as it is, one that names none
    gets `/v1`, and one that is the whole path already stays.
    """
    path = path_of(prefix)
    if path.endswith(_COMPLETIONS):
        return path
    has_version = any(_VERSION.fullmatch(segment) for segment in path.split("/"))
    return f"{path}{'' if has_version else '/v1'}{_COMPLETIONS}"


def newest_turns(history: Sequence[Turn], max_turns: int, max_bytes: int) -> Sequence[Turn]:
    """Give the newest turns that fit, whole and in order.

    A conversation that had to be cut begins with a user's turn: many models' templates accept no other beginning.
    """
    kept = size_bytes = 0
    for turn in reversed(history):
        size_bytes += len(turn.content.encode())
        if kept >= max_turns or size_bytes > max_bytes:
            break
        kept += 1
    if kept == len(history):
        return history
    while kept and history[-kept].role != "user":
        kept -= 1
    return history[len(history) - kept :]


def _check_parameters(parameters: Mapping[str, object]) -> None:
    own = sorted(_OWN_MEMBERS & parameters.keys())
    if own:
        raise ValueError(f"upstream parameter {own[0]!r} is set by the gateway itself: leave it out")
    try:
        msgspec.json.encode(dict(parameters))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("the upstream's parameters are no JSON object") from error

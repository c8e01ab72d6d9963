"""The RAG backend as an upstream: `GET` or `POST {url}/bali-zero/chat-stream`, answered by an event stream.

PROTOCOL §5. Puts a question into the dialect's words and turns the body into events by `rag_frames`.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.errors import ErrorCode, QuestionTooLong, UpstreamError
from subak.core.events import UpstreamSink
from subak.core.question import Question
from subak.upstream.http1 import Http1Client, Http1Exchange, Http1Limits, parse_base_url
from subak.upstream.http_answers import (
    EVENT_STREAM,
    OWN_HEADERS,
    Credentials,
    StreamedAnswer,
    ask,
    header_lines,
    is_visible,
    path_of,
    user_agent_of,
)
from subak.upstream.rag_frames import FrameCounts, RagFrames

MAX_ID_BYTES: Final = 256
"""A longer session or continuity id isn't passed on."""

_ROUTE: Final = "/bali-zero/chat-stream"
_OWN_HEADERS: Final = OWN_HEADERS | {"x-continuity-id", "x-session-id", "x-user-id", "x-user-tenant", "x-user-verified"}
_AS_IT_IS: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
"""Characters of an id that its header holds as they are: visible ASCII but the percent sign."""

Method = Literal["get", "post", "auto"]


class RagBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes: the URL of a GET without scheme and host, one event of the answer."""

    max_get_url_bytes: int = 8192
    max_event_bytes: int = 256 * 1024


class RagTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where the backend is, how a question is put to it, and with which credentials.

    `url`: its base, `http://host:8000`. `headers` go with every request. `token_file` holds a bearer token and is read
    again when it changes; `ssl_context` is for https (see `http1.tls_context`).
    """

    url: str
    method: Method = "get"
    headers: Mapping[str, str] = {}
    token_file: Path | None = None
    ssl_context: ssl.SSLContext | None = None
    user_agent: str = "subak"


class RagUpstream:
    """Asks one RAG backend. `counts` and `client` keep figures for whoever exports them."""

    __slots__ = (
        "_bounds",
        "_clock",
        "_credentials",
        "_method",
        "_own_headers",
        "_path",
        "client",
        "counts",
    )

    def __init__(
        self,
        target: RagTarget,
        *,
        clock: Clock,
        deadlines: Deadlines,
        limits: Http1Limits | None = None,
        bounds: RagBounds | None = None,
    ) -> None:
        """See `RagTarget`, `RagBounds`, and `Http1Client` for the others.

        Raises:
            ValueError: the URL or a header can't be used, or there are two credentials.
        """
        origin, prefix = parse_base_url(target.url)
        self._credentials = Credentials(target.headers, target.token_file, own=_OWN_HEADERS)
        self._own_headers = {
            "Host": origin.authority,
            "Accept": EVENT_STREAM,
            "Accept-Encoding": "identity",
            "Connection": "keep-alive",
            **user_agent_of(target.headers, target.user_agent),
        }
        self.counts = FrameCounts()
        self.client = Http1Client(
            origin,
            limits=limits or Http1Limits(),
            ssl_context=target.ssl_context,
            clock=clock,
            deadlines=deadlines,
        )
        self._bounds = bounds or RagBounds()
        self._clock = clock
        self._method = target.method
        self._path = path_of(prefix) + _ROUTE

    def credentials(self) -> dict[str, str]:
        """Give the headers that every request to this backend bears, for requests that others make of it.

        Raises:
            UpstreamError: `token_file`: it can't be read or holds no token.
        """
        return self._credentials.read()

    def check(self, question: Question) -> None:
        """Tell before anything is sent whether this question can be asked.

        Raises:
            QuestionTooLong: it doesn't fit into a URL, and the backend is asked by GET only.
        """
        if self._method == "get":  # what is too long for a URL the other methods put into a body
            self._request_line_and_body(question)

    async def open(self, question: Question, sink: UpstreamSink) -> Http1Exchange:
        """Send the question; return when it is on its way (see `Upstream.open`).

        Raises:
            UpstreamError: no connection (the reasons of `Http1Client.send`), `question_too_long`, or `token_file`.
        """
        try:
            request = self._request(question)
        except QuestionTooLong as error:
            raise UpstreamError(ErrorCode.UPSTREAM_ERROR, "question_too_long") from error
        frames = RagFrames(self.counts, max_event_bytes=self._bounds.max_event_bytes)
        return await ask(self.client, request, StreamedAnswer(sink, self._clock, frames))

    async def close(self) -> None:
        """Close idle connections and abort the exchanges under way."""
        await self.client.close()

    def _request(self, question: Question) -> bytes:
        line, body = self._request_line_and_body(question)
        headers = [line, header_lines(self._own_headers | self._credentials.read())]
        headers.append(_id_header("x-session-id", question.session_id))
        headers.append(_id_header("x-continuity-id", question.continuity_id))
        headers.append(_identity_headers(question))
        if question.trace is not None:
            headers.append(f"traceparent: {question.trace}\r\n")
        if body:
            headers.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
        headers.append("\r\n")
        return "".join(headers).encode("latin-1") + body

    def _request_line_and_body(self, question: Question) -> tuple[str, bytes]:
        if self._method != "post":
            target = self._get_target(question)
            if len(target) <= self._bounds.max_get_url_bytes:
                return f"GET {target} HTTP/1.1\r\n", b""
            if self._method == "get":
                raise QuestionTooLong(
                    "The question is too long for the URL in which the answering service is asked "
                    f"({len(target)} bytes, at most {self._bounds.max_get_url_bytes}). "
                    "An operator can allow longer ones by SUBAK_UPSTREAM__METHOD=auto."
                )
        return f"POST {self._path} HTTP/1.1\r\n", msgspec.json.encode(_fields(question))

    def _get_target(self, question: Question) -> str:
        fields = _fields(question)
        if question.conversation_history is not None:
            fields["conversation_history"] = msgspec.json.encode(question.conversation_history)
        return f"{self._path}?{urlencode(fields, quote_via=quote)}"


def _fields(question: Question) -> dict[str, object]:
    """The fields of PROTOCOL §2 that were given."""
    fields: dict[str, object] = {
        "query": question.query,
        "user_email": question.user_email,
        "user_role": question.user_role,
        "conversation_history": question.conversation_history,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _identity_headers(question: Question) -> str:
    """Who asks, and whether anything vouches for it. Ids are percent-encoded where they aren't visible ASCII."""
    headers = {"x-user-verified": "true" if question.is_verified else "false"}
    if question.user_id is not None:
        headers["x-user-id"] = quote(question.user_id, safe=_AS_IT_IS)
    if question.tenant is not None:
        headers["x-user-tenant"] = quote(question.tenant, safe=_AS_IT_IS)
    return header_lines(headers)


def _id_header(name: str, value: str | None) -> str:
    """The header line of an id that travels with the question; nothing for one that could break the request."""
    if value is None or len(value) > MAX_ID_BYTES or not is_visible(value):
        return ""
    return f"{name}: {value}\r\n"

"""What is asked, and where: a target's routes, the questions, and the bytes of each request."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from subak import __version__
from subak.client.line import CHAT_STREAM, STREAMS
from subak.core.json_errors import NOT_JSON
from subak.upstream.http1 import Origin, parse_base_url
from subak.upstream.http_answers import header_lines, path_of

DEFAULT_QUERY: Final = "What documents do I need for B211A visa?"
MAX_QUESTIONS: Final = 100_000
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})

Method = Literal["get", "post"]
Fields = Mapping[str, object]
"""The question's members as in PROTOCOL §2."""


class QuestionFileError(ValueError):
    """A file of questions can't be used; the message says where and why."""


class Target(msgspec.Struct, frozen=True):
    """Where questions go and how. `headers` go with every request; their names are in lower case."""

    origin: Origin
    path: str
    stop_prefix: str
    method: Method = "post"
    headers: Mapping[str, str] = {}

    @classmethod
    def of(cls, url: str, *, method: Method = "post", headers: Mapping[str, str] | None = None) -> "Target":
        """Find the routes: `url` is a gateway's base URL, or that of a route that takes questions.

        Raises:
            ValueError: it is no http(s) URL, or has credentials, a query or a fragment; or a header is no caller's.
        """
        try:
            origin, path = parse_base_url(url)
        except ValueError as error:
            raise ValueError("expected http:// or https://, a host, no credentials, no ? and no #") from error
        root = path.removesuffix(CHAT_STREAM).removesuffix(STREAMS)
        takes_questions = root != path or path.endswith("/chat-stream")
        path = path_of(path if takes_questions else path + CHAT_STREAM)
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if wrong := next((name for name, value in given.items() if name in _OURS or not value.isascii()), None):
            raise ValueError(f"the header {wrong} can't be sent: it is one of framing, or isn't ASCII")
        return cls(origin, path, path_of(root + STREAMS), method, given)

    @property
    def url(self) -> str:
        """Where questions go, without a question."""
        return f"{self.origin.scheme}://{self.origin.authority}{self.path}"

    def ask(self, fields: Fields) -> bytes:
        """Give a request for an answer of its own, never another one's: each has its own idempotency key."""
        headers = self._headers("text/event-stream") | {"idempotency-key": secrets.token_urlsafe(24)}
        if self.method == "get":
            return _request("GET", f"{self.path}?{_query(fields)}", headers)
        return _request("POST", self.path, headers | {"content-type": "application/json"}, msgspec.json.encode(fields))

    def stop(self, stream_id: str) -> bytes:
        """Give the request that ends an answer for good."""
        return _request("POST", f"{self.stop_prefix}/{quote(stream_id, safe='')}/stop", self._headers("*/*"))

    def _headers(self, accept: str) -> dict[str, str]:
        own = {"host": self.origin.authority, "accept": accept, "accept-encoding": "identity"}
        return {"user-agent": f"subak-bench/{__version__}", **self.headers, **own}


def read_questions(text: str) -> Sequence[Fields]:
    """Read a file of questions: one a line, as text or as a JSON object with `query` and perhaps the other members.

    Raises:
        QuestionFileError: it holds none, too many, or a line that can't be read.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not 0 < len(lines) <= MAX_QUESTIONS:
        raise QuestionFileError(f"expected 1 to {MAX_QUESTIONS} questions, one a line, and there are {len(lines)}")
    return [_fields(number, line) for number, line in lines]


def _fields(number: int, line: str) -> Fields:
    if not line.startswith("{"):
        return {"query": line}
    try:
        fields = msgspec.json.decode(line, type=dict[str, object])
    except NOT_JSON as error:
        raise QuestionFileError(f"line {number} begins like a JSON object and is none") from error
    if not isinstance(fields.get("query"), str):
        raise QuestionFileError(f"line {number} has no text as its `query`")
    return fields


def _query(fields: Fields) -> str:
    named = {name: value if isinstance(value, str) else msgspec.json.encode(value) for name, value in fields.items()}
    return urlencode(named, quote_via=quote)


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    framing = {} if method == "GET" else {"content-length": str(len(body))}
    head = f"{method} {path} HTTP/1.1\r\n{header_lines({**headers, **framing})}\r\n"
    return head.encode("latin-1") + body

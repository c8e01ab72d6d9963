"""The RAG backend's own words for what it can't understand, and its requests and whole answers, apart from any HTTP.

Whatever stands in for that backend (the embedded one, a language model behind `/chat`) reads the same bodies and
refuses with the same replies: 422 and the place of the fault, in the form of `{"detail": [{"type", "loc", "msg"}]}`.
What was sent is never echoed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from subak.core.json_errors import NOT_JSON
from subak.core.question import Question, Turn

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_QUERY_CHARS: Final = 100_000
MAX_HISTORY_TURNS: Final = 1_000

_JSON: Final = (("Content-Type", "application/json"),)
_ROLES: Final = frozenset({"user", "assistant"})
_PATH: Final = re.compile(r" - at `(?:key in )?\$(.*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")

_to_json = msgspec.json.Encoder().encode


class ChatReply(msgspec.Struct, frozen=True):
    """A whole response, ready to send."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ChatAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole answer (PROTOCOL §5). Members that are None are left out."""

    success: bool
    response: str
    model_used: str
    ai_used: str
    sources: msgspec.Raw | None = None
    usage: dict[str, int] | None = None
    used_rag: bool | None = None


class Unprocessable(Exception):
    """A request that can't be understood; `reply` says where."""

    def __init__(self, kind: str, place: Sequence[str | int], message: str, status: int = 422) -> None:
        super().__init__(message)
        self.reply = json_reply(status, {"detail": [{"type": kind, "loc": list(place), "msg": message}]})


class _Request(msgspec.Struct, frozen=True):
    query: str
    user_email: str | None = None
    user_role: str | None = None
    conversation_history: tuple[Turn, ...] | None = None


def json_reply(status: int, content: object, headers: Mapping[str, str] | None = None) -> ChatReply:
    """Give a reply with this content as JSON."""
    return ChatReply(status, (*_JSON, *(headers or {}).items()), _to_json(content))


def question_of_body(body: bytes, content_type: str | None) -> Question:
    """Read the question from a JSON body; `content_type` is the request's header, None without one.

    Raises:
        Unprocessable: it isn't JSON, isn't of the expected form, or is too large.
    """
    if len(body) > MAX_BODY_BYTES:
        raise Unprocessable("too_large", ["body"], f"The body is over {MAX_BODY_BYTES} bytes", 413)
    if content_type is not None and not _is_json(content_type):
        raise Unprocessable("content_type", ["header", "content-type"], "Content-Type must be application/json", 415)
    try:
        request = msgspec.json.decode(body, type=_Request)
    except msgspec.ValidationError as error:
        raise _misfit(error, ["body"]) from error
    except NOT_JSON as error:
        raise Unprocessable("json_invalid", ["body"], "The body is not valid JSON") from error
    _check(request, "body")
    return Question(request.query, request.user_email, request.user_role, request.conversation_history)


def question_of_parameters(parameters: Mapping[str, str]) -> Question:
    """Read the question from the parameters of a URL; `conversation_history` is JSON, and empty means absent.

    Raises:
        Unprocessable: `query` is missing, or the history isn't JSON of the expected form.
    """
    if "query" not in parameters:
        raise Unprocessable("missing", ["query", "query"], "Field required")
    raw = parameters.get("conversation_history") or "null"
    try:
        history = msgspec.json.decode(raw.encode("utf-8", "replace"), type=tuple[Turn, ...] | None)
    except msgspec.ValidationError as error:
        raise _misfit(error, ["query", "conversation_history"]) from error
    except NOT_JSON as error:
        raise Unprocessable("json_invalid", ["query", "conversation_history"], "Not valid JSON") from error
    request = _Request(parameters["query"], parameters.get("user_email"), parameters.get("user_role"), history)
    _check(request, "query")
    return Question(request.query, request.user_email, request.user_role, request.conversation_history)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _check(request: _Request, place: str) -> None:
    """Check what types can't say."""
    if not request.query.strip():
        raise Unprocessable("string_too_short", [place, "query"], "The question is empty")
    if len(request.query) > MAX_QUERY_CHARS:
        raise Unprocessable("string_too_long", [place, "query"], f"The question is over {MAX_QUERY_CHARS} characters")
    history = request.conversation_history or ()
    if len(history) > MAX_HISTORY_TURNS:
        raise Unprocessable("too_long", [place, "conversation_history"], f"More than {MAX_HISTORY_TURNS} turns")
    for number, turn in enumerate(history):
        if turn.role not in _ROLES:
            where: list[str | int] = [place, "conversation_history", number, "role"]
            raise Unprocessable("literal_error", where, "Must be 'user' or 'assistant'")


def _misfit(error: msgspec.ValidationError, place: list[str | int]) -> Unprocessable:
    """Say where the JSON has another form than expected. The decoder's message names types and fields, never values."""
    message = str(error)
    path = _PATH.search(message)
    steps: list[str | int] = list(place)
    if path is not None:
        message = message[: path.start()]
        steps += map(_place, _STEP.finditer(path[1]))
    missing = re.fullmatch(r"Object missing required field `(\w+)`", message)
    if missing is not None:
        return Unprocessable("missing", [*steps, str(missing[1])], "Field required")
    return Unprocessable("type_error", steps, message.replace("`", ""))


def _place(step: re.Match[str]) -> str | int:
    name, number = step.groups()
    return int(number) if number is not None and number.isdigit() else str(name or number)

"""Requests to questions: what a caller sent, validated, or an error that says which field is wrong (PROTOCOL §2)."""

import re
from typing import Final, Literal

import msgspec
from aiohttp import web

from subak.core.errors import InvalidField, MissingQuery, NotAcceptable, RequestError, TooLarge, UrlTooLong
from subak.core.json_errors import NOT_JSON
from subak.core.lifecycle import OnDisconnect, may_choose
from subak.core.question import Question, Turn
from subak.web.connection import connection_of

LABEL: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
LABEL_BYTES: Final = 320
"""The longest user_email or user_role: an address has at most 320 (RFC 3696)."""
_READ_BYTES: Final = 64 * 1024


class InputBounds(msgspec.Struct, frozen=True):
    """What a question may be: bytes of body and URL, characters of the query, turns and bytes of the history."""

    max_body_bytes: int
    max_url_bytes: int
    max_query_bytes: int
    max_history_items: int
    max_history_bytes: int


class TurnIn(msgspec.Struct):
    """One turn of the conversation so far."""

    role: Literal["user", "assistant"]
    content: str


class QuestionIn(msgspec.Struct):
    """A question as it is sent. What `user_email` and `user_role` may say depends on who asks."""

    query: str | None = None
    user_email: str | None = None
    user_role: str | None = None
    conversation_history: list[TurnIn] | None = None


_decode_question = msgspec.json.Decoder(QuestionIn).decode
_decode_history = msgspec.json.Decoder(list[TurnIn] | None).decode


def question_from_url(request: web.BaseRequest, bounds: InputBounds) -> Question:
    """Read a GET's question.

    Raises:
        UrlTooLong, MissingQuery, InvalidField: as their names say; nothing of the content is repeated.
    """
    if len(request.raw_path if isinstance(request, web.Request) else request.path_qs) > bounds.max_url_bytes:
        raise UrlTooLong(f"The URL may have at most {bounds.max_url_bytes} bytes. Send long questions by POST.")
    fields = request.query
    history = fields.get("conversation_history") or None
    asked = QuestionIn(
        query=fields.get("query"),
        user_email=fields.get("user_email") or None,
        user_role=fields.get("user_role") or None,
        conversation_history=None if history is None else _history_from_text(history, bounds),
    )
    return _question(request, asked, bounds, missing="query parameter is required")


async def question_from_body(request: web.BaseRequest, bounds: InputBounds) -> Question:
    """Read a POST's question.

    Raises:
        NotAcceptable, TooLarge, TooSlow, MissingQuery, InvalidField, RequestError: as their names say.
    """
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise NotAcceptable("Send the question as plain application/json.")
    body = await read_body(request, bounds.max_body_bytes)
    try:
        asked = _decode_question(body)
    except msgspec.ValidationError as error:
        raise _invalid_field("$", error) from None
    except NOT_JSON:
        raise RequestError("The body is not valid JSON in UTF-8.") from None
    return _question(request, asked, bounds, missing="query is required")


async def read_body(request: web.BaseRequest, max_bytes: int) -> bytes:
    """Read a body of at most `max_bytes`, and no further.

    Raises:
        TooLarge: its length says more, or more came. The connection closes after the answer.
        TooSlow: it wasn't complete in time (see `Connection`).
        RequestError: its chunks are malformed.
    """
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size_bytes = 0
    connection = connection_of(request)
    with connection.body_deadline():
        while chunk := await request.content.read(_READ_BYTES):
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    return b"".join(chunks)


def on_disconnect_of(request: web.BaseRequest, setting: OnDisconnect) -> OnDisconnect:
    """Give what is to happen to this answer when nobody reads it: `?on_disconnect=`, within the setting.

    Raises:
        RequestError: an unknown word, or one that costs more than the setting allows.
    """
    wanted = request.query.get("on_disconnect")
    if wanted is None:
        return setting
    allowed = [choice.value for choice in OnDisconnect if may_choose(choice, setting)]
    if wanted not in allowed:
        raise RequestError(f"on_disconnect may be one of: {', '.join(allowed)}.")
    return OnDisconnect(wanted)


def _history_from_text(text: str, bounds: InputBounds) -> list[TurnIn] | None:
    if len(text) > bounds.max_history_bytes:
        raise InvalidField("$.conversation_history", f"at most {bounds.max_history_bytes} bytes")
    try:
        turns: list[TurnIn] | None = _decode_history(text)
    except msgspec.ValidationError as error:
        raise _invalid_field("$.conversation_history", error) from None
    except NOT_JSON:
        raise InvalidField("$.conversation_history", "valid JSON: an array of {role, content}") from None
    return turns


def _question(request: web.BaseRequest, asked: QuestionIn, bounds: InputBounds, *, missing: str) -> Question:
    if asked.query is None or not asked.query.strip():
        raise MissingQuery(missing)
    if _size(asked.query, "$.query") > bounds.max_query_bytes:
        raise InvalidField("$.query", f"at most {bounds.max_query_bytes} bytes")
    for name in ("user_email", "user_role"):
        if _size(getattr(asked, name) or "", f"$.{name}") > LABEL_BYTES:
            raise InvalidField(f"$.{name}", f"at most {LABEL_BYTES} bytes")
    return Question(
        query=asked.query,
        user_email=asked.user_email,
        user_role=asked.user_role,
        conversation_history=_history(asked.conversation_history, bounds),
        session_id=_label(request, "x-session-id"),
        continuity_id=_label(request, "x-continuity-id"),
    )


def _history(turns: list[TurnIn] | None, bounds: InputBounds) -> tuple[Turn, ...] | None:
    if turns is None:
        return None
    if len(turns) > bounds.max_history_items:
        raise InvalidField("$.conversation_history", f"at most {bounds.max_history_items} items")
    sizes = [_size(turn.content, f"$.conversation_history[{index}].content") for index, turn in enumerate(turns)]
    if sum(sizes) > bounds.max_history_bytes:
        raise InvalidField("$.conversation_history", f"at most {bounds.max_history_bytes} bytes")
    return tuple([Turn(turn.role, turn.content) for turn in turns])


def _size(text: str, path: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidField(path, "text without lone surrogates") from None


def _label(request: web.BaseRequest, name: str) -> str | None:
    """Give an id that is passed on to the RAG backend, from its header or query parameter.

    Raises:
        RequestError: it has other characters than `A-Z a-z 0-9 . _ -`, or more than 128.
    """
    value = request.headers.get(name) or request.query.get(name)
    if not value:
        return None
    if LABEL.fullmatch(value) is None:
        raise RequestError(f"{name} takes up to 128 characters of A-Z a-z 0-9 . _ -")
    return value


def _invalid_field(root: str, error: msgspec.ValidationError) -> InvalidField:
    """Turn msgspec's message, ``Expected `str`, got `int` - at `$.query` ``, into ours. It names types, no content."""
    message, _, place = str(error).partition(" - at `$")
    path = root + place.rstrip("`")
    if path.endswith(".role"):
        return InvalidField(path, "user or assistant")
    wanted = message.split("`")[1].partition(" ")[0] if message.startswith("Expected `") else ""
    return InvalidField(path, _NAMES.get(wanted, "an object with role and content"))


_NAMES: Final = {"str": "a string", "array": "an array of {role, content}", "object": "an object"}


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body may have at most {max_bytes} bytes.")

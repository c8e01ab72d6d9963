"""The stream routes: ask, attach, look, stop (PROTOCOL §2).

Every way in follows one order: a cursor beats a key beats the question. Attaching to what exists passes no flag and
no quota; only a question that would be asked anew goes through the gate.
"""

import random
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from subak.admission.gate import Gate, Refused
from subak.core.cursor import Cursor, is_stream_id
from subak.core.digests import keyed_digest
from subak.core.errors import (
    FlagDisabled,
    MalformedCursor,
    QuestionTooLong,
    RequestError,
    StreamNotFound,
    UrlTooLong,
)
from subak.core.lifecycle import OnDisconnect
from subak.core.principal import ANONYMOUS, Principal
from subak.core.question import Question
from subak.relay.hub import Hub, Opened
from subak.relay.publisher import Origin
from subak.replay.base import IdempotencyKey
from subak.web.ask import LABEL, InputBounds, on_disconnect_of, question_from_body, question_from_url
from subak.web.problems import json_response
from subak.web.send import send_attachment

KEY_MAX_CHARS: Final = 255
ANONYMOUS_KEY_MIN_CHARS: Final = 22
_CONNECTION_ID_BITS: Final = 80


class StreamRules(msgspec.Struct, frozen=True):
    """What requests are held to."""

    bounds: InputBounds
    on_disconnect: OnDisconnect
    secret: bytes


class _Call(NamedTuple):
    """A request with what every route needs of it."""

    request: web.Request
    route: str
    principal: Principal
    connection_id: str


class StreamRoutes:
    """Handlers over one hub and one gate."""

    def __init__(self, hub: Hub, gate: Gate, rules: StreamRules) -> None:
        """`rules.secret` keys the digests of idempotency keys and questions."""
        self._hub = hub
        self._gate = gate
        self._rules = rules

    def configure(self, gate: Gate, rules: StreamRules) -> None:
        """Take these for requests to come."""
        self._gate = gate
        self._rules = rules

    async def ask_by_url(self, request: web.Request) -> web.StreamResponse:
        """GET chat-stream: the question stands in the URL."""
        call = _call(request, "GET chat-stream")
        if (cursor := cursor_of(request)) is not None:
            return await self._resume(call, cursor)
        try:
            opened = await self._open(call, question_from_url(request, self._rules.bounds))
        except QuestionTooLong as error:
            raise UrlTooLong(error.detail) from error
        return await self._send_opened(call, opened)

    async def ask_by_body(self, request: web.Request) -> web.StreamResponse:
        """POST chat-stream: the question stands in the body; a stream whatever `Accept` says."""
        call = _call(request, "POST chat-stream")
        if (cursor := cursor_of(request)) is not None:
            return await self._resume(call, cursor)
        opened = await self._open(call, await question_from_body(request, self._rules.bounds))
        return await self._send_opened(call, opened)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/streams: a stream for `Accept: text/event-stream`, else 201 with where to find it."""
        call = _call(request, "POST streams")
        if (cursor := cursor_of(request)) is not None:
            return await self._resume(call, cursor)
        opened = await self._open(call, await question_from_body(request, self._rules.bounds))
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await self._send_opened(call, opened)
        return json_response(_links(opened.stream_id), status=201, headers=_opened_headers(call, opened))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/streams/{id}/events: replay from a cursor, then live."""
        call = _call(request, "GET events")
        stream_id = stream_id_of(request)
        cursor = cursor_of(request)
        if cursor is not None and cursor.stream_id != stream_id:
            raise MalformedCursor("The cursor belongs to another stream than the path names.")
        return await self._send(call, stream_id, cursor)

    async def state(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/streams/{id}: status and text so far, for polling and after a 410."""
        return json_response(await self._hub.state(stream_id_of(request), ANONYMOUS))

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/streams/{id}/stop and DELETE /v1/streams/{id}: end the answer, keep what came."""
        return json_response(await self._hub.stop(stream_id_of(request), ANONYMOUS))

    async def features(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/features: whether this caller could stream now; costs nothing."""
        del request
        return json_response({"sse": not isinstance(self._gate.admit(ANONYMOUS), Refused)})

    async def _open(self, call: _Call, question: Question) -> Opened:
        key = self._key_of(call, question)
        if key is not None and (known := await self._hub.lookup_key(key)) is not None:
            return Opened(known, is_replay=True)
        verdict = self._gate.admit(call.principal)
        if isinstance(verdict, Refused):
            raise FlagDisabled(verdict.flag, call.request.headers.get("Origin"))
        return await self._ask_anew(call, question, key)

    async def _ask_anew(self, call: _Call, question: Question, key: IdempotencyKey | None) -> Opened:
        return await self._hub.open(
            question,
            call.principal,
            Origin(call.connection_id, call.route),
            on_disconnect=on_disconnect_of(call.request, self._rules.on_disconnect),
            key=key,
        )

    def _key_of(self, call: _Call, question: Question) -> IdempotencyKey | None:
        key = call.request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not key or len(key) > KEY_MAX_CHARS or not (key.isascii() and key.isprintable()):
            raise RequestError(f"Idempotency-Key takes 1 to {KEY_MAX_CHARS} visible ASCII characters.")
        if call.principal.is_anonymous and len(key) < ANONYMOUS_KEY_MIN_CHARS:
            raise RequestError(
                f"Without credentials an Idempotency-Key needs at least {ANONYMOUS_KEY_MIN_CHARS} characters, "
                "so that nobody can guess it."
            )
        owner = call.principal.id.encode()
        secret = self._rules.secret
        asked = msgspec.json.encode(
            (question.query, question.user_email, question.user_role, question.conversation_history)
        )
        return IdempotencyKey(
            digest=keyed_digest(secret, "idempotency-key", owner, key.encode()),
            fingerprint=keyed_digest(secret, "question", asked),
        )

    async def _resume(self, call: _Call, cursor: Cursor) -> web.StreamResponse:
        return await self._send(call, cursor.stream_id, cursor)

    async def _send_opened(self, call: _Call, opened: Opened) -> web.StreamResponse:
        attachment = await self._hub.attach(opened.stream_id, None, call.principal, connection_id=call.connection_id)
        return await send_attachment(call.request, attachment, _opened_headers(call, opened))

    async def _send(self, call: _Call, stream_id: str, cursor: Cursor | None) -> web.StreamResponse:
        attachment = await self._hub.attach(
            stream_id,
            cursor,
            call.principal,
            connection_id=call.connection_id,
            takes_snapshot=call.request.query.get("on_gap") == "snapshot",
        )
        headers = _stream_headers(call, stream_id)
        if cursor is not None:
            headers["Subak-Resumed-From"] = str(cursor)
        return await send_attachment(call.request, attachment, headers)


def cursor_of(request: web.BaseRequest) -> Cursor | None:
    """Give the cursor that a request names: the header beats the parameter. One that is present is never ignored.

    Raises:
        MalformedCursor: it isn't one.
    """
    text = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    return Cursor.parse(text) if text else None


def stream_id_of(request: web.Request) -> str:
    """Give the stream that the path names.

    Raises:
        StreamNotFound: the path's part isn't a stream id.
    """
    stream_id = request.match_info["stream_id"]
    if not is_stream_id(stream_id):
        raise StreamNotFound("There is no such stream.")
    return stream_id


def _call(request: web.Request, route: str) -> _Call:
    label = request.headers.get("x-connection-id", "")
    if LABEL.fullmatch(label) is None:
        label = f"c_{random.getrandbits(_CONNECTION_ID_BITS):020x}"
    return _Call(request, route, ANONYMOUS, label)


def _links(stream_id: str) -> dict[str, str]:
    status_url = f"/v1/streams/{stream_id}"
    return {
        "id": stream_id,
        "events_url": f"{status_url}/events",
        "status_url": status_url,
        "stop_url": f"{status_url}/stop",
    }


def _stream_headers(call: _Call, stream_id: str) -> dict[str, str]:
    return {
        "Location": f"/v1/streams/{stream_id}/events",
        "Subak-Stream-Id": stream_id,
        "X-Connection-ID": call.connection_id,
    }


def _opened_headers(call: _Call, opened: Opened) -> dict[str, str]:
    headers = _stream_headers(call, opened.stream_id)
    if opened.is_replay:
        headers["Idempotent-Replayed"] = "true"
    return headers

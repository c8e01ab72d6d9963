"""The stream routes: ask, attach, look, stop (docs/PROTOCOL.md §2).

Every way in follows one order: who calls; then a cursor beats a key beats the question. Attaching to what exists passes
no flag and no quota for questions; only a question that would be asked anew goes through the whole gate.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from subak.admission.auth import AuthRules, cut_at
from subak.admission.gate import Gate
from subak.admission.identity import IdentityPolicy, identified
from subak.admission.reasons import Reason
from subak.core.cursor import Cursor, is_stream_id
from subak.core.digests import keyed_digest
from subak.core.errors import (
    MalformedCursor,
    QuestionTooLong,
    RequestError,
    StreamNotFound,
    Unauthenticated,
    UrlTooLong,
)
from subak.core.lifecycle import OnDisconnect
from subak.core.principal import Caller
from subak.core.question import Question
from subak.core.trace import TraceContext, parse_traceparent
from subak.relay.hub import Attachment, Hub, Opened
from subak.relay.publisher import Origin
from subak.replay.base import IdempotencyKey
from subak.web.ask import LABEL, InputBounds, on_disconnect_of, question_from_body, question_from_url
from subak.web.callers import TICKET_USED, Callers
from subak.web.connection import connection_of
from subak.web.outcome import EXTRA_HEADERS, STANDING, person_of
from subak.web.problems import json_response
from subak.web.send import send_attachment

KEY_MAX_CHARS: Final = 255
ANONYMOUS_KEY_MIN_CHARS: Final = 22
_CONNECTION_ID_BITS: Final = 80


class StreamRules(msgspec.Struct, frozen=True):
    """What requests are held to. `secret` keys the digests of idempotency keys and questions.

    `trace_ratio`: the share of new traces that are recorded, None where none are made.
    """

    bounds: InputBounds
    on_disconnect: OnDisconnect
    identity: IdentityPolicy
    auth: AuthRules
    secret: bytes
    trace_ratio: float | None = None


class StreamLinks(msgspec.Struct, frozen=True):
    """Where a new stream is read, looked at and stopped. The id alone opens an anonymous stream: keep it secret."""

    id: str
    events_url: str
    status_url: str
    stop_url: str


class Features(msgspec.Struct, frozen=True):
    """Whether this caller could stream now."""

    sse: bool


class Ticket(msgspec.Struct, frozen=True):
    """A ticket, and the seconds within which its first use must come."""

    ticket: str
    expires_in: int


class _Call(NamedTuple):
    """A request with what every route needs of it."""

    request: web.Request
    route: str
    caller: Caller
    cursor: Cursor | None
    connection_id: str


class StreamRoutes:
    """Handlers over one hub and one gate."""

    def __init__(self, hub: Hub, callers: Callers, rules: StreamRules) -> None:
        """`callers` tells who calls, and has the gate."""
        self._hub = hub
        self._callers = callers
        self._rules = rules

    def configure(self, rules: StreamRules) -> None:
        """Take these for requests to come."""
        self._rules = rules

    @property
    def _gate(self) -> Gate:
        return self._callers.gate

    async def ask_by_url(self, request: web.Request) -> web.StreamResponse:
        """GET chat-stream: the question stands in the URL."""
        call = await self._enter_to_ask(request, "GET chat-stream")
        if call.cursor is not None:
            return await send_attachment(request, *await self._attach(call, call.cursor.stream_id))
        opened = await self._open_by_url(call)
        return await send_attachment(request, *await self._attach_opened(call, opened))

    async def ask_by_body(self, request: web.Request) -> web.StreamResponse:
        """POST chat-stream: the question stands in the body; a stream whatever `Accept` says."""
        call = await self._enter_to_ask(request, "POST chat-stream")
        if call.cursor is not None:
            return await send_attachment(request, *await self._attach(call, call.cursor.stream_id))
        opened = await self._open(call, await question_from_body(request, self._rules.bounds))
        return await send_attachment(request, *await self._attach_opened(call, opened))

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/streams: a stream for `Accept: text/event-stream`, else 201 with where to find it."""
        call = await self._enter_to_ask(request, "POST streams")
        if call.cursor is not None:
            return await send_attachment(request, *await self._attach(call, call.cursor.stream_id))
        opened = await self._open(call, await question_from_body(request, self._rules.bounds))
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await send_attachment(request, *await self._attach_opened(call, opened))
        bind_ticket(call.request, self._callers, opened.stream_id)
        return json_response(_links(opened.stream_id), status=201, headers=_opened_headers(call, opened))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/streams/{id}/events: replay from a cursor, then live."""
        call = await self._enter(request, "GET events")
        return await send_attachment(request, *await self._attach(call, stream_id_of(request)))

    async def state(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/streams/{id}: status and text so far, for polling and after a 410."""
        call = await self._enter(request, "GET stream")
        stream_id = stream_id_of(request)
        state = await self._hub.state(stream_id, call.caller.principal)
        bind_ticket(request, self._callers, stream_id)
        return json_response(state)

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/streams/{id}/stop and DELETE /v1/streams/{id}: end the answer, keep what came."""
        call = await self._enter(request, "POST stop")
        stream_id = stream_id_of(request)
        result = await self._hub.stop(stream_id, call.caller.principal)
        bind_ticket(request, self._callers, stream_id)
        return json_response(result)

    async def features(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/features: whether this caller could stream now; costs nothing."""
        call = await self._enter(request, "GET features")
        return json_response(Features(self._gate.may_stream(call.caller)))

    async def ticket(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/tickets: what a native EventSource, which can send no header, proves itself with."""
        call = await self._enter(request, "POST tickets")
        if TICKET_USED in request:
            raise Unauthenticated(Reason.MISSING_CREDENTIALS)
        _note(request, await self._gate.admit_resume(call.caller))
        return json_response(Ticket(*self._callers.tickets.issue(call.caller.principal)), status=201)

    async def _enter(self, request: web.Request, route: str) -> _Call:
        cursor = cursor_of(request)
        caller = await self._callers.identify(request, None if cursor is None else cursor.stream_id)
        return _Call(request, route, caller, cursor, _connection_id_of(request))

    async def _enter_to_ask(self, request: web.Request, route: str) -> _Call:
        """Enter a route on which a question may stand. While the flag is off for all, nobody is asked who it is."""
        if cursor_of(request) is None and "Idempotency-Key" not in request.headers:
            self._gate.check_flag()
        call = await self._enter(request, route)
        request[STANDING] = self._gate
        return call

    async def _open(self, call: _Call, question: Question, *, likeness: bytes | None = None) -> Opened:
        key = self._key_of(call, question)
        known = None if key is None else await self._hub.lookup_key(key)
        if known is None and likeness is not None:
            known = self._hub.lookup_orphan(likeness)
        if known is not None:
            _note(call.request, await self._gate.admit_resume(call.caller))
            return Opened(known, is_replay=True)
        return await self._ask_anew(call, question, key, likeness)

    async def _open_by_url(self, call: _Call) -> Opened:
        question = question_from_url(call.request, self._rules.bounds)
        try:
            return await self._open(call, question, likeness=self._likeness_of(call, question))
        except QuestionTooLong as error:
            raise UrlTooLong(error.detail) from error

    async def _ask_anew(
        self, call: _Call, question: Question, key: IdempotencyKey | None, likeness: bytes | None
    ) -> Opened:
        rules = self._rules
        on_disconnect = on_disconnect_of(call.request, rules.on_disconnect)
        trace = self._trace_of(call.request)
        question = msgspec.structs.replace(identified(question, call.caller.principal, rules.identity), trace=trace)
        admitted = await self._gate.admit(call.caller)
        _note(call.request, admitted.headers)
        who = msgspec.structs.replace(person_of(call.caller), query=question.query)
        try:
            opened = await self._hub.open(
                question,
                call.caller.principal,
                Origin(call.connection_id, call.route, admitted.arm, who, connection_of(call.request).asked_at, trace),
                on_disconnect=on_disconnect,
                key=key,
                likeness=likeness,
                on_end=admitted.release,
            )
        except BaseException:
            admitted.release()
            raise
        if opened.is_replay:
            admitted.release()
        return opened

    def _trace_of(self, request: web.Request) -> TraceContext | None:
        """Give the trace that this question belongs to; without tracing, the caller's own, passed on as it came."""
        came = parse_traceparent(request.headers.get("traceparent"))
        if self._rules.trace_ratio is None:
            return came
        span_id = f"{random.getrandbits(64) or 1:016x}"
        if came is not None:
            return came.child(span_id)
        is_sampled = random.random() < self._rules.trace_ratio  # noqa: S311 - a share, no secret
        return TraceContext(f"{random.getrandbits(128) or 1:032x}", span_id, is_sampled=is_sampled)

    def _key_of(self, call: _Call, question: Question) -> IdempotencyKey | None:
        key = call.request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not key or len(key) > KEY_MAX_CHARS or not (key.isascii() and key.isprintable()):
            raise RequestError(f"Idempotency-Key takes 1 to {KEY_MAX_CHARS} visible ASCII characters.")
        if call.caller.principal.is_anonymous and len(key) < ANONYMOUS_KEY_MIN_CHARS:
            raise RequestError(
                f"Without credentials an Idempotency-Key needs at least {ANONYMOUS_KEY_MIN_CHARS} characters, "
                "so that nobody can guess it."
            )
        owner = call.caller.principal.id.encode()
        secret = self._rules.secret
        return IdempotencyKey(
            digest=keyed_digest(secret, "idempotency-key", owner, key.encode()),
            fingerprint=keyed_digest(secret, "question", _fields(question)),
        )

    def _likeness_of(self, call: _Call, question: Question) -> bytes | None:
        """Give what tells a verified caller's question from all others, None without a name to go by."""
        principal = call.caller.principal
        if principal.is_anonymous or principal.is_internal or "Idempotency-Key" in call.request.headers:
            return None
        return keyed_digest(self._rules.secret, "likeness", principal.id.encode(), _fields(question))

    async def _attach_opened(self, call: _Call, opened: Opened) -> tuple[Attachment, dict[str, str]]:
        """Give the reading of a stream that was just asked for, and its headers."""
        await asyncio.sleep(0)  # the question goes out first: the response is made while the upstream thinks
        principal = call.caller.principal
        attachment = await self._hub.attach(
            opened.stream_id, None, principal, connection_id=call.connection_id, expires_at=self._expiry_of(call)
        )
        bind_ticket(call.request, self._callers, opened.stream_id)
        return attachment, _opened_headers(call, opened)

    async def _attach(self, call: _Call, stream_id: str) -> tuple[Attachment, dict[str, str]]:
        """Give the reading of a stream that exists, after the caller's cursor, and its headers."""
        _note(call.request, await self._gate.admit_resume(call.caller))
        attachment = await self._hub.attach(
            stream_id,
            call.cursor,
            call.caller.principal,
            connection_id=call.connection_id,
            takes_snapshot=call.request.query.get("on_gap") == "snapshot",
            expires_at=self._expiry_of(call),
        )
        bind_ticket(call.request, self._callers, stream_id)
        headers = _stream_headers(call, stream_id)
        if call.cursor is not None:
            headers["Subak-Resumed-From"] = str(call.cursor)
        return attachment, headers

    def _expiry_of(self, call: _Call) -> float | None:
        """Give when the caller's credentials no longer hold, in monotonic seconds; None when it may read on."""
        cut = cut_at(call.caller.principal, self._rules.auth)
        clock = self._hub.clock
        return None if cut is None else clock.monotonic() + cut - clock.time_ms() / 1000


def cursor_of(request: web.BaseRequest) -> Cursor | None:
    """Give the cursor that a request names: the header beats the parameter. One that is present is never ignored.

    Raises:
        MalformedCursor: one of them isn't one.
    """
    texts = (request.headers.get("Last-Event-ID"), request.query.get("last_event_id"))
    cursors = [Cursor.parse(text) for text in texts if text]
    return cursors[0] if cursors else None


def stream_id_of(request: web.Request) -> str:
    """Give the stream that the path names.

    Raises:
        StreamNotFound: the path's part isn't a stream id.
        MalformedCursor: the request has a cursor, which isn't one of this stream. A ticket is judged by its cursor.
    """
    stream_id = request.match_info["stream_id"]
    if not is_stream_id(stream_id):
        raise StreamNotFound("There is no such stream.")
    cursor = cursor_of(request)
    if cursor is not None and cursor.stream_id != stream_id:
        raise MalformedCursor("The cursor belongs to another stream than the path names.")
    return stream_id


def bind_ticket(request: web.Request, callers: Callers, stream_id: str) -> None:
    """Tie the ticket by which the caller is known, if it is by one, to the stream that it was used for."""
    ticket = request.get(TICKET_USED)
    if ticket is not None:
        callers.tickets.bind(ticket, stream_id)


def _connection_id_of(request: web.BaseRequest) -> str:
    label = request.headers.get("x-connection-id", "")
    return label if LABEL.fullmatch(label) is not None else f"c_{random.getrandbits(_CONNECTION_ID_BITS):020x}"


def _fields(question: Question) -> bytes:
    """Give the four fields by which two questions are the same, however they were sent."""
    return msgspec.json.encode((question.query, question.user_email, question.user_role, question.conversation_history))


def _note(request: web.Request, headers: Mapping[str, str]) -> None:
    """Let the answer, whatever it will be, tell how the caller's quota stands."""
    request[EXTRA_HEADERS] = dict(headers)


def _links(stream_id: str) -> StreamLinks:
    status_url = f"/v1/streams/{stream_id}"
    return StreamLinks(stream_id, f"{status_url}/events", status_url, f"{status_url}/stop")


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

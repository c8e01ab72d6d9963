"""`POST /v1/streams/{id}/report`: what an answer was like for its reader, in numbers (docs/PROTOCOL.md §2).

They are the reader's own: whoever may read a stream may report on it, whatever it likes, within bounds. So they stand
beside the gateway's figures and never among them.
"""

from typing import Annotated, Final

import msgspec
from aiohttp import web

from subak.core.errors import InvalidField, NotAcceptable, RequestError
from subak.core.facts import ClientReported
from subak.core.json_bodies import decode_body
from subak.core.json_errors import NOT_JSON
from subak.relay.hub import Hub
from subak.web.ask import read_body
from subak.web.callers import Callers
from subak.web.streams import bind_ticket, cursor_of, stream_id_of

MAX_BODY_BYTES: Final = 1024
MAX_MS: Final = 86_400_000
"""A day: no stream lives longer, however slowly it is read."""
MAX_COUNT: Final = 2**40

_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_MS)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class ReportIn(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What an answer was like for its reader: times in milliseconds, `bytes` of the responses' bodies."""

    duration_ms: _Milliseconds
    tokens: _Count
    bytes: _Count
    reconnects: _Count
    duplicates: _Count
    gaps: _Count
    first_token_ms: _Milliseconds | None = None
    inter_token_p50_ms: _Milliseconds | None = None
    inter_token_p95_ms: _Milliseconds | None = None
    inter_token_p99_ms: _Milliseconds | None = None


class ReportRoute:
    """Takes reports from whoever may read the stream, as often as one may attach to it."""

    def __init__(self, hub: Hub, callers: Callers) -> None:
        """`hub` knows whose a stream is, and who hears facts."""
        self._hub = hub
        self._callers = callers

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request: 204."""
        stream_id = stream_id_of(request)
        caller = await self._callers.identify(request, stream_id if cursor_of(request) else None)
        await self._callers.gate.admit_resume(caller)
        await self._hub.check_use(stream_id, caller.principal)
        bind_ticket(request, self._callers, stream_id)
        report = await _report_of(request)
        self._hub.observer.notify(ClientReported(stream_id, **msgspec.structs.asdict(report)))
        return web.Response(status=204, headers={"Cache-Control": "no-store"})


async def _report_of(request: web.Request) -> ReportIn:
    """Read the figures.

    Raises:
        NotAcceptable, TooLarge, TooSlow, InvalidField, RequestError: as their names say.
    """
    if request.content_type != "application/json":
        raise NotAcceptable("Send the report as application/json.")
    try:
        return decode_body(await read_body(request, MAX_BODY_BYTES), ReportIn)
    except msgspec.ValidationError as error:
        place = str(error).partition(" - at `")[2].rstrip("`")
        raise InvalidField(place or "$", "the figures of a report: numbers, none below 0") from None
    except NOT_JSON:
        raise RequestError("The body is not valid JSON in UTF-8.") from None

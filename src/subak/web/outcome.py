"""What every request comes to: a response, or an error as one, told as a fact. Both listeners use it."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from subak.admission.gate import Gate
from subak.core.errors import StreamNotFound, SubakError
from subak.core.facts import Crashed, Observer, Person, Refused
from subak.core.principal import Caller
from subak.relay.crash import crash_site
from subak.web.connection import connection_of
from subak.web.problems import problem_response, status_problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CALLER: Final = web.RequestKey("caller", Caller)
"""Who makes the request, as soon as that is known: refusals are told with it."""
EXTRA_HEADERS: Final = web.RequestKey("extra_headers", dict)
"""Headers for whatever the answer will be."""
STANDING: Final = web.RequestKey("standing", Gate)
"""Tells how the caller's quota stands: for an answer that comes before anything was charged."""


async def outcome_of(
    request: web.Request, handler: Handler, observer: Observer, *, speaks_seed: bool
) -> web.StreamResponse:
    """Give the handler's response, or the problem that stands for its error (see `problem_response`)."""
    try:
        connection_of(request).head_complete(request)
        return await handler(request)
    except SubakError as error:
        observer.notify(_refused(request, error))
        if STANDING in request and EXTRA_HEADERS not in request:
            request[EXTRA_HEADERS] = dict(await request[STANDING].standing(request[CALLER]))
        return problem_response(request, error, speaks_seed=speaks_seed)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ("Allow", "Location") if name in error.headers}
        return status_problem(error.status, headers=kept)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 - the root of a request: the caller gets a problem, the operator the place
        observer.notify(Crashed(type(error).__name__, crash_site(error)))
        return status_problem(500)


async def add_extra_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what was noted while the request was judged (an `on_response_prepare` signal).

    It is said once: kept, it would take 0.4 KB of each open stream.
    """
    headers: dict[str, str] | None = request.pop(EXTRA_HEADERS, None)
    if headers is not None:
        response.headers.update(headers)


def route_name(request: web.Request) -> str:
    """Give the route's pattern: never the path, which the caller chose."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical


def person_of(caller: Caller) -> Person:
    """Give what a fact may carry of a caller, for the audit trail."""
    claims = caller.principal.claims
    return Person(caller.principal.id, claims.tenant, claims.email, caller.address)


def _refused(request: web.Request, error: SubakError) -> Refused:
    caller = request.get(CALLER)
    who = Person() if caller is None else person_of(caller)
    stream_id = error.foreign_stream_id if isinstance(error, StreamNotFound) else None
    return Refused(route_name(request), request.method, error.http_status, error.code, error.reason, who, stream_id)

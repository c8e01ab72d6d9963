"""Errors as responses, before the first byte (PROTOCOL §2, "Refusals").

One body for each route family: on the founding document's routes those clients' own JSON, elsewhere — and for
`Accept: application/problem+json` — RFC 9457 problem details whose members include the same keys. Never the text of an
exception, never what the caller sent.
"""

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from subak.admission.auth import challenge_of
from subak.core.errors import FlagDisabled, SubakError, Unauthenticated

PROBLEM_TYPE: Final = "application/problem+json"
_JSON: Final = "application/json"


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Give a JSON response, never cached."""
    return _response(body, status, _JSON, headers)


def problem_response(request: web.BaseRequest, error: SubakError, *, speaks_seed: bool) -> web.Response:
    """Give the response for an error. `speaks_seed`: the route's clients know the founding document's bodies."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    origin = request.headers.get("Origin")
    if isinstance(error, FlagDisabled) and origin is not None and origin.isascii():
        error.members["origin"] = origin  # the only thing that we ever echo
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = challenge_of(error.reason)
    wants_problem = PROBLEM_TYPE in request.headers.get("Accept", "")
    if speaks_seed and not wants_problem and _has_seed_body(error):
        return _response(error.members, error.http_status, _JSON, headers)
    return _response(_problem(error), error.http_status, PROBLEM_TYPE, headers)


def status_problem(status: int, *, headers: dict[str, str] | None = None) -> web.Response:
    """Give a bare problem for a status that no error of ours stands for."""
    title = HTTPStatus(status).phrase
    return _response({"type": "about:blank", "title": title, "status": status}, status, PROBLEM_TYPE, headers)


def _has_seed_body(error: SubakError) -> bool:
    return "error" in error.members or "ok" in error.members


def _problem(error: SubakError) -> dict[str, object]:
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.http_status).phrase,
        "status": error.http_status,
        "detail": error.detail,
        "code": error.code,
        **error.members,
    }


def _response(body: object, status: int, content_type: str, headers: dict[str, str] | None) -> web.Response:
    response = web.Response(
        body=msgspec.json.encode(body), status=status, content_type=content_type, headers=headers or {}
    )
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response

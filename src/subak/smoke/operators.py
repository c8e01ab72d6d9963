"""The checks of what operators see at the admin listener: the audit trail has it, the metrics have counted it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from subak.core.errors import FlagDisabled, RateLimited
from subak.core.json_errors import NOT_JSON
from subak.smoke.course import Counts, Course
from subak.smoke.findings import NotChecked, Seen, Unmet
from subak.smoke.line import Line, Reply

_LOOK_EVERY_S: Final = 0.25
_SLACK_S: Final = 15.0
_NEWEST: Final = 200
_ANOTHER: Final = "is --admin the admin listener of the gateway behind URL? With several, each knows its own"
_TOKEN: Final = "give the gateway's admin token: --admin-token FILE, or SUBAK_ADMIN__TOKEN"
_T = TypeVar("_T")


class _Row(msgspec.Struct):
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    operation: str
    core: dict[str, object]


class _Page(msgspec.Struct):
    rows: list[_Row]


async def check_audit(course: Course) -> Seen:
    """The question is in the trail: one start, one end, and the resume; or the refusal, where streaming is off."""
    desk = course.need_desk("the audit trail")
    if course.has_to_be_off:
        await _recorded(course, desk, "request.refused", FlagDisabled.code)
        return Seen("the refusal is recorded")
    course.need_streaming()
    if course.asked is None:
        raise NotChecked("there is no answer to look for: see `stream.post`")
    stream_id = course.asked.cursor.stream_id
    wanted = {"stream.start": 1, "stream.end": 1, "stream.resume": 1}
    told = await _until(lambda: _operations(desk, stream_id), lambda found: found == wanted, course.wants.recorded_s)
    if told != wanted:
        seen = ", ".join(f"{count} {name}" for name, count in sorted(told.items())) or "nothing"
        raise Unmet(f"{seen} of the question", expected="one start, one end, one resume", fix=_ANOTHER)
    return Seen("one start, one end, one resume of the question that was cut")


async def check_violation(course: Course) -> Seen:
    """The refusal at the limit is in the trail."""
    desk = course.need_desk("the audit trail")
    if not course.is_limited:
        raise NotChecked("nothing was refused: see `limit.429`")
    await _recorded(course, desk, "security.rate_limit_violation", RateLimited.code)
    return Seen("the violation is recorded")


async def _operations(desk: Line, stream_id: str) -> Mapping[str, int]:
    names = [row.operation for row in (await _search(desk, stream=stream_id))[0]]
    return {name: names.count(name) for name in names}


async def _recorded(course: Course, desk: Line, operation: str, code: str) -> None:
    def is_there(found: tuple[list[_Row], datetime]) -> bool:
        rows, now = found
        since = now - timedelta(seconds=asyncio.get_running_loop().time() - course.began_at + _SLACK_S)
        return any(row.time >= since and row.core.get("code") == code for row in rows)

    patience_s = course.wants.recorded_s
    if not is_there(await _until(lambda: _search(desk, operation=operation), is_there, patience_s)):
        raise Unmet(f"no {operation} with {code} in {patience_s:.0f} s", expected="one, of just now", fix=_ANOTHER)


async def _until(look: Callable[[], Awaitable[_T]], is_met: Callable[[_T], bool], patience_s: float) -> _T:
    """Look again and again, until it is met or it has been long enough; give what was seen last."""
    ends_at = asyncio.get_running_loop().time() + patience_s
    seen = await look()
    while not is_met(seen) and asyncio.get_running_loop().time() < ends_at:
        await asyncio.sleep(_LOOK_EVERY_S)
        seen = await look()
    return seen


async def _search(desk: Line, **wanted: str) -> tuple[list[_Row], datetime]:
    """Give the newest rows, and what time it is there."""
    reply = await desk.fetch("GET", f"/-/audit/search?{urlencode({**wanted, 'limit': _NEWEST})}")
    if reply.status == HTTPStatus.NOT_FOUND:
        raise NotChecked("there is no audit trail: audit.enabled is false, or --admin is no admin listener")
    _check_let_in(reply)
    try:
        return msgspec.json.decode(reply.body, type=_Page).rows, _date_of(reply)
    except NOT_JSON:
        raise reply.unmet("rows of the audit trail", _ANOTHER) from None


def _date_of(reply: Reply) -> datetime:
    try:
        date = parsedate_to_datetime(reply.headers.get("Date", ""))
    except (ValueError, OverflowError):
        return datetime.now(UTC)
    return date.replace(tzinfo=date.tzinfo or UTC)


async def check_metrics(course: Course) -> Seen:
    """`/metrics` has counted what was asked here."""
    after = await counts(course.need_desk("what it counts"))
    before = course.before or Counts(0, 0, 0)
    asked = Counts(course.streams, course.chats, course.refusals)
    missed = [
        f"{name.replace('_', ' ')} grew by {now - then:.0f}, not by {ours:.0f}"
        for name, then, now, ours in zip(Counts._fields, before, after, asked, strict=True)
        if now - then < ours
    ]
    if missed:
        raise Unmet("; ".join(missed), expected="all that was asked here, counted", fix=_ANOTHER)
    grown = asked._asdict().items()
    return Seen("counted: " + ", ".join(f"{ours:.0f} {name.replace('_', ' ')}" for name, ours in grown))


async def counts(desk: Line) -> Counts:
    """Read the counters. Raises: Unmet."""
    reply = await desk.fetch("GET", "/metrics")
    _check_let_in(reply)
    text = reply.body.decode(errors="replace")
    if reply.status != HTTPStatus.OK or "\nsubak_build_info" not in text:
        raise reply.unmet("200 with the metrics of a Subak", _ANOTHER)
    names = ("subak_streams_opened_total", "subak_chat_answers_total", "subak_refusals_total")
    try:
        return Counts(*(_sum(text, name) for name in names))
    except ValueError:
        raise reply.unmet("counters with numbers", _ANOTHER) from None


def _sum(text: str, name: str) -> float:
    """Add up a counter over its labels (Prometheus' text format; our label values have no blank)."""
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.split()[-1]) for line in lines)


def _check_let_in(reply: Reply) -> None:
    if reply.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}:
        raise reply.unmet("200", _TOKEN)

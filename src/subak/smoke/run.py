"""The checks in their order, and what came of each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Final, NamedTuple

import aiohttp

from subak.client.wire import shown
from subak.doctor.line import advice_on
from subak.smoke.course import Course, Wants
from subak.smoke.findings import Check, Finding, NotChecked, Report, Seen, Status, Unmet
from subak.smoke.limits import check_headers, check_limit
from subak.smoke.line import Line
from subak.smoke.operators import check_audit, check_metrics, check_violation, counts
from subak.smoke.streams import (
    check_again,
    check_alive,
    check_chat,
    check_flag,
    check_get,
    check_heartbeats,
    check_post,
    check_resume,
    check_stop,
)

Look = Callable[[Course], Awaitable[Seen]]
_LOOKS: Final[Mapping[Check, Look]] = {
    Check.ALIVE: check_alive,
    Check.FLAG: check_flag,
    Check.HEARTBEATS: check_heartbeats,
    Check.STREAM_GET: check_get,
    Check.STREAM_POST: check_post,
    Check.RESUME: check_resume,
    Check.AGAIN: check_again,
    Check.STOP: check_stop,
    Check.CHAT: check_chat,
    Check.LIMIT_HEADERS: check_headers,
    Check.LIMIT: check_limit,
    Check.AUDIT: check_audit,
    Check.AUDIT_VIOLATION: check_violation,
    Check.METRICS: check_metrics,
}
_OF_STREAMS: Final = frozenset(
    {Check.RESUME, Check.AGAIN, Check.STOP, Check.LIMIT_HEADERS, Check.LIMIT, Check.AUDIT_VIOLATION}
)
"""What there is nothing to look at for while streaming has to be off."""


class Place(NamedTuple):
    """A base URL without a slash at its end, and what goes with every request to it."""

    url: str
    headers: Mapping[str, str]


def announcement(wants: Wants) -> str:
    """Say what it will ask at most, before it does."""
    if wants.expect == "off":
        return "asks one question, of /chat; streams should refuse theirs"
    return "asks 4 questions at most: by GET, by POST, one that is stopped at once, and one of /chat"


async def run(
    public: Place, admin: Place | None, wants: Wants, *, answer_s: float, say: Callable[[str], None]
) -> Report:
    """Look at everything. `answer_s`: how long each answer may take; `say` is told before anything costs something."""
    say(announcement(wants))
    async with Line.to(public.url, public.headers, answer_s) as line, _desk(admin, answer_s) as desk:
        course = Course(wants, line, desk, say, asyncio.get_running_loop().time())
        if desk is not None:
            with suppress(Unmet, aiohttp.ClientError, OSError):  # told where the metrics are looked at
                course.before = await counts(desk)
        wanted = [check for check in Check if wants.expect != "off" or check not in _OF_STREAMS]
        findings = tuple([finding async for finding in look_at(course, wanted)])
    return Report(public.url, course.is_streaming, course.questions, findings)


@asynccontextmanager
async def _desk(admin: Place | None, answer_s: float) -> AsyncIterator[Line | None]:
    async with nullcontext() if admin is None else Line.to(admin.url, admin.headers, answer_s) as desk:
        yield desk


async def look_at(course: Course, wanted: Iterable[Check]) -> AsyncIterator[Finding]:
    """Make checks, in this order: some go on where one before them left off."""
    for check in wanted:
        yield await _look(course, check)


async def _look(course: Course, check: Check) -> Finding:
    if course.is_out_of_reach:
        return Finding(check, Status.NOT_CHECKED, "nobody answers: see `alive`")
    try:
        seen = await _LOOKS[check](course)
    except Unmet as unmet:
        return Finding(check, Status.FAILED, shown(unmet.came), shown(unmet.expected), unmet.fix)
    except NotChecked as why:
        return Finding(check, Status.NOT_CHECKED, str(why))
    except (aiohttp.ClientError, OSError) as error:
        course.is_out_of_reach = check is Check.ALIVE
        return _lost(check, error)
    return Finding(check, Status.OK, shown(seen.detail), figures=seen.figures)


def _lost(check: Check, error: aiohttp.ClientError | OSError) -> Finding:
    match error:
        case aiohttp.ClientPayloadError():
            came, fix = "the line was cut in mid-answer", "a proxy's read timeout or buffer, or the gateway ended"
        case TimeoutError():
            came, fix = "no whole answer in time", "the upstream is slow, or stands: `subak doctor`; or raise --timeout"
        case aiohttp.ClientConnectorError():
            came, fix = advice_on(error)
            came = f"{error.host}:{error.port}: {came}"
        case _:
            came, fix = advice_on(error)
    return Finding(check, Status.FAILED, came, "an answer", fix)

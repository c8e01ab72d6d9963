"""The checks of how often one may ask: the headers that tell it, and, where somebody wants it, the refusal itself."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from subak.client.line import CHAT_STREAM, STREAMS
from subak.client.wire import shown
from subak.smoke.answer import AnswerReader
from subak.smoke.course import Course, Quota
from subak.smoke.findings import NotChecked, Seen, Unmet
from subak.smoke.line import Reply

MOST_QUESTIONS: Final = 100
"""A higher limit isn't run into."""
_NAMES: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_NO_LIMIT: Final = "no limit holds for this caller: limits.enabled is false, or the key is one of API_KEYS_INTERNAL"
_TRUE: Final = "true X-RateLimit-Limit, -Remaining and -Reset"
_TAKEN_OUT: Final = "a proxy in between takes headers out, or sets its own of these names"
_LIMITS: Final = "limits.chat says how many; each process behind a balancer counts for itself"


def quota_of(reply: Reply) -> Quota | None:
    """Read how a caller's quota stands; None where no header tells. What isn't a number becomes -1."""
    texts = [reply.headers.get(name) for name in _NAMES]
    if not any(texts):
        return None
    return Quota(*(int(text) if text and _NUMBER.fullmatch(text) else -1 for text in texts))


async def check_headers(course: Course) -> Seen:
    """Each answer told how many more questions there may be."""
    course.need_streaming()
    if not course.quotas:
        raise NotChecked("no question was answered")
    quotas = [quota for quota in course.quotas if quota is not None]
    if not quotas:
        raise NotChecked(_NO_LIMIT)
    wrong = next((quota for quota in quotas if not _is_true(quota)), None)
    if wrong is not None:
        seen = ", ".join(f"{name} {'none' if value < 0 else value}" for name, value in zip(_NAMES, wrong, strict=True))
        raise Unmet(seen, expected=_TRUE, fix=_TAKEN_OUT)
    if len(quotas) < len(course.quotas):
        raise Unmet("some answers had no X-RateLimit headers", expected=f"{_TRUE} on each", fix=_TAKEN_OUT)
    newest = quotas[-1]
    seen = f"{newest.limit} questions, {newest.remaining} of them left"
    return Seen(seen, {"limit": newest.limit, "remaining": newest.remaining})


def _is_true(quota: Quota) -> bool:
    """Whether figures can be those of a caller who has just asked."""
    return 0 <= quota.remaining < quota.limit and quota.reset_s > 0


async def check_limit(course: Course) -> Seen:
    """Past the limit a question is refused: with 429, the body that clients know, and a time that is true."""
    course.need_streaming()
    if not course.wants.with_limit:
        raise NotChecked("it takes as many questions as the limit leaves: --limit asks them, each stopped at once")
    quota = course.quotas[-1] if course.quotas else None
    if quota is None or not _is_true(quota):
        raise NotChecked(f"{_NO_LIMIT}; see `limit.headers`")
    if quota.limit > MOST_QUESTIONS:
        raise NotChecked(f"the limit is {quota.limit} questions, and more than {MOST_QUESTIONS} aren't asked for that")
    course.say(
        f"runs into the limit: asks up to {quota.limit} more, each stopped at once; then this caller has to wait"
    )
    for asked in range(quota.limit + 1):
        refused = await _ask_and_stop(course)
        if refused is not None:
            course.is_limited = True
            course.refusals += 1
            return _judge_refusal(refused, asked, quota.limit)
    raise Unmet(f"{quota.limit + 1} more were answered", expected=f"429 after {quota.limit} in a window", fix=_LIMITS)


async def _ask_and_stop(course: Course) -> Reply | None:
    """Ask, and stop the answer before it costs much; give the refusal, if it is one."""
    reader = AnswerReader()
    fields = {"query": course.wants.question}
    heard = await course.line.listen("POST", CHAT_STREAM, fields, reader=reader, until=lambda _: True)
    if heard.reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        return heard.reply
    course.questions += 1
    if not heard.reply.is_stream:
        raise heard.reply.unmet("200, or 429 at the limit")
    course.streams += 1
    stopped = await course.line.fetch("POST", f"{STREAMS}/{reader.stream_id}/stop")
    if stopped.status != HTTPStatus.OK:
        raise stopped.unmet("200: no further question is asked while this one goes on")
    return None


def _judge_refusal(reply: Reply, asked: int, limit: int) -> Seen:
    retry_after, body = reply.headers.get("Retry-After", ""), reply.json() or {}
    quota = quota_of(reply)
    if quota is None or (quota.limit, quota.remaining) != (limit, 0):
        raise reply.unmet(f"X-RateLimit-Limit {limit} and -Remaining 0 with it", _TAKEN_OUT)
    if not _is_seconds(retry_after, body):
        came = f"429 with Retry-After: {shown(retry_after) or 'none'}"
        expected = "seconds, the same as the body's retryAfter, and error RATE_LIMIT_EXCEEDED"
        raise Unmet(came, expected=expected, fix="a proxy with a limit of its own answers instead of the gateway")
    return Seen(f"429 after {asked} more, Retry-After: {retry_after}", {"retry_after_s": float(retry_after)})


def _is_seconds(retry_after: str, body: Mapping[str, object]) -> bool:
    is_number = _NUMBER.fullmatch(retry_after) is not None and int(retry_after) > 0
    is_told = body.get("error") == "RATE_LIMIT_EXCEEDED" and str(body.get("retryAfter")) == retry_after
    return is_number and is_told

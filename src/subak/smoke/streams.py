"""The checks of what readers use: whether it lives, the flag, heartbeats, asking, resuming, stopping, and `/chat`."""

import secrets
from collections.abc import Awaitable
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

from subak.client.line import CHAT_STREAM, STREAMS
from subak.core.cursor import is_stream_id
from subak.core.rollout import STREAMING
from subak.doctor.findings import Finding as LineFinding
from subak.doctor.findings import Status as LineStatus
from subak.doctor.line import FEATURES_PATH, judge_line, listen
from subak.smoke.answer import AnswerReader
from subak.smoke.course import Asked, Course
from subak.smoke.findings import NotChecked, Seen, Unmet
from subak.smoke.limits import quota_of
from subak.smoke.line import Heard, Reply

CHAT: Final = "/api/v2/bali-zero/chat"
_LINE_TRIES: Final = 2
_KEY_BYTES: Final = 24
_OFF_BODY: Final = {"ok": False, "code": "feature_flag_disabled", "flag": STREAMING}
_WHOLE: Final = frozenset({"stop", "length"})
_UPSTREAM: Final = "what answers failed, or ended early: `subak doctor` there asks it one question"


async def check_alive(course: Course) -> Seen:
    """The process answers, through everything in front of it."""
    reply = await course.line.fetch("GET", "/livez")
    if reply.status != HTTPStatus.OK or (reply.json() or {}).get("status") != "ok":
        raise reply.unmet('200 {"status":"ok"} of a Subak')
    return Seen(f"alive, {reply.took_ms:.0f} ms away", {"took_ms": reply.took_ms})


async def check_flag(course: Course) -> Seen:
    """What the gateway says of streaming for this caller is what was expected."""
    reply = await course.line.fetch("GET", FEATURES_PATH)
    is_on = (reply.json() or {}).get("sse") if reply.status == HTTPStatus.OK else None
    if not isinstance(is_on, bool):
        raise reply.unmet('200 {"sse": true} or {"sse": false}')
    course.is_streaming = is_on
    word = "on" if is_on else "off"
    if course.wants.expect not in {None, word}:
        fix = "`subak flags set --off`" if is_on else "ENABLE_SSE_STREAMING=true permits it, `subak flags set` for whom"
        fix = f"`subak flags show --for CALLER` says why; {fix}"
        raise Unmet(f"streaming is {word} for this caller", expected=f"{course.wants.expect}", fix=fix)
    effect = "" if course.desk is None else f"; {await _effect(course)}"
    return Seen(f"streaming is {word} for this caller{effect}")


async def _effect(course: Course) -> str:
    reply = await course.need_desk("the flag").fetch("GET", f"/-/flags/{STREAMING}")
    effect = (reply.json() or {}).get("effect")
    if not isinstance(effect, str):
        raise reply.unmet("the flag, of an admin listener", "is --admin the admin listener, and the token its own?")
    return f"the flag is {effect}"


async def check_heartbeats(course: Course) -> Seen:
    """Heartbeats come through as they are sent. A second try, for this machine may have been busy."""
    finding = await _look_at_line(course)
    if finding.status is LineStatus.FAILED:
        finding = await _look_at_line(course)
    if finding.status is LineStatus.FAILED:
        fix = " · ".join((finding.fix, *finding.notes))
        raise Unmet(finding.detail, expected="three heartbeats, each a second after the last", fix=fix)
    return Seen(f"heartbeat {finding.detail}", finding.figures)


async def _look_at_line(course: Course) -> LineFinding:
    return judge_line(await listen(course.line.session, course.line.base_url))


async def check_get(course: Course) -> Seen:
    """A question by GET is answered to its end; or refused, where streaming is off."""
    ask = partial(course.line.listen, "GET", f"{CHAT_STREAM}?{urlencode({'query': course.wants.question})}")
    if course.has_to_be_off:
        return await _refused(course, (await ask(reader=AnswerReader())).reply)
    course.need_streaming()
    reader = AnswerReader()
    heard = await _ask(course, ask(reader=reader))
    _check_whole(reader)
    return Seen(f"{reader.tokens} tokens, {_first_token(heard)}, done {reader.ending}", _figures(heard, reader))


async def check_post(course: Course) -> Seen:
    """A question by POST is answered. It is broken off at the first token, for `check_resume`."""
    key = secrets.token_urlsafe(_KEY_BYTES)
    ask = partial(course.line.listen, "POST", CHAT_STREAM, {"query": course.wants.question}, {"Idempotency-Key": key})
    if course.has_to_be_off:
        return await _refused(course, (await ask(reader=AnswerReader())).reply)
    course.need_streaming()
    reader = AnswerReader()
    heard = await _ask(course, ask(reader=reader, until=lambda read: read.tokens > 0))
    if not reader.tokens:
        _check_whole(reader)
    course.asked = Asked(reader.cursor, reader.text, key)
    return Seen(f"{_first_token(heard)}; left there, to resume", _figures(heard, reader))


async def _ask(course: Course, asking: Awaitable[Heard]) -> Heard:
    """Have a question asked, and note what it costs and how the caller's quota stands."""
    course.questions += 1
    heard = await asking
    if not heard.reply.is_stream:
        raise heard.reply.unmet("200 with text/event-stream")
    course.streams += 1
    course.quotas.append(quota_of(heard.reply))
    return heard


async def _refused(course: Course, reply: Reply) -> Seen:
    if reply.status != HTTPStatus.FORBIDDEN or reply.json() != _OFF_BODY:
        raise reply.unmet(f"403 {_OFF_BODY['code']} in the body that clients know", "is this path the gateway's?")
    course.refusals += 1
    return Seen(f"refused with 403 {_OFF_BODY['code']}, as it should be while streaming is off")


def _check_whole(reader: AnswerReader) -> None:
    if reader.ending not in _WHOLE or not reader.text:
        came = f"{reader.tokens} tokens, then {'error' if reader.is_failed else 'done'} {reader.ending}"
        raise Unmet(came, expected="tokens, then done stop", fix=_UPSTREAM)


def _first_token(heard: Heard) -> str:
    return "no token" if heard.first_token_ms is None else f"first token after {heard.first_token_ms:.0f} ms"


def _figures(heard: Heard, reader: AnswerReader) -> dict[str, float]:
    figures = {"tokens": float(reader.tokens), "heartbeats": float(reader.heartbeats)}
    return figures if heard.first_token_ms is None else figures | {"first_token_ms": heard.first_token_ms}


async def check_resume(course: Course) -> Seen:
    """The answer that was broken off goes on behind the last id that came: by that alone, without the question."""
    asked = _asked(course)
    reader = AnswerReader(asked.cursor)
    headers = {"Last-Event-ID": str(asked.cursor)}
    heard = await course.line.listen("GET", CHAT_STREAM, headers=headers, reader=reader)
    resumed_from = heard.reply.headers.get("Subak-Resumed-From", "")
    if not heard.reply.is_stream:
        raise heard.reply.unmet("200 with text/event-stream, from the cursor on")
    if resumed_from != str(asked.cursor):
        raise heard.reply.unmet("Subak-Resumed-From with the cursor", "a proxy takes headers out, or has cached it")
    if reader.ending not in _WHOLE:
        raise Unmet(f"the answer ended by {reader.ending}", expected="done stop", fix=_UPSTREAM)
    return Seen(f"events {asked.cursor.seq + 1} to {reader.seq} after the cut, none missing, none twice")


async def check_again(course: Course) -> Seen:
    """The same question with the same key finds the same answer: nobody is asked, or pays, twice."""
    asked = _asked(course)
    reader = AnswerReader()
    heard = await course.line.listen(
        *("POST", CHAT_STREAM, {"query": course.wants.question}, {"Idempotency-Key": asked.key}),
        reader=reader,
        until=lambda read: read.tokens > 0,
    )
    if not heard.reply.is_stream:
        raise heard.reply.unmet("200 with text/event-stream: the answer that the key stands for")
    if reader.stream_id != asked.cursor.stream_id:
        course.questions += 1
        course.streams += 1
        fix = "several processes behind the balancer? It has to keep a caller at one of them"
        raise Unmet("another answer: the question was asked twice", expected="the one there was", fix=fix)
    if not asked.text.startswith(reader.text):
        raise heard.reply.unmet("the text that came before", "the gateway's own log says more")
    return Seen("the same question with its key found the same answer; asked once")


async def check_stop(course: Course) -> Seen:
    """An answer that is stopped ends at once, as cancelled."""
    course.need_streaming()
    course.questions += 1
    made = await course.line.fetch("POST", STREAMS, {"query": course.wants.question}, {"Accept": "application/json"})
    stream_id = (made.json() or {}).get("id")
    if made.status != HTTPStatus.CREATED or not isinstance(stream_id, str) or not is_stream_id(stream_id):
        raise made.unmet("201 with the new stream's id")
    course.streams += 1
    course.quotas.append(quota_of(made))
    stopped = await stop(course, stream_id)
    reader = AnswerReader()
    heard = await course.line.listen("GET", f"{STREAMS}/{stream_id}/events", reader=reader)
    if not heard.reply.is_stream:
        raise heard.reply.unmet("200 with the stopped answer's events")
    if stopped == "completed" and reader.ending in _WHOLE:
        raise NotChecked("the answer was over before it could be stopped: ask something longer by --question")
    if reader.ending != "cancelled":
        came = f"it said {stopped}, and the answer ended by {reader.ending}"
        raise Unmet(came, expected="done cancelled", fix="the gateway's own log says more")
    return Seen(f"ended by done cancelled after event {reader.seq}")


async def stop(course: Course, stream_id: str) -> str:
    """Stop an answer; give the status that the gateway tells. Raises: Unmet."""
    reply = await course.line.fetch("POST", f"{STREAMS}/{stream_id}/stop")
    status = (reply.json() or {}).get("status") if reply.status == HTTPStatus.OK else None
    if not isinstance(status, str):
        raise reply.unmet("200 with the status of the stopped answer")
    return status


def _asked(course: Course) -> Asked:
    course.need_streaming()
    if course.asked is None:
        raise NotChecked("there is no answer to come back to: see `stream.post`")
    return course.asked


async def check_chat(course: Course) -> Seen:
    """`/chat` answers as the backend does, whatever the flag says, and nothing of ours stands before it."""
    course.questions += 1
    reply = await course.line.fetch("POST", CHAT, {"query": course.wants.question})
    told = reply.json()
    if reply.status != HTTPStatus.OK or told is None or told.get("success") is False:
        raise reply.unmet("200 with the backend's JSON", "ask the backend itself; if it is right there: `subak doctor`")
    course.chats += 1
    ours = [name for name in reply.headers if name.lower().startswith(("x-ratelimit-", "subak-"))]
    if ours:
        raise reply.unmet(f"the backend's answer, without {ours[0]}", "something else than /chat answers there")
    return Seen(f"200 with {len(reply.body)} bytes of JSON in {reply.took_ms:.0f} ms", {"took_ms": reply.took_ms})

"""`subak smoke`: a good gateway passes; one that does a single thing wrong is found out by the check for it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from subak.doctor.line import STREAM_PATH
from subak.smoke.course import Course, Quota, Wants
from subak.smoke.findings import Check, Finding, Status
from subak.smoke.line import Line
from subak.smoke.run import look_at
from subak.testing import Cut, End, Frame, Head, ScriptedUpstream
from subak.testing import Line as ToxicLine
from tests.integration.clients import proxy_before
from tests.integration.gateway import CHAT, CHAT_STREAM, CIAO, DONE, ONE_LOOP, Running, process, running
from tests.integration.nginx import documented, nginx
from tests.integration.spoiler import Spoil, Spoiler, Spoils, Spoilt, spoiling

pytestmark = ONE_LOOP

LIMITED: Final = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "6", "SUBAK_KNOWLEDGE__PACE_MS": "4"}
AUDITED: Final = {"SUBAK_AUDIT__ENABLED": "true"}
ASKING: Final = Wants("What is a KITAS?")
ANOTHER_ID: Final = "st_" + "x" * 28
ASKED: Final = (Check.FLAG, Check.STREAM_POST)


@asynccontextmanager
async def smoking(
    gateway: Running, spoils: Spoils | None = None, wants: Wants = ASKING, *, token: str = ""
) -> AsyncIterator[tuple[Course, Spoiler]]:
    """Begin a smoke test of a gateway behind something that spoils; the admin listener is spoilt alike."""
    admin_token = gateway.gateway.admin_token
    assert admin_token is not None
    bearer = {"Authorization": f"Bearer {token or admin_token.text}"}
    async with (
        spoiling(gateway.url, {} if spoils is None else spoils) as proxy,
        spoiling(gateway.gateway.admin_url, {} if spoils is None else spoils) as admin,
        Line.to(proxy.url, {}, 20) as line,
        Line.to(admin.url, bearer, 20) as desk,
    ):
        yield Course(wants, line, desk, lambda _: None, asyncio.get_running_loop().time()), proxy


async def looked_at(course: Course, *checks: Check) -> Finding:
    """Give what the last of the checks found; those before it must find nothing wrong."""
    findings = [finding async for finding in look_at(course, checks)]
    assert [each for each in findings[:-1] if each.status is not Status.OK] == []
    return findings[-1]


def answers(status: int, body: bytes = b"{}", **headers: str) -> Spoil:
    def spoil(answer: Spoilt) -> None:
        answer.status, answer.body = status, body
        answer.headers = {"content-type": "application/json"} | headers

    return spoil


def without(header: str) -> Spoil:
    def spoil(answer: Spoilt) -> None:
        answer.headers.pop(header.lower())

    return spoil


def with_header(header: str, value: str) -> Spoil:
    def spoil(answer: Spoilt) -> None:
        answer.headers[header.lower()] = value

    return spoil


def replacing(pattern: bytes, instead: bytes) -> Spoil:
    def spoil(answer: Spoilt) -> None:
        answer.body, count = re.subn(pattern, instead, answer.body, flags=re.DOTALL)
        assert count, "there was nothing to spoil"

    return spoil


def of_another_stream(answer: Spoilt) -> None:
    own = answer.headers["subak-stream-id"]
    answer.headers["subak-stream-id"] = ANOTHER_ID
    answer.body = answer.body.replace(own.encode(), ANOTHER_ID.encode())


def unspoilt(answer: Spoilt) -> None:
    """Keep it as it is: but it is read whole, and then sent at once."""
    assert answer.status == 200


TERMINAL: Final = rb"id: \S+\nevent: message\ndata: \{\"type\":\"done\".*"
SECOND: Final = rb"id: \S+\.2\n.*?\n\n"
FLOOD: Final = (b": " + b"x" * 1_000_000 + b"\n\n") * 68
"""Comments after the end."""
NO_NUMBER: Final = b"\nsubak_build_info 1\nsubak_streams_opened_total many\n"
ASK: Final = f"GET {CHAT_STREAM}"
POST: Final = f"POST {CHAT_STREAM}"


@pytest.mark.parametrize(
    ("checks", "spoils", "seen"),
    [
        ([Check.ALIVE], {"GET /livez": answers(404)}, r"GET /livez answered 404"),
        ([Check.ALIVE], {"GET /livez": answers(200, b"hello")}, r"answered 200 with application/json, 5 bytes"),
        ([Check.FLAG], {"GET /v1/features": answers(401)}, r"GET /v1/features answered 401"),
        ([Check.FLAG], {"GET /v1/features": answers(200, b'{"sse": "yes"}')}, r"answered 200"),
        ([Check.FLAG], {"GET /-/flags": answers(401)}, r"GET /-/flags/ENABLE_SSE_STREAMING answered 401"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: answers(502)}, r"answered 502"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: answers(302, location="/x")}, r"answered 302"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: without("Subak-Stream-Id")}, r"Subak-Stream-Id: "),
        ([Check.FLAG, Check.STREAM_GET], {ASK: replacing(TERMINAL, b"")}, r"after event \d+: the response ended"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: replacing(SECOND, b"")}, r"after event 1: id st_\S+\.3"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: replacing(rb'"sequence":2', b'"sequence":9')}, r"sequence 9"),
        (
            [Check.FLAG, Check.STREAM_GET],
            {ASK: replacing(rb'"type":"metadata"', b'"type":"token"')},
            r"token as event 1",
        ),
        ([Check.FLAG, Check.STREAM_GET], {ASK: replacing(rb"data: \{", b"data: ")}, r"after event 0: id st_"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: replacing(rb"\Z", b"data: {}\n\n")}, r"after event \d+"),
        ([Check.FLAG, Check.STREAM_POST], {POST: answers(503)}, r"POST \S+ answered 503"),
        ([Check.FLAG, Check.STREAM_POST], {POST: answers(403)}, r"answered 403"),
        ([*ASKED, Check.RESUME], {ASK: answers(404)}, r"answered 404"),
        ([*ASKED, Check.RESUME], {ASK: of_another_stream}, r"Subak-Stream-Id: " + ANOTHER_ID),
        ([*ASKED, Check.RESUME], {ASK: without("Subak-Resumed-From")}, r"answered 200"),
        ([*ASKED, Check.RESUME], {ASK: replacing(rb"\Aid|\nid: \S+\n.*?\n\n", b"\n")}, r"after event \d+"),
        ([Check.FLAG, Check.STOP], {"POST /v1/streams": answers(404)}, r"POST /v1/streams answered 404"),
        ([Check.FLAG, Check.CHAT], {f"POST {CHAT}": answers(200, b"<p>")}, r"answered 200"),
        ([Check.FLAG, Check.CHAT], {f"POST {CHAT}": answers(200, b'{"success": false}')}, r"answered 200"),
        ([Check.FLAG, Check.CHAT], {f"POST {CHAT}": answers(502)}, r"answered 502"),
        ([Check.CHAT], {f"POST {CHAT}": with_header("X-RateLimit-Limit", "9")}, r"answered 200"),
        ([*ASKED, Check.LIMIT_HEADERS], {POST: without("X-RateLimit-Reset")}, r"X-RateLimit-Reset none"),
        ([*ASKED, Check.LIMIT_HEADERS], {POST: with_header("X-RateLimit-Remaining", "6")}, r"X-RateLimit-Remaining 6"),
        ([*ASKED, Check.LIMIT_HEADERS], {POST: with_header("X-RateLimit-Limit", "9" * 5000)}, r"-Limit none"),
        ([Check.FLAG, Check.STREAM_GET], {ASK: replacing(rb"\Z", FLOOD)}, r"more than 67108864 bytes"),
        ([Check.METRICS], {"GET /metrics": answers(200, NO_NUMBER)}, r"GET /metrics answered 200"),
        ([Check.METRICS], {"GET /metrics": answers(401)}, r"GET /metrics answered 401"),
        ([Check.METRICS], {"GET /metrics": answers(200, b"hello")}, r"GET /metrics answered 200"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
async def test_what_a_gateway_does_wrong_is_told_by_the_check_for_it(
    checks: list[Check], spoils: dict[str, Spoil], seen: str
) -> None:
    async with running(variables=LIMITED) as gateway, smoking(gateway, spoils) as (course, _):
        finding = await looked_at(course, *checks)
    assert (finding.check, finding.status) == (checks[-1], Status.FAILED)
    assert re.search(seen, finding.detail)
    assert finding.expected
    assert finding.fix


async def test_what_a_server_says_can_not_command_the_terminal() -> None:
    effect = {"GET /-/flags": answers(200, b'{"effect": "on\\u001b]0;for all\\u0007\\u009b31m"}')}
    async with running() as gateway, smoking(gateway, effect) as (course, _):
        finding = await looked_at(course, Check.FLAG)
    assert "the flag is on ]0;for all" in finding.detail
    assert finding.detail.isprintable()


@pytest.mark.parametrize("time", ["2099-01-01T00:00:00", "2000-01-01T00:00:00Z"])
@pytest.mark.parametrize("date", ["Mon, 23 Nov 2026 10:00:00 -0000", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"])
async def test_rows_and_dates_of_any_form_are_told_and_break_nothing(time: str, date: str) -> None:
    row = {"time": time, "operation": "security.rate_limit_violation", "core": {"code": "rate_limited"}}
    spoils = {"GET /-/audit": answers(200, json.dumps({"rows": [row]}).encode(), date=date)}
    async with running() as gateway, smoking(gateway, spoils, Wants("Hi", recorded_s=0)) as (course, _):
        course.is_limited = True
        assert (await looked_at(course, Check.AUDIT_VIOLATION)).status is Status.FAILED


async def test_a_line_that_is_cut_is_told_as_such() -> None:
    cut = ToxicLine(cut=Cut(b'"type":"token"'))
    async with (
        running(variables=LIMITED) as gateway,
        proxy_before(gateway.url, cut) as proxy,
        Line.to(proxy.url, {}, 20) as line,
    ):
        course = Course(ASKING, line, None, lambda _: None, 0.0)
        finding = await looked_at(course, Check.FLAG, Check.STREAM_GET)
    assert (finding.status, finding.detail) == (Status.FAILED, "the line was cut in mid-answer")


async def test_heartbeats_that_come_together_are_told_after_a_second_try() -> None:
    async with running() as gateway, smoking(gateway, {f"GET {STREAM_PATH}": unspoilt}) as (course, proxy):
        finding = await looked_at(course, Check.HEARTBEATS)
    assert finding.status is Status.FAILED
    assert "something holds them back" in finding.detail
    assert "proxy_buffering off" in finding.fix
    assert proxy.asked == [f"GET {STREAM_PATH}"] * 2


async def test_an_answer_that_fails_is_told_with_its_code() -> None:
    broken = (Head(), CIAO, Frame('{"error": "boom", "done": true}'), End())
    async with ScriptedUpstream(broken) as upstream, running(upstream) as gateway, smoking(gateway) as (course, _):
        finding = await looked_at(course, Check.FLAG, Check.STREAM_GET)
    assert (finding.status, finding.detail) == (Status.FAILED, "1 tokens, then error upstream_error")
    assert "subak doctor" in finding.fix


async def test_an_answer_without_a_word_is_told() -> None:
    async with (
        ScriptedUpstream((Head(), DONE, End())) as upstream,
        running(upstream) as gateway,
        smoking(gateway) as (course, _),
    ):
        finding = await looked_at(course, Check.FLAG, Check.STREAM_POST)
    assert (finding.status, finding.detail) == (Status.FAILED, "0 tokens, then done stop")


async def test_a_question_that_is_asked_twice_is_told() -> None:
    """As several processes do between which a balancer takes turns."""
    async with running(variables=LIMITED) as gateway, smoking(gateway) as (course, _):
        await looked_at(course, *ASKED)
        assert course.asked is not None
        course.asked = course.asked._replace(key="another-key-of-many-characters")
        finding = await looked_at(course, Check.AGAIN)
        assert (finding.status, course.questions) == (Status.FAILED, 2)
    assert finding.detail == "another answer: the question was asked twice"
    assert "balancer" in finding.fix


async def test_a_key_that_finds_another_text_is_told() -> None:
    async with running(variables=LIMITED) as gateway:
        spoils: dict[str, Spoil] = {}
        async with smoking(gateway, spoils) as (course, _):
            await looked_at(course, *ASKED)
            spoils[POST] = replacing(rb'"type":"token","data":"', b'"type":"token","data":"x')
            assert (await looked_at(course, Check.AGAIN)).status is Status.FAILED


async def test_a_stop_that_stops_nothing_is_told() -> None:
    async with running(variables=LIMITED) as gateway:
        spoils: dict[str, Spoil] = {}
        async with smoking(gateway, spoils) as (course, _):
            spoils["GET /v1/streams"] = replacing(rb'"cancelled"', b'"stop"')
            finding = await looked_at(course, Check.FLAG, Check.STOP)
    assert (finding.status, finding.detail) == (
        Status.FAILED,
        "it said cancelled, and the answer ended by stop",
    )


async def test_an_answer_that_was_over_before_its_stop_is_not_called_stopped() -> None:
    async with running(variables=LIMITED) as gateway:
        late = {"POST /v1/streams/": answers(200, b'{"status": "completed"}')}
        async with smoking(gateway, late | {"GET /v1/streams": replacing(b'"cancelled"', b'"stop"')}) as (course, _):
            finding = await looked_at(course, Check.FLAG, Check.STOP)
    assert finding.status is Status.NOT_CHECKED
    assert "--question" in finding.detail


@pytest.mark.parametrize("check", [Check.STREAM_GET, Check.STREAM_POST])
async def test_refusals_while_streaming_is_off_are_as_clients_know_them(check: Check) -> None:
    async with running(is_on=False) as gateway, smoking(gateway) as (course, _):
        assert (await looked_at(course, Check.FLAG, check)).status is Status.OK
        assert (course.questions, course.refusals) == (0, 1)
    other = {f"{'GET' if check is Check.STREAM_GET else 'POST'} {CHAT_STREAM}": answers(403, b'{"detail": "no"}')}
    async with running(is_on=False) as gateway, smoking(gateway, other) as (course, _):
        finding = await looked_at(course, Check.FLAG, check)
    assert (finding.status, "feature_flag_disabled" in finding.expected) == (Status.FAILED, True)


async def test_streaming_that_is_off_and_should_be_on_is_told_and_nothing_is_asked() -> None:
    async with running(is_on=False) as gateway, smoking(gateway, wants=Wants("Hi", "on")) as (course, proxy):
        findings = [finding async for finding in look_at(course, [Check.FLAG, Check.STREAM_GET, Check.STOP])]
        assert not any(CHAT_STREAM in asked for asked in proxy.asked)
    assert [finding.status for finding in findings] == [Status.FAILED, Status.NOT_CHECKED, Status.NOT_CHECKED]
    assert "ENABLE_SSE_STREAMING=true" in findings[0].fix


async def test_streaming_that_is_on_and_should_be_off_is_told_and_nothing_is_asked() -> None:
    async with running() as gateway, smoking(gateway, wants=Wants("Hi", "off")) as (course, proxy):
        findings = [finding async for finding in look_at(course, [Check.FLAG, Check.STREAM_GET, Check.STREAM_POST])]
        assert not any(CHAT_STREAM in asked for asked in proxy.asked)
    assert [finding.status for finding in findings] == [Status.FAILED, Status.NOT_CHECKED, Status.NOT_CHECKED]
    assert "subak flags set --off" in findings[0].fix


AT_THE_LIMIT: Final = Wants("What is a KITAS?", with_limit=True, recorded_s=10)


def when_refused(spoil: Spoil) -> Spoil:
    def spoil_refusal(answer: Spoilt) -> None:
        if answer.status == 429:
            spoil(answer)

    return spoil_refusal


async def test_the_limit_is_run_into_and_each_answer_stopped() -> None:
    said: list[str] = []
    async with running(variables=LIMITED) as gateway, smoking(gateway, wants=AT_THE_LIMIT) as (course, proxy):
        course.say = said.append
        finding = await looked_at(course, *ASKED, Check.LIMIT)
        assert (finding.status, course.questions, course.streams) == (Status.OK, 6, 6)
        assert sum(asked.endswith("/stop") for asked in proxy.asked) == 5
    assert re.fullmatch(r"429 after 5 more, Retry-After: \d+", finding.detail)
    assert said == ["runs into the limit: asks up to 6 more, each stopped at once; then this caller has to wait"]


async def test_a_limit_that_is_none_is_told() -> None:
    def limited(answer: Spoilt) -> None:
        answer.headers |= {"x-ratelimit-limit": "3", "x-ratelimit-remaining": "2", "x-ratelimit-reset": "1"}

    async with running() as gateway, smoking(gateway, {POST: limited}, AT_THE_LIMIT) as (course, _):
        finding = await looked_at(course, *ASKED, Check.LIMIT)
        assert (finding.status, course.questions) == (Status.FAILED, 5)
    assert finding.detail == "4 more were answered"


@pytest.mark.parametrize(
    "spoil",
    [
        without("X-RateLimit-Remaining"),
        with_header("Retry-After", "0"),
        replacing(b"RATE_LIMIT_EXCEEDED", b"slow down"),
        replacing(rb'"retryAfter":\d+', b'"retryAfter":86400'),
    ],
)
async def test_a_refusal_that_does_not_say_when_is_told(spoil: Spoil) -> None:
    async with (
        running(variables=LIMITED) as gateway,
        smoking(gateway, {POST: when_refused(spoil)}, AT_THE_LIMIT) as (course, _),
    ):
        finding = await looked_at(course, *ASKED, Check.LIMIT)
    assert finding.status is Status.FAILED
    assert finding.expected


async def test_a_limit_is_not_run_into_unasked_nor_where_it_is_high_or_none() -> None:
    async with running() as gateway, smoking(gateway, wants=AT_THE_LIMIT) as (course, _):
        await looked_at(course, *ASKED)
        for quotas in ([Quota(101, 100, 1)], [None]):
            course.quotas = list(quotas)
            assert (await looked_at(course, Check.LIMIT)).status is Status.NOT_CHECKED
        course.quotas, course.wants = [Quota(6, 5, 1)], Wants("Hi")
        assert "--limit" in (await looked_at(course, Check.LIMIT)).detail
        assert course.questions == 1


async def test_limit_headers_on_some_answers_only_are_told_and_none_at_all_is_not_checked() -> None:
    async with running() as gateway, smoking(gateway) as (course, _):
        assert (await looked_at(course, *ASKED, Check.LIMIT_HEADERS)).status is Status.NOT_CHECKED
        course.quotas.append(Quota(6, 5, 1))
        assert (await looked_at(course, Check.LIMIT_HEADERS)).status is Status.FAILED


SEARCH: Final = "GET /-/audit/search"
AT_ONCE: Final = Wants("What is a KITAS?", recorded_s=0)
CUT_AND_RESUMED: Final = (*ASKED, Check.RESUME)


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (answers(200, b'{"rows": [], "next": null}'), "nothing of the question"),
        (
            replacing(rb"\[\{", b'[{"time": "2026-11-23T00:00:00Z", "operation": "stream.start", "core": {}}, {'),
            "2 stream",
        ),
        (answers(401), "GET /-/audit/search answered 401"),
        (answers(200, b"[]"), "GET /-/audit/search answered 200"),
    ],
)
async def test_a_question_that_the_trail_does_not_have_once_is_told(spoil: Spoil, seen: str) -> None:
    async with (
        running(variables=LIMITED | AUDITED) as gateway,
        smoking(gateway, {SEARCH: spoil}, AT_ONCE) as (course, _),
    ):
        finding = await looked_at(course, *CUT_AND_RESUMED, Check.AUDIT)
    assert finding.status is Status.FAILED
    assert seen in finding.detail


async def test_a_violation_that_the_trail_does_not_have_is_told() -> None:
    wants = AT_THE_LIMIT._replace(recorded_s=0.5)
    async with (
        running(variables=LIMITED | AUDITED) as gateway,
        smoking(gateway, {SEARCH: answers(200, b'{"rows": [], "next": null}')}, wants) as (course, _),
    ):
        finding = await looked_at(course, *ASKED, Check.LIMIT, Check.AUDIT_VIOLATION)
    assert finding.status is Status.FAILED
    assert "security.rate_limit_violation" in finding.detail


async def test_a_trail_that_is_off_is_not_checked() -> None:
    async with running(variables=LIMITED) as gateway, smoking(gateway) as (course, _):
        finding = await looked_at(course, *CUT_AND_RESUMED, Check.AUDIT)
    assert finding.status is Status.NOT_CHECKED
    assert "audit.enabled" in finding.detail


async def test_a_question_that_was_not_counted_is_told() -> None:
    uncounted = {"GET /metrics": replacing(rb"\nsubak_streams_opened_total\{[^\n]*", b"")}
    async with running(variables=LIMITED) as gateway, smoking(gateway, uncounted) as (course, _):
        finding = await looked_at(course, *ASKED, Check.METRICS)
    assert (finding.status, finding.detail) == (Status.FAILED, "streams opened grew by 0, not by 1")


async def test_a_wrong_token_is_told() -> None:
    async with running() as gateway, smoking(gateway, token="wrong") as (course, _):
        finding = await looked_at(course, Check.METRICS)
    assert finding.status is Status.FAILED
    assert "--admin-token" in finding.fix


async def test_without_an_admin_listener_what_is_seen_there_is_not_checked() -> None:
    async with running(variables=LIMITED) as gateway, smoking(gateway) as (course, _):
        course.desk = None
        for check in (Check.AUDIT, Check.AUDIT_VIOLATION, Check.METRICS):
            finding = await looked_at(course, check)
            assert (finding.status, "--admin" in finding.detail) == (Status.NOT_CHECKED, True)


async def smoke(*arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; give exit code, document and what it said on the way."""
    async with process("smoke", *arguments, "--json", **environment) as started:
        code, out, err = await started.ended()
    return code, json.loads(out), err


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in document["checks"]}


@pytest.mark.timeout(120)
async def test_a_good_gateway_passes_every_check(tmp_path: Path) -> None:
    state = {"SUBAK_STATE_DIR": str(tmp_path)}
    async with running(variables=LIMITED | AUDITED | state) as gateway:
        admin = ("--admin", gateway.gateway.admin_url)
        code, document, said = await smoke(gateway.url, *admin, "--expect", "on", "--limit", "--strict", **state)
    assert statuses(document) == dict.fromkeys(Check, "ok")
    assert (code, document["ok"], document["streaming"], document["questions"]) == (0, True, True, 7)
    assert document["counts"] == {"ok": len(Check), "failed": 0, "not_checked": 0}
    assert list(document["checks"][0]) == ["name", "status", "detail", "expected", "fix", "figures"]
    assert "asks 4 questions at most" in said


@pytest.mark.real
async def test_behind_the_documented_nginx_it_passes_alike() -> None:
    async with running(variables=LIMITED) as gateway, nginx(documented(gateway.url)) as server:
        code, document, _ = await smoke(server.url, "--expect", "on", "--limit")
    found = statuses(document)
    assert code == 0
    assert [name for name, status in found.items() if status != "ok"] == ["audit", "audit.violation", "metrics"]


async def test_streaming_that_is_off_as_expected_passes_with_one_question(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with running(variables=AUDITED, is_on=False) as gateway:
        assert gateway.gateway.admin_token is not None
        token.write_text(gateway.gateway.admin_token.text, encoding="ascii")
        admin = ("--admin", gateway.gateway.admin_url, "--admin-token", str(token))
        code, document, _ = await smoke(gateway.url, *admin, "--expect", "off", "--strict")
    assert (code, document["streaming"], document["questions"]) == (0, False, 1)
    assert set(statuses(document).values()) == {"ok"}


async def test_what_was_not_checked_fails_where_it_must_not_be() -> None:
    async with running(is_on=False) as gateway:
        code, document, _ = await smoke(gateway.url, "--strict")
    assert (code, document["ok"], document["counts"]["failed"]) == (1, False, 0)


async def test_credentials_come_from_a_file_and_are_not_shown(tmp_path: Path) -> None:
    key = "a-key-of-16-or-more-characters"
    (tmp_path / "key").write_text(f"x-api-key: {key}\n", encoding="ascii")
    demanding = {"API_KEYS_INTERNAL": key, "SUBAK_AUTH__REQUIRED": "true", "SUBAK_KNOWLEDGE__PACE_MS": "4"}
    async with (
        running(variables=demanding) as gateway,
        process("smoke", gateway.url, "-H", f"@{tmp_path / 'key'}") as started,
    ):
        code, out, err = await started.ended()
    assert (code, key in out + err) == (0, False)
    assert re.search(r"^ok +stream.get +\d+ tokens, first token after", out, re.MULTILINE)
    assert "9 ok, 0 failed, 5 not checked; 4 questions asked." in out


async def test_where_nobody_answers_one_finding_says_so() -> None:
    code, document, _ = await smoke("http://127.0.0.1:1")
    assert (code, document["questions"], document["counts"]["failed"]) == (1, 0, 1)
    assert document["checks"][0]["detail"] == "127.0.0.1:1: nobody listens there"
    assert set(list(statuses(document).values())[1:]) == {"not_checked"}

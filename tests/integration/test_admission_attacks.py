"""What somebody tries who wants more than is his: over real sockets, against a running gateway."""

import asyncio
import re
from base64 import b64encode
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import msgspec
import pytest

from subak.core.facts import ChatAnswered, Crashed, Refused, StreamEnded
from subak.testing import FakeClock, ScriptedUpstream
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    ONE_LOOP,
    Client,
    Running,
    ask,
    eventually,
    get,
    post,
    question_url,
    running,
)
from tests.integration.test_admission import answering, begin, hanging, member, operate, stop
from tests.tokens import INTERNAL, WITH_TOKENS, bearer, token

pytestmark = ONE_LOOP

REPORT: Final = {"durationMs": 1, "tokens": 1, "bytes": 1, "reconnects": 0, "duplicates": 0, "gaps": 0}
FLAG: Final = "/-/flags/ENABLE_SSE_STREAMING"
DAWDLED_S: Final = 3.0


async def ticket_of(gateway: Running, **headers: str) -> str:
    """Give a new ticket."""
    issued = await post(gateway, "/v1/tickets", **headers)
    assert issued.status == HTTPStatus.CREATED, issued.body
    return str(member(issued, "ticket"))


async def test_one_caller_can_not_take_all_tickets() -> None:
    async with answering(WITH_TOKENS, SUBAK_AUTH__MAX_TICKETS_PER_CALLER="2") as gateway:
        assert {await ticket_of(gateway, **bearer("ann")) for _ in range(2)}
        refused = await post(gateway, "/v1/tickets", **bearer("ann"))
        assert (refused.status, refused.header("Retry-After")) == (429, "30")
        assert [fact.reason for fact in gateway.observer.of(Refused)] == ["tickets_kept"]
        assert await ticket_of(gateway, **bearer("ben"))


async def test_a_found_ticket_opens_no_other_stream_and_gets_no_other_ticket() -> None:
    async with hanging(WITH_TOKENS) as (gateway, _), AsyncExitStack() as stack:
        followed, other = [await begin(stack, gateway, **bearer()) for _ in range(2)]
        stream_id, other_id = [answer.header("Subak-Stream-Id") for answer in (followed, other)]
        ticket = await ticket_of(gateway, **bearer())
        cursor = {"Last_Event_ID": f"{stream_id}.0"}
        assert (await get(gateway, f"/v1/streams/{stream_id}?ticket={ticket}", **cursor)).status == 200
        assert (await get(gateway, f"/v1/streams/{stream_id}?ticket={ticket}")).status == 401
        found = f"?ticket={ticket}"
        assert (await get(gateway, f"/v1/streams/{other_id}{found}", **cursor)).status == 400
        assert (await post(gateway, f"/v1/streams/{other_id}/stop{found}", **cursor)).status == 400
        assert (
            await ask(gateway, "DELETE", f"/v1/streams/{other_id}{found}&last_event_id={stream_id}.0")
        ).status == 400
        assert (await post(gateway, f"/v1/streams/{other_id}/report{found}", REPORT, **cursor)).status == 400
        assert (await post(gateway, f"/v1/tickets{found}", **cursor)).status == 401
        assert (await post(gateway, f"/v1/streams/{stream_id}/report{found}", REPORT, **cursor)).status == 204
        for answer in (followed, other):
            await stop(gateway, answer, **bearer())


async def test_no_ticket_is_got_by_a_ticket_that_is_new() -> None:
    async with answering(WITH_TOKENS) as gateway:
        ticket = await ticket_of(gateway, **bearer())
        assert (await post(gateway, f"/v1/tickets?ticket={ticket}")).status == 401


async def test_a_ticket_of_an_internal_key_has_none_of_its_rights() -> None:
    limited = WITH_TOKENS | {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "1"}
    async with ScriptedUpstream(ANSWER, ANSWER) as upstream, running(upstream, limited) as gateway:
        host = {"x_api_key": INTERNAL}
        assert (await post(gateway, "/v1/tickets", **host)).status == 403  # whose should it be?
        tickets = [await ticket_of(gateway, **host, x_user_id="42") for _ in range(3)]
        assert (await get(gateway, question_url(ticket=tickets[0], user_role="admin"))).status == 403
        assert (await get(gateway, question_url(ticket=tickets[1]))).status == 200
        assert (await get(gateway, question_url(ticket=tickets[2]))).status == 429
        (request,) = upstream.requests
        assert request.headers["x-user-id"] == "42"


async def test_of_two_first_uses_at_once_one_counts() -> None:
    async with answering(WITH_TOKENS) as gateway:
        ticket = await ticket_of(gateway, **bearer())
        answers = await asyncio.gather(*[get(gateway, question_url(ticket=ticket)) for _ in range(8)])
        assert sorted(answer.status for answer in answers) == [200] + [401] * 7


async def test_somebody_with_credentials_ties_no_ticket_of_another_to_his_stream() -> None:
    async with hanging(WITH_TOKENS) as (gateway, _), AsyncExitStack() as stack:
        ticket = await ticket_of(gateway, **bearer("ann"))
        answer = await begin(stack, gateway, **bearer("ann"))
        stream_id = answer.header("Subak-Stream-Id")
        assert (await get(gateway, f"/v1/features?ticket={ticket}")).status == 200  # used, and tied to nothing
        mallory = await post(gateway, f"/v1/streams?ticket={ticket}", {"query": "x"}, **bearer("mallory"))
        his = member(mallory, "id")
        assert (await get(gateway, f"/v1/features?ticket={ticket}", Last_Event_ID=f"{his}.0")).status == 401
        assert (await post(gateway, f"/v1/streams/{his}/stop", **bearer("mallory"))).status == 200
        assert (await post(gateway, f"/v1/streams/{stream_id}/stop", **bearer("mallory"))).status == 404
        await stop(gateway, answer, **bearer("ann"))


async def test_users_of_two_tenants_are_never_taken_for_one_another() -> None:
    async with answering(WITH_TOKENS) as gateway:
        asked = await get(gateway, question_url(), **bearer("ann", tenant=42))
        state = f"/v1/streams/{asked.header('Subak-Stream-Id')}"
        assert (await get(gateway, state, **bearer("ann", tenant="42"))).status == 200
        for other in (bearer("ann", tenant=43), bearer("ann"), bearer("ann", tenant="")):
            assert (await get(gateway, state, **other)).status == 404
        for odd in (["acme"], {"id": "acme"}, True, 4.5, "acme ", "a\nb", "a" * 256, int("9" * 3000)):
            assert (await get(gateway, state, **bearer("ann", tenant=odd))).status == 401
        assert not gateway.observer.of(Crashed)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://subak.test.evil.example", "https://subak.test:1"]
)
async def test_a_form_of_a_foreign_page_changes_nothing_where_browsers_send_no_fetch_metadata(origin: str) -> None:
    async with answering() as gateway:
        assert gateway.gateway.admin_token is not None
        remembered = b64encode(f"ann:{gateway.gateway.admin_token.text}".encode()).decode()
        headers = {"Authorization": f"Basic {remembered}", "Origin": origin}
        for target in ("/-/drain", "/-/rollout/abort"):
            assert (await operate(gateway, "POST", target, b"", **headers)).status == 403
        assert (await operate(gateway, "PUT", FLAG, b'{"off": true}', **headers)).status == 403
        assert (await operate(gateway, "PUT", FLAG, b"{}", Origin="http://subak.test")).status == 200  # its own page
        assert (await get(gateway, question_url())).status == 200


@pytest.mark.parametrize("hold_s", [1e12, 1e300, -1])
async def test_a_hold_that_no_calendar_has_is_refused_and_ends_no_process(hold_s: float) -> None:
    async with running(None, clock=FakeClock()) as gateway:
        plan = msgspec.json.encode({"steps": [5, 100], "min_requests": 1, "hold_s": hold_s})
        refused = await operate(gateway, "POST", "/-/rollout/start", plan)
        assert (refused.status, member(refused, "code")) == (422, "invalid_field")
        gateway.pass_time(10)


@pytest.mark.parametrize(
    ("name", "time"), [("not_before", "0001-01-01T00:00:00+14:00"), ("not_after", "9999-12-31T23:59:59-14:00")]
)
async def test_a_time_that_utc_has_not_is_refused(name: str, time: str) -> None:
    async with answering() as gateway:
        refused = await operate(gateway, "PUT", FLAG, msgspec.json.encode({name: time}))
        assert (refused.status, member(refused, "errors")[0]["path"]) == (422, f"$.{name}")
        assert not gateway.observer.of(Crashed)


@pytest.mark.parametrize(
    "body", [b'{"hold_s": 1e400}', b'{"mallory": 1}', b'{"on_failure": "mallory"}', b'{"steps": ["mallory"]}']
)
async def test_a_wrong_change_is_told_in_words_that_repeat_nothing(body: bytes) -> None:
    async with answering() as gateway:
        refused = await operate(gateway, "POST", "/-/rollout/start", body)
        assert (refused.status, b"mallory" in refused.body) == (422, False)
        assert not re.search(r"expected [A-Z]", str(member(refused, "detail")))


async def dawdle(gateway: Running, target: str) -> bytes:
    """POST a question whose body comes some seconds after its head; give what came back."""
    body = b'{"query": "x"}'
    headers = (
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close"
    )
    where = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(f"POST {target} HTTP/1.1\r\nHost: subak.test\r\n{headers}\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # its head is read
    gateway.pass_time(DAWDLED_S)
    writer.write(body)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("target", [CHAT_STREAM, CHAT])
async def test_a_caller_who_sends_slowly_makes_no_figure_worse(target: str) -> None:
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream, clock=FakeClock()) as gateway:
        assert b" 200 " in await dawdle(gateway, target)
        if target == CHAT:
            time_ms: float | None = (await gateway.observer.wait_for(ChatAnswered))[0].duration_ms
        else:
            time_ms = (await gateway.observer.wait_for(StreamEnded))[0].first_token_ms
        assert time_ms is not None
        assert time_ms < DAWDLED_S * 1000


SAME_ADDRESS: Final = (
    "203.0.113.7",
    "::ffff:203.0.113.7",
    "0:0:0:0:0:FFFF:cb00:7107",
    "[::ffff:203.0.113.7]:443",
    "203.0.113.7:99",
    " 203.0.113.7\t",
    "198.51.100.1, 203.0.113.7",
    "203.0.113.7, 127.0.0.1",
)
NO_ADDRESS: Final = (
    "203.0.113.7,",
    '"203.0.113.7"',
    "0xCB.0.113.7",
    "3405803783",
    "203.0.28935",
    "203.0.113.7.",
    "unknown",
)
SAME_NETWORK: Final = ("2001:db8::1", "2001:DB8:0:0::2%eth0", "[2001:db8::3%25eth1]:80", "2001:0db8::f:1")


@pytest.mark.parametrize("spellings", [SAME_ADDRESS, NO_ADDRESS, SAME_NETWORK])
async def test_an_address_has_one_account_however_it_is_spelled(spellings: tuple[str, ...]) -> None:
    trusting = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "1", "SUBAK_HTTP__TRUSTED_PROXIES": "127.0.0.1"}
    async with answering(trusting) as gateway:
        statuses = [(await get(gateway, question_url(), X_Forwarded_For=each)).status for each in spellings]
        assert statuses == [200] + [429] * (len(spellings) - 1)


async def test_no_spelling_of_route_method_or_version_passes_a_limit_by() -> None:
    async with answering({"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "1"}) as gateway:
        assert (await get(gateway, question_url())).status == 200
        for path in ("/api/v2/bali-zero/%63hat-stream", f"http://evil.example{CHAT_STREAM}"):
            assert (await get(gateway, f"{path}?query=x")).status == 429
        for path in (
            f"/{CHAT_STREAM}",
            f"{CHAT_STREAM}/",
            f"{CHAT_STREAM}%00",
            f"{CHAT_STREAM};x",
            CHAT_STREAM.upper(),
        ):
            assert (await get(gateway, f"{path}?query=x")).status == 404
        assert (await ask(gateway, "HEAD", question_url())).status == 405
        assert (await post(gateway, "/v1/streams", {"query": "x"})).status == 429
        async with Client.connect(gateway.url) as client:
            client.expect("GET")
            await client.send(f"GET {question_url()} HTTP/1.0\r\n\r\n".encode())
            assert (await client.whole()).status == 429


async def test_requests_that_fail_or_leave_hold_no_place() -> None:
    limited = WITH_TOKENS | {
        "SUBAK_LIMITS__ENABLED": "true",
        "SUBAK_LIMITS__STREAMS": "3",
        "SUBAK_LIMITS__CHAT": "1000",
    }
    async with hanging(limited) as (gateway, _):
        ann = list(bearer().items())
        for _ in range(4):
            await ask(gateway, "POST", CHAT_STREAM, [*ann, ("Content-Type", "text/plain")], b"x")
            await ask(gateway, "GET", question_url(on_disconnect="perhaps"), ann)
            await ask(gateway, "GET", question_url(user_role="admin"), ann)
            await ask(gateway, "GET", question_url(), [*ann, ("Last-Event-ID", f"st_{'a' * 28}.3")])
            async with Client.connect(gateway.url) as client:
                await client.begin("GET", question_url(on_disconnect="cancel"), ann)
                client.reset()
        hub = gateway.gateway.hub
        await eventually(lambda: not hub.live_count, lambda: f"{hub.live_count} streams live on")
        assert member(await operate(gateway, "GET", "/-/limits"), "leases") == 0


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "", "https://app.example.org.", "https://x@app.example.org", "https://app.example.org:443"),
        *("https://app.example.org/", "HTTPS://app.example.org", "https://.shop.example", "https://a..shop.example"),
        *("https://a_b.shop.example", "https://a.shop.example:443", "https://xn--pp-8ka.example.org", "file://"),
        *("ftp://subak.test", "https://subak.test:80", "https://app.example.org,https://evil.example"),
    ],
)
async def test_a_cookie_of_a_page_that_looks_alike_counts_for_nothing(origin: str) -> None:
    settings = {"SUBAK_AUTH__COOKIE": "session", "SUBAK_AUTH__REQUIRED": "true"}
    origins = "https://app.example.org,https://*.shop.example"
    async with answering(WITH_TOKENS | settings, SUBAK_HTTP__CORS_ORIGINS=origins) as gateway:
        cookie = {"Cookie": f"session={token()}"}
        refused = await get(gateway, question_url(), **cookie, Origin=origin)
        assert (refused.status, refused.header("Access-Control-Allow-Origin")) == (401, None)
        assert (await get(gateway, question_url(), **cookie, Origin="https://app.example.org")).status == 200


async def test_an_origin_that_is_no_text_is_not_echoed() -> None:
    async with running(None, is_on=False) as gateway:
        refused = await ask(gateway, "GET", question_url(), [("Origin", "https://\udcff")])
        assert (refused.status, member(refused, "code")) == (403, "feature_flag_disabled")
        assert b"origin" not in refused.body

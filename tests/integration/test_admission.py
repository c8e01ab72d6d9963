"""The gate of a running gateway: flag, who calls, rollout, limits, over real sockets.

Tests that carry a number (`test_a49_…`) are rows of the fault matrix in docs/reliability.md.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import msgspec
from click.testing import CliRunner

from subak.admission.api_keys import FILE
from subak.admission.jwks import REFRESH_S, RETRY_S
from subak.cli import cli
from subak.core.facts import (
    AdminActed,
    CredentialsIgnored,
    KeysRefused,
    OriginRefused,
    ProxyForgotten,
    ReaderLeft,
    Refused,
)
from subak.core.principal import Caller, Principal
from subak.testing import FakeClock, Head, ScriptedUpstream, Stall
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    CIAO,
    ONE_LOOP,
    Answer,
    Client,
    Running,
    ask,
    eventually,
    get,
    parse_frames,
    post,
    question_url,
    running,
    terminal_of,
    text_of,
)
from tests.issuer import AUDIENCE, ISSUER, issuer_server, rsa_key
from tests.tokens import INTERNAL, SECRET, WITH_TOKENS, bearer, token

pytestmark = ONE_LOOP

LIMITED: Final = {"SUBAK_LIMITS__ENABLED": "true"}
ORIGIN: Final = "https://app.example.org"


@asynccontextmanager
async def answering(
    variables: Mapping[str, str] | None = None, *, clock: FakeClock | None = None, **environment: str
) -> AsyncIterator[Running]:
    """Run a gateway whose backend answers everything."""
    variables = dict(variables or {}) | environment
    async with (
        ScriptedUpstream(*[ANSWER] * 200) as upstream,
        running(upstream, variables, clock=clock) as gateway,
    ):
        yield gateway


@asynccontextmanager
async def hanging(
    variables: Mapping[str, str] | None = None, *, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """Run a gateway whose backend begins every answer and ends none."""
    script = (Head(), CIAO, Stall())
    async with (
        ScriptedUpstream(*[script] * 60) as upstream,
        running(upstream, dict(variables or {}), clock=clock) as gateway,
    ):
        yield gateway, upstream


def clock_of_today() -> FakeClock:
    """Give a clock that stands at the time by which `token` makes its tokens."""
    return FakeClock(time_ms=time.time_ns() // 1_000_000)


async def begin(stack: AsyncExitStack, gateway: Running, **headers: str) -> Answer:
    """Ask on a connection of its own, which `stack` keeps; give the answer up to its first token."""
    client = await stack.enter_async_context(Client.connect(gateway.url))
    await client.begin("GET", question_url(), [(name.replace("_", "-"), value) for name, value in headers.items()])
    answer = await client.head()
    return await client.until(b'"Ciao "') if answer.status == HTTPStatus.OK else answer


async def stop(gateway: Running, answer: Answer, **headers: str) -> None:
    """Stop the stream of an answer."""
    stopped = await post(gateway, f"/v1/streams/{answer.header('Subak-Stream-Id')}/stop", **headers)
    assert stopped.status == HTTPStatus.OK


def member(answer: Answer, name: str) -> Any:  # noqa: ANN401 - JSON
    """Give a member of a JSON answer."""
    assert isinstance(answer.json, dict)
    return answer.json[name]


async def test_a43_pages_of_other_origins_read_nothing() -> None:
    async with answering(SUBAK_HTTP__CORS_ORIGINS=f"{ORIGIN},https://*.shop.example") as gateway:
        for origin in (ORIGIN, "https://a.shop.example", "https://a.b.shop.example"):
            answer = await get(gateway, question_url(), Origin=origin)
            assert answer.header("Access-Control-Allow-Origin") == origin
            assert answer.header("Access-Control-Allow-Credentials") == "true"
            assert "X-RateLimit-Remaining" in str(answer.header("Access-Control-Expose-Headers"))
        for origin in (
            "https://evil.example",
            "null",
            "https://shop.example",
            "https://evilshop.example",
            "https://a.shop.example.evil.example",
            "http://a.shop.example",
            "https://a.shop.example:8443",
            f"{ORIGIN}.evil.example",
            "https://APP.example.org",
        ):
            answer = await get(gateway, question_url(), Origin=origin)
            assert answer.header("Access-Control-Allow-Origin") is None
            assert answer.header("Access-Control-Allow-Credentials") is None
            preflight = await ask(gateway.url, "OPTIONS", CHAT_STREAM, [("Origin", origin)])
            assert preflight.status == 403
        assert len(gateway.observer.of(OriginRefused)) == 1  # told once, loudly
        assert "http.cors_origins" in str((await get(gateway, "/readyz?verbose")).json)


async def test_a44_a_form_of_a_foreign_page_asks_nothing() -> None:
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream) as gateway:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            headers = [("Content-Type", content_type), ("Origin", "https://evil.example")]
            for target in (CHAT_STREAM, "/v1/streams"):
                answer = await ask(gateway.url, "POST", target, headers, b'{"query": "x"}')
                assert answer.status == 415
        assert not upstream.requests


async def test_without_credentials_set_up_a_token_is_not_looked_at_and_that_is_told_once() -> None:
    async with answering() as gateway:
        for _ in range(2):
            assert (await get(gateway, question_url(), Authorization="Bearer of.another.house")).status == 200
        assert len(gateway.observer.of(CredentialsIgnored)) == 1
        assert "auth.jwks_url" in str((await get(gateway, "/readyz?verbose")).json)


async def test_keys_that_can_no_longer_be_read_go_on_and_operators_are_told() -> None:
    async with issuer_server() as issuer:
        issuer.publish(rsa_key("one"))
        tokens = {
            "SUBAK_AUTH__JWKS_URL": issuer.url,
            "SUBAK_AUTH__ISSUER": ISSUER,
            "SUBAK_AUTH__AUDIENCE": AUDIENCE,
        }
        async with answering(tokens, clock=FakeClock()) as gateway:
            assert member(await get(gateway, "/readyz?verbose"), "advice") == []
            issuer.status = 500
            (gateway.gateway.settings.state_dir / FILE).write_bytes(b"half a f")
            gateway.pass_time(REFRESH_S + RETRY_S)
            await eventually(lambda: len(gateway.observer.of(KeysRefused)) == 2, lambda: gateway.observer.facts)
            file, issuer_keys = member(await get(gateway, "/readyz?verbose"), "advice")
            assert "file of API keys can't be read" in file
            assert "(status_500): those of 5.5\u202fmin ago go on" in issuer_keys
            metrics = (await operate(gateway, "GET", "/metrics")).body.decode()
            for line in (
                'subak_key_source_up{source="api_keys"} 0.0',
                'subak_key_source_up{source="jwks"} 0.0',
                'subak_key_source_age_seconds{source="jwks"} 330.0',
                'subak_key_source_failures_total{source="jwks"} 1.0',
            ):
                assert line in metrics


async def test_where_credentials_are_demanded_nobody_asks_without_them() -> None:
    async with answering(WITH_TOKENS, SUBAK_AUTH__REQUIRED="true") as gateway:
        refused = await get(gateway, question_url())
        assert (refused.status, refused.header("WWW-Authenticate")) == (401, 'Bearer realm="subak"')
        wrong = await get(gateway, question_url(), Authorization="Bearer a.b.c")
        assert wrong.status == 401
        assert 'error="invalid_token"' in str(wrong.header("WWW-Authenticate"))
        assert (await get(gateway, question_url(), **bearer())).status == 200
        assert (await get(gateway, question_url(), x_api_key=INTERNAL)).status == 200
        assert (await post(gateway, CHAT, {"query": "x"})).status == 200  # /chat asks nobody who he is
        reasons = [fact.reason for fact in gateway.observer.of(Refused)]
        assert reasons == ["missing_credentials", "token_malformed"]


async def test_the_backend_is_told_the_claims_and_not_what_the_caller_says() -> None:
    async with ScriptedUpstream(ANSWER, ANSWER) as upstream, running(upstream, WITH_TOKENS) as gateway:
        headers = bearer(email="ann@example.org", role="member")
        assert (await get(gateway, question_url(), **headers)).status == 200
        other = await get(gateway, question_url(user_email="ben@example.org"), **headers)
        assert (other.status, b"ben" in other.body) == (403, False)
        assert (await get(gateway, question_url(user_role="admin"), **headers)).status == 403
        assert (await get(gateway, question_url(user_role="admin"))).status == 403
        assert (await get(gateway, question_url(user_role="owner"))).status == 422
        (request,) = upstream.requests
        assert "user_email=ann%40example.org" in request.target
        assert request.headers["x-user-id"] == "ann"
        assert request.headers["x-user-verified"] == "true"


async def test_a47_a_token_that_expires_in_mid_stream_cuts_its_reader_where_that_is_set() -> None:
    variables = WITH_TOKENS | {"SUBAK_AUTH__ON_EXPIRY": "cut", "SUBAK_AUTH__LEEWAY_S": "0"}
    async with hanging(variables, clock=clock_of_today()) as (gateway, _):
        expiring = bearer(lifetime_s=60)
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url(), list(expiring.items()))
            await client.until(b'"Ciao "')
            gateway.pass_time(61)
            answer = await client.whole()
        assert not answer.is_clean
        frames = parse_frames(answer.body, is_cut=True)
        assert frames[-1].retry_ms is not None
        (left,) = gateway.observer.of(ReaderLeft)
        assert left.departure == "auth_expired"
        cursor = frames[1].id
        assert cursor is not None
        assert (await get(gateway, CHAT_STREAM, Last_Event_ID=cursor, **expiring)).status == 401
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", CHAT_STREAM, [("Last-Event-ID", cursor), *bearer().items()])
            assert (await client.head()).status == 200
            stop = await post(gateway, f"/v1/streams/{cursor.partition('.')[0]}/stop", **bearer())
            assert stop.status == 200


async def test_a47_by_default_a_reader_may_finish() -> None:
    async with (
        hanging(WITH_TOKENS | {"SUBAK_AUTH__LEEWAY_S": "0"}, clock=clock_of_today()) as (gateway, _),
        Client.connect(gateway.url) as client,
    ):
        await client.begin("GET", question_url(), list(bearer(lifetime_s=60).items()))
        answer = await client.until(b'"Ciao "')
        gateway.pass_time(61)
        await stop(gateway, answer, **bearer())
        assert (await client.whole()).is_clean


async def test_a48_a_token_in_a_url_is_refused_and_written_nowhere() -> None:
    async with answering(WITH_TOKENS) as gateway:
        for name in ("token", "access_token", "api_key", "Authorization"):
            assert (await get(gateway, question_url(**{name: token()}))).status == 401
        told = gateway.observer.of(Refused)
        assert {fact.reason for fact in told} == {"token_in_url"}
        assert token()[:20] not in repr(told)


async def test_a49_a_stream_of_another_is_as_unknown_as_one_that_never_was() -> None:
    async with hanging(WITH_TOKENS) as (gateway, upstream):
        clients = AsyncExitStack()
        answer = await begin(clients, gateway, **bearer("ann"))
        stream_id = str(answer.header("Subak-Stream-Id"))
        unknown = stream_id[:-4] + "zzzz"
        for who in (bearer("ben"), {}, {"x_api_key": INTERNAL}):
            for method, path in (
                ("GET", "/v1/streams/{}"),
                ("GET", "/v1/streams/{}/events"),
                ("POST", "/v1/streams/{}/stop"),
                ("DELETE", "/v1/streams/{}"),
            ):
                headers = [(name.replace("_", "-"), value) for name, value in who.items()]
                foreign = await ask(gateway.url, method, path.format(stream_id), headers)
                nothing = await ask(gateway.url, method, path.format(unknown), headers)
                assert (foreign.status, foreign.body) == (nothing.status, nothing.body) == (404, nothing.body)
            cursor = await get(gateway, CHAT_STREAM, Last_Event_ID=f"{stream_id}.1", **who)
            assert cursor.status == 404
        assert len(upstream.requests) == 1
        assert member(await get(gateway, f"/v1/streams/{stream_id}", **bearer("ann")), "status") == "streaming"
        await clients.aclose()
        assert (await post(gateway, f"/v1/streams/{stream_id}/stop", **bearer("ann"))).status == 200


async def test_a49_a_key_of_another_stands_for_nothing() -> None:
    async with ScriptedUpstream(ANSWER, ANSWER) as upstream, running(upstream, WITH_TOKENS) as gateway:
        key = {"Idempotency_Key": "k1"}
        mine = await get(gateway, question_url(), **key, **bearer("ann"))
        foreign = await get(gateway, question_url(), **key, **bearer("ben"))
        assert mine.header("Subak-Stream-Id") != foreign.header("Subak-Stream-Id")
        assert foreign.header("Idempotent-Replayed") is None
        assert len(upstream.requests) == 2


async def test_the_same_get_of_a_verified_caller_finds_its_answer_again() -> None:
    async with hanging(WITH_TOKENS) as (gateway, upstream):
        clients = AsyncExitStack()
        first = await begin(clients, gateway, **bearer("ann"))
        await clients.aclose()
        await eventually(lambda: gateway.gateway.hub.reader_count == 0, lambda: "a reader is left")
        again = await begin(clients, gateway, **bearer("ann"))
        assert again.header("Subak-Stream-Id") == first.header("Subak-Stream-Id")
        assert again.header("Idempotent-Replayed") == "true"
        stranger = await begin(clients, gateway, **bearer("ben"))
        assert stranger.header("Subak-Stream-Id") != first.header("Subak-Stream-Id")
        assert len(upstream.requests) == 2
        for answer, who in ((first, "ann"), (stranger, "ben")):
            await stop(gateway, answer, **bearer(who))
        await clients.aclose()


async def test_two_strangers_behind_one_address_never_share() -> None:
    async with hanging() as (gateway, upstream):
        clients = AsyncExitStack()
        first = await begin(clients, gateway)
        await clients.aclose()
        await eventually(lambda: gateway.gateway.hub.reader_count == 0, lambda: "a reader is left")
        second = await begin(clients, gateway)
        assert second.header("Subak-Stream-Id") != first.header("Subak-Stream-Id")
        assert len(upstream.requests) == 2
        for answer in (first, second):
            await stop(gateway, answer)
        await clients.aclose()


async def test_a_native_eventsource_proves_itself_by_a_ticket() -> None:
    async with ScriptedUpstream(ANSWER, ANSWER) as upstream, running(upstream, WITH_TOKENS) as gateway:
        assert (await post(gateway, "/v1/tickets")).status == 401
        issued = await post(gateway, "/v1/tickets", **bearer("ann"))
        assert (issued.status, member(issued, "expires_in")) == (201, 30)
        ticket = str(member(issued, "ticket"))
        first = await get(gateway, question_url(ticket=ticket))
        assert first.status == 200
        assert upstream.requests[0].headers["x-user-id"] == "ann"
        assert "ticket" not in upstream.requests[0].target
        cursor = parse_frames(first.body)[1].id
        assert cursor is not None
        assert (await get(gateway, question_url(ticket=ticket))).status == 401
        resumed = await get(gateway, question_url(ticket=ticket), Last_Event_ID=cursor)
        assert (resumed.status, resumed.header("Subak-Resumed-From")) == (200, cursor)
        other = await get(gateway, question_url(), **bearer("ann"))
        stolen = parse_frames(other.body)[1].id
        assert stolen is not None
        assert (await get(gateway, question_url(ticket=ticket), Last_Event_ID=stolen)).status == 401


async def test_a_cookie_counts_only_from_a_page_that_may_read() -> None:
    variables = WITH_TOKENS | {"SUBAK_AUTH__COOKIE": "session", "SUBAK_HTTP__CORS_ORIGINS": ORIGIN}
    async with ScriptedUpstream(*[ANSWER] * 4) as upstream, running(upstream, variables) as gateway:
        cookie = {"Cookie": f"session={token('ann')}"}
        await get(gateway, question_url(), **cookie, Origin=ORIGIN)
        await get(gateway, question_url(), **cookie, Sec_Fetch_Site="same-origin")
        await get(gateway, question_url(), **cookie, Origin="https://evil.example")
        await get(gateway, question_url(), **cookie)
        assert [request.headers.get("x-user-id") for request in upstream.requests] == ["ann", "ann", None, None]


async def test_a50_a_proxy_speaks_for_its_callers_only_where_it_is_trusted() -> None:
    forwarded = {"X_Forwarded_For": "203.0.113.7", "x_user_id": "ann"}
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream) as gateway:
        await get(gateway, question_url(), **forwarded)
        assert "x-user-id" not in upstream.requests[0].headers
        (told,) = gateway.observer.of(ProxyForgotten)
        assert told.peer == "127.0.0.1"
        assert "http.trusted_proxies" in str((await get(gateway, "/readyz?verbose")).json)
    trusting = {"SUBAK_HTTP__TRUSTED_PROXIES": "127.0.0.0/8"}
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream, trusting) as gateway:
        await get(gateway, question_url(), **forwarded)
        assert upstream.requests[0].headers["x-user-id"] == "ann"
        assert not gateway.observer.of(ProxyForgotten)


async def test_a52_of_50_questions_at_once_exactly_20_are_answered() -> None:
    clock = FakeClock()
    async with answering(LIMITED | {"SUBAK_LIMITS__STREAMS_ANONYMOUS": "50"}, clock=clock) as gateway:
        answers = await asyncio.gather(*[get(gateway, question_url()) for _ in range(50)])
        admitted = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert (len(admitted), len(refused)) == (20, 30)
        assert sorted(int(str(answer.header("X-RateLimit-Remaining"))) for answer in admitted) == list(range(20))
        for answer in refused:
            assert answer.header("X-RateLimit-Limit") == "20"
            assert answer.header("X-RateLimit-Remaining") == "0"
            wait_s = int(str(answer.header("Retry-After")))
            assert 0 < wait_s <= 60
            assert answer.json == {
                "ok": False,
                "error": "RATE_LIMIT_EXCEEDED",
                "message": f"Too many requests. Please wait {wait_s} seconds before trying again.",
                "retryAfter": wait_s,
            }
            assert abs(int(str(answer.header("X-RateLimit-Reset"))) - (clock.time_ms() / 1000 + wait_s)) <= 1
        assert [fact.reason for fact in gateway.observer.of(Refused)] == ["chat"] * 30


async def test_a52_get_and_post_share_a_bucket_and_whoever_waits_is_served() -> None:
    variables = LIMITED | {"SUBAK_LIMITS__CHAT": "2", "SUBAK_LIMITS__CHAT_WINDOW_S": "1"}
    async with answering(variables, clock=FakeClock()) as gateway:
        assert (await get(gateway, question_url())).status == 200
        assert (await post(gateway, CHAT_STREAM, {"query": "x"})).status == 200
        refused = await post(gateway, "/v1/streams", {"query": "x"})
        assert refused.status == 429
        gateway.pass_time(int(str(refused.header("Retry-After"))))
        assert (await get(gateway, question_url())).status == 200


async def test_the_headers_of_the_ietf_are_there_when_they_are_wanted() -> None:
    async with answering(LIMITED | {"SUBAK_LIMITS__IETF_HEADERS": "true"}) as gateway:
        answer = await get(gateway, question_url())
        assert answer.header("RateLimit-Policy") == '"chat";q=20;w=60'
        assert answer.header("RateLimit") == '"chat";r=19'
        assert (await get(gateway, CHAT_STREAM)).header("RateLimit") == '"chat";r=19'  # a 400 costs nothing


async def test_a54_places_of_streams_come_back_when_they_end() -> None:
    async with hanging(LIMITED | WITH_TOKENS | {"SUBAK_LIMITS__STREAMS": "2"}) as (gateway, _):
        clients = AsyncExitStack()
        first = await begin(clients, gateway, **bearer("ann"))
        second = await begin(clients, gateway, **bearer("ann"))
        third = await begin(clients, gateway, **bearer("ann"))
        assert (third.status, gateway.observer.of(Refused)[-1].reason) == (429, "streams")
        other = await begin(clients, gateway, **bearer("ben"))
        assert other.status == 200
        await stop(gateway, first, **bearer("ann"))
        again = await begin(clients, gateway, **bearer("ann"))
        assert again.status == 200
        for answer, who in ((second, "ann"), (again, "ann"), (other, "ben")):
            await stop(gateway, answer, **bearer(who))
        await clients.aclose()
        assert gateway.gateway.limits.leases == 0


async def test_a54_a_question_that_the_upstream_can_not_be_asked_holds_no_place() -> None:
    variables = LIMITED | {"SUBAK_UPSTREAM__MAX_GET_URL_BYTES": "100"}
    async with answering(variables) as gateway:
        assert (await post(gateway, CHAT_STREAM, {"query": "x" * 200})).status == 413
        assert gateway.gateway.limits.leases == 0


async def test_keys_of_the_host_know_no_limits() -> None:
    async with answering(LIMITED | WITH_TOKENS | {"SUBAK_LIMITS__CHAT": "1"}) as gateway:
        for _ in range(3):
            assert (await get(gateway, question_url(), x_api_key=INTERNAL)).status == 200


async def test_a61_a_thundering_reconnect_costs_no_question() -> None:
    async with answering(LIMITED | {"SUBAK_LIMITS__RESUME": "30"}) as gateway:
        first = await get(gateway, question_url())
        assert first.header("X-RateLimit-Remaining") == "19"
        cursor = parse_frames(first.body)[0].id
        assert cursor is not None
        resumes = await asyncio.gather(*[get(gateway, CHAT_STREAM, Last_Event_ID=cursor) for _ in range(40)])
        assert sorted(answer.status for answer in resumes) == [200] * 30 + [429] * 10
        assert (await get(gateway, question_url())).header("X-RateLimit-Remaining") == "18"


async def test_guesses_at_credentials_are_refused_unheard_after_some() -> None:
    variables = LIMITED | WITH_TOKENS | {"SUBAK_LIMITS__UNAUTHENTICATED": "3"}
    async with answering(variables) as gateway:
        known = bearer("ann")
        assert (await get(gateway, question_url(), **known)).status == 200
        guesses = [await get(gateway, question_url(), Authorization="Bearer x.y.z") for _ in range(5)]
        assert [answer.status for answer in guesses] == [401, 401, 401, 429, 429]
        assert (
            await get(gateway, question_url(), **bearer("ben"))
        ).status == 429  # not known yet, from the same address
        assert (await get(gateway, question_url(), **known)).status == 200
        assert (await get(gateway, question_url())).status == 200


async def test_chat_has_no_limit_of_ours_unless_one_is_set() -> None:
    async with answering(LIMITED) as gateway:
        for _ in range(25):
            answer = await post(gateway, CHAT, {"query": "x"})
            assert (answer.status, answer.header("X-RateLimit-Limit")) == (200, None)
    async with answering(LIMITED | {"SUBAK_LIMITS__PASSED_CHAT": "2"}) as gateway:
        statuses = [(await post(gateway, CHAT, {"query": "x"})).status for _ in range(3)]
        assert statuses == [200, 200, 429]


async def test_a70_a_flag_switched_off_lets_open_answers_finish() -> None:
    async with hanging() as (gateway, _):
        clients = AsyncExitStack()
        live = await begin(clients, gateway)
        await set_flag(gateway, {"off": True})
        refused = await get(gateway, question_url(), Origin=ORIGIN)
        assert (refused.status, refused.json) == (
            403,
            {"ok": False, "code": "feature_flag_disabled", "flag": "ENABLE_SSE_STREAMING", "origin": ORIGIN},
        )
        assert (await get(gateway, "/v1/features")).json == {"sse": False}
        stream_id = live.header("Subak-Stream-Id")
        resumed = await get(gateway, f"/v1/streams/{stream_id}")
        assert resumed.status == 200
        await stop(gateway, live)
        await clients.aclose()


async def test_a70_at_five_percent_features_tell_each_caller_the_truth() -> None:
    variables = {"SUBAK_HTTP__TRUSTED_PROXIES": "127.0.0.0/8"}
    async with ScriptedUpstream(*[ANSWER] * 100) as upstream, running(upstream, variables) as gateway:
        await set_flag(gateway, {"percentage": 5})
        flags = gateway.gateway.flags
        inside = 0
        for number in range(1000):
            caller = {"x_user_id": f"user-{number}"}
            is_on = member(await get(gateway, "/v1/features", **caller), "sse")
            answer = await get(gateway, question_url(), **caller)
            assert answer.status == (200 if is_on else 403)
            assert flags.decide(Caller(Principal(f"user:user-{number}"), "127.0.0.1")).is_on is is_on
            inside += bool(is_on)
        assert 30 <= inside <= 70


async def test_what_operators_change_holds_at_once_and_is_remembered() -> None:
    async with answering() as gateway:
        await set_flag(gateway, {"percentage": 0, "allow": ["127.0.0.0/8"]})
        assert (await get(gateway, question_url())).status == 200
        await set_flag(gateway, {"percentage": 100, "deny": ["127.0.0.1"]})
        assert (await get(gateway, question_url())).status == 403
        history = member(await operate(gateway, "GET", "/-/flags/ENABLE_SSE_STREAMING/history"), "changes")
        assert [change["actor"] for change in history] == ["admin", "admin"]


async def operate(gateway: Running, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """Send a request to the admin listener, with its token."""
    admin_token = gateway.gateway.admin_token
    assert admin_token is not None
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if not any(name.lower() == "authorization" for name, _ in named):
        named.append(("Authorization", f"Bearer {admin_token.text}"))
    if body:
        named.append(("Content-Type", "application/json"))
    return await ask(gateway.gateway.admin_url, method, target, named, body)


async def set_flag(gateway: Running, overrides: Mapping[str, object]) -> None:
    """Set the streaming flag's overrides."""
    answer = await operate(gateway, "PUT", "/-/flags/ENABLE_SSE_STREAMING", msgspec.json.encode(overrides))
    assert answer.status == 200, answer.body


async def test_a_gateway_tells_its_own_flags_to_a_shell_with_another_environment() -> None:
    async with answering() as gateway:
        await set_flag(gateway, {"percentage": 5})
        shell = {"SUBAK_STATE_DIR": str(gateway.gateway.settings.state_dir), "ENABLE_SSE_STREAMING": None}
        url = gateway.gateway.admin_url
        here, there, listed = [
            await asyncio.to_thread(CliRunner().invoke, cli, ["flags", *arguments], env=shell)
            for arguments in (["show"], ["show", "--gateway", url], ["list", "--gateway", f"{url}/"])
        ]
        assert here.stdout.startswith("ENABLE_SSE_STREAMING  off: the environment doesn't permit it\n")
        assert "A running gateway goes by its own environment: --gateway URL asks it." in here.stderr
        assert there.stdout.startswith("ENABLE_SSE_STREAMING  on for 5 %\n  environment  permits it\n")
        assert listed.stdout == "ENABLE_SSE_STREAMING  on for 5 %\n"
        assert there.stderr == listed.stderr == f"Asked the gateway at {url}\n"
        wrong = ["flags", "show", "--gateway", url]
        refused = await asyncio.to_thread(CliRunner().invoke, cli, wrong, env=shell | {"SUBAK_ADMIN__TOKEN": "x" * 32})
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "answered 401: the admin token is another one" in refused.stderr


async def test_another_percentage_forgets_no_deny_list() -> None:
    async with answering() as gateway:
        target = "/-/flags/ENABLE_SSE_STREAMING"
        await set_flag(gateway, {"percentage": 5, "deny": ["127.0.0.1"]})
        refused = await operate(gateway, "PUT", target, b'{"percentage": 100}')
        assert (refused.status, member(refused, "code")) == (409, "restriction_forgotten")
        changed = await operate(gateway, "PATCH", target, b'{"percentage": 100}')
        assert (changed.status, member(changed, "overrides")["deny"]) == (200, ["127.0.0.1"])
        assert (await get(gateway, question_url())).status == 403
        assert (await operate(gateway, "PATCH", target, b"{}", Sec_Fetch_Site="cross-site")).status == 403
        off = await operate(gateway, "PUT", target, b'{"off": true}')
        overrides = member(off, "overrides")
        assert (off.status, overrides["off"], overrides["deny"]) == (200, True, ["127.0.0.1"])
        acts = [(fact.action, fact.status) for fact in gateway.observer.of(AdminActed)]
        assert acts[1:3] == [("PUT /-/flags/{key}", 409), ("PATCH /-/flags/{key}", 200)]


LOOKED_AT: Final = ("/metrics", "/-/stats", "/-/connections", "/-/errors", "/-/config", "/-/versions", "/-/limits")


async def test_a73_operators_pages_stand_on_a_port_of_their_own_and_want_the_token() -> None:
    async with answering() as gateway:
        for target in (*LOOKED_AT, "/-/flags"):
            assert (await get(gateway, target)).status == 404
            assert (await operate(gateway, "GET", target)).status == 200
            assert (await ask(gateway.gateway.admin_url, "GET", target)).status == 401
            assert (await operate(gateway, "GET", target, x_api_key="wrong", Authorization="Basic ???")).status == 401
        assert (await ask(gateway.gateway.admin_url, "GET", CHAT_STREAM)).status == 401


async def test_a73_wrong_tokens_are_refused_unheard_after_some() -> None:
    async with answering() as gateway:
        statuses = [
            (await operate(gateway, "GET", "/-/stats", Authorization=f"Bearer {number}")).status for number in range(12)
        ]
        assert statuses == [401] * 10 + [429] * 2
        assert (await operate(gateway, "GET", "/-/stats")).status == 429


async def test_a73_a_foreign_page_changes_nothing() -> None:
    async with answering() as gateway:
        target = "/-/flags/ENABLE_SSE_STREAMING"
        assert (await operate(gateway, "PUT", target, b"{}", Sec_Fetch_Site="cross-site")).status == 403
        form = [
            ("Authorization", f"Bearer {gateway.gateway.admin_token.text}"),  # type: ignore[union-attr]
            ("Content-Type", "text/plain"),
        ]
        assert (await ask(gateway.gateway.admin_url, "PUT", target, form, b'{"off": true}')).status == 415
        assert (await get(gateway, question_url())).status == 200


async def test_a73_metrics_can_be_made_public_and_nothing_else() -> None:
    async with answering(SUBAK_ADMIN__METRICS_PUBLIC="true") as gateway:
        assert (await ask(gateway.gateway.admin_url, "GET", "/metrics")).status == 200
        assert (await ask(gateway.gateway.admin_url, "GET", "/-/stats")).status == 401


async def test_a73_random_paths_and_methods_make_no_labels() -> None:
    async with answering() as gateway:
        await get(gateway, question_url())
        before = (await operate(gateway, "GET", "/metrics")).body.count(b"\n")
        for number in range(50):
            await get(gateway, f"/random/{number}")
            await get(gateway, f"/v1/streams/st_{number:028d}")
            await ask(gateway.url, "PUT", f"/v1/streams/{number}/stop")
        after = (await operate(gateway, "GET", "/metrics")).body.count(b"\n")
        assert after - before < 20


async def test_secrets_are_masked_where_operators_look() -> None:
    async with answering(WITH_TOKENS, SUBAK_ADMIN__TOKEN="an-admin-token-of-our-own") as gateway:
        shown = await operate(gateway, "GET", "/-/config", Authorization="Bearer an-admin-token-of-our-own")
        assert shown.status == 200
        for secret in (SECRET, INTERNAL, "an-admin-token-of-our-own"):
            assert secret.encode() not in shown.body


async def test_an_unknown_flag_and_a_value_that_can_not_be_are_told() -> None:
    async with answering() as gateway:
        unknown = await operate(gateway, "GET", "/-/flags/ENABLE_EVERYTHING")
        assert (unknown.status, member(unknown, "code")) == (404, "unknown_flag")
        wrong = await operate(gateway, "PUT", "/-/flags/ENABLE_SSE_STREAMING", b'{"percentage": 101}')
        assert (wrong.status, member(wrong, "code")) == (422, "invalid_field")
        assert (await operate(gateway, "POST", "/-/rollout/pause", b"{}")).status == 409


async def test_an_answer_is_whole_with_everything_on() -> None:
    async with answering(LIMITED | WITH_TOKENS | {"SUBAK_AUTH__REQUIRED": "true"}) as gateway:
        answer = await get(gateway, question_url(), **bearer())
        frames = parse_frames(answer.body)
        assert text_of(frames) == "Ciao mondo"
        assert terminal_of(frames).event == "message"

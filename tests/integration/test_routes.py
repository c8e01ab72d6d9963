"""Every route of PROTOCOL §2 as a caller sees it: status, headers, bytes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus

import msgspec
import pytest

from subak.core.facts import Crashed, ReaderLeft, Refused, StreamOpened
from subak.testing import PATIENCE_S, End, FakeClock, Frame, Gate, Head, ScriptedUpstream, Stall
from tests.integration.gateway import (
    ANSWER,
    CHAT_STREAM,
    CIAO,
    DONE,
    ONE_LOOP,
    Answer,
    Client,
    Running,
    ask,
    data_of,
    get,
    parse_frames,
    post,
    question_url,
    request_bytes,
    running,
    scripted,
    terminal_of,
    text_of,
)

CANARY = "kanarienvogel"
ORIGIN = "https://app.example.org"
PROBLEM = "application/problem+json"
KEY = "0123456789abcdefghijkl"
STREAM_ID = r"st_[A-Za-z0-9_-]{28}"


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted(*ANSWER) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Running]:
    async with running(upstream, SUBAK_HTTP__CORS_ORIGINS=ORIGIN) as gateway:
        yield gateway
    assert not gateway.observer.of(Crashed)


@pytest.fixture
async def closed_gateway(upstream: ScriptedUpstream) -> AsyncIterator[Running]:
    async with running(upstream, is_on=False) as gateway:
        yield gateway


def problem_of(answer: Answer) -> dict[str, object]:
    """Give the members of a problem, after a look at what all problems have in common."""
    assert answer.header("Content-Type") == PROBLEM
    assert answer.header("Cache-Control") == "no-store"
    problem = answer.json
    assert isinstance(problem, dict)
    assert problem["status"] == answer.status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    return problem


async def test_question_by_get_gives_metadata_tokens_sources_and_one_done(gateway: Running) -> None:
    answer = await get(gateway, question_url())
    assert (answer.status, answer.is_clean) == (200, True)
    frames = answer.frames
    assert [frame.type for frame in frames] == ["metadata", "token", "token", "sources", "done"]
    assert text_of(frames) == "Ciao mondo"
    assert frames[3].data == [{"source": "kitas.md", "snippet": "A KITAS is …", "similarity": 0.8}]
    done = data_of(terminal_of(frames))
    assert done["finish_reason"] == "stop"
    metrics = msgspec.convert(done["metrics"], dict[str, float])
    assert list(metrics) == ["firstTokenLatency", "tokensReceived", "bytesReceived", "duration"]
    assert metrics["tokensReceived"] == 2
    assert 0 < metrics["firstTokenLatency"] <= metrics["duration"] < 1000 * PATIENCE_S
    assert metrics["bytesReceived"] == sum(
        len(f"data: {step.data}\n\n".encode()) for step in ANSWER if isinstance(step, Frame)
    )


async def test_a_stream_bears_all_headers_of_the_contract(gateway: Running) -> None:
    answer = await get(gateway, question_url(), x_connection_id="tab-7")
    stream_id = answer.header("Subak-Stream-Id") or ""
    assert re.fullmatch(STREAM_ID, stream_id)
    headers = {name.lower(): value for name, value in answer.headers}
    assert headers.pop("date")
    assert headers == {
        "content-type": "text/event-stream",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "location": f"/v1/streams/{stream_id}/events",
        "subak-stream-id": stream_id,
        "x-connection-id": "tab-7",
        "vary": "Origin",
        "transfer-encoding": "chunked",
    }
    metadata = data_of(answer.frames[0])
    assert metadata.pop("timestamp")
    assert metadata == {"status": "connected", "connectionId": "tab-7", "streamId": stream_id}


async def test_bytes_on_the_wire_are_those_of_the_contract(gateway: Running) -> None:
    body = (await get(gateway, question_url())).body
    stream_id = re.escape(re.search(STREAM_ID.encode(), body)[0])  # type: ignore[index] # it is there, or this fails
    at = rb',"timestamp":\d{13}\}\n\n'
    expected = (
        rb": ok\nretry: \d{4}\n"
        rb"id: %(id)s\.1\nevent: message\ndata: "
        rb'\{"type":"metadata","data":\{"status":"connected","connectionId":"c_[\w-]{16,}","streamId":"%(id)s",'
        rb'"timestamp":\d{13}\},"sequence":1' + at + rb"id: %(id)s\.2\nevent: message\ndata: "
        rb'\{"type":"token","data":"Ciao ","sequence":2' + at + rb"id: %(id)s\.3\nevent: message\ndata: "
        rb'\{"type":"token","data":"mondo","sequence":3' + at + rb"id: %(id)s\.4\nevent: message\ndata: "
        rb'\{"type":"sources","data":\[\{.*?\}\],"sequence":4' + at + rb"id: %(id)s\.5\nevent: message\ndata: "
        rb'\{"type":"done","data":\{"finish_reason":"stop","metrics":\{.*?\}\},"sequence":5' + at
    )
    assert re.fullmatch(expected.replace(b"%(id)s", stream_id), body)


@pytest.mark.parametrize("accept", [None, "application/json, text/plain, */*", "text/event-stream", PROBLEM])
async def test_question_by_post_streams_whatever_accept_says(gateway: Running, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = await post(gateway, CHAT_STREAM, {"query": "ciao"}, **headers)
    assert (answer.status, answer.header("Content-Type")) == (200, "text/event-stream")
    assert text_of(answer.frames) == "Ciao mondo"


async def test_metadata_and_retry_come_before_the_upstream_has_answered() -> None:
    has_answered = asyncio.Event()
    async with (
        scripted(Gate(has_answered), *ANSWER) as upstream,
        running(upstream) as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("GET", question_url())
        early = await client.until(b"\n\n")
        assert re.match(rb": ok\nretry: \d+\nid: st_[A-Za-z0-9_-]{28}\.1\nevent: message\n", early.body)
        (metadata,) = parse_frames(early.body)
        assert 1000 <= (metadata.retry_ms or 0) <= 3000
        await upstream.wait_questions(1)
        has_answered.set()
        assert terminal_of((await client.whole()).frames).type == "done"


async def test_tokens_pass_as_they_come() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    script = [Head(), CIAO, Gate(gates[0]), Frame('{"text": "mondo"}'), Gate(gates[1]), DONE, End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream) as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("POST", CHAT_STREAM, [("Content-Type", "application/json")], b'{"query": "ciao"}')
        assert b"mondo" not in (await client.until(b'"Ciao "')).body
        gates[0].set()
        assert b'"done"' not in (await client.until(b'"mondo"')).body
        gates[1].set()
        assert (await client.whole()).is_clean


async def test_after_the_terminal_event_the_connection_takes_the_next_question(gateway: Running) -> None:
    async with Client.connect(gateway.url) as client:
        for number in range(3):
            await client.begin("GET", question_url(f"question {number}"))
            answer = await client.whole()
            assert answer.is_clean
            assert text_of(answer.frames) == "Ciao mondo"


async def test_http_1_0_client_gets_a_body_framed_by_close(gateway: Running) -> None:
    async with Client.connect(gateway.url) as client:
        client.expect("GET")
        await client.send(request_bytes("GET", question_url(), version="1.0"))
        answer = await client.whole()
    assert answer.status == 200
    assert answer.header("Transfer-Encoding") is None
    assert answer.header("Content-Length") is None
    assert not answer.is_reset
    assert terminal_of(answer.frames).type == "done"


async def test_http_1_0_client_sees_a_reset_where_the_response_is_aborted() -> None:
    async with (
        scripted(Head(), CIAO, Stall()) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="60") as gateway,
    ):
        async with Client.connect(gateway.url) as client:
            client.expect("GET")
            await client.send(request_bytes("GET", question_url(), version="1.0"))
            await client.until(b'"Ciao "')
            gateway.pass_time(61)
            answer = await client.whole()
            assert answer.is_reset
        gateway.pass_time(31)
        assert await gateway.observer.ended() == ("abandoned", "", 1)


async def test_too_old_connection_is_told_when_to_come_back_and_aborted() -> None:
    async with (
        scripted(Head(), CIAO, Stall()) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="60") as gateway,
    ):
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b'"Ciao "')
            gateway.pass_time(61)
            answer = await client.whole()
        assert not answer.is_clean
        last = parse_frames(answer.body)[-1]
        assert (last.event, last.id, last.sequence) == ("heartbeat", None, 2)
        assert 1000 <= (last.retry_ms or 0) <= 3000
        gateway.pass_time(31)
        assert await gateway.observer.ended() == ("abandoned", "", 1)


async def test_question_and_its_fields_reach_the_backend(upstream: ScriptedUpstream, gateway: Running) -> None:
    history = [{"role": "user", "content": "Hai ☀"}, {"role": "assistant", "content": "Ciao & co"}]
    await get(
        gateway,
        question_url(
            "Was kostet's? +50 %",
            user_email="a@b.example",
            user_role="member",
            conversation_history=json.dumps(history),
        ),
    )
    (request,) = upstream.requests
    assert request.method == "GET"
    assert request.target == (
        "/bali-zero/chat-stream?query=Was%20kostet%27s%3F%20%2B50%20%25&user_email=a%40b.example&user_role=member"
        "&conversation_history=%5B%7B%22role%22%3A%22user%22%2C%22content%22%3A%22Hai%20%E2%98%80%22%7D%2C"
        "%7B%22role%22%3A%22assistant%22%2C%22content%22%3A%22Ciao%20%26%20co%22%7D%5D"
    )
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["accept-encoding"] == "identity"


async def test_session_and_continuity_ids_travel_by_header_or_parameter(
    upstream: ScriptedUpstream, gateway: Running
) -> None:
    await get(gateway, question_url(), x_session_id="s.1", x_continuity_id="c-1")
    await get(gateway, question_url(**{"x-session-id": "s.2", "x-continuity-id": "c-2"}))
    await get(gateway, question_url())
    passed_on = [
        (request.headers.get("x-session-id"), request.headers.get("x-continuity-id")) for request in upstream.requests
    ]
    assert passed_on == [("s.1", "c-1"), ("s.2", "c-2"), (None, None)]
    assert not any("x-session-id" in request.target for request in upstream.requests)


@ONE_LOOP
@pytest.mark.parametrize("value", ["a b", "x" * 129, "a/b", "ü"])
async def test_session_id_of_other_characters_is_refused(
    upstream: ScriptedUpstream, gateway: Running, value: str
) -> None:
    answer = await get(gateway, question_url(**{"x-session-id": value}))
    assert answer.status == 400
    assert "x-session-id" in str(problem_of(answer)["detail"])
    assert upstream.questions == 0


async def test_credentials_of_the_settings_go_to_the_backend_and_the_caller_s_do_not(
    upstream: ScriptedUpstream,
) -> None:
    async with running(
        upstream, SUBAK_UPSTREAM__KEY="the-key", SUBAK_UPSTREAM__HEADERS='{"X-Tenant": "bali"}'
    ) as gateway:
        await get(
            gateway, question_url(), Authorization="Bearer mine", Cookie="a=b", x_api_key="mine", x_user_id="admin"
        )
    (request,) = upstream.requests
    assert request.headers["authorization"] == "Bearer the-key"
    assert request.headers["x-tenant"] == "bali"
    assert not {"cookie", "x-api-key", "x-user-id"} & set(request.headers)


async def test_user_id_header_is_not_believed(gateway: Running) -> None:
    asked = await get(gateway, question_url(), x_user_id="alice")
    stream_id = asked.header("Subak-Stream-Id")
    for headers in ({"x_user_id": "bob"}, {}):
        assert (await get(gateway, f"/v1/streams/{stream_id}", **headers)).status == 200


async def test_x_connection_id_is_echoed(gateway: Running) -> None:
    for label in ("a", "Tab_1.2-3", "x" * 128):
        assert (await get(gateway, question_url(), x_connection_id=label)).header("X-Connection-ID") == label


@ONE_LOOP
@pytest.mark.parametrize("label", ["", "a b", "x" * 129, "é", "a\tb", "<script>", "a,b"])
async def test_x_connection_id_of_other_characters_is_made_anew(gateway: Running, label: str) -> None:
    answer = await get(gateway, question_url(), x_connection_id=label)
    made = answer.header("X-Connection-ID") or ""
    assert re.fullmatch(r"c_[A-Za-z0-9_-]{16,}", made)
    assert data_of(answer.frames[0])["connectionId"] == made
    assert [fact.connection_id for fact in gateway.observer.of(StreamOpened)] == [made]


async def test_long_question_is_posted_to_a_backend_that_takes_both(upstream: ScriptedUpstream) -> None:
    async with running(upstream, SUBAK_UPSTREAM__METHOD="auto") as gateway:
        await post(gateway, CHAT_STREAM, {"query": "kurz"})
        await post(gateway, CHAT_STREAM, {"query": "ü" * 5000, "user_role": "member", "conversation_history": []})
    short, long = upstream.requests
    assert (short.method, short.body) == ("GET", b"")
    assert (long.method, long.target) == ("POST", "/bali-zero/chat-stream")
    assert long.headers["content-type"] == "application/json"
    assert json.loads(long.body) == {"query": "ü" * 5000, "user_role": "member", "conversation_history": []}


async def test_question_too_long_for_the_backend_s_url_names_the_setting(
    upstream: ScriptedUpstream, gateway: Running
) -> None:
    question = f"{CANARY} " * 700
    by_get = await get(gateway, question_url(question))
    by_post = await post(gateway, CHAT_STREAM, {"query": question})
    assert (by_get.status, by_post.status) == (414, 413)
    for answer in (by_get, by_post):
        assert "SUBAK_UPSTREAM__METHOD" in str(problem_of(answer)["detail"])
        assert CANARY.encode() not in answer.body
    assert upstream.questions == 0


async def test_created_stream_is_followed_by_its_links(upstream: ScriptedUpstream, gateway: Running) -> None:
    created = await post(gateway, "/v1/streams", {"query": "ciao"})
    stream_id = created.header("Subak-Stream-Id")
    assert created.status == 201
    assert created.json == {
        "id": stream_id,
        "events_url": f"/v1/streams/{stream_id}/events",
        "status_url": f"/v1/streams/{stream_id}",
        "stop_url": f"/v1/streams/{stream_id}/stop",
    }
    assert created.header("Location") == f"/v1/streams/{stream_id}/events"
    assert created.header("Cache-Control") == "no-store"
    events = await get(gateway, f"/v1/streams/{stream_id}/events")
    assert terminal_of(events.frames).type == "done"
    assert events.header("Subak-Resumed-From") is None
    assert upstream.questions == 1


async def test_created_does_not_wait_for_the_upstream() -> None:
    async with scripted(Stall()) as upstream, running(upstream) as gateway:
        created = await post(gateway, "/v1/streams", {"query": "ciao"})
        assert created.status == 201
        await upstream.wait_questions(1)
        stream_id = created.header("Subak-Stream-Id")
        state = await get(gateway, f"/v1/streams/{stream_id}")
        assert state.json == {"id": stream_id, "status": "connecting", "last_seq": 1, "text": ""}
        await post(gateway, f"/v1/streams/{stream_id}/stop")


async def test_create_streams_at_once_for_a_caller_that_takes_event_streams(gateway: Running) -> None:
    answer = await post(gateway, "/v1/streams", {"query": "ciao"}, Accept="text/event-stream")
    assert (answer.status, answer.header("Content-Type")) == (200, "text/event-stream")
    assert terminal_of(answer.frames).type == "done"


async def test_state_tells_status_text_and_reason(gateway: Running) -> None:
    stream_id = (await get(gateway, question_url())).header("Subak-Stream-Id")
    state = await get(gateway, f"/v1/streams/{stream_id}")
    assert state.json == {
        "id": stream_id,
        "status": "completed",
        "last_seq": 5,
        "text": "Ciao mondo",
        "finish_reason": "stop",
    }
    assert state.header("Cache-Control") == "no-store"


async def test_state_of_a_failed_stream_bears_the_error() -> None:
    async with scripted(Head(), CIAO, End()) as upstream, running(upstream) as gateway:
        answer = await get(gateway, question_url())
        error = data_of(terminal_of(answer.frames))
        state = await get(gateway, f"/v1/streams/{answer.header('Subak-Stream-Id')}")
    assert state.json == {
        "id": answer.header("Subak-Stream-Id"),
        "status": "failed",
        "last_seq": 3,
        "text": "Ciao ",
        "error": error,
    }


@pytest.mark.parametrize("how", [("POST", "/stop"), ("DELETE", "")])
async def test_stop_ends_the_answer_keeps_the_text_and_closes_the_upstream(how: tuple[str, str]) -> None:
    method, suffix = how
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            answer = await client.until(b'"Ciao "')
            path = f"/v1/streams/{answer.header('Subak-Stream-Id')}"
            stopped = await ask(gateway, method, path + suffix)
            await upstream.connections[0].wait_closed()
            done = terminal_of((await client.whole()).frames)
            assert data_of(done)["finish_reason"] == "cancelled"
        assert stopped.status == 200
        assert stopped.json == {"status": "cancelled", "last_seq": 3}
        again = await ask(gateway, method, path + suffix)
        assert (again.status, again.json) == (200, stopped.json)
        assert await gateway.observer.ended() == ("cancelled", "", 1)
        state = (await get(gateway, path)).json
        assert isinstance(state, dict)
        assert (state["status"], state["text"], state["finish_reason"]) == ("cancelled", "Ciao ", "cancelled")


async def test_events_resume_after_the_cursor_and_the_header_beats_the_parameter(gateway: Running) -> None:
    asked = await get(gateway, question_url())
    stream_id = asked.header("Subak-Stream-Id")
    whole = [frame for frame in asked.body.split(b"id: ") if b"event: message" in frame]
    path = f"/v1/streams/{stream_id}/events?last_event_id={stream_id}.0"
    by_header = await get(gateway, path, Last_Event_ID=f"{stream_id}.3")
    by_parameter = await get(gateway, path)
    by_question = await get(gateway, question_url("another"), Last_Event_ID=f"{stream_id}.3")
    assert [frame.sequence for frame in by_header.frames] == [4, 5]
    assert by_header.header("Subak-Resumed-From") == f"{stream_id}.3"
    assert by_header.body.split(b"id: ")[1:] == whole[3:]
    assert by_parameter.body.split(b"id: ")[1:] == whole
    assert by_parameter.header("Subak-Resumed-From") == f"{stream_id}.0"
    assert by_question.body.split(b"id: ")[1:] == whole[3:]
    assert len(gateway.observer.of(StreamOpened)) == 1


async def test_cursor_of_the_url_must_be_one_even_beside_a_header(gateway: Running) -> None:
    asked = await get(gateway, question_url())
    stream_id = asked.header("Subak-Stream-Id")
    for target in (f"/v1/streams/{stream_id}/events?last_event_id=3", "/v1/features?last_event_id=3"):
        answer = await get(gateway, target, Last_Event_ID=f"{stream_id}.3")
        assert (answer.status, problem_of(answer)["code"]) == (400, "malformed_cursor")


async def test_attaching_at_the_end_is_204(gateway: Running) -> None:
    stream_id = (await get(gateway, question_url())).header("Subak-Stream-Id")
    for target in (f"/v1/streams/{stream_id}/events", question_url()):
        answer = await get(gateway, target, Last_Event_ID=f"{stream_id}.5")
        assert (answer.status, answer.body, answer.is_clean) == (204, b"", True)


async def test_cursor_that_is_present_is_never_ignored(upstream: ScriptedUpstream, gateway: Running) -> None:
    stream_id = (await get(gateway, question_url())).header("Subak-Stream-Id") or ""
    unknown = stream_id[:9] + "x" * 22
    earlier = "st_" + "A" * 28
    expected = {
        "nonsense": (400, "malformed_cursor"),
        f"{stream_id}.-1": (400, "malformed_cursor"),
        f"{stream_id}.01": (400, "malformed_cursor"),
        f"{stream_id}": (400, "malformed_cursor"),
        f"{stream_id}.6": (409, "cursor_ahead"),
        f"{unknown}.1": (404, "stream_not_found"),
        f"{earlier}.1": (410, "cursor_expired"),
    }
    seen = {}
    for cursor in expected:
        answer = await get(gateway, question_url(), Last_Event_ID=cursor)
        seen[cursor] = (answer.status, problem_of(answer)["code"])
    assert seen == expected
    gone = problem_of(await get(gateway, f"/v1/streams/{earlier}/events"))
    assert (gone["status"], gone["status_url"]) == (410, f"/v1/streams/{earlier}")
    other = await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{unknown}.1")
    assert (other.status, problem_of(other)["code"]) == (400, "malformed_cursor")
    assert upstream.questions == 1


@ONE_LOOP
@pytest.mark.parametrize("method_and_path", ["GET {}", "GET {}/events", "POST {}/stop", "DELETE {}"])
async def test_what_is_no_stream_id_is_not_found(gateway: Running, method_and_path: str) -> None:
    method, path = method_and_path.split()
    for wrong in ("nonsense", "st_short", "st_" + "%C3%A9" * 28, "%00"):
        answer = await ask(gateway, method, path.format(f"/v1/streams/{wrong}"))
        assert (answer.status, problem_of(answer)["code"]) == (404, "stream_not_found")


async def test_repeated_key_attaches_to_the_first_stream(upstream: ScriptedUpstream, gateway: Running) -> None:
    asked = await post(gateway, CHAT_STREAM, {"query": "ciao"}, Idempotency_Key=KEY)
    again = await post(gateway, CHAT_STREAM, {"user_role": None, "query": "ciao"}, Idempotency_Key=KEY)
    by_get = await get(gateway, question_url("ciao"), Idempotency_Key=KEY)
    links = await post(gateway, "/v1/streams", {"query": "ciao"}, Idempotency_Key=KEY)
    assert asked.header("Idempotent-Replayed") is None
    for answer in (again, by_get):
        assert answer.header("Idempotent-Replayed") == "true"
        assert answer.body.partition(b"id: ")[2] == asked.body.partition(b"id: ")[2]
    assert (links.status, links.header("Idempotent-Replayed")) == (201, "true")
    assert links.header("Subak-Stream-Id") == asked.header("Subak-Stream-Id")
    other = await post(gateway, CHAT_STREAM, {"query": "altro"}, Idempotency_Key=KEY)
    assert (other.status, problem_of(other)["code"]) == (422, "idempotency_key_reused")
    assert upstream.questions == 1


@ONE_LOOP
@pytest.mark.parametrize("key", ["", "short", "x" * 256, "0123456789abcdefghijk é"])
async def test_key_that_anybody_could_guess_or_nobody_can_send_is_refused(
    upstream: ScriptedUpstream, gateway: Running, key: str
) -> None:
    answer = await post(gateway, CHAT_STREAM, {"query": "ciao"}, Idempotency_Key=key)
    assert answer.status == 400
    assert "Idempotency-Key" in str(problem_of(answer)["detail"])
    assert upstream.questions == 0


async def test_flag_off_refuses_with_the_founding_document_s_body(closed_gateway: Running) -> None:
    with_origin = (
        b'{"ok":false,"code":"feature_flag_disabled","flag":"ENABLE_SSE_STREAMING","origin":"https://x.example"}'
    )
    without = b'{"ok":false,"code":"feature_flag_disabled","flag":"ENABLE_SSE_STREAMING"}'
    for origin, body in ((None, without), ("https://x.example", with_origin)):
        headers = {} if origin is None else {"Origin": origin}
        by_get = await get(closed_gateway, question_url(), **headers)
        by_post = await post(closed_gateway, CHAT_STREAM, {"query": "ciao"}, **headers)
        for answer in (by_get, by_post):
            assert (answer.status, answer.body) == (403, body)
            assert answer.header("Content-Type") == "application/json"


async def test_flag_off_is_a_problem_for_those_who_take_problems(
    upstream: ScriptedUpstream, closed_gateway: Running
) -> None:
    asked = await get(closed_gateway, question_url(), Accept=PROBLEM, Origin="https://x.example")
    created = await post(closed_gateway, "/v1/streams", {"query": "ciao"})
    for answer in (asked, created):
        problem = problem_of(answer)
        assert (answer.status, problem["ok"], problem["code"]) == (403, False, "feature_flag_disabled")
        assert problem["flag"] == "ENABLE_SSE_STREAMING"
    assert problem_of(asked)["origin"] == "https://x.example"
    assert upstream.questions == 0


async def test_flag_is_asked_before_the_question_is_looked_at(closed_gateway: Running) -> None:
    assert (await get(closed_gateway, CHAT_STREAM)).status == 403
    assert (await post(closed_gateway, CHAT_STREAM, {})).status == 403


@pytest.mark.parametrize("is_on", [True, False])
async def test_features_tell_whether_streaming_is_on(is_on: bool) -> None:
    async with running(is_on=is_on) as gateway:
        answer = await get(gateway, "/v1/features")
    assert (answer.status, answer.json) == (200, {"sse": is_on})


@ONE_LOOP
@pytest.mark.parametrize(
    "target", [CHAT_STREAM, f"{CHAT_STREAM}?query=", f"{CHAT_STREAM}?query=%20%0A", f"{CHAT_STREAM}?q=x"]
)
async def test_get_without_a_question_answers_as_the_founding_document_says(gateway: Running, target: str) -> None:
    answer = await get(gateway, target)
    assert (answer.status, answer.header("Content-Type")) == (400, "application/json")
    assert answer.body == b'{"error":"query parameter is required"}'


@ONE_LOOP
@pytest.mark.parametrize("fields", [{}, {"query": ""}, {"query": " \t\n"}, {"query": None}, {"q": "x"}])
async def test_post_without_a_question_answers_as_the_founding_document_says(
    gateway: Running, fields: dict[str, object]
) -> None:
    answer = await post(gateway, CHAT_STREAM, fields)
    assert (answer.status, answer.header("Content-Type")) == (400, "application/json")
    assert answer.body == b'{"error":"query is required"}'


async def test_missing_question_is_a_problem_for_those_who_take_problems(gateway: Running) -> None:
    for answer in (
        await get(gateway, CHAT_STREAM, Accept=f"{PROBLEM}, application/json"),
        await post(gateway, CHAT_STREAM, {}, Accept=PROBLEM),
        await post(gateway, "/v1/streams", {}),
    ):
        problem = problem_of(answer)
        assert answer.status == 400
        assert problem["error"] in {"query parameter is required", "query is required"}
        assert problem["code"] == "missing_query"


@ONE_LOOP
@pytest.mark.parametrize(
    "target", ["/nowhere", "/api/v2/bali-zero", "/demo/", "/v1/streams/", f"{CHAT_STREAM}/", "//v1/features"]
)
async def test_unknown_path_is_404_without_slash_magic(gateway: Running, target: str) -> None:
    answer = await get(gateway, f"{target}?{CANARY}=1")
    assert (answer.status, answer.header("Location")) == (404, None)
    assert problem_of(answer)
    assert CANARY.encode() not in answer.body


@ONE_LOOP
@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", CHAT_STREAM, {"GET", "POST", "OPTIONS"}),
        ("HEAD", question_url(), {"GET", "POST", "OPTIONS"}),
        ("PROPFIND", question_url(), {"GET", "POST", "OPTIONS"}),
        ("GET", "/v1/streams", {"POST", "OPTIONS"}),
        ("GET", "/api/v2/bali-zero/chat", {"POST", "OPTIONS"}),
        ("HEAD", "/v1/features", {"GET", "OPTIONS"}),
        ("POST", f"/v1/streams/st_{'A' * 28}", {"GET", "DELETE", "OPTIONS"}),
        ("GET", f"/v1/streams/st_{'A' * 28}/stop", {"POST", "OPTIONS"}),
    ],
)
async def test_other_method_is_405_with_allow_and_starts_nothing(
    upstream: ScriptedUpstream, gateway: Running, method: str, target: str, allowed: set[str]
) -> None:
    answer = await ask(gateway, method, target)
    assert answer.status == 405
    assert set((answer.header("Allow") or "").replace(" ", "").split(",")) == allowed
    assert method == "HEAD" or problem_of(answer)
    assert upstream.questions == 0
    assert not gateway.observer.of(StreamOpened)


async def test_body_over_the_bound_is_413(upstream: ScriptedUpstream) -> None:
    big = json.dumps({"query": CANARY * 200}).encode()
    async with running(upstream, SUBAK_HTTP__MAX_BODY_BYTES="1024") as gateway:
        for target in (CHAT_STREAM, "/v1/streams"):
            answer = await ask(gateway, "POST", target, [("Content-Type", "application/json")], big)
            assert (answer.status, problem_of(answer)["code"]) == (413, "body_too_large")
            assert CANARY.encode() not in answer.body
    assert upstream.questions == 0


async def test_body_over_the_bound_is_refused_before_it_was_read(upstream: ScriptedUpstream) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Length", "100000000")]
    async with running(upstream) as gateway, Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(request_bytes("POST", CHAT_STREAM, headers) + b'{"query": "')
        assert (await client.whole()).status == 413
        assert await client.is_closed_by_server()


async def test_chunked_body_over_the_bound_is_refused_where_it_passes_it(upstream: ScriptedUpstream) -> None:
    headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    async with (
        running(upstream, SUBAK_HTTP__MAX_BODY_BYTES="1024") as gateway,
        Client.connect(gateway.url) as client,
    ):
        client.expect("POST")
        await client.send(request_bytes("POST", CHAT_STREAM, headers) + b"800\r\n" + b"x" * 2048 + b"\r\n")
        assert (await client.whole()).status == 413
        assert await client.is_closed_by_server()


async def test_chunked_body_within_the_bound_is_taken(gateway: Running) -> None:
    headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    async with Client.connect(gateway.url) as client:
        client.expect("POST")
        chunks = b'9\r\n{"query":\r\n7\r\n "ciao"\r\n1\r\n}\r\n0\r\n\r\n'
        await client.send(request_bytes("POST", CHAT_STREAM, headers) + chunks)
        assert text_of((await client.whole()).frames) == "Ciao mondo"


async def test_url_over_the_bound_is_414(upstream: ScriptedUpstream, gateway: Running) -> None:
    for size in (17_000, 60_000):
        answer = await get(gateway, question_url(CANARY * (size // len(CANARY))))
        assert (answer.status, problem_of(answer)["code"]) == (414, "url_too_long")
        assert CANARY.encode() not in answer.body
    assert upstream.questions == 0


@ONE_LOOP
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": CANARY},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=str,
)
async def test_body_that_is_not_plain_json_is_415(
    upstream: ScriptedUpstream, gateway: Running, headers: dict[str, str]
) -> None:
    for target in (CHAT_STREAM, "/v1/streams"):
        answer = await ask(gateway, "POST", target, headers.items(), b'{"query": "ciao"}')
        assert (answer.status, problem_of(answer)["code"]) == (415, "unsupported_media_type")
        assert CANARY.encode() not in answer.body
    assert upstream.questions == 0


@ONE_LOOP
@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;x=y"]
)
async def test_json_is_recognised_without_case_and_parameters(gateway: Running, content_type: str) -> None:
    answer = await ask(gateway, "POST", CHAT_STREAM, [("Content-Type", content_type)], b'{"query": "ciao"}')
    assert answer.status == 200


@ONE_LOOP
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"query": "kanarienvogel"',
        b'{"query": "kanarienvogel"} x',
        b"{'query': 'kanarienvogel'}",
        b'{"query": "\xff kanarienvogel"}',
        b'{"query": "\xed\xa0\x80 kanarienvogel"}',
        b'{"query": "kanarienvogel\x00"}',
        b'\xef\xbb\xbf{"query": "kanarienvogel"}',
        b'{"query": NaN}',
        b"[" * 100_000,
        b'{"query": ' + b'{"a":' * 100_000,
        b'{"kanarienvogel": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_body_that_is_no_json_is_400(upstream: ScriptedUpstream, gateway: Running, body: bytes) -> None:
    answer = await ask(gateway, "POST", CHAT_STREAM, [("Content-Type", "application/json")], body)
    assert answer.status in {400, 422}
    assert problem_of(answer)
    assert CANARY.encode() not in answer.body
    assert upstream.questions == 0


TURN = {"role": "user", "content": "ciao"}
WRONG_FIELDS: list[tuple[object, str]] = [
    ([], "$"),
    ("ciao", "$"),
    (None, "$"),
    (5, "$"),
    ({"query": 5}, "$.query"),
    ({"query": ["kanarienvogel"]}, "$.query"),
    ({"query": {"kanarienvogel": 1}}, "$.query"),
    ({"query": 10**4299}, "$.query"),
    ({"query": "x" * 32_769}, "$.query"),
    ({"query": "ciao", "user_email": 5}, "$.user_email"),
    ({"query": "ciao", "user_email": "kanarienvogel" * 50}, "$.user_email"),
    ({"query": "ciao", "user_role": ["member"]}, "$.user_role"),
    ({"query": "ciao", "user_role": "m" * 321}, "$.user_role"),
    ({"query": "ciao", "conversation_history": "kanarienvogel"}, "$.conversation_history"),
    ({"query": "ciao", "conversation_history": {}}, "$.conversation_history"),
    ({"query": "ciao", "conversation_history": 5}, "$.conversation_history"),
    ({"query": "ciao", "conversation_history": ["kanarienvogel"]}, "$.conversation_history[0]"),
    ({"query": "ciao", "conversation_history": [TURN, None]}, "$.conversation_history[1]"),
    ({"query": "ciao", "conversation_history": [TURN, []]}, "$.conversation_history[1]"),
    ({"query": "ciao", "conversation_history": [TURN, {"role": "user"}]}, "$.conversation_history[1]"),
    ({"query": "ciao", "conversation_history": [{"content": "kanarienvogel"}]}, "$.conversation_history[0]"),
    (
        {"query": "ciao", "conversation_history": [TURN, TURN, {"role": "user", "content": 5}]},
        "$.conversation_history[2].content",
    ),
    (
        {"query": "ciao", "conversation_history": [{"role": "user", "content": [[["x"]]]}]},
        "$.conversation_history[0].content",
    ),
    (
        {"query": "ciao", "conversation_history": [{"role": "system", "content": "kanarienvogel"}]},
        "$.conversation_history[0].role",
    ),
    (
        {"query": "ciao", "conversation_history": [TURN, {"role": "tool", "content": ""}]},
        "$.conversation_history[1].role",
    ),
    (
        {"query": "ciao", "conversation_history": [{"role": "kanarienvogel", "content": ""}]},
        "$.conversation_history[0].role",
    ),
    ({"query": "ciao", "conversation_history": [{"role": 5, "content": ""}]}, "$.conversation_history[0].role"),
    ({"query": "ciao", "conversation_history": [{"role": None, "content": ""}]}, "$.conversation_history[0].role"),
    ({"query": "ciao", "conversation_history": [TURN] * 101}, "$.conversation_history"),
    ({"query": "ciao", "conversation_history": [TURN] * 10_000}, "$.conversation_history"),
    (
        {"query": "ciao", "conversation_history": [{"role": "user", "content": "é" * 65_537}] * 2},
        "$.conversation_history",
    ),
]


@ONE_LOOP
@pytest.mark.parametrize(("fields", "path"), WRONG_FIELDS, ids=lambda value: str(value)[:60])
async def test_wrong_field_of_a_body_is_422_with_its_path(
    upstream: ScriptedUpstream, gateway: Running, fields: object, path: str
) -> None:
    body = json.dumps(fields).encode()
    answer = await ask(gateway, "POST", CHAT_STREAM, [("Content-Type", "application/json")], body)
    _assert_invalid(answer, path)
    assert upstream.questions == 0
    assert [(fact.status, fact.code) for fact in gateway.observer.of(Refused)] == [(422, "invalid_field")]


WRONG_HISTORIES = [
    ("kanarienvogel", "$.conversation_history"),
    ("[", "$.conversation_history"),
    ('[{"role": "user"', "$.conversation_history"),
    ("5", "$.conversation_history"),
    ("{}", "$.conversation_history"),
    ('"kanarienvogel"', "$.conversation_history"),
    ("[5]", "$.conversation_history[0]"),
    (
        '[{"role": "user", "content": "a"}, {"role": "system", "content": "kanarienvogel"}]',
        "$.conversation_history[1].role",
    ),
    ('[{"role": "user", "content": null}]', "$.conversation_history[0].content"),
    ('[{"role": "user", "content": "\\ud800"}]', "$.conversation_history"),
    ('[{"role": "user", "content": "' + "\x00" + '"}]', "$.conversation_history"),
    ("[" * 5000, "$.conversation_history[0]"),
    (json.dumps([TURN] * 101), "$.conversation_history"),
]


@ONE_LOOP
@pytest.mark.parametrize(("history", "path"), WRONG_HISTORIES, ids=lambda value: repr(value)[:60])
async def test_wrong_history_in_a_url_is_422_with_its_path(
    upstream: ScriptedUpstream, gateway: Running, history: str, path: str
) -> None:
    _assert_invalid(await get(gateway, question_url(conversation_history=history)), path)
    assert upstream.questions == 0


def _assert_invalid(answer: Answer, path: str) -> None:
    problem = problem_of(answer)
    assert (answer.status, problem["code"]) == (422, "invalid_field")
    (error,) = msgspec.convert(problem["errors"], list[dict[str, str]])
    assert error["path"] == path
    assert error["expected"]
    assert CANARY.encode() not in answer.body


@ONE_LOOP
@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00\\ud800", "x\\ud83d"])
@pytest.mark.parametrize("place", ["query", "user_email", "content"])
async def test_lone_surrogate_is_refused_and_not_repeated(
    upstream: ScriptedUpstream, gateway: Running, escape: str, place: str
) -> None:
    texts = {name: f"{CANARY} {escape}" if name == place else "ciao" for name in ("query", "user_email", "content")}
    body = (
        f'{{"query": "{texts["query"]}", "user_email": "{texts["user_email"]}", '
        f'"conversation_history": [{{"role": "user", "content": "{texts["content"]}"}}]}}'
    )
    answer = await ask(gateway, "POST", CHAT_STREAM, [("Content-Type", "application/json")], body.encode())
    assert answer.status in {400, 422}
    assert problem_of(answer)
    assert CANARY.encode() not in answer.body
    assert upstream.questions == 0


ODD_TEXTS = [
    "a\x00b",
    "\u202eevil\u202c",
    "a\u200bb",
    "\r\nSet-Cookie: a=b",
    "a\u2028\x85b",
    "😀 é",
    "%00%2F",
    "${jndi:ldap://x}",
    "a&query=b#c",
]


@ONE_LOOP
@pytest.mark.parametrize("text", ODD_TEXTS, ids=repr)
async def test_odd_text_reaches_the_backend_as_it_is(gateway: Running, upstream: ScriptedUpstream, text: str) -> None:
    by_post = await post(gateway, CHAT_STREAM, {"query": text, "user_email": text})
    by_get = await get(gateway, question_url(text, user_email=text))
    assert (by_post.status, by_get.status) == (200, 200)
    expected = question_url(text, user_email=text).removeprefix("/api/v2")
    assert [request.target for request in upstream.requests] == [expected, expected]


@ONE_LOOP
@pytest.mark.parametrize("text", ODD_TEXTS, ids=repr)
async def test_odd_text_in_the_history_reaches_the_backend_as_it_is(upstream: ScriptedUpstream, text: str) -> None:
    fields = {"query": "ciao", "user_email": text, "conversation_history": [{"role": "user", "content": text}]}
    async with running(upstream, SUBAK_UPSTREAM__METHOD="post") as gateway:
        assert (await post(gateway, CHAT_STREAM, fields)).status == 200
    assert [json.loads(request.body) for request in upstream.requests] == [fields]


async def test_url_that_is_no_utf_8_is_refused_or_read_with_replacement(
    gateway: Running, upstream: ScriptedUpstream
) -> None:
    for raw in ("%FF%FE", "%ED%A0%80", "%C3", "%", "%zz", "a%E2%82"):
        answer = await get(gateway, f"{CHAT_STREAM}?query=x{raw}")
        assert answer.status in {200, 400}
    assert all(request.target.isascii() for request in upstream.requests)


async def test_raw_bytes_in_a_url_do_not_crash(gateway: Running) -> None:
    for raw in (b"\xff", b"\xc3\xa9", b"\x7f", b"\xf0\x9f\x98\x80"):
        async with Client.connect(gateway.url) as client:
            client.expect("GET")
            await client.send(b"GET /api/v2/bali-zero/chat-stream?query=x" + raw + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.whole()).status in {200, 400}


@ONE_LOOP
@pytest.mark.parametrize(
    "request_head",
    [
        b"kanarienvogel\r\n\r\n",
        b"BREW /kanarienvogel HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /kanarienvogel HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nkanarienvogel\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost : kanarienvogel\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: kanarienvogel\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=repr,
)
async def test_request_that_cannot_be_parsed_is_400_and_not_repeated(gateway: Running, request_head: bytes) -> None:
    async with Client.connect(gateway.url) as client:
        client.expect("GET")
        await client.send(request_head)
        answer = await client.whole()
        assert await client.is_closed_by_server()
    assert answer.status == 400
    assert answer.header("Server") == "subak"
    assert problem_of(answer)
    assert CANARY.encode() not in answer.body


@pytest.mark.parametrize(("size", "status"), [(20_000, 200), (40_000, 431), (1_000_000, 431)])
async def test_header_over_the_bound_is_431(gateway: Running, size: int, status: int) -> None:
    answer = await get(gateway, "/v1/features", x_long=(CANARY * size)[:size])
    assert answer.status == status
    assert CANARY.encode() not in answer.body


async def test_target_that_is_not_even_parsed_is_414(gateway: Running) -> None:
    answer = await get(gateway, "/v1/features?" + (CANARY * 200_000)[:200_000])
    assert (answer.status, problem_of(answer)["title"]) == (414, HTTPStatus.REQUEST_URI_TOO_LONG.phrase)
    assert CANARY.encode() not in answer.body


EXPOSED = {
    "Subak-Stream-Id",
    "Subak-Resumed-From",
    "Idempotent-Replayed",
    "X-Connection-ID",
    "Location",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
}


@ONE_LOOP
@pytest.mark.parametrize(
    "target", [question_url(), CHAT_STREAM, "/v1/features", "/v1/streams/nonsense", "/nowhere", "/livez"]
)
async def test_page_of_an_allowed_origin_may_read_answers_and_refusals(gateway: Running, target: str) -> None:
    answer = await get(gateway, target, Origin=ORIGIN)
    assert answer.header("Access-Control-Allow-Origin") == ORIGIN
    assert answer.header("Access-Control-Allow-Credentials") == "true"
    assert set((answer.header("Access-Control-Expose-Headers") or "").split(", ")) >= EXPOSED
    assert answer.header("Vary") == "Origin"


@ONE_LOOP
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        f"{ORIGIN}.evil.example",
        "https://xapp.example.org",
        "http://app.example.org",
        f"{ORIGIN}:8443",
        "*",
        "",
    ],
)
async def test_page_of_another_origin_gets_no_cors_headers(gateway: Running, origin: str) -> None:
    for target in (question_url(), "/v1/features"):
        answer = await get(gateway, target, Origin=origin)
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]
        assert answer.header("Vary") == "Origin"


async def test_preflight_of_an_allowed_origin_names_methods_and_headers(
    upstream: ScriptedUpstream, gateway: Running
) -> None:
    headers = [("Origin", ORIGIN), ("Access-Control-Request-Method", "POST")]
    answer = await ask(gateway, "OPTIONS", CHAT_STREAM, headers)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("Access-Control-Allow-Origin") == ORIGIN
    assert answer.header("Access-Control-Allow-Methods") == "GET, POST, OPTIONS"
    allowed = (answer.header("Access-Control-Allow-Headers") or "").lower().split(", ")
    assert {"content-type", "last-event-id", "idempotency-key", "x-connection-id", "authorization"} <= set(allowed)
    assert int(answer.header("Access-Control-Max-Age") or 0) > 0
    assert upstream.questions == 0


async def test_preflight_of_another_origin_is_403(gateway: Running) -> None:
    for origin in ("https://evil.example", "null"):
        answer = await ask(gateway, "OPTIONS", CHAT_STREAM, [("Origin", origin)])
        assert answer.status == 403
        assert answer.header("Access-Control-Allow-Origin") is None
        assert answer.header("Vary") == "Origin"


async def test_options_without_an_origin_tells_the_methods(gateway: Running) -> None:
    answer = await ask(gateway, "OPTIONS", "/v1/streams/x")
    assert (answer.status, answer.header("Allow")) == (204, "GET, DELETE, OPTIONS")


async def test_livez_and_readyz(gateway: Running) -> None:
    assert (await get(gateway, "/livez")).json == {"status": "ok"}
    assert (await get(gateway, "/readyz")).json == {"status": "ok"}
    verbose = await get(gateway, "/readyz?verbose")
    assert verbose.json == {"status": "ok", "live_streams": 0, "readers": 0, "advice": []}
    assert not gateway.observer.of(Refused)


async def test_draining_gateway_is_not_ready_and_takes_no_question() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        async with Client.connect(gateway.url) as client, asyncio.TaskGroup() as tasks:
            await client.begin("GET", question_url())
            answer = await client.until(b'"Ciao "')
            tasks.create_task(gateway.gateway.drain())
            assert not (await client.whole()).is_clean
            assert parse_frames(answer.body, is_cut=True)[-1].retry_ms is not None
            ready = await get(gateway, "/readyz")
            assert (ready.status, ready.json) == (503, {"status": "draining"})
            refused = await get(gateway, question_url())
            assert (refused.status, refused.header("Retry-After")) == (503, "1")
            assert problem_of(refused)["code"] == "draining"
            stream_id = answer.header("Subak-Stream-Id")
            async with Client.connect(gateway.url) as back:
                await back.begin("GET", question_url(), [("Last-Event-ID", f"{stream_id}.2")])
                await back.head()
                await post(gateway, f"/v1/streams/{stream_id}/stop")
                assert [frame.type for frame in (await back.whole()).frames if frame.event != "heartbeat"] == ["done"]
        assert [fact.departure for fact in gateway.observer.of(ReaderLeft)] == ["drain", "completed"]


async def test_root_sends_a_visitor_to_the_demo_page(gateway: Running) -> None:
    answer = await get(gateway, "/")
    assert (answer.status, answer.header("Location")) == (302, "/demo")


async def test_demo_page_runs_nothing_but_our_own_files(gateway: Running) -> None:
    page = await get(gateway, "/demo")
    assert (page.status, page.header("Content-Type")) == (200, "text/html; charset=utf-8")
    policy = page.header("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.header("X-Content-Type-Options") == "nosniff"
    named = set(re.findall(rb'(?:src|href)="(/static/[^"]+)"', page.body))
    assert named
    for target in named:
        assert (await get(gateway, target.decode())).status == 200
    assert not re.search(rb"<script(?![^>]*\bsrc=)|\bon[a-z]+=|<style|style=", page.body)


@ONE_LOOP
@pytest.mark.parametrize("name", ["nowhere.js", "..%2f..%2fapp.py", "%2e%2e/routes.py", ".subak", "demo.html%00", ""])
async def test_nothing_but_the_page_s_files_is_served(gateway: Running, name: str) -> None:
    assert (await get(gateway, f"/static/{name}")).status == 404

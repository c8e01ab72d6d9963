"""What the gateway notes of what it did: each start, end, refusal and departure, once and true."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from subak import __version__
from subak.core.facts import (
    NOBODY,
    DrainEnded,
    DrainStarted,
    Fact,
    ProcessStarted,
    ReaderAttached,
    ReaderLeft,
    Refused,
    StopRequested,
    StreamEnded,
    StreamOpened,
    TokensTimed,
)
from subak.testing import Body, End, FakeClock, Frame, Head, RecordedRequest, ScriptedUpstream, Stall, Step
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    CIAO,
    DONE,
    Client,
    Running,
    ask,
    get,
    post,
    question_url,
    running,
    scripted,
)

CANARY = "kanarienvogel"
STREAM_PATH = "/v1/streams/{stream_id}"


def kinds(gateway: Running) -> list[type[Fact]]:
    """Give the kinds of the facts, in order."""
    return [type(fact) for fact in gateway.observer.facts]


def without_person(fact: Fact) -> Fact:
    """Give what a fact says for everybody."""
    assert isinstance(fact, StreamOpened | Refused)
    return msgspec.structs.replace(fact, who=NOBODY)


async def test_whole_answer_is_opened_attached_ended_and_left() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        answer = await get(gateway, question_url(), x_connection_id="tab-7")
        await gateway.observer.wait_for(ReaderLeft)
        stream_id = answer.header("Subak-Stream-Id") or ""
        started, opened, attached, timed, ended, left = gateway.observer.facts
        assert started == ProcessStarted(__version__, "rag")
        assert without_person(opened) == StreamOpened(stream_id, "tab-7", "GET chat-stream")
        assert attached == ReaderAttached(stream_id, "tab-7", cursor=0, is_resume=False)
        assert left == ReaderLeft(stream_id, "tab-7", "completed", cursor=5)
        assert isinstance(timed, TokensTimed)
        assert (timed.route, timed.arm, len(timed.gaps_us)) == ("GET chat-stream", "on", 1)
        assert isinstance(ended, StreamEnded)
        assert (ended.stream_id, ended.connection_id, ended.route) == (stream_id, "tab-7", "GET chat-stream")
        assert (ended.outcome, ended.reason, ended.tokens) == ("stop", "", 2)
        frames = [step for step in ANSWER if isinstance(step, Frame)]
        assert ended.size_bytes == sum(len(f"data: {frame.data}\n\n".encode()) for frame in frames)
        assert ended.first_token_ms is not None
        assert ended.gateway_ms is not None
        assert 0 < ended.gateway_ms < ended.first_token_ms <= ended.duration_ms
        assert ended.inter_token_ms is not None
        assert 0 <= ended.inter_token_ms < ended.duration_ms
        assert ended.tokens_unread == 0


@pytest.mark.parametrize(
    ("method", "target", "accept", "route", "has_reader"),
    [
        ("GET", question_url(), "*/*", "GET chat-stream", True),
        ("POST", CHAT_STREAM, "*/*", "POST chat-stream", True),
        ("POST", "/v1/streams", "text/event-stream", "POST streams", True),
        ("POST", "/v1/streams", "application/json", "POST streams", False),
    ],
)
async def test_route_tells_how_it_was_asked(
    method: str, target: str, accept: str, route: str, has_reader: bool
) -> None:
    headers = [("Accept", accept), ("Content-Type", "application/json")]
    async with scripted() as upstream, running(upstream) as gateway:
        await ask(gateway, method, target, headers, b'{"query": "ciao"}' if method == "POST" else None)
        (ended,) = await gateway.observer.wait_for(StreamEnded)
        (opened,) = gateway.observer.of(StreamOpened)
        assert opened.route == ended.route == route
        assert bool(gateway.observer.of(ReaderAttached)) == has_reader


async def test_resume_attaches_and_opens_nothing() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        stream_id = (await get(gateway, question_url())).header("Subak-Stream-Id") or ""
        await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{stream_id}.3", x_connection_id="tab-8")
        left = await gateway.observer.wait_for(ReaderLeft, 2)
        attached = gateway.observer.of(ReaderAttached)[1]
        assert (attached.stream_id, attached.connection_id, attached.is_resume) == (stream_id, "tab-8", True)
        assert left[1] == ReaderLeft(stream_id, "tab-8", "completed", cursor=5)
        assert len(gateway.observer.of(StreamOpened)) == len(gateway.observer.of(StreamEnded)) == 1


async def test_reader_that_leaves_is_lost_and_the_stream_abandoned_after_the_grace_time() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b'"Ciao "')
        (left,) = await gateway.observer.wait_for(ReaderLeft)
        assert (left.departure, left.cursor) == ("lost", 2)
        gateway.pass_time(29)
        assert not gateway.observer.of(StreamEnded)
        assert not upstream.connections[0].closed.is_set()
        gateway.pass_time(2)
        assert await gateway.observer.ended() == ("abandoned", "", 1)
        await upstream.connections[0].wait_closed()


async def test_reader_that_wanted_no_grace_takes_the_stream_with_it() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", f"{question_url()}&on_disconnect=cancel")
            await client.until(b'"Ciao "')
        assert await gateway.observer.ended() == ("abandoned", "", 1)
        await upstream.connections[0].wait_closed()


async def test_reader_that_leaves_before_anything_came_is_no_zombie() -> None:
    async with scripted(Stall()) as upstream, running(upstream, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await upstream.wait_questions(1)
        await gateway.observer.wait_for(ReaderLeft)
        gateway.pass_time(31)
        assert await gateway.observer.ended() == ("abandoned", "", 0)


async def test_reader_that_takes_nothing_is_a_slow_reader() -> None:
    def flood(_: RecordedRequest) -> Iterator[Step]:
        yield Head()
        while True:
            yield Body(b'data: {"text": "%b"}\n\n' % (b"x" * 10_000) * 5)

    bounds = {"SUBAK_STREAM__MAX_BYTES": "100000000", "SUBAK_STREAM__MAX_EVENTS": "1000000"}
    async with ScriptedUpstream(flood) as upstream, running(upstream, bounds, clock=FakeClock()) as gateway:
        async with Client.connect(gateway.url, receive_bytes=8192) as client:
            await client.begin("GET", question_url())
            await upstream.wait_questions(1)
            await upstream.connections[0].wait_blocked(timeout_s=20)
            gateway.pass_time(29)
            assert not gateway.observer.of(ReaderLeft)
            gateway.pass_time(3)
            (left,) = await gateway.observer.wait_for(ReaderLeft)
            assert left.departure == "slow_reader"
            assert not (await client.whole(timeout_s=20)).is_clean
            stream_id = left.stream_id
        await post(gateway, f"/v1/streams/{stream_id}/stop")
        assert (await gateway.observer.ended())[0] == "cancelled"


async def test_too_old_connection_is_max_age() -> None:
    async with (
        scripted(Head(), CIAO, Stall()) as upstream,
        running(upstream, clock=FakeClock(), SUBAK_STREAM__MAX_CONNECTION_AGE_S="60") as gateway,
    ):
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b'"Ciao "')
            gateway.pass_time(61)
            await client.whole()
        (left,) = await gateway.observer.wait_for(ReaderLeft)
        assert (left.departure, left.cursor) == ("max_age", 2)
        gateway.pass_time(31)
        assert await gateway.observer.ended() == ("abandoned", "", 1)


async def test_stop_is_noted_with_whether_it_came_in_time() -> None:
    async with scripted(Head(), CIAO, Stall()) as upstream, running(upstream) as gateway:
        created = await post(gateway, "/v1/streams", {"query": "ciao"})
        stream_id = created.header("Subak-Stream-Id") or ""
        for _ in range(2):
            await post(gateway, f"/v1/streams/{stream_id}/stop")
        assert gateway.observer.of(StopRequested) == [StopRequested(stream_id, True), StopRequested(stream_id, False)]
        assert (await gateway.observer.ended())[0] == "cancelled"
        assert len(gateway.observer.of(StreamEnded)) == 1


async def test_drain_is_noted_with_what_was_live_and_what_was_lost() -> None:
    async with (
        scripted(Head(), CIAO, Stall()) as upstream,
        running(upstream, SUBAK_STREAM__DRAIN_S="0.2") as gateway,
    ):
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            await client.until(b'"Ciao "')
            await gateway.gateway.drain()
        await gateway.observer.wait_for(ReaderLeft)
        assert gateway.observer.of(DrainStarted) == [DrainStarted(live_streams=1, readers=1)]
        assert gateway.observer.of(DrainEnded) == [DrainEnded(lost_streams=1)]
        assert [fact.departure for fact in gateway.observer.of(ReaderLeft)] == ["drain"]
        assert await gateway.observer.ended() == ("producer_lost", "drain_limit", 1)


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("GET", CHAT_STREAM, None, Refused(CHAT_STREAM, "GET", 400, "missing_query")),
        ("POST", CHAT_STREAM, b"{}", Refused(CHAT_STREAM, "POST", 400, "missing_query")),
        ("POST", CHAT_STREAM, b"{", Refused(CHAT_STREAM, "POST", 400, "bad_request")),
        ("POST", CHAT_STREAM, b'{"query": 5}', Refused(CHAT_STREAM, "POST", 422, "invalid_field")),
        ("POST", "/v1/streams", b" " * 2_000_000, Refused("/v1/streams", "POST", 413, "body_too_large")),
        ("GET", question_url("x" * 17_000), None, Refused(CHAT_STREAM, "GET", 414, "url_too_long")),
        ("GET", question_url("x" * 9_000), None, Refused(CHAT_STREAM, "GET", 414, "url_too_long")),
        ("GET", f"/v1/streams/{CANARY}", None, Refused(STREAM_PATH, "GET", 404, "stream_not_found")),
        (
            "GET",
            f"/v1/streams/st_{'A' * 28}/events",
            None,
            Refused(f"{STREAM_PATH}/events", "GET", 410, "cursor_expired"),
        ),
        ("DELETE", f"/v1/streams/{CANARY}", None, Refused(STREAM_PATH, "DELETE", 404, "stream_not_found")),
    ],
)
async def test_refusal_is_noted_by_route_status_and_code(
    method: str, target: str, body: bytes | None, expected: Refused
) -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        answer = await ask(gateway, method, target, [("Content-Type", "application/json")], body)
        assert answer.status == expected.status
        assert [without_person(fact) for fact in gateway.observer.facts[1:]] == [expected]


async def test_flag_that_is_off_is_noted() -> None:
    async with scripted() as upstream, running(upstream, is_on=False) as gateway:
        await get(gateway, question_url())
        await post(gateway, "/v1/streams", {"query": "ciao"})
        assert gateway.observer.of(Refused) == [
            Refused(CHAT_STREAM, "GET", 403, "feature_flag_disabled"),
            Refused("/v1/streams", "POST", 403, "feature_flag_disabled"),
        ]


async def test_no_fact_holds_content() -> None:
    script = [Head(), Frame(f'{{"text": "{CANARY}"}}'), DONE, End()]
    history = [{"role": "user", "content": CANARY}]
    async with scripted(*script) as upstream, running(upstream) as gateway:
        fields = {"query": CANARY, "user_email": f"{CANARY}@x.example", "conversation_history": history}
        await post(gateway, CHAT_STREAM, fields, x_session_id=CANARY, Origin=CANARY, User_Agent=CANARY)
        await post(gateway, CHAT_STREAM, {"query": "x", "conversation_history": [{"role": CANARY}]})
        await post(gateway, CHAT, {"query": CANARY})
        await get(gateway, f"/v1/streams/{CANARY}?{CANARY}", Last_Event_ID=CANARY)
        await get(gateway, f"/{CANARY}")
        await gateway.observer.wait_for(ReaderLeft)
        assert CANARY not in repr(gateway.observer.facts)
        assert len(gateway.observer.facts) > 4


async def test_many_streams_at_once_are_all_opened_and_ended() -> None:
    async with scripted() as upstream, running(upstream) as gateway:
        answers = await asyncio.gather(*(get(gateway, question_url(f"question {number}")) for number in range(50)))
        assert len({answer.header("Subak-Stream-Id") for answer in answers}) == 50
        assert all(answer.frames[-1].type == "done" for answer in answers)
        await gateway.observer.wait_for(ReaderLeft, 50)
        assert [kinds(gateway).count(kind) for kind in (StreamOpened, ReaderAttached, StreamEnded, ReaderLeft)] == [
            50
        ] * 4
        assert {fact.outcome for fact in gateway.observer.of(StreamEnded)} == {"stop"}

"""The embedded backend over real sockets, in the RAG dialect, and its equality with the embedded upstream."""

import asyncio
import io
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing

import aiohttp
import msgspec
import pytest
from aiohttp import web

from subak.clocks import SystemClock
from subak.core.asked import MAX_BODY_BYTES, MAX_HISTORY_TURNS
from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import TOKEN, Event, Finished, FinishReason
from subak.core.question import Question, Turn
from subak.knowledge.answer import Answerer, ExtractiveAnswerer
from subak.knowledge.dialect import Piece, PieceMaker, Source
from subak.knowledge.index import BUNDLED_LIBRARY, build_index
from subak.knowledge.server import chat, create_backend_app, create_backend_runner
from subak.testing import PATIENCE_S, FakeClock, RecordingSink
from subak.upstream.embedded import EmbeddedUpstream
from subak.upstream.rag_frames import FrameCounts, RagFrames

QUERY = "What documents do I need for B211A visa?"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def answerer() -> Iterator[ExtractiveAnswerer]:
    with closing(build_index(BUNDLED_LIBRARY)) as index:
        yield ExtractiveAnswerer(index)


@asynccontextmanager
async def backend(answerer: Answerer, pace_ms: float = 0) -> AsyncIterator[aiohttp.ClientSession]:
    """A backend on a free port, and a client whose base it is."""
    runner = create_backend_runner(create_backend_app(answerer, clock=SystemClock(), pace_ms=pace_ms))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


def frames_of(body: bytes) -> list[dict[str, object]]:
    """Read a body that holds nothing but `data: …` blocks."""
    assert body.endswith(b"\n\n")
    blocks = body[:-2].split(b"\n\n")
    assert all(re.fullmatch(rb"data: [^\n]*", block) for block in blocks)
    return [msgspec.json.decode(block.removeprefix(b"data: ")) for block in blocks]


async def get_stream(session: aiohttp.ClientSession, **parameters: str) -> tuple[int, bytes]:
    async with session.get("/bali-zero/chat-stream", params=parameters) as response:
        return response.status, await response.read()


async def post(session: aiohttp.ClientSession, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    async with session.post(path, data=io.BytesIO(body), headers=JSON | headers) as response:
        return response.status, await response.read()


class Scripted:
    """Gives the batches it was made with; an event among them is waited for, an exception raised."""

    model = "scripted"

    def __init__(self, *batches: Sequence[Piece] | Exception | asyncio.Event) -> None:
        self.batches = batches
        self.asked: list[Question] = []
        self.closed = asyncio.Event()

    async def answer(self, question: Question) -> AsyncGenerator[Sequence[Piece], None]:
        self.asked.append(question)
        try:
            for batch in self.batches:
                if isinstance(batch, Exception):
                    raise batch
                if isinstance(batch, asyncio.Event):
                    await batch.wait()
                    continue
                yield batch
        finally:
            self.closed.set()


def words(*texts: str, reason: FinishReason = FinishReason.STOP) -> list[Piece]:
    maker = PieceMaker()
    return [*map(maker.token, texts), maker.sources([Source("s", "…", 1.0)]), maker.done(reason)]


async def test_a_stream_has_the_seeds_frames(answerer: ExtractiveAnswerer) -> None:
    async with backend(answerer) as session, session.get("/bali-zero/chat-stream", params={"query": QUERY}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        frames = frames_of(await response.read())
    tokens, sources, done = frames[:-2], frames[-2], frames[-1]
    assert [list(frame) for frame in tokens] == [["text", "sequenceNumber", "timestamp"]] * len(tokens)
    assert [frame["sequenceNumber"] for frame in tokens] == list(range(1, len(tokens) + 1))
    assert tokens[0]["text"] == "B211A "
    assert list(sources) == ["sources"]
    assert list(done) == ["done", "sequenceNumber", "streamDuration"]
    assert (done["done"], done["sequenceNumber"]) == (True, len(tokens) + 1)


async def test_get_and_post_and_a_second_time_give_the_same_answer(answerer: ExtractiveAnswerer) -> None:
    def without_times(body: bytes) -> bytes:
        return re.sub(rb'"(timestamp|streamDuration)": [\d.]+', b"", body)

    async with backend(answerer) as session:
        bodies = [
            (await get_stream(session, query=QUERY))[1],
            (await get_stream(session, query=QUERY, user_email="", user_role="member", conversation_history="[]"))[1],
            (await post(session, "/bali-zero/chat-stream", msgspec.json.encode({"query": QUERY})))[1],
        ]
    assert len({without_times(body) for body in bodies}) == 1
    assert len({len(body) for body in bodies}) == 1


@pytest.mark.parametrize("query", [QUERY, "What is a KITAS?", "What is the capital of France?", "Hello", "tax é"])
async def test_the_embedded_upstream_gives_the_same_events_and_accounts_for_as_many_bytes(
    answerer: ExtractiveAnswerer, query: str
) -> None:
    async with backend(answerer) as session:
        _, body = await get_stream(session, query=query)
    events, ending = RagFrames(FrameCounts(), max_event_bytes=2**20).feed(body, at_ms=0)
    sink = RecordingSink()
    async with asyncio.TaskGroup() as tasks:
        upstream = EmbeddedUpstream(answerer, tasks=tasks, clock=FakeClock(time_ms=0), pace_ms=0)
        await upstream.open(Question(query), sink)
        assert await sink.wait_ended() == ending == Finished()
    assert sink.events == events
    assert sink.size_bytes == len(body)


async def test_a_reason_other_than_stop_travels_too() -> None:
    async with backend(Scripted(words("x", reason=FinishReason.LENGTH))) as session:
        _, body = await get_stream(session, query="?")
    _, ending = RagFrames(FrameCounts(), max_event_bytes=2**20).feed(body, at_ms=0)
    assert ending == Finished(FinishReason.LENGTH)
    assert len(body) == sum(piece.size_bytes for piece in words("x", reason=FinishReason.LENGTH))


async def test_any_text_survives() -> None:
    hostile = ['"quoted" ', "line\nbreak\r\n", "\u2028\u2029\u0085", "𝕊 é \0", "<script>", "data: x\n\n"]
    async with backend(Scripted(words(*hostile))) as session:
        _, body = await get_stream(session, query="?")
    assert [frame["text"] for frame in frames_of(body) if "text" in frame] == hostile


async def test_words_come_at_the_set_pace() -> None:
    loop = asyncio.get_running_loop()
    async with backend(Scripted(words("a ", "b ", "c")), pace_ms=40) as session:
        started = loop.time()
        async with session.get("/bali-zero/chat-stream", params={"query": "?"}) as response:
            first = await response.content.readany()
            await response.read()
            whole_s = loop.time() - started
    assert b'"a "' in first
    assert b'"b "' not in first
    assert whole_s >= 0.08


async def test_tokens_go_out_before_the_answer_is_complete() -> None:
    gate = asyncio.Event()
    maker = PieceMaker()
    scripted = Scripted([maker.token("first ")], gate, [maker.token("second"), maker.done()])
    async with backend(scripted) as session, session.get("/bali-zero/chat-stream", params={"query": "?"}) as response:
        assert b'"first "' in await response.content.readany()
        gate.set()
        assert b'"second"' in await response.read()


async def test_a_client_that_leaves_ends_the_work() -> None:
    scripted = Scripted([PieceMaker().token("first ")], asyncio.Event())
    async with backend(scripted) as session:
        async with session.get("/bali-zero/chat-stream", params={"query": "?"}) as response:
            await response.content.readany()
            response.close()
        async with asyncio.timeout(PATIENCE_S):
            await scripted.closed.wait()


async def test_a_client_that_leaves_between_two_words_ends_the_work() -> None:
    scripted = Scripted(words(*["word "] * 20_000))  # which would take 100 s
    async with backend(scripted, pace_ms=5) as session:
        async with session.get("/bali-zero/chat-stream", params={"query": "?"}) as response:
            await response.content.readany()
            response.close()
        async with asyncio.timeout(PATIENCE_S):
            await scripted.closed.wait()


async def test_an_answer_that_fails_ends_with_an_error_frame() -> None:
    error = UpstreamError(ErrorCode.UPSTREAM_TIMEOUT, "llm_timeout")
    async with backend(Scripted([PieceMaker().token("half ")], error)) as session:
        _, body = await get_stream(session, query="?")
    assert frames_of(body)[-1] == {"error": error.detail, "done": True, "sequenceNumber": 2}


async def test_what_was_asked_reaches_the_answerer() -> None:
    scripted = Scripted(words("x"))
    history = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}]
    async with backend(scripted) as session:
        raw = msgspec.json.encode(history).decode()
        await get_stream(session, query="q ?&", user_email="a@b.example", user_role="member", conversation_history=raw)
        body = {"query": "q ?&", "user_email": "a@b.example", "user_role": "member", "conversation_history": history}
        await post(session, "/bali-zero/chat-stream", msgspec.json.encode(body))
        await post(session, "/bali-zero/chat", msgspec.json.encode(body | {"unknown": 1}))
    turns = (Turn("user", "é"), Turn("assistant", "b"))
    assert scripted.asked == [Question("q ?&", "a@b.example", "member", turns)] * 3


async def test_chat_answers_whole(answerer: ExtractiveAnswerer) -> None:
    async with backend(answerer) as session:
        status, body = await post(session, "/bali-zero/chat", msgspec.json.encode({"query": QUERY}))
        _, stream = await get_stream(session, query=QUERY)
    frames = frames_of(stream)
    assert status == 200
    assert msgspec.json.decode(body) == {
        "success": True,
        "response": "".join(str(frame["text"]) for frame in frames if "text" in frame),
        "model_used": "subak-extracts",
        "ai_used": "subak-extracts",
        "sources": next(frame["sources"] for frame in frames if "sources" in frame),
        "used_rag": True,
    }


async def test_chat_without_sources_says_so(answerer: ExtractiveAnswerer) -> None:
    reply = await chat(answerer, b'{"query":"xyzzy"}', "application/json")
    answer = msgspec.json.decode(reply.body)
    assert (reply.status, answer["success"], answer["sources"], answer["used_rag"]) == (200, True, [], False)


async def test_a_chat_that_fails_is_502_without_a_reason() -> None:
    reply = await chat(Scripted(UpstreamError(ErrorCode.UPSTREAM_ERROR, "llm_status_500")), b'{"query":"x"}', None)
    assert reply.status == 502
    assert reply.body == b'{"detail":"The answering service failed."}'


BAD_BODIES: list[tuple[bytes, int, list[str | int]]] = [
    (b"", 422, ["body"]),
    (b"nonsense", 422, ["body"]),
    (b"\xff\xfe", 422, ["body"]),
    (b'{"query":"secret"', 422, ["body"]),
    (b'{"query":"\\ud800"}', 422, ["body"]),
    (b'{"query":"secret","n":NaN}', 422, ["body"]),
    (b'{"query":"secret","n":' + b"[" * 100_000, 422, ["body"]),
    (b"null", 422, ["body"]),
    (b"[]", 422, ["body"]),
    (b"{}", 422, ["body", "query"]),
    (b'{"query":7}', 422, ["body", "query"]),
    (b'{"query":null}', 422, ["body", "query"]),
    (b'{"query":"  "}', 422, ["body", "query"]),
    (b'{"query":"%b"}' % (b"x" * 100_001), 422, ["body", "query"]),
    (b'{"query":"secret","user_role":["x"]}', 422, ["body", "user_role"]),
    (b'{"query":"secret","conversation_history":"secret"}', 422, ["body", "conversation_history"]),
    (b'{"query":"a","conversation_history":[1]}', 422, ["body", "conversation_history", 0]),
    (b'{"query":"a","conversation_history":[{"role":"user"}]}', 422, ["body", "conversation_history", 0, "content"]),
    (
        b'{"query":"a","conversation_history":[{"role":"user","content":"b"},{"role":"system","content":"secret"}]}',
        422,
        ["body", "conversation_history", 1, "role"],
    ),
    (
        b'{"query":"a","conversation_history":[%b]}' % b",".join([b'{"role":"user","content":""}'] * 1001),
        422,
        ["body", "conversation_history"],
    ),
    (b"x" * (MAX_BODY_BYTES + 1), 413, ["body"]),
    (b"x" * (3 * MAX_BODY_BYTES), 413, ["body"]),
]


@pytest.mark.parametrize("path", ["/bali-zero/chat", "/bali-zero/chat-stream"])
async def test_a_body_that_cannot_be_understood_is_refused_with_the_place_and_without_its_content(path: str) -> None:
    scripted = Scripted(words("x"))
    async with backend(scripted) as session:
        for body, status, place in BAD_BODIES:
            answered, reply = await post(session, path, body)
            (detail,) = msgspec.json.decode(reply)["detail"]
            assert (answered, detail["loc"]) == (status, place), body[:80]
            assert b"secret" not in reply
            assert b"system" not in reply
    assert scripted.asked == []
    assert MAX_HISTORY_TURNS == 1000


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({}, ["query", "query"]),
        ({"query": " "}, ["query", "query"]),
        ({"query": "a", "conversation_history": "{"}, ["query", "conversation_history"]),
        ({"query": "a", "conversation_history": '{"a":1}'}, ["query", "conversation_history"]),
        ({"query": "a", "conversation_history": "[{}]"}, ["query", "conversation_history", 0, "role"]),
        (
            {"query": "a", "conversation_history": '[{"role":"tool","content":"x"}]'},
            ["query", "conversation_history", 0, "role"],
        ),
    ],
)
async def test_parameters_that_cannot_be_understood_are_refused_with_the_place(
    answerer: ExtractiveAnswerer, parameters: dict[str, str], place: list[str | int]
) -> None:
    async with backend(answerer) as session:
        status, reply = await get_stream(session, **parameters)
    assert (status, msgspec.json.decode(reply)["detail"][0]["loc"]) == (422, place)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
async def test_only_json_is_taken(answerer: ExtractiveAnswerer, content_type: str, status: int) -> None:
    async with backend(answerer) as session:
        answered, _ = await post(session, "/bali-zero/chat", b'{"query":"KITAS"}', **{"Content-Type": content_type})
    assert answered == status


async def test_a_body_without_a_content_type_is_read_as_json(answerer: ExtractiveAnswerer) -> None:
    assert (await chat(answerer, b'{"query":"KITAS"}', None)).status == 200


async def test_chat_over_http_and_in_process_are_the_same_for_a_hundred_requests(answerer: ExtractiveAnswerer) -> None:
    chance = random.Random(20261123)
    good = [
        msgspec.json.encode({"query": query})
        for query in (QUERY, "KITAS", "xyzzy", "é \u2028 tax", "Hello", "x" * 9000)
    ]
    bodies = [body for body, _, _ in BAD_BODIES] + good
    bodies += [damaged(chance.choice(good), chance) for _ in range(100 - len(bodies))]
    statuses = set()
    async with backend(answerer) as session:
        for body in bodies:
            async with session.post("/bali-zero/chat", data=io.BytesIO(body), headers=JSON) as response:
                reply = await chat(answerer, body, "application/json")
                assert (response.status, await response.read()) == (reply.status, reply.body)
                assert dict(reply.headers).items() <= dict(response.headers).items()
                statuses.add(response.status)
    assert statuses == {200, 413, 422}


def damaged(body: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(body))
    return body[:place] + bytes([chance.randrange(256)]) + body[place + chance.randrange(3) :]


async def test_health_is_told(answerer: ExtractiveAnswerer) -> None:
    async with backend(answerer) as session, session.get("/health") as response:
        assert (response.status, await response.read()) == (200, b'{"status":"healthy"}')
        assert response.headers["Content-Type"].startswith("application/json")


async def test_other_methods_start_nothing() -> None:
    scripted = Scripted(words("x"))
    async with backend(scripted) as session:
        async with session.head("/bali-zero/chat-stream", params={"query": "x"}) as response:
            assert response.status == 405
        async with session.put("/bali-zero/chat", data=b"{}") as response:
            assert response.status == 405
    assert scripted.asked == []


async def test_many_streams_at_once_all_get_their_whole_answer(answerer: ExtractiveAnswerer) -> None:
    async with backend(answerer, pace_ms=1) as session:
        bodies = await asyncio.gather(*(get_stream(session, query="What is a KITAS?") for _ in range(30)))
    texts = {"".join(str(frame["text"]) for frame in frames_of(body) if "text" in frame) for _, body in bodies}
    assert len(texts) == 1


def test_a_tokens_event_is_the_json_of_its_text() -> None:
    assert Event(TOKEN, PieceMaker().token("A ").data, 0).data == b'"A "'

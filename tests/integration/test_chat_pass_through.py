"""`POST /api/v2/bali-zero/chat`: the backend's own answer, byte for byte, with the gateway and without it.

A hundred requests and a table of odd answers go both ways, straight to the backend and through the gateway, and what
either side sees is compared: hop-by-hop headers (RFC 9110 §7.6.1), `Host` and `Date` aside.
"""

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from subak.core.facts import ChatAnswered, Crashed, Refused
from subak.testing import (
    PATIENCE_S,
    Body,
    Close,
    End,
    Gate,
    Head,
    Raw,
    RecordedRequest,
    Reset,
    ScriptedUpstream,
    Stall,
    Step,
)
from tests.integration.gateway import (
    CHAT,
    Answer,
    Client,
    Running,
    ask,
    post,
    process,
    request_bytes,
    running,
)

BACKEND_CHAT = "/bali-zero/chat"
JSON = ("Content-Type", "application/json")
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """One request. `chunk_bytes`: sent in chunks of this size, instead of with a length."""

    body: bytes | None
    headers: tuple[tuple[str, str], ...] = (JSON,)
    query: str = ""
    chunk_bytes: int | None = None
    version: str = "1.1"

    def spelled(self, path: str) -> bytes:
        """Give its bytes."""
        target = f"{path}?{self.query}" if self.query else path
        if self.chunk_bytes is None or self.body is None:
            return request_bytes("POST", target, self.headers, self.body, self.version)
        head = request_bytes("POST", target, [*self.headers, ("Transfer-Encoding", "chunked")])
        pieces = [self.body[at : at + self.chunk_bytes] for at in range(0, len(self.body), self.chunk_bytes)]
        return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


VALID = json.dumps({"query": "What is a KITAS?"}).encode()


def a_hundred_requests() -> dict[str, Request]:
    """Give requests by name: what clients send, and what nobody should."""
    found: dict[str, Request] = {}
    for kind, requests in (
        ("valid", _valid()),
        ("bad JSON", map(Request, _bad_json())),
        ("wrong types", map(_of_fields, _wrong_types())),
        ("framing", _framings()),
        ("content type", _content_types()),
        ("headers", (Request(VALID, (JSON, *headers)) for headers in _odd_headers())),
        ("query", (Request(VALID, query=query) for query in _queries())),
        ("noise", _noise()),
    ):
        found |= {f"{kind} {number}": request for number, request in enumerate(requests)}
    return found


def _of_fields(fields: object) -> Request:
    return Request(json.dumps(fields).encode())


def _valid() -> Iterator[Request]:
    turn = {"role": "user", "content": "Ciao"}
    yield from map(
        _of_fields,
        [
            {"query": "What is a KITAS?"},
            {"query": "What documents do I need for B211A visa?"},
            {"query": "Berapa biaya PT PMA?", "user_role": "member"},
            {"query": "Was ist ein KBLI? ☀ 😀", "user_email": "a@b.example"},
            {"query": "x", "conversation_history": []},
            {"query": "x", "conversation_history": None, "user_email": None},
            {"query": "x", "conversation_history": [turn, turn | {"role": "assistant"}]},
            {"query": "x", "unknown": {"deep": [1, 2, {"a": None}]}},
            {"query": "a\x00b\u2028\r\n"},
            {"query": "word " * 5000},
        ],
    )
    yield Request('{"query": "é ü ñ 漢"}'.encode())
    yield Request(b' \n{"query"\t:"x"}\r\n')


def _bad_json() -> list[bytes]:
    return [
        *(b"{", b"}", b"[", b'"', b"{'query': 'x'}", b'{"query": "x"', b'{"query": "x"} y', b'{"query" "x"}', b"nul"),
        *(b"\xff\xfe\x00", b'{"query": "\xff"}', b'{"query": "\x00"}', b'{"query": NaN}', b'{"query": "\\ud800"}'),
        *(b"[" * 50_000, b'{"a":' * 50_000, b'\xef\xbb\xbf{"query": "x"}', b"query=x&user_role=y", b"<query>x</query>"),
    ]


def _wrong_types() -> list[object]:
    return [
        *([], None, 5, "x", True, {}, {"query": None}, {"query": 5}, {"query": ["x"]}, {"query": {}}, {"query": ""}),
        *({"query": "  "}, {"query": "x", "user_email": 5}, {"query": "x", "user_role": {}}, {"Query": "x"}),
        {"query": "x", "conversation_history": "x"},
        {"query": "x", "conversation_history": {"role": "user"}},
        {"query": "x", "conversation_history": [5]},
        {"query": "x", "conversation_history": [{"role": "user"}]},
        {"query": "x", "conversation_history": [{"role": "system", "content": "x"}]},
        {"query": "x", "conversation_history": [{"role": "user", "content": None}]},
        {"query": "x" * 100_001},
    ]


def _framings() -> Iterator[Request]:
    big = json.dumps({"query": "x" * 2 * 1024 * 1024}).encode()
    yield from (Request(b""), Request(None), Request(None, ()), Request(b"", ()))
    yield from (Request(VALID, chunk_bytes=size) for size in (1, 7, 1024))
    yield from (Request(b"", chunk_bytes=1), Request(big), Request(big, chunk_bytes=65_536))
    yield from (Request(VALID, version="1.0"), Request(VALID, (JSON, ("Connection", "close"))))
    yield Request(VALID, (JSON, ("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5")))


def _content_types() -> Iterator[Request]:
    kinds = ("", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "a", "x/y; =")
    yield from (Request(VALID, (("Content-Type", kind),)) for kind in kinds)
    yield from (Request(VALID, ()), Request(VALID, (("content-TYPE", "Application/JSON;CHARSET=utf-8"),)))
    yield Request(gzip.compress(VALID, mtime=0), (JSON, ("Content-Encoding", "gzip")))
    yield Request(VALID, (JSON, ("Content-Encoding", "gzip")))
    yield Request(VALID, (JSON, ("Content-Encoding", "br")))


def _odd_headers() -> list[Headers]:
    return [
        [("Accept", "text/event-stream")],
        [("Accept-Encoding", "gzip, br"), ("User-Agent", ""), ("Accept-Language", "id-ID")],
        [("Authorization", "Bearer mine"), ("x-api-key", "mine"), ("Cookie", "a=b; c=d")],
        [("Cookie", "a=b"), ("Cookie", "c=d")],
        [("X-Twice", "1"), ("x-twice", "2"), ("X-Twice", "1")],
        [("X-Utf-8", "é ☀"), ("X-Empty", "")],
        [("X-Long", "x" * 7000), ("X-Tab", "a\tb"), ("X.Odd!#$%&'*+-^_`|~9", "1")],
        [("Origin", "https://evil.example"), ("Referer", "https://evil.example/")],
        [("x-connection-id", "a b"), ("Last-Event-ID", "nonsense"), ("Idempotency-Key", "k")],
        [("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4"), ("Via", "1.1 x"), ("Max-Forwards", "0")],
        [("TE", "trailers"), ("Upgrade-Insecure-Requests", "1"), ("Range", "bytes=0-3"), ("If-None-Match", '"x"')],
        [("Expect", "100-continue")],
    ]


def _queries() -> list[str]:
    return ["a=b", "a=b&a=c&&=", "q=%C3%A9%2F%00%zz", "a+b=c%20d", "?x=?", "last_event_id=x&on_disconnect=cancel"]


def _noise() -> Iterator[Request]:
    """Give what a careless program might send; the same at every run."""
    source = random.Random(20_261_123)
    for _ in range(10):
        yield Request(source.randbytes(source.randrange(1, 5000)))


def test_there_are_a_hundred_of_them() -> None:
    assert len(a_hundred_requests()) >= 100


@dataclass(frozen=True)
class Seen:
    """A request as the backend got it, name by name; the order within one name is kept."""

    line: bytes
    headers: Mapping[bytes, list[bytes]]
    body: bytes


@dataclass
class RawBackend:
    """A server that keeps requests byte for byte. `answer` tells what it says."""

    answer: Callable[[Seen], bytes]
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side has gone
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers: dict[bytes, list[bytes]] = {}
        for each in filter(None, lines):
            name, _, value = each.partition(b":")
            headers.setdefault(name.lower(), []).append(value.strip())
        if headers.get(b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.seen.append(Seen(line, headers, await _read_body(reader, headers)))
        answer = self.answer(self.seen[-1])
        writer.write(answer)
        await writer.drain()
        return b"HTTP/1.0" not in answer[:8] and b"\r\nconnection: close" not in answer.lower()


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[bytes, list[bytes]]) -> bytes:
    if b"transfer-encoding" not in headers:
        return await reader.readexactly(int(headers.get(b"content-length", [b"0"])[0]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


@asynccontextmanager
async def raw_backend(answer: Callable[[Seen], bytes]) -> AsyncIterator[RawBackend]:
    """Run one."""
    backend = RawBackend(answer)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0, limit=1 << 20)
    async with server:
        backend.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield backend


def plain_answer(seen: Seen) -> bytes:
    """Answer with the size of what was asked."""
    body = b'{"success": true, "bytes": %d}' % len(seen.body)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def put(url: str, path: str, request: Request) -> Answer:
    """Ask, and give the whole answer."""
    async with Client.connect(url) as client:
        client.expect("POST")
        await client.send(request.spelled(path))
        return await client.whole()


async def put_both_ways(backend_url: str, gateway: Running, request: Request) -> tuple[Answer, Answer]:
    """Give the backend's own answer and the one through the gateway."""
    return await put(backend_url, BACKEND_CHAT, request), await put(gateway.url, CHAT, request)


def essence(answer: Answer) -> dict[str, object]:
    """Give what must not differ."""
    named = {part.strip().lower() for part in (answer.header("Connection") or "").split(",")}
    headers: dict[str, list[str]] = {}
    for name, value in answer.headers:
        if name.lower() not in HOP_BY_HOP | named | {"date"}:
            headers.setdefault(name.lower(), []).append(value)
    return {
        "status": (answer.status, answer.reason),
        "headers": headers,
        "body": answer.body,
        "is_clean": answer.is_clean,
    }


def essence_of_seen(seen: Seen) -> dict[str, object]:
    """Give what the backend must not see differ. That a body is empty may be said by a length of 0, or by nothing."""
    named = {part.strip().lower() for value in seen.headers.get(b"connection", []) for part in value.split(b",")}
    dropped = {name.encode() for name in HOP_BY_HOP} | named | {b"host", b"expect"}
    if not seen.body:
        dropped |= {b"content-length"}
    return {
        "target": seen.line.split()[:2],
        "headers": {name: values for name, values in seen.headers.items() if name not in dropped},
        "body": seen.body,
    }


@pytest.mark.parametrize("is_on", [True, False])
async def test_a_hundred_requests_get_the_answers_of_the_embedded_backend(is_on: bool) -> None:
    async with AsyncExitStack() as stack:
        url = await (await stack.enter_async_context(process("backend", "--port", "0"))).url()
        gateway = await stack.enter_async_context(running(url, is_on=is_on, kept=1))
        different = {}
        for name, request in a_hundred_requests().items():
            direct, through = await put_both_ways(url, gateway, request)
            assert direct.status
            if essence(direct) != essence(through):
                different[name] = (direct, through)
        assert different == {}
        assert gateway.observer.of(Refused) == []
        assert gateway.observer.of(Crashed) == []
        assert len(gateway.observer.of(ChatAnswered)) >= 100


@pytest.mark.parametrize("is_on", [True, False])
async def test_a_hundred_requests_reach_the_backend_as_they_were_sent(is_on: bool) -> None:
    async with raw_backend(plain_answer) as backend, running(backend.url, is_on=is_on) as gateway:
        different = {}
        for name, request in a_hundred_requests().items():
            backend.seen.clear()
            direct, through = await put_both_ways(backend.url, gateway, request)
            sent, passed_on = map(essence_of_seen, backend.seen)
            if sent != passed_on or essence(direct) != essence(through):
                different[name] = (sent, passed_on, direct, through)
        assert different == {}


def spelled(status: str, *headers: str, body: bytes = b"") -> bytes:
    """Spell an answer whose body has a length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ODD_ANSWERS = {
    "no content": b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
    "empty": spelled("200 OK", "Content-Type: application/json"),
    "created": spelled("201 Created", "Location: /x", body=b"{}"),
    "not found": spelled("404 Not Found", "Content-Type: text/html", body=b"<b>no</b>"),
    "server error": spelled("500 Internal Server Error", body=b"oh no"),
    "busy": spelled("429 Too Many Requests", "Retry-After: 34", body=b"{}"),
    "moved": spelled("301 Moved Permanently", "Location: http://169.254.169.254/"),
    "moved, same method": spelled("307 Temporary Redirect", "Location: /elsewhere"),
    "unauthorised": spelled("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'),
    "odd status": spelled("299 Fine, thanks", body=b"x"),
    "no reason": spelled("200 ", body=b"x"),
    "cookies": spelled("200 OK", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "set-cookie: a=3"),
    "no content type": spelled("200 OK", body=b"{}"),
    "its own date and server": spelled("200 OK", "Date: Mon, 23 Nov 2026 00:00:00 GMT", "Server: uvicorn"),
    "its own CORS": spelled("200 OK", "Access-Control-Allow-Origin: *", "Vary: Accept", "Vary: Origin"),
    "gzip": spelled("200 OK", "Content-Encoding: gzip", body=gzip.compress(b"{}", mtime=0)),
    "not even gzip": spelled("200 OK", "Content-Encoding: gzip", body=b"abc"),
    "unknown coding": spelled("200 OK", "Content-Encoding: snappy", body=b"abc"),
    "chunks": CHUNKED + b"2\r\n{}\r\n1;x=y\r\n \r\n0\r\n\r\n",
    "no chunk": CHUNKED + b"0\r\n\r\n",
    "hop by hop": spelled("200 OK", "Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", body=b"{}"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "framed by close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + spelled("200 OK", body=b"{}"),
    "binary": spelled("200 OK", "Content-Type: x/y", body=bytes(range(256))),
    "letters": spelled("200 OK", "X-Utf-8: é ☀", "X-Empty:", "X-Twice: 1", "X-Twice: 2"),
    "long header": spelled("200 OK", f"X-Long: {'x' * 30_000}"),
    "many headers": spelled("200 OK", *(f"X-{number}: {number}" for number in range(200))),
    "event stream": spelled("200 OK", "Content-Type: text/event-stream", body=b"data: x\n\n"),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
async def test_odd_answer_passes_as_it_is(name: str) -> None:
    async with raw_backend(lambda _: ODD_ANSWERS[name]) as backend, running(backend.url) as gateway:
        direct, through = await put_both_ways(
            backend.url, gateway, Request(VALID, (JSON, ("Origin", "https://x.example")))
        )
    assert direct.status
    assert essence(through) == essence(direct)
    assert len(backend.seen) == 2


async def test_two_megabytes_pass_in_both_directions() -> None:
    body = random.Random(5).randbytes(2 * 1024 * 1024)

    def echo(seen: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(seen.body), seen.body)

    async with raw_backend(echo) as backend, running(backend.url) as gateway:
        for request in (Request(body), Request(body, chunk_bytes=10_000)):
            answer = await put(gateway.url, CHAT, request)
            assert answer.body == body
            assert answer.is_clean


async def test_chunks_of_an_answer_pass_as_they_come() -> None:
    gate = asyncio.Event()
    script = [Head(200, {"Content-Type": "text/plain"}), Body(b"one"), Gate(gate), Body(b"two"), End()]
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream) as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("POST", CHAT, [JSON], VALID)
        assert (await client.until(b"one")).body == b"one"
        gate.set()
        answer = await client.whole()
        assert (answer.body, answer.is_clean) == (b"onetwo", True)


async def test_body_passes_as_it_comes() -> None:
    has_come = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"one")
        has_come.set()
        await reader.readuntil(b"two")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running(url) as gateway, Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(request_bytes("POST", CHAT, [JSON, ("Content-Length", "6")]) + b"one")
        async with asyncio.timeout(PATIENCE_S):
            await has_come.wait()
        await client.send(b"two")
        assert (await client.whole()).body == b"{}"


async def test_an_upload_may_take_longer_than_the_backend_s_first_byte() -> None:
    first_byte_s = 1.5
    async with (
        ScriptedUpstream([Head(headers={"Content-Type": "application/json"}), Body(b"{}"), End()]) as upstream,
        running(upstream, SUBAK_UPSTREAM__FIRST_BYTE_TIMEOUT_S=str(first_byte_s)) as gateway,
        Client.connect(gateway.url) as client,
    ):
        client.expect("POST")
        await client.send(request_bytes("POST", CHAT, [JSON, ("Content-Length", "6")]) + b"one")
        is_late = asyncio.Event()
        asyncio.get_running_loop().call_later(1.5 * first_byte_s, is_late.set)
        await is_late.wait()
        await client.send(b"two")
        assert (await client.whole()).status == 200


async def test_page_of_an_allowed_origin_may_read_the_answer_and_no_other() -> None:
    async with running(SUBAK_HTTP__CORS_ORIGINS="https://app.example.org") as gateway:
        allowed = await post(gateway, CHAT, {"query": "kitas"}, origin="https://app.example.org")
        refused = await post(gateway, CHAT, {"query": "kitas"}, origin="https://evil.example.org")
    assert allowed.header("Access-Control-Allow-Origin") == "https://app.example.org"
    assert refused.header("Access-Control-Allow-Origin") is None
    assert refused.header("Vary") is None


async def test_answer_that_comes_before_the_whole_body_is_passed_on() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"one")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running(url) as gateway, Client.connect(gateway.url) as client:
        client.expect("POST")
        await client.send(request_bytes("POST", CHAT, [JSON, ("Content-Length", "1000000")]) + b"one")
        answer = await client.whole()
        assert (answer.status, answer.reason, answer.body) == (413, "Too Large", b"{}")


async def test_redirect_is_not_followed() -> None:
    async with ScriptedUpstream([Head(), End()]) as elsewhere:
        head = Head(307, {"Location": f"{elsewhere.url}/x", "Content-Length": "0"}, framing="given")
        async with ScriptedUpstream([head, End()]) as upstream, running(upstream) as gateway:
            answer = await put(gateway.url, CHAT, Request(VALID))
        assert (answer.status, answer.header("Location")) == (307, f"{elsewhere.url}/x")
        assert not elsewhere.connections


async def test_one_connection_carries_many_requests() -> None:
    async with (
        raw_backend(plain_answer) as backend,
        running(backend.url) as gateway,
        Client.connect(gateway.url) as client,
    ):
        for size in (0, 1, 100_000, 0):
            await client.begin("POST", CHAT, [JSON], b"x" * size)
            assert (await client.whole()).json == {"success": True, "bytes": size}


async def test_credentials_of_the_settings_are_added_and_the_caller_s_own_win() -> None:
    async with raw_backend(plain_answer) as backend, running(backend.url, SUBAK_UPSTREAM__KEY="the-key") as gateway:
        await put(gateway.url, CHAT, Request(VALID))
        await put(gateway.url, CHAT, Request(VALID, (JSON, ("authorization", "Bearer mine"))))
    assert [seen.headers[b"authorization"] for seen in backend.seen] == [[b"Bearer the-key"], [b"Bearer mine"]]


async def test_prefix_of_the_backend_s_url_is_kept() -> None:
    async with raw_backend(plain_answer) as backend, running(f"{backend.url}/rag/v1/") as gateway:
        await put(gateway.url, CHAT, Request(VALID, query="a=b"))
    assert backend.seen[0].line == b"POST /rag/v1/bali-zero/chat?a=b HTTP/1.1"


async def _refusal(gateway: Running) -> Answer:
    answer = await put(gateway.url, CHAT, Request(VALID))
    assert answer.header("Content-Type") == "application/problem+json"
    (refused,) = gateway.observer.of(Refused)
    assert (refused.route, refused.method, refused.status) == (CHAT, "POST", answer.status)
    return answer


async def test_refused_connection_is_502() -> None:
    async with ScriptedUpstream([Head()]) as upstream:
        url = upstream.url
    async with running(url) as gateway:
        assert (await _refusal(gateway)).status == 502


@pytest.mark.parametrize(
    "script",
    [[Close()], [Reset()], [Raw(b"nonsense\r\n\r\n"), Close()], [Raw(b"HTTP/1.1 200 OK\r\nContent-Le"), Close()]],
    ids=["closed", "reset", "no HTTP", "half a head"],
)
async def test_connection_without_an_answer_is_502(script: list[Step]) -> None:
    async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
        assert (await _refusal(gateway)).status == 502


async def test_backend_that_never_answers_is_504() -> None:
    async with (
        ScriptedUpstream([Stall()]) as upstream,
        running(upstream, SUBAK_UPSTREAM__FIRST_BYTE_TIMEOUT_S="0.2") as gateway,
    ):
        assert (await _refusal(gateway)).status == 504
        await upstream.connections[0].wait_closed()


async def test_backend_that_never_accepts_is_504() -> None:
    async with (
        ScriptedUpstream([Stall()], is_accepting=False) as upstream,
        running(upstream, SUBAK_UPSTREAM__CONNECT_TIMEOUT_S="0.2") as gateway,
    ):
        assert (await _refusal(gateway)).status == 504


CUTS: dict[str, list[Step]] = {
    "chunks without an end": [Head(200, {}), Body(b"half"), Close()],
    "reset within chunks": [Head(200, {}), Body(b"half"), Reset()],
    "bad chunk": [Head(200, {}), Body(b"half"), Raw(b"zz\r\n"), Stall()],
    "shorter than its length": [Head(200, {"Content-Length": "9"}, framing="given"), Body(b"half"), Close()],
    "reset before its length": [Head(200, {"Content-Length": "9"}, framing="given"), Body(b"half"), Reset()],
    "silence": [Head(200, {"Content-Length": "9"}, framing="given"), Body(b"half"), Stall()],
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_body_that_is_cut_does_not_end_cleanly(name: str, version: str) -> None:
    is_read = asyncio.Event()
    head, body, *cut = CUTS[name]
    script = [head, body, Gate(is_read), *cut]
    idle_s = "1" if Stall() in cut else "120"
    async with (
        ScriptedUpstream(script) as upstream,
        running(upstream, SUBAK_UPSTREAM__IDLE_TIMEOUT_S=idle_s) as gateway,
    ):
        async with Client.connect(gateway.url) as client:
            client.expect("POST")
            await client.send(Request(VALID, version=version).spelled(CHAT))
            assert (await client.until(b"half")).status == 200
            is_read.set()
            answer = await client.whole()
            assert (answer.body, answer.is_clean) == (b"half", False)
        assert not gateway.observer.of(Crashed)


async def test_client_that_leaves_ends_the_backend_s_work() -> None:
    for script, is_answering in (([Stall()], False), ([Head(), Body(b"half"), Stall()], True)):
        async with ScriptedUpstream(script) as upstream, running(upstream) as gateway:
            async with Client.connect(gateway.url) as client:
                await client.begin("POST", CHAT, [JSON], VALID)
                await upstream.wait_questions(1)
                if is_answering:
                    await client.until(b"half")
            await upstream.connections[0].wait_closed()
            assert not gateway.observer.of(Crashed)


async def test_client_that_leaves_in_the_middle_of_its_body_ends_the_backend_s_request() -> None:
    has_begun, has_ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"half")
        has_begun.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        has_ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running(url) as gateway, asyncio.timeout(PATIENCE_S):
        async with Client.connect(gateway.url) as client:
            client.expect("POST")
            await client.send(request_bytes("POST", CHAT, [JSON, ("Content-Length", "100")]) + b"half")
            await has_begun.wait()
        await has_ended.wait()
        assert not gateway.observer.of(Crashed)


async def test_slow_client_holds_the_backend_back() -> None:
    def endless(_: RecordedRequest) -> Iterator[Step]:
        yield Head(200, {})
        while True:
            yield Body(b"x" * 65_536)

    async with ScriptedUpstream(endless) as upstream, running(upstream) as gateway:
        async with Client.connect(gateway.url) as client:
            await client.begin("POST", CHAT, [JSON], VALID)
            await upstream.wait_questions(1)
            await upstream.connections[0].wait_blocked()
        await upstream.connections[0].wait_closed()


async def test_other_requests_are_served_meanwhile() -> None:
    async with (
        ScriptedUpstream([Stall()]) as upstream,
        running(upstream) as gateway,
        Client.connect(gateway.url) as client,
    ):
        await client.begin("POST", CHAT, [JSON], VALID)
        await upstream.wait_questions(1)
        assert (await ask(gateway, "GET", "/livez")).status == 200

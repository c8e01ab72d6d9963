"""Row 75 of the fault matrix, over real sockets: broken requests are answered or closed, and nothing crashes."""

import asyncio
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from subak.core.facts import Crashed
from subak.testing import PATIENCE_S
from tests.integration.gateway import (
    ANSWER,
    CHAT,
    CHAT_STREAM,
    ONE_LOOP,
    get,
    question_url,
    request_bytes,
    running,
    scripted,
    text_of,
)
from tests.mutator import FUZZ_MARKS, FUZZ_S, Mutator

pytestmark = [*FUZZ_MARKS, ONE_LOOP]
JSON: Final = ("Content-Type", "application/json")
HISTORY: Final = (
    b'{"query":"x","conversation_history":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}'
)
REQUESTS: Final = (
    request_bytes(
        "GET", question_url(user_email="a@example.org", conversation_history='[{"role":"user","content":"a"}]')
    ),
    request_bytes("POST", CHAT_STREAM, [JSON, ("Idempotency-Key", "k" * 22), ("x-session-id", "s")], HISTORY),
    request_bytes("POST", CHAT_STREAM, [JSON, ("Transfer-Encoding", "chunked")])
    + b'd;a=b\r\n{"query":"x"}\r\n0\r\nA: b\r\n\r\n',
    request_bytes("POST", "/v1/streams", [JSON, ("Accept", "application/problem+json")], b'{"query":"x"}'),
    request_bytes("POST", CHAT, [JSON, ("Expect", "100-continue")], b'{"query":"x"}'),
    request_bytes("GET", f"/v1/streams/st_{'A' * 28}/events?last_event_id=st_{'A' * 28}.3", [("Last-Event-ID", "x.1")]),
    request_bytes("DELETE", f"/v1/streams/st_{'A' * 28}"),
    request_bytes("OPTIONS", CHAT_STREAM, [("Origin", "null"), ("Access-Control-Request-Method", "POST")]),
    request_bytes("GET", "/static/demo.js") + request_bytes("GET", "/livez"),
)
WORDS: Final = (
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"chunked", b"identity", b"Connection: close\r\n"),
    *(b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Expect: 100-continue\r\n", b"GET ", b"POST ", b" HTTP/1.1\r\n"),
    *(b" HTTP/1.0\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"Host: a\r\n", b"Content-Encoding: gzip\r\n", b'"role":"system"'),
    *(
        b"on_disconnect=cancel&",
        b"on_gap=snapshot&",
        b"query=",
        b"\r\n ",
        b"Content-Type: text/plain\r\n",
        b"//",
        b"/../",
    ),
)


async def answers(url: str, slices: Sequence[bytes]) -> list[int]:
    """Send, close our side, and read to the end; give the status of each answer."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    received = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            for part in (*slices[:50], b"".join(slices[50:])):
                if not writer.is_closing():
                    writer.write(part)
                await asyncio.sleep(0)  # a round of the loop: the server may read it by itself
            if not writer.is_closing():
                writer.write_eof()
            while chunk := await reader.read(65536):
                received += chunk
    except ConnectionError:
        pass  # closed by the server, which is a way to answer
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]


async def test_s75_broken_requests_are_answered_or_closed_and_nothing_crashes() -> None:
    mutator = Mutator(REQUESTS, WORDS)
    async with scripted(*ANSWER) as upstream, running(upstream, SUBAK_STREAM__ON_DISCONNECT="cancel") as gateway:
        for content in mutator.inputs(2 * FUZZ_S):
            slices = mutator.slices(content)
            try:
                statuses = await answers(gateway.url, slices)
            except TimeoutError:
                raise AssertionError(f"it hangs: seed {mutator.seed}, {slices!r}") from None
            assert all(status < 600 and status != 500 for status in statuses), (statuses, slices)
            assert not gateway.observer.of(Crashed), (gateway.observer.of(Crashed), slices)
        assert text_of((await get(gateway, question_url())).frames) == "Ciao mondo"

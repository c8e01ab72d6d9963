"""The upstream's rows of docs/reliability.md at the adapter: what its sink hears, what becomes of the socket."""

import asyncio
import gzip
import json
import resource
import socket
import ssl
from collections.abc import Iterator

import msgspec
import pytest

from subak.core.errors import ErrorCode, UpstreamError
from subak.core.events import Failed, Finished, FinishReason
from subak.testing import (
    Body,
    Close,
    End,
    Frame,
    Gate,
    Head,
    Raw,
    RecordedRequest,
    Reset,
    ScriptedUpstream,
    Stall,
    Step,
)
from subak.upstream.http1 import Http1Limits, tls_context
from subak.upstream.rag import RagBounds, RagTarget
from tests.integration.upstream.asking import LIMITS, asking, failure
from tests.integration.upstream.certificates import Certificate

CIAO = Frame('{"text": "Ciao "}')
DONE = Frame('{"done": true}')
ERROR, TIMEOUT, TRUNCATED, TOO_LARGE, LIMITED = (
    ErrorCode.UPSTREAM_ERROR,
    ErrorCode.UPSTREAM_TIMEOUT,
    ErrorCode.UPSTREAM_TRUNCATED,
    ErrorCode.EVENT_TOO_LARGE,
    ErrorCode.UPSTREAM_RATE_LIMITED,
)


async def _text_of(*steps: Step, bounds: RagBounds | None = None) -> str:
    """What a sink reads of an answer that ends well."""
    async with (
        ScriptedUpstream([Head(), *steps, DONE, End()]) as upstream,
        asking(upstream.url, bounds=bounds) as asker,
    ):
        sink, ending = await asker.ask()
    assert ending == Finished()
    return sink.text


async def test_an_answer_comes_with_its_tokens_sources_and_end() -> None:
    script = [
        Head(),
        Frame('{"type": "metadata", "data": {"status": "connected"}}'),
        Frame('{"text": "Ciao ", "sequenceNumber": 1, "timestamp": 1.2}'),
        Frame('{"type": "token", "data": "mondo"}'),
        Frame('{"sources": [{"source": "a.md", "snippet": "A.", "similarity": 0.5, "tier": "T1"}]}'),
        Frame('{"done": true, "sequenceNumber": 3, "streamDuration": 2.1}'),
        End(),
    ]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        assert ending == Finished(FinishReason.STOP)
        assert [(event.type, event.data) for event in sink.events] == [
            ("token", b'"Ciao "'),
            ("token", b'"mondo"'),
            ("sources", b'[{"source":"a.md","snippet":"A.","similarity":0.5,"tier":"T1"}]'),
        ]
        assert {event.at_ms for event in sink.events} == {asker.clock.time_ms()}
        assert asker.upstream.counts.dropped == 1
        assert upstream.questions == 1


async def test_all_events_of_one_read_come_in_one_call() -> None:
    blocks = b"".join(b'data: {"text": "%d "}\n\n' % number for number in range(50))
    gate = asyncio.Event()
    script = [Head(), Gate(gate), Body(blocks), Gate(asyncio.Event())]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        _, sink = await asker.open()
        await upstream.wait_questions(1)
        gate.set()
        await sink.wait_events(50)
        assert sink.reads == 1
        assert sink.size_bytes == len(blocks)


async def test_a_backend_on_ipv6_answers() -> None:
    if not _has_ipv6():
        pytest.skip("no ::1 on this machine")
    async with ScriptedUpstream([Head(), CIAO, DONE, End()], host="::1") as upstream, asking(upstream.url) as asker:
        sink, _ = await asker.ask()
        assert upstream.requests[0].headers["host"] == f"[::1]:{upstream.port}"
    assert sink.text == "Ciao "


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def test_u01_refused_connection_is_an_upstream_error() -> None:
    async with ScriptedUpstream([Stall()]) as upstream:
        closed_port = upstream.url
    async with asking(closed_port) as asker:
        with pytest.raises(UpstreamError) as caught:
            await asker.open()
    assert (caught.value.error_code, caught.value.reason) == (ERROR, "connect_refused")


async def test_u02_upstream_that_never_answers_times_out() -> None:
    async with ScriptedUpstream([Stall()]) as upstream, asking(upstream.url) as asker:
        _, sink = await asker.open()
        await upstream.wait_questions(1)
        asker.clock.advance(59)
        assert not sink.endings
        asker.clock.advance(2)
        assert sink.endings == [failure(TIMEOUT, "first_byte")]
        await upstream.connections[0].wait_closed()


async def test_u02_upstream_that_never_takes_the_connection_times_out() -> None:
    limits = Http1Limits(connect_timeout_s=0.05)
    async with ScriptedUpstream(is_accepting=False) as upstream, asking(upstream.url, limits=limits) as asker:
        with pytest.raises(UpstreamError) as caught:
            await asker.open()
    assert (caught.value.error_code, caught.value.reason) == (TIMEOUT, "connect_timeout")


@pytest.mark.parametrize("body", [[], [CIAO], [CIAO, Raw(b"40\r\ndata: {")]], ids=["none", "token", "half"])
async def test_u03_silence_after_the_head_is_an_idle_timeout(body: list[Step]) -> None:
    async with ScriptedUpstream([Head(), Body(b": ok\n\n"), *body, Stall()]) as upstream, asking(upstream.url) as asker:
        _, sink = await asker.open()
        await sink.wait_until(lambda: sink.size_bytes >= 6 + len(body) * 9)
        asker.clock.advance(119)
        assert not sink.endings
        asker.clock.advance(2)
        assert sink.endings == [failure(TIMEOUT, "idle")]
        await upstream.connections[0].wait_closed()


async def test_u03_every_read_moves_the_idle_deadline() -> None:
    gates = [asyncio.Event() for _ in range(4)]
    script: list[Step] = [Head()]
    for gate in gates:
        script += [CIAO, Gate(gate)]
    async with ScriptedUpstream([*script, DONE, End()]) as upstream, asking(upstream.url) as asker:
        _, sink = await asker.open()
        for count, gate in enumerate(gates, start=1):
            await sink.wait_events(count)
            asker.clock.advance(100)
            assert not sink.endings
            gate.set()
        assert await sink.wait_ended() == Finished()


async def test_u03_the_idle_deadline_may_be_shorter_than_the_first_byte_s() -> None:
    limits = Http1Limits(first_byte_timeout_s=60, idle_timeout_s=2)
    async with ScriptedUpstream([Head(), CIAO, Stall()]) as upstream, asking(upstream.url, limits=limits) as asker:
        _, sink = await asker.open()
        await sink.wait_events(1)
        asker.clock.advance(3)
        assert sink.endings == [failure(TIMEOUT, "idle")]


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_u04_reset_in_the_middle_is_truncated_and_keeps_the_text(framing: str) -> None:
    gate = asyncio.Event()
    head = Head(framing="chunked" if framing == "chunked" else "close")
    script = [head, CIAO, Body(b'data: {"text": "mo'), Gate(gate), Reset()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        _, sink = await asker.open()
        await sink.wait_until(lambda: sink.size_bytes == 43)
        gate.set()
        assert await sink.wait_ended() == failure(TRUNCATED, "connection_reset")
        assert sink.text == "Ciao "
        assert asker.upstream.client.idle_connections == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([Head(), CIAO, End()], "no_done"),
        ([Head(), CIAO, Body(b'data: {"done":true}\n'), End()], "no_done"),
        ([Head(framing="close"), CIAO, Close()], "no_done"),
        ([Head(headers={"Content-Type": "text/event-stream", "Content-Length": "0"}, framing="given")], "no_done"),
        ([Raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"), CIAO, Close()], "no_done"),
    ],
    ids=["chunked", "block without end", "framed by close", "empty", "http/1.0"],
)
async def test_u05_clean_end_without_done_is_truncated(script: list[Step], reason: str) -> None:
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert ending == failure(TRUNCATED, reason)
    assert sink.text in {"", "Ciao "}


async def test_u05_half_a_character_before_the_cut_is_not_lost() -> None:
    async with (
        ScriptedUpstream([Head(), Frame(r'{"text": "a\ud83d"}'), End()]) as upstream,
        asking(upstream.url) as asker,
    ):
        sink, ending = await asker.ask()
    assert (sink.text, ending) == ("a\ufffd", failure(TRUNCATED, "no_done"))


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ([Close()], "body_cut"),
        ([Raw(b"20\r\ndata: {"), Close()], "body_cut"),
        ([Raw(b"0\r\n"), Close()], "body_cut"),
        ([Raw(b"zz\r\n"), Stall()], "bad_chunk"),
        ([Raw(b"-1\r\n"), Stall()], "bad_chunk"),
        ([Raw(b"0x5\r\nhello\r\n"), Stall()], "bad_chunk"),
        ([Raw(b"5\nhello\n"), Stall()], "bad_chunk"),
        ([Raw(b"5\r\nhello!!\r\n"), Stall()], "bad_chunk"),
        ([Raw(b"fffffffffffffffff\r\n"), Stall()], "bad_chunk"),
        ([Raw(b"5;" + b"x" * 20_000), Stall()], "bad_chunk"),
        ([Raw(b"0\r\n" + b"a: b\r\n" * 5000), Stall()], "bad_chunk"),
    ],
)
async def test_u06_broken_chunks_are_truncated(rest: list[Step], reason: str) -> None:
    async with ScriptedUpstream([Head(), CIAO, *rest]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        assert ending == failure(TRUNCATED, reason)
        assert sink.text == "Ciao "
        await upstream.connections[0].wait_closed()


async def test_u06_body_shorter_than_its_length_is_truncated() -> None:
    head = Head(headers={"Content-Type": "text/event-stream", "Content-Length": "100"}, framing="given")
    async with ScriptedUpstream([head, CIAO, Close()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert ending == failure(TRUNCATED, "body_cut")
    assert sink.text == "Ciao "


@pytest.mark.parametrize(
    "data",
    [
        '{"error": "vector store is down", "done": true, "sequenceNumber": 2}',
        '{"done": true, "error": "vector store is down"}',
        '{"error": {"message": "down"}}',
        '{"error": ""}',
        '{"type": "error", "data": "vector store is down"}',
        '{"type": "error"}',
        '{"type": "done", "error": "vector store is down"}',
    ],
)
async def test_u07_error_frame_of_either_dialect_is_a_failure(data: str) -> None:
    async with ScriptedUpstream([Head(), CIAO, Frame(data), Stall()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        assert ending == failure(ERROR, "error_frame")
        assert sink.text == "Ciao "
        assert "vector" not in repr(ending)
        await upstream.connections[0].wait_closed()


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (500, {}, failure(ERROR, "status_500")),
        (503, {"Retry-After": "7"}, failure(ERROR, "status_503", 7)),
        (429, {"Retry-After": "34"}, failure(LIMITED, "status_429", 34)),
        (429, {"Retry-After": "Sun, 22 Nov 2026 15:01:00 GMT"}, failure(LIMITED, "status_429", 60)),
        (429, {"Retry-After": "soon"}, failure(LIMITED, "status_429")),
        (429, {}, failure(LIMITED, "status_429")),
        (404, {}, failure(ERROR, "status_404")),
        (401, {"WWW-Authenticate": "Bearer"}, failure(ERROR, "auth")),
        (403, {}, failure(ERROR, "auth")),
        (204, {}, failure(ERROR, "status_204")),
    ],
)
async def test_u08_other_status_than_200_is_not_retried_and_not_passed_on(
    status: int, headers: dict[str, str], expected: Failed
) -> None:
    headers = {"Content-Type": "text/event-stream", **headers}
    head = Head(status, headers, framing="given" if status == 204 else "chunked")
    async with ScriptedUpstream([head, CIAO, DONE, End()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        assert ending == expected
        assert not sink.events
        assert upstream.questions == 1
        await upstream.connections[0].wait_closed()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_u09_redirect_is_not_followed(status: int) -> None:
    async with ScriptedUpstream([Head(), CIAO, DONE, End()]) as elsewhere:
        head = Head(status, {"Content-Type": "text/event-stream", "Location": f"{elsewhere.url}/bali-zero/chat-stream"})
        async with ScriptedUpstream([head, CIAO, DONE, End()]) as upstream, asking(upstream.url) as asker:
            sink, ending = await asker.ask()
        assert ending == failure(ERROR, "redirect")
        assert not sink.events
        assert not elsewhere.connections


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json", "text/event-streams", "text/plain; charset=utf-8", ""]
)
async def test_u10_other_content_type_is_refused(kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    async with ScriptedUpstream([Head(200, headers), CIAO, DONE, End()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert ending == failure(ERROR, "content_type")
    assert not sink.events


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "Text/Event-Stream ;x=y", "text/event-stream \t"])
async def test_u10_content_type_is_read_without_case_and_parameters(kind: str) -> None:
    script = [Head(200, {"Content-Type": kind}), CIAO, DONE, End()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert (sink.text, ending) == ("Ciao ", Finished())


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return gzip.compress(bytes(64 * 1024 * 1024), 1)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "identity, gzip"])
async def test_u11_compressed_body_is_refused_unread(coding: str, bomb: bytes) -> None:
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": coding}
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with ScriptedUpstream([Head(200, headers), Body(bomb), End()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        await upstream.connections[0].wait_closed()
    assert ending == failure(ERROR, "content_encoding")
    assert not sink.events
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


async def test_u11_identity_is_asked_for_and_taken() -> None:
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": "Identity"}
    script = [Head(200, headers), CIAO, DONE, End()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, _ = await asker.ask()
        assert upstream.requests[0].headers["accept-encoding"] == "identity"
    assert sink.text == "Ciao "


async def test_u12_line_ends_comments_and_fields_in_any_slices() -> None:
    body = (
        b"\xef\xbb\xbf: ok\r\rretry: 10\r\n"
        b'data:{"text":"a"}\r\n\r\n'
        b'event: x\rdata: {"text":\rdata:  "b"}\r\r'
        b'id: 7\n: between\ndata: {"text": "c"}\n\n'
        b"data\n\n"
    )
    slices = [Body(body[at : at + 1]) for at in range(len(body))]
    assert await _text_of(*slices) == "abc"


async def test_u13_only_invalid_bytes_are_replaced() -> None:
    smile = "😀".encode()
    steps = [
        Body(b'data: {"text": "' + smile[:1]),
        Body(smile[1:3]),
        Body(smile[3:] + b' "}\n\ndata: {"text": "\xff\xc3('),
        Body(b'"}\n\ndata: plain \xe2\x82\n\n'),
    ]
    assert await _text_of(*steps) == "😀 \ufffd\ufffd(plain \ufffd"


HOSTILE = "\u2028\u2029\x85\x0b\x0c\x1c\n\r\n\nevent: done\ndata: {}\n\n\0\ufeff\u202e</script>"


async def test_u14_hostile_text_is_one_event_and_exact() -> None:
    assert await _text_of(Frame(json.dumps({"text": HOSTILE}))) == HOSTILE
    unescaped = "".join(letter for letter in HOSTILE if letter >= " ")
    assert await _text_of(Frame(json.dumps({"text": unescaped}, ensure_ascii=False))) == unescaped
    plain = "".join(letter for letter in HOSTILE if letter not in "\r\n")
    assert await _text_of(Frame(plain)) == plain


async def test_u14_a_token_s_data_is_one_line_of_json_without_control_bytes() -> None:
    script = [Head(), Frame(json.dumps({"text": HOSTILE})), DONE, End()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, _ = await asker.ask()
    (event,) = sink.events
    assert not any(byte < 0x20 for byte in event.data)
    assert msgspec.json.decode(event.data) == HOSTILE


async def test_u15_names_and_ids_of_the_upstream_inject_nothing() -> None:
    block = b'event: done\0\nid: 1\0\nid: x\r\nevent: error\rid: \xff\ndata: {"text": "a"}\n\n'
    script = [Head(), Body(block), Body(b'event: done\ndata: {"text": "b"}\n\n'), DONE, End()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert [event.type for event in sink.events] == ["token", "token"]
    assert (sink.text, ending) == ("ab", Finished())


async def test_u16_a_token_within_the_bound_is_delivered_whole() -> None:
    token = "x" * 1_000_000
    assert await _text_of(Frame(json.dumps({"text": token})), bounds=RagBounds(max_event_bytes=1_000_100)) == token


async def test_u16_a_larger_one_ends_the_answer_after_what_came_before() -> None:
    script = [Head(), CIAO, Frame(json.dumps({"text": "x" * 300_000})), Stall()]
    async with ScriptedUpstream(script) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        assert ending == failure(TOO_LARGE, "max_line_bytes")
        assert sink.text == "Ciao "
        await upstream.connections[0].wait_closed()


async def test_u16_endless_line_is_cut_off_at_the_bound() -> None:
    def endless(_: RecordedRequest) -> Iterator[Step]:
        yield Head()
        yield Body(b"data: ")
        while True:
            yield Body(b"x" * 65_536)

    async with ScriptedUpstream(endless) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
        await upstream.connections[0].wait_closed()
        assert ending == failure(TOO_LARGE, "max_line_bytes")
        assert sink.size_bytes <= 256 * 1024 + 512 * 1024  # the bound, and the read that passed it


async def test_u17_a_paused_exchange_holds_the_upstream_back_and_no_deadline_runs() -> None:
    total = 20_000
    block = b'data: {"text": "%b"}\n\n' % (b"x" * 1000)

    def flat_out(_: RecordedRequest) -> Iterator[Step]:
        yield Head()
        for _number in range(total // 100):
            yield Body(block * 100)
        yield DONE
        yield End()

    async with ScriptedUpstream(flat_out) as upstream, asking(upstream.url) as asker:
        exchange, sink = await asker.open()
        await sink.wait_events(1)
        exchange.pause()
        exchange.pause()
        await upstream.connections[0].wait_blocked()
        heard, sent_bytes = len(sink.events), upstream.connections[0].sent_bytes
        asker.clock.advance(1000)
        assert len(sink.events) == heard
        assert upstream.connections[0].sent_bytes == sent_bytes
        exchange.resume()
        exchange.resume()
        assert await sink.wait_ended(20) == Finished()
        assert len(sink.events) == total


async def test_u17_after_a_pause_the_idle_deadline_starts_anew() -> None:
    async with ScriptedUpstream([Head(), CIAO, Stall()]) as upstream, asking(upstream.url) as asker:
        exchange, sink = await asker.open()
        await sink.wait_events(1)
        asker.clock.advance(100)
        exchange.pause()
        asker.clock.advance(500)
        exchange.resume()
        asker.clock.advance(119)
        assert not sink.endings
        asker.clock.advance(2)
        assert sink.endings == [failure(TIMEOUT, "idle")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("[" * 100_000, "[" * 100_000),
        ("[1]", "[1]"),
        ("NaN", "NaN"),
        ("9" * 5000, "9" * 5000),
        ('"x"', '"x"'),
        ('{"text": "a", "x": NaN, "y": 1e999}', "a"),
        ('{"text": "a", "x": ' + "9" * 5000 + "}", "a"),
        ('{"text": "a", "text": "b"}', "b"),
        ('{"text": 5}', ""),
        ('{"text": {"a": ["b"]}}', ""),
        ("{}", ""),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_u18_odd_json_is_text_or_nothing(data: str, text: str) -> None:
    assert await _text_of(Frame(data)) == text


@pytest.mark.parametrize(
    "data",
    [
        '{"x": ' + "[" * 100_000,
        '{"text": ' + '{"a": ' * 40_000,
        '{"text": ' + "9" * 5000 + "}",
        '{"text": "a"}}',
        '{"text": "\t"}',
        "{'text': 'a'}",
        "{",
    ],
    ids=lambda value: str(value)[:24],
)
async def test_u18_what_begins_like_an_object_and_is_none_ends_the_answer(data: str) -> None:
    async with ScriptedUpstream([Head(), CIAO, Frame(data), Stall()]) as upstream, asking(upstream.url) as asker:
        sink, ending = await asker.ask()
    assert ending == failure(ERROR, "bad_json")
    assert sink.text == "Ciao "


async def test_u21_unknown_host_is_an_upstream_error() -> None:
    async with asking("http://nowhere.invalid:80", limits=Http1Limits(connect_timeout_s=2)) as asker:
        with pytest.raises(UpstreamError) as caught:
            await asker.open()
    assert caught.value.reason in {"dns", "connect_timeout"}  # the latter where no resolver answers


async def test_u21_tls_with_a_trusted_certificate_answers(certificates: dict[str, Certificate]) -> None:
    good = certificates["good"]
    async with ScriptedUpstream([Head(), CIAO, DONE, End()], ssl_context=good.server()) as upstream:
        target = RagTarget(url=upstream.url, ssl_context=tls_context(ca_file=good.cert))
        async with asking(target) as asker:
            for _ in range(2):
                sink, ending = await asker.ask()
                assert (sink.text, ending) == ("Ciao ", Finished())


@pytest.mark.parametrize("kind", ["other host", "expired"])
async def test_u21_wrong_or_expired_certificate_is_a_failure_of_its_own(
    kind: str, certificates: dict[str, Certificate]
) -> None:
    bad = certificates[kind]
    async with ScriptedUpstream([Head(), CIAO, DONE, End()], ssl_context=bad.server()) as upstream:
        target = RagTarget(url=upstream.url, ssl_context=tls_context(ca_file=bad.cert))
        async with asking(target) as asker:
            with pytest.raises(UpstreamError) as caught:
                await asker.open()
        assert (caught.value.error_code, caught.value.reason) == (ERROR, "tls_certificate")
        assert upstream.questions == 0


async def test_u21_self_signed_certificate_is_not_trusted_by_default(certificates: dict[str, Certificate]) -> None:
    async with ScriptedUpstream([Head()], ssl_context=certificates["good"].server()) as upstream:
        async with asking(upstream.url) as asker:
            with pytest.raises(UpstreamError) as caught:
                await asker.open()
        assert caught.value.reason == "tls_certificate"
        assert upstream.questions == 0


async def test_u21_client_certificate_is_shown(certificates: dict[str, Certificate]) -> None:
    good, other = certificates["good"], certificates["other host"]
    server = good.server()
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(other.cert)
    async with ScriptedUpstream([Head(), CIAO, DONE, End()], ssl_context=server) as upstream:
        context = tls_context(ca_file=good.cert, cert_file=other.cert, key_file=other.key)
        async with asking(RagTarget(url=upstream.url, ssl_context=context)) as asker:
            sink, _ = await asker.ask()
    assert sink.text == "Ciao "


async def test_u21_peer_that_speaks_no_tls_is_an_upstream_error() -> None:
    async with (
        ScriptedUpstream([Head()]) as upstream,
        asking(upstream.url.replace("http:", "https:"), limits=LIMITS) as asker,
    ):
        with pytest.raises(UpstreamError) as caught:
            await asker.open()
    assert caught.value.reason in {"tls_handshake", "connect_failed"}

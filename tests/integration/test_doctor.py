"""`subak doctor` over real sockets: the line through a real nginx, upstreams that fail, the first token.

The test of a line takes the two seconds that its three events are apart, so these tests are few and on one loop.
"""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from subak.doctor.answer import look_at_answer
from subak.doctor.findings import Check, Finding, Status
from subak.doctor.line import look_at_line
from subak.doctor.reach import look_at_servers
from subak.settings import Settings, load
from subak.testing import PATIENCE_S, Body, Close, End, Frame, Head, RecordedRequest, ScriptedUpstream, Stall, Step
from subak.web.health import MAX_PROBES
from tests.integration.gateway import (
    ANSWER,
    CIAO,
    DONE,
    ONE_LOOP,
    Client,
    Running,
    get,
    process,
    request_bytes,
    running,
)
from tests.integration.nginx import HttpBlock, bare, documented, nginx

JSON = {"Content-Type": "application/json"}
HEALTHY = (Head(headers=JSON), Body(b'{"status": "healthy"}'), End())
COMPRESSED = "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"
OBSTINATE = "proxy_ignore_headers X-Accel-Buffering;"


async def by_check(findings: AsyncIterator[Finding]) -> dict[Check, Finding]:
    return {finding.check: finding async for finding in findings}


def settings_for(url: str, **variables: str) -> Settings:
    return load({"RAG_BACKEND_URL": url, **variables}, None, {}).settings


@ONE_LOOP
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_the_test_stream_is_three_heartbeats_with_the_headers_of_every_stream(version: str) -> None:
    async with running() as gateway, Client.connect(gateway.url) as client:
        client.expect("GET")
        await client.send(request_bytes("GET", "/livez/stream", version=version))
        first = await client.until(b"\n\n")
        assert first.body.startswith(b': ok\nevent: heartbeat\ndata: {"type":"heartbeat",')
        assert first.body.count(b"\n\n") == 1
        answer = await client.whole()
        headers = {name.lower(): value for name, value in answer.headers}
        assert headers.pop("date")
        assert headers.pop("transfer-encoding", None) == ("chunked" if version == "1.1" else None)
        headers.pop("connection", None)
        assert (answer.status, headers) == (
            200,
            {
                "content-type": "text/event-stream",
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
                "x-content-type-options": "nosniff",
                "vary": "Origin",
            },
        )
        assert [frame.sequence for frame in answer.frames] == [1, 2, 3]
        assert {(frame.id, frame.event) for frame in answer.frames} == {(None, "heartbeat")}
        assert len(gateway.observer.facts) == 1, "nothing but the process' start is noted"


@ONE_LOOP
async def test_the_test_stream_needs_no_flag_and_is_bounded_in_number() -> None:
    async with running(is_on=False) as gateway:
        async with asyncio.TaskGroup() as tasks:
            probes = [tasks.create_task(_probe(gateway)) for _ in range(MAX_PROBES + 1)]
        assert sorted(probe.result() for probe in probes) == [200] * MAX_PROBES + [503]
        assert await _probe(gateway) == 200, "places are free again"


async def _probe(gateway: Running) -> int:
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", "/livez/stream")
        return (await client.whole()).status


@ONE_LOOP
async def test_clients_that_leave_the_test_stream_give_their_places_back() -> None:
    async with running() as gateway:
        await _peek_together(gateway)
        await _be_let_in(gateway)
        await _peek_together(gateway)


async def _peek_together(gateway: Running) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(MAX_PROBES):
            tasks.create_task(_peek(gateway))


async def _peek(gateway: Running) -> None:
    async with Client.connect(gateway.url) as client:
        await client.begin("GET", "/livez/stream")
        assert (await client.head()).status == 200


async def _be_let_in(gateway: Running) -> None:
    """Read a whole test once a place is free: when its next event is due, a client is found to have gone."""
    async with asyncio.timeout(PATIENCE_S):
        while await _probe(gateway) != 200:
            pass


def proxies(gateway_url: str) -> dict[str, HttpBlock]:
    return {
        "the documented snippet": documented(gateway_url),
        "nginx's defaults": bare(gateway_url),
        "buffering": bare(gateway_url, OBSTINATE),
        "compression": bare(gateway_url, COMPRESSED),
        "buffering and compression": bare(gateway_url, OBSTINATE, COMPRESSED),
    }


@ONE_LOOP
@pytest.mark.real
@pytest.mark.parametrize(
    ("proxy", "status", "detail"),
    [
        ("the documented snippet", Status.OK, "events come one by one"),
        ("nginx's defaults", Status.OK, "events come one by one"),  # it obeys X-Accel-Buffering: no
        ("buffering", Status.FAILED, "something holds them back"),
        ("compression", Status.WARNING, "compressed by gzip"),
        ("buffering and compression", Status.FAILED, "something holds them back"),
    ],
)
async def test_c32_a_proxy_that_holds_events_back_is_found(proxy: str, status: Status, detail: str) -> None:
    async with running() as gateway, nginx(proxies(gateway.url)[proxy]) as server:
        found = await by_check(look_at_line(server.url))
    events = found[Check.URL_EVENTS]
    assert (events.status, detail in events.detail) == (status, True), events
    assert (events.figures["gap_1_ms"] > 900) is (status is not Status.FAILED)
    assert found[Check.URL_GATEWAY].status is Status.OK
    assert found[Check.CLOCK_SKEW].status is Status.OK
    if status is Status.FAILED:
        assert "Server: nginx/" in events.notes[0]
        assert events.notes[1].startswith("nginx: proxy_buffering off")
    if "compression" in proxy:
        assert "Content-Encoding: gzip" in events.notes[0]


@ONE_LOOP
async def test_the_command_tests_the_line_of_a_running_gateway() -> None:
    async with process("demo") as gateway:
        url = await gateway.url()
        async with process("doctor", "--url", f"{url}/", "--json", ENABLE_SSE_STREAMING="true") as doctor:
            code, out, err = await doctor.ended()
        gateway.signal(15)
        _, log, _ = await gateway.ended()
    document = json.loads(out)
    findings = {each["name"]: each for each in document["findings"]}
    assert (code, document["ok"], err) == (0, True, "")
    assert {name for name, each in findings.items() if each["status"] != "ok"} == set()
    assert findings["url.events"]["figures"]["gap_1_ms"] > 900
    assert "livez" not in log


@ONE_LOOP
async def test_what_the_gateway_noticed_of_its_settings_is_told() -> None:
    async with running() as gateway:
        await get(gateway, "/v1/features", Origin="https://app.example.org")
        found = [finding async for finding in look_at_line(gateway.url) if finding.check is Check.URL_ADVICE]
    (finding,) = found
    assert (finding.status, "https://app.example.org" in finding.detail) == (Status.WARNING, True)
    assert "http.cors_origins" in finding.fix


async def test_a_line_without_a_subak_at_its_end_is_told() -> None:
    page = (Head(headers={"Content-Type": "text/html"}), Body(b"<!doctype html>"), End())
    async with ScriptedUpstream(page) as server:
        found = await by_check(look_at_line(server.url))
    assert found[Check.URL_GATEWAY].status is Status.WARNING
    assert found[Check.URL_EVENTS].status is Status.FAILED
    assert "something else than a Subak" in found[Check.URL_EVENTS].fix


@ONE_LOOP
async def test_a_flood_instead_of_events_is_cut_short() -> None:
    flood = (Head(), *[Body(b"x" * 60_000)] * 40, Stall())
    async with ScriptedUpstream((Head(headers=JSON), Body(b'{"sse":true}'), End()), flood) as server:
        found = await by_check(look_at_line(server.url))
    assert found[Check.URL_EVENTS].status is Status.FAILED
    assert "0 of 3 events came" in found[Check.URL_EVENTS].detail


def _half(request: RecordedRequest) -> Iterator[Step]:
    if request.target.startswith("/prefix/v1/features"):
        yield from (Head(headers=JSON), Body(b'{"sse":true}'), End())
    else:
        yield from (Head(), Frame('{"type":"heartbeat"}'), Close())


@ONE_LOOP
async def test_a_line_that_is_cut_is_told_and_a_path_prefix_is_kept() -> None:
    async with ScriptedUpstream(_half) as server:
        found = await by_check(look_at_line(f"{server.url}/prefix"))
    assert [request.target for request in server.requests] == [
        "/prefix/v1/features",
        "/prefix/readyz?verbose",
        "/prefix/livez/stream",
    ]
    assert found[Check.URL_GATEWAY].status is Status.OK
    assert "1 of 3 events came" in found[Check.URL_EVENTS].detail


@ONE_LOOP
async def test_a_line_that_leads_nowhere_is_told(certificate: Path) -> None:
    async with ScriptedUpstream(ANSWER, ssl_context=_server_context(certificate)) as server:
        untrusted = await by_check(look_at_line(server.url))
        not_tls = await by_check(look_at_line(server.url.replace("https:", "http:")))
    refused = await by_check(look_at_line(server.url))
    unknown = await by_check(look_at_line("http://nowhere.invalid"))
    details = [found[Check.URL_EVENTS].detail for found in (untrusted, not_tls, refused, unknown)]
    assert "certificate isn't accepted" in details[0]
    assert server.url.removeprefix("https://") in details[1]
    assert "nobody listens there" in details[2]
    assert "name isn't resolved" in details[3]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `one.pem` and `one.key` for 127.0.0.1, to expire in two days."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "one.key")
    about = ("-subj", "/CN=one", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-out", "one.pem")
    subprocess.run(("openssl", "req", "-x509", *key, *about), cwd=folder, check=True, capture_output=True, timeout=30)
    return folder


async def test_an_upstream_that_can_be_reached_and_is_healthy_is_fine() -> None:
    async with ScriptedUpstream(HEALTHY) as backend:
        found = await by_check(look_at_servers(settings_for(backend.url).upstream))
    assert {check: finding.status for check, finding in found.items()} == {
        Check.UPSTREAM_CONNECT: Status.OK,
        Check.UPSTREAM_HEALTH: Status.OK,
    }
    assert set(found[Check.UPSTREAM_CONNECT].figures) == {"resolve_ms", "connect_ms"}
    assert [request.target for request in backend.requests] == ["/health"]


async def test_health_is_asked_for_with_the_credentials_of_the_upstream(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("renewed\n", encoding="ascii")
    token_file = {"SUBAK_UPSTREAM__TOKEN_FILE": str(tmp_path / "token")}
    headers = {"SUBAK_UPSTREAM__HEADERS": '{"X-Api-Key": "k"}'}
    async with ScriptedUpstream(HEALTHY) as backend:
        for variables in ({"SUBAK_UPSTREAM__KEY": "secret"}, headers, token_file):
            await by_check(look_at_servers(settings_for(backend.url, **variables).upstream))
    assert backend.requests[0].headers["authorization"] == "Bearer secret"
    assert backend.requests[1].headers["x-api-key"] == "k"
    assert backend.requests[2].headers["authorization"] == "Bearer renewed"


async def test_every_upstream_is_looked_at() -> None:
    sick = (Head(503, headers=JSON), Body(b"{}"), End())
    async with ScriptedUpstream(HEALTHY) as first, ScriptedUpstream(sick) as second:
        settings = settings_for(first.url, SUBAK_UPSTREAM__FALLBACK_URLS=f"{second.url},http://127.0.0.1:9")
        found = [finding async for finding in look_at_servers(settings.upstream)]
    assert [(finding.check, finding.status) for finding in found] == [
        (Check.UPSTREAM_CONNECT, Status.OK),
        (Check.UPSTREAM_HEALTH, Status.OK),
        (Check.UPSTREAM_CONNECT, Status.OK),
        (Check.UPSTREAM_HEALTH, Status.WARNING),
        (Check.UPSTREAM_CONNECT, Status.FAILED),
    ]


async def test_a_backend_that_hangs_up_instead_of_an_answer_is_a_warning() -> None:
    async with ScriptedUpstream((Close(),)) as backend:
        found = await by_check(look_at_servers(settings_for(backend.url).upstream))
    assert found[Check.UPSTREAM_HEALTH].status is Status.WARNING


async def test_tls_is_measured_and_a_certificate_that_expires_soon_is_told(certificate: Path) -> None:
    async with ScriptedUpstream(HEALTHY, ssl_context=_server_context(certificate)) as backend:
        trusting = settings_for(backend.url, SUBAK_UPSTREAM__CA_FILE=str(certificate / "one.pem"))
        trusted = await by_check(look_at_servers(trusting.upstream))
        untrusted = await by_check(look_at_servers(settings_for(backend.url).upstream))
    assert set(trusted[Check.UPSTREAM_CONNECT].figures) == {"resolve_ms", "connect_ms", "tls_ms"}
    assert "expires in 2 days" in trusted[Check.UPSTREAM_CONNECT].detail
    assert trusted[Check.UPSTREAM_HEALTH].status is Status.OK
    assert "certificate isn't accepted" in untrusted[Check.UPSTREAM_CONNECT].detail
    assert Check.UPSTREAM_HEALTH not in untrusted


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_server_without_tls_is_told(answer: bytes) -> None:
    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answer_and_close, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        found = await by_check(look_at_servers(settings_for(f"https://127.0.0.1:{port}").upstream))
    assert "the TLS handshake fails" in found[Check.UPSTREAM_CONNECT].detail


async def test_a_host_that_takes_no_connection_is_given_up_in_time() -> None:
    async with ScriptedUpstream(is_accepting=False) as backend:
        settings = settings_for(backend.url, SUBAK_UPSTREAM__CONNECT_TIMEOUT_S="0.2")
        found = await by_check(look_at_servers(settings.upstream))
    assert "no connection in time" in found[Check.UPSTREAM_CONNECT].detail


async def test_the_first_token_is_measured_with_one_question_and_the_answer_aborted() -> None:
    async with ScriptedUpstream((Head(), CIAO, Stall())) as backend:
        (finding,) = await look_at_answer(settings_for(backend.url), may_ask=True)
        await backend.connections[0].wait_closed()
    figures = finding.figures
    assert finding.status is Status.OK
    assert 0 < figures["connect_ms"] <= figures["first_byte_ms"] <= figures["first_token_ms"] < 5000
    assert backend.questions == 1


async def test_an_upstream_that_may_not_be_asked_is_not() -> None:
    async with ScriptedUpstream((Head(), CIAO, Stall())) as backend:
        (finding,) = await look_at_answer(settings_for(backend.url), may_ask=False)
    assert finding.status is Status.OK
    assert backend.connections == []


async def test_a_failure_of_the_first_upstream_is_not_hidden_by_the_next() -> None:
    async with ScriptedUpstream((Head(500), Body(b""), End())) as first, ScriptedUpstream(ANSWER) as second:
        settings = settings_for(first.url, SUBAK_UPSTREAM__FALLBACK_URLS=second.url)
        (finding,) = await look_at_answer(settings, may_ask=True)
    assert finding.status is Status.FAILED
    assert "upstream_error, status_500" in finding.detail
    assert (first.questions, second.questions) == (1, 0)


@pytest.mark.parametrize(
    ("script", "status", "seen", "fix"),
    [
        ((Head(401), End()), Status.FAILED, "auth", "SUBAK_UPSTREAM__KEY"),
        ((Head(404), End()), Status.FAILED, "status_404", "SUBAK_UPSTREAM__URL"),
        ((Head(302, headers={"Location": "/x"}), End()), Status.FAILED, "redirect", "not followed"),
        ((Head(headers=JSON), Body(b"{}"), End()), Status.FAILED, "content_type", "text/event-stream"),
        ((Head(), End()), Status.FAILED, "no_done", "log"),
        ((Head(), DONE, End()), Status.WARNING, "without a word", "log"),
        ((Head(), Stall()), Status.FAILED, "no token in", "log"),
    ],
)
async def test_an_answer_that_does_not_begin_is_told_with_what_to_do(
    script: tuple[Step, ...], status: Status, seen: str, fix: str
) -> None:
    async with ScriptedUpstream(script) as backend:
        short = {"SUBAK_UPSTREAM__CONNECT_TIMEOUT_S": "2", "SUBAK_UPSTREAM__FIRST_BYTE_TIMEOUT_S": "0.2"}
        limits = short if seen == "no token in" else {}
        (finding,) = await look_at_answer(settings_for(backend.url, **limits), may_ask=True)
    assert finding.status is status
    assert seen in finding.detail
    assert fix in finding.fix


def _server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "one.pem", folder / "one.key")
    return context

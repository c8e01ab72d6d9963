"""Spans over OTLP, decoded by OpenTelemetry's own protobuf classes; `traceparent` taken over and passed upstream."""

import gzip
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from subak.testing import Close, Head, ScriptedUpstream
from tests.integration.gateway import ANSWER, CIAO, ONE_LOOP, ask, get, process, question_url, running

pytestmark = ONE_LOOP

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN: Final = "00f067aa0ba902b7"
CAME: Final = f"00-{TRACE}-{SPAN}-01"


class Receiver:
    """Takes spans as an OTLP receiver does."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[str | None] = []
        self.spans: list[Span] = []

    async def take(self, request: web.Request) -> web.Response:
        """Decode an export."""
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        export = ExportTraceServiceRequest.FromString(body)
        self.headers.append(request.headers.get("x-key"))
        for resource in export.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(body=b"", content_type="application/x-protobuf")


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Serve it on a free port."""
    double = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", double.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    double.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield double
    finally:
        await runner.cleanup()


async def test_each_stream_is_a_span_below_the_callers_and_above_the_upstreams() -> None:
    async with receiver() as otlp, ScriptedUpstream(ANSWER, (Head(), CIAO, Close()), ANSWER) as upstream:
        environment = {
            "ENABLE_SSE_STREAMING": "true",
            "RAG_BACKEND_URL": upstream.url,
            "SUBAK_TRACING__URL": otlp.url,
            "SUBAK_TRACING__HEADERS": '{"x-key": "k"}',
        }
        async with process("serve", **environment) as subak:
            url = await subak.url()
            await ask(url, "GET", question_url(), [("traceparent", CAME)])
            await ask(url, "GET", question_url())
            await ask(url, "GET", question_url(), [("traceparent", f"00-{TRACE}-{SPAN}-00")])
            subak.signal(signal.SIGTERM)
            code, out, _ = await subak.ended()
    assert code == 0
    below, own = otlp.spans
    assert set(otlp.headers) == {"k"}
    assert (below.trace_id.hex(), below.parent_span_id.hex()) == (TRACE, SPAN)
    assert upstream.requests[0].headers["traceparent"] == f"00-{TRACE}-{below.span_id.hex()}-01"
    assert [event.name for event in below.events] == ["gen_ai.first_token", "stream.end"]
    assert below.start_time_unix_nano <= below.events[0].time_unix_nano <= below.end_time_unix_nano
    told = {attribute.key: attribute.value for attribute in below.attributes}
    assert told["subak.outcome"].string_value == "stop"
    assert told["gen_ai.usage.output_tokens"].int_value == 2
    assert (own.parent_span_id, own.status.code) == (b"", 2)  # STATUS_CODE_ERROR
    assert own.trace_id.hex() != TRACE
    assert upstream.requests[1].headers["traceparent"].split("-")[1] == own.trace_id.hex()
    assert upstream.requests[2].headers["traceparent"].endswith("-00")
    assert "KITAS" not in str(otlp.spans)
    assert f'"trace_id":"{TRACE}"' in out


async def test_without_tracing_the_callers_trace_is_passed_on_as_it_came() -> None:
    async with ScriptedUpstream(ANSWER, ANSWER, ANSWER) as upstream, running(upstream) as gateway:
        await get(gateway, question_url(), traceparent=CAME)
        await get(gateway, question_url())
        await get(gateway, question_url(), traceparent="00-nonsense")
        assert [request.headers.get("traceparent") for request in upstream.requests] == [CAME, None, None]

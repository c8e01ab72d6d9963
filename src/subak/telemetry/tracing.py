"""One span a stream, sent by OTLP: an extra (`pip install subak[otel]`), by OpenTelemetry's SDK.

A stream's span is made when it has ended, of what the fact about its end says: nothing is done per token, and a live
stream holds no span. Its ids were chosen when the question came, and went upstream in `traceparent`; so the upstream's
spans hang below it. It carries figures and our own words, no content, and of the stream's id a keyed digest.
"""

from collections.abc import Mapping
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from subak.core.clock import Clock
from subak.core.digests import digest_name
from subak.core.errors import ErrorCode
from subak.core.facts import Fact, StreamEnded
from subak.core.trace import TraceContext
from subak.telemetry import trace_names as names

EXPORT_MS: Final = 5_000
_NS_PER_MS: Final = 1_000_000
_HEX: Final = 16
_FAILURES: Final = frozenset(ErrorCode)


class _GivenIds(IdGenerator):
    """Gives the ids that were chosen when the question came."""

    def __init__(self) -> None:
        self.context = TraceContext("0" * 31 + "1", "0" * 15 + "1")

    def generate_span_id(self) -> int:
        """Give the span's id."""
        return int(self.context.span_id, _HEX)

    def generate_trace_id(self) -> int:
        """Give the trace's id, where no parent has one."""
        return int(self.context.trace_id, _HEX)


class Tracing:
    """An observer that makes spans. `close` sends what waits, for some seconds at most."""

    def __init__(self, exporter: SpanExporter, clock: Clock, secret: bytes, *, version: str) -> None:
        """`secret` keys the digests of stream ids, the same as in log lines."""
        self._clock = clock
        self._secret = secret
        self._ids = _GivenIds()
        resource = Resource.create({"service.name": "subak", "service.version": version})
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, export_timeout_millis=EXPORT_MS))
        self._tracer = self._provider.get_tracer("subak", version)

    def notify(self, fact: Fact) -> None:
        """Make the span of a stream that has ended and is traced."""
        if isinstance(fact, StreamEnded) and fact.trace is not None and fact.trace.is_sampled:
            self._make_span(fact, fact.trace)

    def close(self) -> None:
        """Send what waits. Blocks: not on an event loop."""
        self._provider.shutdown()

    def _make_span(self, ended: StreamEnded, trace: TraceContext) -> None:
        end_ns = self._clock.time_ms() * _NS_PER_MS
        start_ns = end_ns - int(ended.duration_ms * _NS_PER_MS)
        self._ids.context = trace
        parent = set_span_in_context(NonRecordingSpan(_parent_of(trace))) if trace.parent_id else None
        span = self._tracer.start_span(
            names.SPAN, context=parent, kind=SpanKind.SERVER, attributes=self._attributes(ended), start_time=start_ns
        )
        if ended.first_token_ms is not None:
            span.add_event(names.FIRST_TOKEN, timestamp=start_ns + int(ended.first_token_ms * _NS_PER_MS))
        span.add_event(names.END, {names.OUTCOME: ended.outcome}, timestamp=end_ns)
        if ended.outcome in _FAILURES:
            span.set_status(Status(StatusCode.ERROR, ended.outcome))
        span.end(end_ns)

    def _attributes(self, ended: StreamEnded) -> Mapping[str, AttributeValue]:
        attributes: dict[str, AttributeValue | None] = {
            names.OPERATION: "chat",
            names.ROUTE: ended.route,
            names.ARM: ended.arm,
            names.OUTCOME: ended.outcome,
            names.STREAM: digest_name(self._secret, "stream", ended.stream_id),
            names.OUTPUT_TOKENS: ended.tokens,
            names.ERROR_TYPE: ended.reason or None,
            names.GATEWAY_MS: ended.gateway_ms,
            names.INTER_TOKEN_MS: ended.inter_token_ms,
        }
        return {name: value for name, value in attributes.items() if value is not None}


def _parent_of(trace: TraceContext) -> SpanContext:
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace.trace_id, _HEX), int(trace.parent_id, _HEX), is_remote=True, trace_flags=sampled)


def otlp_exporter(url: str, headers: Mapping[str, str]) -> SpanExporter:
    """Give what sends spans to `{url}/v1/traces`, gzipped protobuf over HTTP."""
    return OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", headers=dict(headers), timeout=EXPORT_MS / 1000)

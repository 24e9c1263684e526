"""Spans of a request: gateway, and inside it queue and engine. Needs the extra `otel`, imports none of it when off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.types import Scope

from slipstream.errors import SlipstreamError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.observability.record import Span, span_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

_FAILED = 500


class Tracing:
    """Sends spans to one collector, over OTLP on HTTP, from a thread of its own."""

    def __init__(self, endpoint: str, *, share: float) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise SlipstreamError(
                f"gateway.observability.otlp_endpoint: {error.name} is not installed",
                mend="pip install 'slipstream[otel]', or leave otlp_endpoint out",
            ) from error
        resource = Resource.create({"service.name": "slipstream-gateway"})
        self._provider: TracerProvider = TracerProvider(ParentBased(TraceIdRatioBased(share)), resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
        self._tracer = self._provider.get_tracer("slipstream.gateway")

    def begin(self, exchange: Exchange, scope: Scope) -> OtelSpan:
        """The span of a request, inside its client's; what is sent to Triton will say that it belongs to it."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        start_ns = _wall_ns(exchange.received_at)
        context = propagator.extract(carried)
        span = self._tracer.start_span("request", context, kind=SpanKind.SERVER, start_time=start_ns)
        sent: dict[str, str] = {}
        propagator.inject(sent, set_span_in_context(span))
        exchange.record.trace_headers = tuple(sent.items())
        return span

    def end(self, span: OtelSpan, exchange: Exchange, *, route: str, status: int) -> None:
        """The request has ended: its spans are known whole."""
        from opentelemetry.trace import StatusCode

        span.update_name(route)
        attributes: dict[str, str | int] = {
            "http.route": route,
            "http.response.status_code": status,
            "slipstream.request_id": exchange.request_id,
        }
        if exchange.model:
            attributes["gen_ai.request.model"] = exchange.model
            attributes["gen_ai.usage.output_tokens"] = sum(one.output_tokens for one in exchange.generations)
        span.set_attributes(attributes)
        if status >= _FAILED:
            span.set_status(StatusCode.ERROR)
        self._inside(span, exchange.received_at, span_of(exchange.generations))
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _inside(self, span: OtelSpan, received_s: float, times: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        if times.sent_s is None:
            return
        context, sent_ns = set_span_in_context(span), _wall_ns(times.sent_s)
        self._tracer.start_span("queue", context, start_time=_wall_ns(received_s)).end(sent_ns)
        engine = self._tracer.start_span("engine", context, start_time=sent_ns)
        if times.first_s is not None:
            engine.add_event("first token", timestamp=_wall_ns(times.first_s))
        engine.end(None if times.last_s is None else _wall_ns(times.last_s))


def _wall_ns(monotonic_s: float) -> int:
    return time.time_ns() - int(1e9 * (time.monotonic() - monotonic_s))

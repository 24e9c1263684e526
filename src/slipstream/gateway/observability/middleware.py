"""Watches every request from its arrival to its last byte: metrics, one log line, a header. The outermost part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.gateway.answering import usage_of
from slipstream.gateway.exchange import BACKEND_HEADER, Exchange, exchange_in
from slipstream.gateway.generation import Generation
from slipstream.gateway.observability import families
from slipstream.gateway.observability.logs import log_request
from slipstream.gateway.observability.metrics import Metrics, Reading
from slipstream.gateway.observability.record import span_of
from slipstream.gateway.observability.tracing import Tracing
from slipstream.spec import GatewayObservabilitySpec

_UNCOUNTED = ("/metrics",)
_QUIET = ("/metrics", "/health")
_WEBSOCKET_ACCEPTED, _FAILED = 101, 500


class Observability:
    """Wraps the application; nothing is measured of what it does not see."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, spec: GatewayObservabilitySpec, tracing: Tracing | None
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._metrics = metrics
        self._has_header = spec.overhead_header
        self._open = metrics.open_exchanges
        metrics.watch(families.RUNNING, lambda: self._in_state(is_sent=True))
        metrics.watch(families.WAITING, lambda: self._in_state(is_sent=False))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange, status = exchange_in(scope), _FAILED

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._begin(exchange, scope, message)
            elif message["type"] == "websocket.accept":
                status = _WEBSOCKET_ACCEPTED
            await send(message)

        self._open[id(exchange)] = exchange
        span = None if self._tracing is None else self._tracing.begin(exchange, scope)
        try:
            await self._app(scope, receive, observed)
        finally:
            del self._open[id(exchange)]
            self._end(exchange, scope, status)
            if self._tracing is not None and span is not None:
                self._tracing.end(span, exchange, route=_route(scope), status=status)

    def _begin(self, exchange: Exchange, scope: Scope, message: Message) -> None:
        """The first byte is about to leave."""
        if not exchange.generations:
            return
        seconds = overhead_s(exchange, time.monotonic())
        self._metrics.observe(families.OVERHEAD, seconds, _route(scope))
        if self._has_header:
            message["headers"] = [*message["headers"], (b"x-gateway-overhead-ms", b"%.2f" % (1000 * seconds))]

    def _end(self, exchange: Exchange, scope: Scope, status: int) -> None:
        route = _route(scope)
        if scope["path"] not in _UNCOUNTED:
            self._metrics.count(families.REQUESTS, route, str(status), exchange.model or "")
        for generation in exchange.generations:
            self._count(generation, exchange.model or "", exchange.received_at)
        fields = _fields(exchange, scope.get("method", "WEBSOCKET"), route, status)
        log_request(fields, status=status, is_quiet=scope["path"].startswith(_QUIET))

    def _count(self, generation: Generation, model: str, received_s: float) -> None:
        times, labels, observe = generation.times, (model, "0"), self._metrics.observe
        prompt_tokens = len(generation.wanted.prompt_ids)
        if times.sent_s is None:  # refused or left before an engine was asked
            return
        self._metrics.count(families.SUCCESS, *labels, times.finish or "abort")
        self._metrics.count(families.PROMPT_TOKENS, *labels, by=prompt_tokens)
        self._metrics.count(families.GENERATION_TOKENS, *labels, by=generation.output_tokens)
        observe(families.REQUEST_PROMPT_TOKENS, prompt_tokens, *labels)
        observe(families.REQUEST_GENERATION_TOKENS, generation.output_tokens, *labels)
        observe(families.QUEUE, times.sent_s - received_s, *labels)
        if times.first_s is None or times.last_s is None:
            return
        observe(families.TTFT, times.first_s - received_s, *labels)
        observe(families.E2E, times.last_s - received_s, *labels)
        if generation.output_tokens > 1:
            observe(families.TIME_PER_TOKEN, (times.last_s - times.first_s) / (generation.output_tokens - 1), *labels)

    def _in_state(self, *, is_sent: bool) -> Iterator[Reading]:
        """Generations by model that an engine was asked for and that have not ended, or that wait to be."""
        counts: dict[str, int] = dict.fromkeys(self._metrics.models, 0)
        for exchange in self._open.values():
            model = exchange.model or ""
            for times in [generation.times for generation in exchange.generations]:
                if not times.has_ended and (times.sent_s is not None) == is_sent:
                    counts[model] = counts.get(model, 0) + 1
        return (Reading(count, (model, "0")) for model, count in counts.items())


def overhead_s(exchange: Exchange, now_s: float) -> float:
    """The time since the request came, without that in which an engine or a turn was waited for."""
    waited_s = span_of(exchange.generations).waited_s + exchange.record.queued_s
    return max(now_s - exchange.received_at - waited_s, 0.0)


def _route(scope: Scope) -> str:
    """The path of the API, with its parameters by name: a client cannot make up new ones."""
    return getattr(scope.get("route"), "path", "other")


def _fields(exchange: Exchange, method: str, route: str, status: int) -> dict[str, Any]:
    record, received_s = exchange.record, exchange.received_at
    fields: dict[str, Any] = {
        "id": exchange.request_id,
        "caller": exchange.caller.id,
        "method": method,
        "route": route,
        "status": status,
        "e2e_ms": _ms(time.monotonic() - received_s),
    }
    known = {
        "model": exchange.model,
        "backend": record.backend or exchange.headers.get(BACKEND_HEADER),
        "cache": record.cache,
        "route_reason": record.route_reason,
        "error": record.error_code,
    }
    fields |= {name: value for name, value in known.items() if value}
    if exchange.generations:
        usage, span = usage_of(exchange.generations), span_of(exchange.generations)
        fields["prompt_tokens"], fields["output_tokens"] = usage.prompt_tokens, usage.completion_tokens
        if span.sent_s is not None:
            asked = [one.times for one in exchange.generations if one.times.sent_s is not None]
            fields["finish"] = ",".join(sorted({times.finish or "abort" for times in asked}))
            fields["queue_ms"] = _ms(span.sent_s - received_s)
        if span.first_s is not None:
            fields["ttft_ms"] = _ms(span.first_s - received_s)
    return fields


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)

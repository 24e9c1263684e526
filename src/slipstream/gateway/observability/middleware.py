"""Watches every request from its arrival to its last byte: metrics, one log line, a header. The outermost part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.gateway.exchange import Exchange, exchange_of
from slipstream.gateway.observability import families
from slipstream.gateway.observability.logs import log_request
from slipstream.gateway.observability.metrics import Metrics, Reading
from slipstream.gateway.observability.record import Observed
from slipstream.spec import GatewayObservabilitySpec

_UNCOUNTED = ("/metrics",)
_QUIET = ("/metrics", "/health")
_WEBSOCKET_ACCEPTED, _FAILED = 101, 500


class Observability:
    """Wraps the application; nothing is measured of what it does not see."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, spec: GatewayObservabilitySpec) -> None:
        self._app = app
        self._metrics = metrics
        self._has_header = spec.overhead_header
        self._open: dict[int, Exchange] = {}
        metrics.watch(families.RUNNING, lambda: self._in_state(is_sent=True))
        metrics.watch(families.WAITING, lambda: self._in_state(is_sent=False))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        exchange, status = exchange_of(HTTPConnection(scope)), _FAILED

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._begin(exchange, scope, message)
            elif message["type"] == "websocket.accept":
                status = _WEBSOCKET_ACCEPTED
            await send(message)

        self._open[id(exchange)] = exchange
        try:
            await self._app(scope, receive, observed)
        finally:
            del self._open[id(exchange)]
            self._end(exchange, scope, status)

    def _begin(self, exchange: Exchange, scope: Scope, message: Message) -> None:
        """The first byte is about to leave."""
        if not exchange.record.generations:
            return
        seconds = exchange.record.overhead_s(exchange.received_at, time.monotonic())
        self._metrics.observe(families.OVERHEAD, seconds, _route(scope))
        if self._has_header:
            message["headers"] = [*message["headers"], (b"x-gateway-overhead-ms", b"%.2f" % (1000 * seconds))]

    def _end(self, exchange: Exchange, scope: Scope, status: int) -> None:
        route, record = _route(scope), exchange.record
        if scope["path"] not in _UNCOUNTED:
            self._metrics.count(families.REQUESTS, route, str(status), record.model)
        for generation in record.generations:
            self._count(generation, record.model, exchange.received_at)
        fields = _fields(exchange, scope.get("method", "WEBSOCKET"), route, status)
        log_request(fields, status=status, is_quiet=scope["path"].startswith(_QUIET))

    def _count(self, generation: Observed, model: str, received_s: float) -> None:
        times, labels, observe = generation.times, (model, "0"), self._metrics.observe
        if times.sent_s is None:  # refused or left before an engine was asked
            return
        self._metrics.count(families.SUCCESS, *labels, times.finish or "abort")
        self._metrics.count(families.PROMPT_TOKENS, *labels, by=generation.prompt_tokens)
        self._metrics.count(families.GENERATION_TOKENS, *labels, by=generation.output_tokens)
        observe(families.REQUEST_PROMPT_TOKENS, generation.prompt_tokens, *labels)
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
            for generation in exchange.record.generations:
                times = generation.times
                if not times.has_ended and (times.sent_s is not None) == is_sent:
                    counts[exchange.record.model] = counts.get(exchange.record.model, 0) + 1
        return (Reading(count, (model, "0")) for model, count in counts.items())


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
        "model": record.model,
        "backend": record.backend,
        "cache": record.cache,
        "route_reason": record.route_reason,
        "error": record.error_code,
    }
    fields |= {name: value for name, value in known.items() if value}
    if record.generations:
        fields["prompt_tokens"] = sum(one.prompt_tokens for one in record.generations)
        fields["output_tokens"] = sum(one.output_tokens for one in record.generations)
        fields["finish"] = ",".join(sorted({one.times.finish or "abort" for one in record.generations}))
    if record.sent_s is not None:
        fields["queue_ms"] = _ms(record.sent_s - received_s)
    if record.first_s is not None:
        fields["ttft_ms"] = _ms(record.first_s - received_s)
    return fields


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)

"""What operators see of the backends: their states and loads, and why requests went where they went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slipstream.gateway.observability.families import BACKEND_STATE, BACKEND_TOKENS, RETRIES, ROUTED
from slipstream.gateway.observability.metrics import Metrics, Reading
from slipstream.gateway.routing.backends import Backends, Event
from slipstream.gateway.served_model import ServedModel


def count_routing(models: Sequence[ServedModel], metrics: Metrics) -> None:
    """Let `metrics` show and count what the backends of `models` do; a backend is called MODEL/NAME."""
    for model in models:
        _count(model.name, model.backends, metrics)
    metrics.watch(BACKEND_STATE, lambda: _states(models))
    metrics.watch(BACKEND_TOKENS, lambda: _loads(models))


def _count(model: str, backends: Backends, metrics: Metrics) -> None:
    def observe(event: Event, backend: str) -> None:
        name = f"{model}/{backend}"
        if event in {"retry", "hedge"}:
            metrics.count(RETRIES, model, name, event)
        else:
            metrics.count(ROUTED, model, name, event)

    backends.observe = observe


def _states(models: Sequence[ServedModel]) -> Iterator[Reading]:
    for model in models:
        for one in model.backends.status():
            yield Reading(1, (f"{model.name}/{one.name}", one.state))


def _loads(models: Sequence[ServedModel]) -> Iterator[Reading]:
    for model in models:
        for one in model.backends.status():
            yield Reading(one.outstanding_tokens, (f"{model.name}/{one.name}",))

"""What operators see of the backends: their states and loads, and why requests went where they went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from slipstream.gateway.observability.families import BACKEND_STATE, BACKEND_TOKENS, RETRIES, ROUTED
from slipstream.gateway.observability.metrics import Metrics, Reading
from slipstream.gateway.routing.backend import State
from slipstream.gateway.routing.backends import Backends, Event
from slipstream.gateway.served_model import ServedModel


def count_routing(models: Sequence[ServedModel], metrics: Metrics) -> None:
    """Let `metrics` show and count what the backends of `models` do."""
    for model in models:
        _count(model.name, model.backends, metrics)
    metrics.watch(BACKEND_STATE, lambda: _states(models))
    metrics.watch(BACKEND_TOKENS, lambda: _loads(models))


def _count(model: str, backends: Backends, metrics: Metrics) -> None:
    def observe(event: Event, backend: str) -> None:
        if event in {"retry", "hedge"}:
            metrics.count(RETRIES, model, event)
        else:
            metrics.count(ROUTED, model, backend, event)

    backends.observe = observe


def _states(models: Sequence[ServedModel]) -> Iterator[Reading]:
    for model in models:
        for one in model.backends.status():
            for state in get_args(State):
                yield Reading(float(one.state == state), (model.name, one.name, state))


def _loads(models: Sequence[ServedModel]) -> Iterator[Reading]:
    for model in models:
        for one in model.backends.status():
            yield Reading(one.outstanding_tokens, (model.name, one.name))

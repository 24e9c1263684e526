"""What the routing knows of its backends, as gauges and counters that are read with the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from slipstream.gateway.observability import families
from slipstream.gateway.observability.metrics import Metrics, Reading
from slipstream.gateway.routing.backend import State
from slipstream.gateway.services import Models


def watch_backends(metrics: Metrics, models: Models) -> None:
    """Show the backends of `models` for as long as they are served."""
    metrics.watch(families.BACKEND_STATE, lambda: _states(models))
    metrics.watch(families.BACKEND_TOKENS, lambda: _tokens(models))
    metrics.watch(families.RETRIES, lambda: _retries(models))


def _states(models: Models) -> Iterator[Reading]:
    for model in models.all():
        for status in model.backends.status():
            for state in get_args(State):
                yield Reading(float(status.state == state), (model.name, status.name, state))


def _tokens(models: Models) -> Iterator[Reading]:
    for model in models.all():
        for status in model.backends.status():
            yield Reading(status.outstanding_tokens, (model.name, status.name))


def _retries(models: Models) -> Iterator[Reading]:
    for model in models.all():
        counts = model.backends.counts
        for kind, count in (("retry", counts.retries), ("hedge", counts.hedges), ("hedge_won", counts.hedges_won)):
            yield Reading(count, (model.name, kind))

"""The admission of one process: what it counts, and who runs and waits, outlives a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from slipstream.gateway.admission import Admission, AdmissionWatch
from slipstream.gateway.caller import Caller
from slipstream.gateway.limits.open_store import open_store, where_counted
from slipstream.gateway.limits.values import LimitStore
from slipstream.gateway.observability import families
from slipstream.gateway.observability.metrics import Metrics
from slipstream.spec import GatewaySpec


class MeteredAdmission(AdmissionWatch):
    """Writes what happens at admission into the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def refused(self, model: str, caller: Caller, reason: str) -> None:  # noqa: ARG002 - a caller is no label
        """See `AdmissionWatch`."""
        self._metrics.count(families.REFUSED, reason, model)

    def store_failed(self, error: str) -> None:
        """See `AdmissionWatch`."""
        self._metrics.count(families.LIMITS_STORE_FAILURES, error)


@dataclass(slots=True, eq=False)
class SharedStore:
    """A store and the configurations that count in it."""

    store: LimitStore
    where: tuple[object, ...]
    users: int = 0  # configurations


class SharedAdmission:
    """Opens the store of one configuration after the other, and keeps it where nothing about it has changed."""

    def __init__(self, metrics: Metrics) -> None:
        self._watch = MeteredAdmission(metrics)
        self._admission: Admission | None = None
        self._current: SharedStore | None = None

    def open_store(self, spec: GatewaySpec, environ: Mapping[str, str], stack: AsyncExitStack) -> SharedStore:
        """The store that `spec` asks for, held until `stack` ends; SlipstreamError where its URL is missing."""
        where = where_counted(spec.limits, environ)
        shared = self._current
        if shared is None or shared.where != where:
            shared = SharedStore(open_store(spec.limits, environ, self._watch.store_failed), where)
        shared.users += 1
        stack.push_async_callback(self._release, shared)
        return shared

    def admission(self, spec: GatewaySpec, shared: SharedStore) -> Admission:
        """The one admission, going on with these settings."""
        self._current = shared
        if self._admission is None:
            self._admission = Admission(spec, store=shared.store, watch=self._watch)
        self._admission.reconfigure(spec, shared.store)
        return self._admission

    async def _release(self, shared: SharedStore) -> None:
        shared.users -= 1
        if not shared.users:
            await shared.store.close()

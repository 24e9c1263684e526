"""What the endpoints of one gateway share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slipstream.gateway.admission import Admission
from slipstream.gateway.caching.responses import ResponseCache
from slipstream.gateway.caller import current_caller
from slipstream.gateway.embeddings.cache import EmbeddingCache
from slipstream.gateway.embeddings.embedder import Embedder
from slipstream.gateway.errors import ApiError
from slipstream.gateway.lifecycle import Lifecycle, Readiness
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.observability.triton_metrics import TritonMetrics
from slipstream.gateway.responses.memory import ResponseMemory
from slipstream.gateway.security import Security
from slipstream.gateway.served_model import ServedModel
from slipstream.spec import GatewaySpec


class Models:
    """The models by name; of a request, only those that its caller may use."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._by_name: Mapping[str, ServedModel] = {model.name: model for model in models}

    def __getitem__(self, name: str) -> ServedModel:
        """The model called `name`; `ApiError` names those there are, or those that the caller may use."""
        caller = current_caller.get()
        if caller.models is not None and not caller.may_use(name):
            allowed = ", ".join(caller.models) or "none"
            raise ApiError(
                403,
                f"model: this key may not use {name!r}; it may use {allowed}",
                param="model",
                code="model_not_found",
            )
        if (model := self._by_name.get(name)) is None:
            known = ", ".join(self._by_name)
            raise ApiError(
                404, f"model: there is no {name!r} here; the models are {known}", param="model", code="model_not_found"
            )
        return model

    def all(self) -> list[ServedModel]:
        """Those that the caller may use."""
        caller = current_caller.get()
        return [model for model in self._by_name.values() if caller.may_use(model.name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a gateway, each in a module of its own."""

    spec: GatewaySpec
    models: Models
    cache: ResponseCache | None = None
    embedders: Mapping[str, Embedder] = field(default_factory=dict)  # by the names that clients ask for
    embedding_cache: EmbeddingCache | None = None
    admission: Admission = field(default_factory=Admission)
    metrics: Metrics = field(default_factory=Metrics)  # one for the life of the process
    triton_metrics: TritonMetrics | None = None
    security: Security = field(default_factory=Security)
    responses: ResponseMemory = field(default_factory=ResponseMemory)  # outlives a reload
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    readiness: Readiness = field(default_factory=Readiness)

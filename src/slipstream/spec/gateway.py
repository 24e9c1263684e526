"""What the gateway reads when it starts, and again when its configuration changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from slipstream.spec.gateway_admission import GatewayAdmissionSpec
from slipstream.spec.gateway_cache import CacheSpec
from slipstream.spec.gateway_complexity import ComplexitySpec
from slipstream.spec.gateway_connections import ConnectionSpec
from slipstream.spec.gateway_embeddings import EmbeddingCacheSpec
from slipstream.spec.gateway_limits import GatewayLimitsSpec
from slipstream.spec.gateway_observability import GatewayObservabilitySpec
from slipstream.spec.gateway_responses import ResponsesSpec
from slipstream.spec.gateway_routing import RoutingSpec
from slipstream.spec.gateway_security import SecuritySpec, is_loopback
from slipstream.spec.gateway_upstreams import ModelName, UpstreamSpec
from slipstream.spec.groups import Group


class GatewaySpec(Group):
    """Settings of the OpenAI-compatible gateway; its port is `runtime.ports.gateway`."""

    enabled: bool = Field(default=True, description="`serve` and `up` start the gateway beside Triton")
    upstreams: Mapping[ModelName, UpstreamSpec] = Field(
        default_factory=dict,
        max_length=256,
        description="models by name on other Tritons; under the deployment's own name, replicas of its own Triton",
    )
    drain_delay_s: float = Field(
        0,
        ge=0,
        le=3600,
        description="when told to end: how long requests are still taken while /health/ready already says 503, for a"
        " load balancer to notice",
    )
    drain_timeout_s: float = Field(
        30, ge=0, le=86_400, description="when told to end: how long running requests may take to finish"
    )
    max_body_bytes: int = Field(4 << 20, ge=1024, le=1 << 30, description="a longer request body is refused with 413")
    request_timeout_s: float = Field(600, gt=0, le=86_400, description="a reply that takes longer is ended")
    limits: GatewayLimitsSpec = GatewayLimitsSpec()
    admission: GatewayAdmissionSpec = GatewayAdmissionSpec()
    tool_parser: Literal["auto", "hermes", "llama3_json", "none"] = Field(
        "auto",
        description="how models write calls of tools; `auto` takes it from the chat template, and a model whose"
        " template knows no tools is told of them in words if a form is named here",
    )
    responses: ResponsesSpec = ResponsesSpec()
    compress_min_bytes: int | None = Field(
        1024, ge=0, le=1 << 30, description="whole bodies from this size on are compressed if the client takes it"
    )
    routing: RoutingSpec = Field(default_factory=RoutingSpec, description="the choice among several backends")
    fallbacks: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        strict=False,
        description="model: the models that answer for it, in this order, while none of its backends is up",
    )
    playground: bool = Field(default=True, description="the page at `/`")
    observability: GatewayObservabilitySpec = GatewayObservabilitySpec()
    cache: CacheSpec | None = Field(None, description="answers that are kept; off without it")
    embedding_cache: EmbeddingCacheSpec | None = Field(None, description="embeddings that are kept; off without it")
    complexity: ComplexitySpec | None = Field(None, description="one name for three models; off without it")
    host: str = Field("127.0.0.1", min_length=1, max_length=253, description="the address that is listened on")
    security: SecuritySpec = Field(default_factory=SecuritySpec)
    connections: ConnectionSpec = Field(default_factory=ConnectionSpec)

    @model_validator(mode="after")
    def _cache_has_a_server(self) -> GatewaySpec:
        if self.cache is not None and self.cache.store == "redis" and self.limits.store != "redis":
            raise ValueError("cache.store is redis, it uses the server of limits: set limits.store to redis")
        return self

    @model_validator(mode="after")
    def _is_open_with_keys_only(self) -> GatewaySpec:
        if not is_loopback(self.host) and not self.security.asks_for_keys:
            raise ValueError(f"host is {self.host}, without keys it must be a loopback address; set security.keys_file")
        return self

"""What the gateway reads when it starts, and again when its configuration changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slipstream.spec.gateway_connections import ConnectionSpec
from slipstream.spec.gateway_observability import GatewayObservabilitySpec
from slipstream.spec.gateway_responses import ResponsesSpec
from slipstream.spec.gateway_routing import RoutingSpec
from slipstream.spec.gateway_security import SecuritySpec, is_loopback
from slipstream.spec.groups import Group


class GatewaySpec(Group):
    """Settings of the OpenAI-compatible gateway; its port is `runtime.ports.gateway`."""

    max_body_bytes: int = Field(4 << 20, ge=1024, le=1 << 30, description="a longer request body is refused with 413")
    request_timeout_s: float = Field(600, gt=0, le=86_400, description="a reply that takes longer is ended")
    tool_parser: Literal["auto", "hermes", "llama3_json", "none"] = Field(
        "auto",
        description="how models write calls of tools; `auto` takes it from the chat template, and a model whose"
        " template knows no tools is told of them in words if a form is named here",
    )
    responses: ResponsesSpec = ResponsesSpec()
    routing: RoutingSpec = Field(default_factory=RoutingSpec, description="the choice among several backends")
    fallbacks: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        strict=False,
        description="model: the models that answer for it, in this order, while none of its backends is up",
    )
    playground: bool = Field(default=True, description="the page at `/`")
    observability: GatewayObservabilitySpec = GatewayObservabilitySpec()
    host: str = Field("127.0.0.1", min_length=1, max_length=253, description="the address that is listened on")
    security: SecuritySpec = Field(default_factory=SecuritySpec)
    connections: ConnectionSpec = Field(default_factory=ConnectionSpec)

    @model_validator(mode="after")
    def _is_open_with_keys_only(self) -> GatewaySpec:
        if not is_loopback(self.host) and not self.security.asks_for_keys:
            raise ValueError(f"host is {self.host}, without keys it must be a loopback address; set security.keys_file")
        return self

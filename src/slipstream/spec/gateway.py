"""What the gateway reads when it starts, and again when its configuration changes."""

from __future__ import annotations

from pydantic import Field

from slipstream.spec.gateway_observability import GatewayObservabilitySpec
from slipstream.spec.groups import Group


class GatewaySpec(Group):
    """Settings of the OpenAI-compatible gateway; its port is `runtime.ports.gateway`."""

    max_body_bytes: int = Field(4 << 20, ge=1024, le=1 << 30, description="a longer request body is refused with 413")
    request_timeout_s: float = Field(600, gt=0, le=86_400, description="a reply that takes longer is ended")
    playground: bool = Field(default=True, description="the page at `/`")
    observability: GatewayObservabilitySpec = GatewayObservabilitySpec()

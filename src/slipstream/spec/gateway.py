"""What the gateway reads when it starts, and again when its configuration changes."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

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
    max_body_bytes: int = Field(4 << 20, ge=1024, le=1 << 30, description="a longer request body is refused with 413")
    request_timeout_s: float = Field(600, gt=0, le=86_400, description="a reply that takes longer is ended")
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

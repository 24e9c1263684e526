"""What the gateway tells of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slipstream.spec.groups import Group


class GatewayObservabilitySpec(Group):
    """Metrics, logs and traces of the gateway."""

    metrics: bool = Field(default=True, description="serve Prometheus metrics at `/metrics` of the gateway's port")
    triton_metrics: bool = Field(
        default=True, description="show Triton's `nv_trt_llm_*` and `vllm:*` series there, for endpoint pickers"
    )
    triton_metrics_age_s: float = Field(1.0, ge=0.1, le=60, description="Triton's page is read again after this time")
    overhead_header: bool = Field(
        default=True, description="answers say in `x-gateway-overhead-ms` what the gateway took of their time"
    )
    log_level: Literal["debug", "info", "warning", "error", "off"] = Field(
        "info", description="one JSON line a request at `info`; only failures at `warning` and above"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        max_length=2048,
        description="send OpenTelemetry traces to this collector, as `http://127.0.0.1:4318`; needs the extra `otel`",
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="share of the requests that are traced, where their client has not decided"
    )

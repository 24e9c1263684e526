"""What the gateway reads when it starts, and again when its configuration changes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
    playground: bool = Field(default=True, description="the page at `/`")

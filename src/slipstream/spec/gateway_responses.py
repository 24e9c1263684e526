"""What the gateway keeps of responses that may be continued."""

from __future__ import annotations

from pydantic import Field

from slipstream.spec.groups import Group


class ResponsesSpec(Group):
    """The memory behind `store` and `previous_response_id` of /v1/responses; it ends with the process."""

    stored_s: float = Field(600, ge=0, le=86_400, description="a response can be continued for so long; 0 keeps none")
    stored_bytes: int = Field(64 << 20, ge=0, le=16 << 30, description="of all callers; the oldest go first")
    stored_bytes_per_caller: int = Field(8 << 20, ge=0, le=16 << 30, description="of one caller; its oldest go first")
    socket_s: float = Field(3600, gt=0, le=86_400, description="a WebSocket is closed after so long, as OpenAI does")

"""How much runs on an engine at one time, and who waits for it how long."""

from __future__ import annotations

from pydantic import Field

from slipstream.spec.groups import Group


class GatewayAdmissionSpec(Group):
    """The queue in front of each model; where nothing is known of the engine's room, nothing waits."""

    kv_tokens: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="tokens of prompts and outputs that run at one time; null: as the deployment says",
    )
    max_running: int | None = Field(
        None, ge=1, le=1_000_000, description="choices that run at one time; null: as the deployment says"
    )
    estimated_output_tokens: int = Field(
        512,
        ge=1,
        le=10**9,
        description="an output is taken to fill no more of the KV cache than this, whatever max_tokens says",
    )
    max_waiting: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="requests that wait; of one more, the latest of the caller who crowds the queue is refused: 429",
    )
    queue_timeout_s: float = Field(600, gt=0, le=86_400, description="who has waited so long is refused: 503")
    aging_s: float = Field(
        10, gt=0, le=86_400, description="who has waited so long counts for the next higher priority, twice at most"
    )

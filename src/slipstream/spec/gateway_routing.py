"""How the gateway chooses among the backends of a model, and what it does when one is slow or away."""

from __future__ import annotations

from pydantic import Field

from slipstream.spec.groups import Group


class RoutingSpec(Group):
    """Settings of the choice, the health and the replacement of backends; each model has them alike."""

    prefix_affinity: bool = Field(
        default=True, description="requests with the same beginning go to the backend that has its KV cache"
    )
    affinity_block_tokens: int = Field(
        64,
        ge=1,
        le=65_536,
        description="the shortest beginning of a prompt that is recognized; shorter ones go anywhere",
    )
    affinity_load_factor: float = Field(
        1.5, gt=1, le=100, description="a backend with so many times the average load is passed over"
    )
    affinity_slack_tokens: int = Field(
        4096, ge=0, le=1 << 30, description="outstanding tokens beyond the average that never count as load"
    )
    attempts: int = Field(
        2, ge=1, le=10, description="how often a request is sent, at most, until its first token comes"
    )
    wait_s: float = Field(1, ge=0, le=60, description="how long a request waits while no backend is up; then 503")
    hedge_after_s: float | None = Field(
        None, gt=0, le=600, description="no token by then: ask a second backend, the first to answer wins; null: never"
    )
    probe_period_s: float | None = Field(
        5, gt=0, le=3600, description="a backend that has sent no token for so long is asked for one; null: never"
    )
    probe_timeout_s: float = Field(
        30, gt=0, le=3600, description="a probe may wait so long for its token: longer than the longest prompt takes"
    )
    lost_after_s: float | None = Field(
        1.5, ge=0.2, le=600, description="a server that gives no sign of life for so long is lost; null: never"
    )
    breaker_failures: int = Field(3, ge=1, le=1000, description="failures in a row that take a backend out")
    breaker_error_rate: float = Field(
        0.5, gt=0, le=1, description="share of failures among the last breaker_window requests that takes it out"
    )
    breaker_window: int = Field(20, ge=2, le=10_000, description="requests that the share is counted over")
    breaker_open_s: float = Field(2, gt=0, le=600, description="then it is left alone for so long, and probed")
    join_timeout_s: float = Field(
        60, gt=0, le=3600, description="a new backend must bring a token within this time, or the old ones stay"
    )
    drain_timeout_s: float = Field(
        600, ge=0, le=86_400, description="answers that still run on a removed backend after this time are ended"
    )

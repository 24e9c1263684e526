"""How much an engine runs at one time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slipstream.spec import DeploymentSpec, GatewayAdmissionSpec

# A little more than the engine schedules waits in front of it, so that it never waits for the gateway.
_AHEAD = 1.125


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one model has room for; none is not known, and not limited."""

    kv_tokens: int | None = None
    choices: int | None = None

    def with_settings(self, spec: GatewayAdmissionSpec) -> Capacity:
        """What `gateway.admission` says goes first."""
        return Capacity(
            kv_tokens=self.kv_tokens if spec.kv_tokens is None else spec.kv_tokens,
            choices=self.choices if spec.max_running is None else spec.max_running,
        )

    def has_room(self, *, kv_tokens: int, choices: int) -> bool:
        """Whether so much may run at one time."""
        return (self.kv_tokens is None or kv_tokens <= self.kv_tokens) and (
            self.choices is None or choices <= self.choices
        )


UNKNOWN = Capacity()


def capacity_of(deployment: DeploymentSpec, *, servers: int = 1) -> Capacity:
    """The room of `servers` Tritons that serve `deployment`.

    Tokens are known where the deployment sets them. Where the engine sizes its cache by the memory that it finds,
    `gateway.admission.kv_tokens` may name what it reports as its blocks times their tokens.
    """
    runtime, engine = deployment.runtime, deployment.engine
    of_one = runtime.kv_cache_tokens or runtime.tensorrt_llm.max_tokens_in_paged_kv_cache
    engines = servers * runtime.engine_instances
    return Capacity(
        kv_tokens=None if of_one is None else of_one * engines,
        choices=math.ceil(engine.max_batch_size * engines * _AHEAD),
    )

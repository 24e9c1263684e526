"""What is decided about one model of the repository: all but its tensors, which come from the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slipstream.repository.contract import EnsembleStep
from slipstream.repository.parameters import Value
from slipstream.spec import RuntimeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Where the server finds a deployment's artifacts: absolute paths as the *server* sees them."""

    engine_dir: str
    tokenizer_dir: str
    draft_engine_dir: str | None = None
    draft_tokenizer_dir: str | None = None
    xgrammar_info: str | None = None  # the file that `xgrammar_info.py` writes; guided decoding needs it


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Triton's dynamic batcher in front of a model, and the queue before it."""

    preferred_batch_size: int | None = None
    max_queue_delay_us: int = 0
    max_queue_size: int = 0  # 0: no limit
    queue_timeout_us: int = 0  # 0: a request waits for ever
    queue_timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    allow_queue_timeout_override: bool = False

    @classmethod
    def of(cls, runtime: RuntimeSpec) -> Batching:
        return cls(
            preferred_batch_size=runtime.triton_max_batch_size,
            max_queue_delay_us=runtime.max_queue_delay_microseconds,
            max_queue_size=runtime.max_queue_size,
            queue_timeout_us=runtime.default_queue_timeout_microseconds,
            queue_timeout_action=runtime.queue_timeout_action,
            allow_queue_timeout_override=runtime.allow_queue_timeout_override,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model of the repository, all but its tensors."""

    name: str
    backend: str | None  # None: an ensemble
    max_batch_size: int
    decoupled: bool | None = None  # None: the model has no policy of its own
    batching: Batching | None = None
    instances: int | None = None  # None: an ensemble has none
    further_steps: tuple[EnsembleStep, ...] = ()  # of an ensemble, behind the contract's
    parameters: Mapping[str, Value] = field(default_factory=dict)

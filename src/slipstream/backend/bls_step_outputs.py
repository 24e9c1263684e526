"""What a generation in many steps says of itself: figures of the whole request, not of its last step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.bls_speculation import Step

LOG_PROBS = "output_log_probs"
_CUMULATIVE = "cum_log_probs"
_SUMS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
_FIRST = ("first_scheduled_time_ns", "first_token_time_ns")
_LAST = ("last_token_time_ns",)
_ARRIVAL = "arrival_time_ns"


class StepOutputs:
    """Collects the target's outputs, step by step, and merges them in the end."""

    def __init__(self, *, wants_metrics: bool) -> None:
        self._wants_metrics = wants_metrics
        self._steps: list[Mapping[str, NDArray[Any]]] = []

    def add(self, others: Mapping[str, NDArray[Any]]) -> None:
        """Take what one response of the target holds beside its tokens."""
        self._steps.append(others)

    def merged(self, steps: Sequence[Step], *, started_ns: int) -> dict[str, NDArray[Any]]:
        """The outputs of the request. `started_ns` is on the steady clock, which the engines' times are on too."""
        outputs = self._log_probs(steps)
        if self._wants_metrics:
            outputs |= self._metrics(started_ns) | _acceptance(steps)
        return outputs

    def _log_probs(self, steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
        """The log probability of each kept token [1, 1, tokens], and their sum [1, 1]."""
        kept = [
            outputs[LOG_PROBS].reshape(-1)[: step.num_kept]
            for step, outputs in zip(steps, self._steps, strict=True)
            if LOG_PROBS in outputs
        ]
        if not kept:
            return {}
        log_probs = np.concatenate(kept).astype(np.float32)
        return {LOG_PROBS: log_probs.reshape(1, 1, -1), _CUMULATIVE: np.array([[log_probs.sum()]], np.float32)}

    def _metrics(self, started_ns: int) -> dict[str, NDArray[Any]]:
        outputs: dict[str, NDArray[Any]] = {}
        for name in _SUMS:
            values = [step[name] for step in self._steps if name in step]
            if values:
                outputs[name] = np.sum(values, axis=0, dtype=values[0].dtype)
        for names, step in ((_FIRST, self._steps[:1]), (_LAST, self._steps[-1:])):
            outputs |= {name: step[0][name] for name in names if step and name in step[0]}
        # The target first hears of the request when a draft is made; the request came before.
        outputs[_ARRIVAL] = np.array([[started_ns]], np.int64)
        return outputs


def _acceptance(steps: Sequence[Step]) -> dict[str, NDArray[Any]]:
    drafted = sum(step.num_drafted for step in steps)
    accepted = sum(step.num_accepted for step in steps)
    return {
        "acceptance_rate": np.array([[accepted / drafted if drafted else 0.0]], np.float32),
        "total_accepted_draft_tokens": np.array([[accepted]], np.int32),
        "total_draft_tokens": np.array([[drafted]], np.int32),
    }

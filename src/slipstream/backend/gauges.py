"""The `nv_trt_llm_*` gauges of TensorRT-LLM's backend that exist so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.backend.engine import Engine
from slipstream.backend.parameters import Limits
from slipstream.backend.pipeline import KV_BLOCK_TOKENS

_FAMILIES = {
    "nv_trt_llm_request_metrics": ("TRT LLM request metrics", "request_type"),
    "nv_trt_llm_general_metrics": ("General TRT LLM metrics", "general_type"),
    "nv_trt_llm_kv_cache_block_metrics": ("TRT LLM KV cache block metrics", "kv_cache_block_type"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    family: str
    label: str


class Gauges:
    """Written by one thread; a value that has not changed is not sent to Triton again."""

    def __init__(self, *, model: str, version: str, limits: Limits, max_kv_blocks: int) -> None:
        import triton_python_backend_utils as pb_utils

        self._labels = {"model": model, "version": version}
        self._limits = limits
        self._max_kv_blocks = max_kv_blocks
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.GAUGE)
            for name, (description, _) in _FAMILIES.items()
        }
        self._metrics: dict[_Key, Any] = {}
        self._last: dict[_Key, float] = {}

    def refresh(self, engine: Engine) -> None:
        """Set every gauge to the present state of `engine`.

        Its `kv_cache_usage` is the pipeline's own share, 0..1. It is 0 when nothing runs: the prefix cache of a drained
        pipeline does not count as used.
        """
        streams = engine.streams()
        generating = sum(stream.tokens_generated > 0 for stream in streams)
        scheduled = min(len(streams), self._limits.max_batch_size)
        used_blocks = round(engine.kv_cache_usage * self._max_kv_blocks)
        requests = {
            "active": len(streams),
            "max": self._limits.max_batch_size,
            "scheduled": scheduled,
            "context": scheduled - min(generating, scheduled),
            "waiting": len(streams) - scheduled,
        }
        blocks = {
            "max": self._max_kv_blocks,
            "used": used_blocks,
            "free": self._max_kv_blocks - used_blocks,
            "tokens_per": KV_BLOCK_TOKENS,
            "fraction": used_blocks / self._max_kv_blocks if self._max_kv_blocks else 0.0,
        }
        self._set("nv_trt_llm_request_metrics", requests)
        self._set("nv_trt_llm_kv_cache_block_metrics", blocks)
        self._set("nv_trt_llm_general_metrics", {"iteration_counter": engine.iterations})

    def close(self) -> None:
        """Give the metrics back; the stub process crashes at its end when some are left."""
        self._metrics.clear()
        self._families.clear()

    def _set(self, family: str, values: Mapping[str, float]) -> None:
        for label, value in values.items():
            key = _Key(family=family, label=label)
            if self._last.get(key) == value:
                continue
            if key not in self._metrics:
                labels = {**self._labels, _FAMILIES[family][1]: label}
                self._metrics[key] = self._families[family].Metric(labels=labels)
            self._metrics[key].set(value)
            self._last[key] = value

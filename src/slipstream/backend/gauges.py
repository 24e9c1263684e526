"""The metrics of TensorRT-LLM's C++ backend on Triton's /metrics, with the live values of this engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slipstream.backend.engine import Engine
from slipstream.backend.figures import gauge_values
from slipstream.backend.metric_families import (
    BUCKETS,
    FAMILIES,
    INPUT_LENGTHS,
    KV_CACHE,
    OUTPUT_LENGTHS,
    REQUESTS,
    Family,
)
from slipstream.backend.parameters import Limits
from slipstream.backend.triton_metrics import triton_family
from slipstream.backend.vllm_metrics import VllmMetrics


@dataclass(frozen=True, slots=True)
class _Key:
    family: str
    value: str


class Gauges:
    """Written by one thread; a value that has not changed is not sent to Triton again.

    Counters stay at 0, as the C++ backend's do without disaggregated serving. The histograms take every request that
    was answered, once, when it has ended.
    """

    def __init__(self, *, model: str, version: str, limits: Limits, max_kv_blocks: int) -> None:
        labels = {"model": model, "version": version}
        self._limits = limits
        self._max_kv_blocks = max_kv_blocks
        self._families = {
            family.name: triton_family(family.name, family.description, family.kind) for family in FAMILIES
        }
        self._metrics = {
            _Key(family.name, value): self._new_metric(family, {**labels, family.label: value})
            for family in FAMILIES
            for value in family.values
        }
        self._last: dict[_Key, float] = {}
        self._vllm = VllmMetrics(model=model, max_seq_len=limits.max_seq_len, kv_blocks=max_kv_blocks)

    def refresh(self, engine: Engine) -> None:
        """Set every gauge to the present state of `engine`, and count the requests that have ended."""
        values = gauge_values(engine, self._limits, max_kv_blocks=self._max_kv_blocks)
        for family, of_family in values.items():
            for label, value in of_family.items():
                self._set(_Key(family.name, label), value)
        for lengths in engine.take_finished():
            self._observe(INPUT_LENGTHS, lengths.input_tokens)
            self._observe(OUTPUT_LENGTHS, lengths.output_tokens)
        self._vllm.refresh(engine, running=values[REQUESTS]["scheduled"], kv_usage=values[KV_CACHE]["fraction"])

    def close(self) -> None:
        """Give the metrics back; the stub process crashes at its end when some are left."""
        self._vllm.close()
        self._metrics.clear()
        self._families.clear()

    def _new_metric(self, family: Family, labels: dict[str, str]) -> Any:
        if family.kind == "histogram":
            return self._families[family.name].Metric(labels=labels, buckets=list(BUCKETS))
        return self._families[family.name].Metric(labels=labels)

    def _set(self, key: _Key, value: float) -> None:
        if self._last.get(key) != value:
            self._metrics[key].set(value)
            self._last[key] = value

    def _observe(self, family: Family, tokens: int) -> None:
        (value,) = family.values
        self._metrics[_Key(family.name, value)].observe(tokens)

"""The metric families of TensorRT-LLM's C++ backend: names, labels and buckets of its custom_metrics_reporter.cc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family; each of `values` is a metric of its own, told apart by `label`."""

    name: str
    description: str
    label: str
    values: tuple[str, ...]
    kind: Literal["gauge", "counter", "histogram"] = "gauge"


BUCKETS = (10.0, 50.0, 100.0, 500.0, 1000.0)  # of every histogram, in tokens

REQUESTS = Family(
    name="nv_trt_llm_request_metrics",
    description="TRT LLM request metrics",
    label="request_type",
    values=("active", "max", "scheduled", "context", "waiting"),
)
MEMORY = Family(
    name="nv_trt_llm_runtime_memory_metrics",
    description="TRT LLM runtime memory metrics",
    label="memory_type",
    values=("cpu", "gpu", "pinned"),
)
KV_CACHE = Family(
    name="nv_trt_llm_kv_cache_block_metrics",
    description="TRT LLM KV cache block metrics",
    label="kv_cache_block_type",
    values=("max", "free", "used", "tokens_per", "reused", "fraction"),
)
DISAGGREGATED = Family(
    name="nv_trt_llm_disaggregated_serving_metrics",
    description="TRT LLM disaggregated serving metrics",
    label="disaggregated_serving_type",
    values=("kv_cache_transfer_ms", "request_count"),
    kind="counter",
)
BATCHER = Family(
    name="nv_trt_llm_inflight_batcher_metrics",
    description="TRT LLM inflight_batcher-specific metrics",
    label="inflight_batcher_specific_metric",
    values=("total_context_tokens", "generation_requests", "micro_batch_id", "paused_requests"),
)
GENERAL = Family(
    name="nv_trt_llm_general_metrics",
    description="General TRT LLM metrics",
    label="general_type",
    values=("timestamp", "iteration_counter"),
)
OUTPUT_LENGTHS = Family(
    name="nv_llm_output_token_len",
    description="TRT LLM response metrics",
    label="response_metric_type",
    values=("total_output_tokens",),
    kind="histogram",
)
INPUT_LENGTHS = Family(
    name="nv_llm_input_token_len",
    description="TRT LLM response metrics",
    label="response_metric_type",
    values=("total_input_tokens",),
    kind="histogram",
)

FAMILIES = (REQUESTS, MEMORY, KV_CACHE, DISAGGREGATED, BATCHER, GENERAL, OUTPUT_LENGTHS, INPUT_LENGTHS)

# What the C++ backend has beyond these, and why it is not here.
ABSENT_FAMILIES: Mapping[str, str] = {
    "nv_trt_llm_v1_metrics": "the C++ backend has it for static batching alone, in place of the in-flight batcher's",
}
ABSENT_VALUES: Mapping[str, Mapping[str, str]] = {}

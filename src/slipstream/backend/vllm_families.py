"""vLLM's metric families that this engine has values for: names, kinds and buckets of vLLM's V1 engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slipstream.backend.messages import Ending
from slipstream.backend.triton_metrics import MetricKind


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmFamily:
    """One family; every metric has the labels `model_name` and `engine`."""

    name: str
    description: str
    kind: MetricKind
    buckets: tuple[float, ...] = ()
    label: str = ""  # a third one
    values: tuple[str, ...] = ("",)  # of the label


def token_buckets(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `limit`."""
    scale = range(len(str(limit)))
    return tuple(float(step * 10**power) for power in scale for step in (1, 2, 5) if step * 10**power <= limit)


_TEN_S_AND_MORE = (10.0, 20.0, 40.0, 80.0)
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(*_TEN_S_AND_MORE, 160.0, 640.0, 2560.0),
)
GAP_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *_TEN_S_AND_MORE,
)
REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

REASONS = {
    Ending.END_ID: "stop",
    Ending.LENGTH: "length",
    Ending.CANCELLED: "abort",
    Ending.FAILED: "error",
}


def _gauge(name: str, description: str) -> VllmFamily:
    return VllmFamily(name=f"vllm:{name}", description=description, kind="gauge")


def _counter(name: str, description: str) -> VllmFamily:
    return VllmFamily(name=f"vllm:{name}_total", description=description, kind="counter")


def _seconds(name: str, description: str, buckets: tuple[float, ...] = REQUEST_S) -> VllmFamily:
    return VllmFamily(name=f"vllm:{name}_seconds", description=description, kind="histogram", buckets=buckets)


RUNNING = _gauge("num_requests_running", "Requests that took part in the last step")
WAITING = _gauge("num_requests_waiting", "Requests that wait to be scheduled")
KV_USAGE = _gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1")

PROMPT_TOKENS = _counter("prompt_tokens", "Prompt tokens computed or found in the prefix cache")
GENERATED_TOKENS = _counter("generation_tokens", "Tokens generated")
PREFIX_QUERIES = _counter("prefix_cache_queries", "Prompt tokens that were looked for in the prefix cache")
PREFIX_HITS = _counter("prefix_cache_hits", "Prompt tokens that were found in the prefix cache")
PREEMPTIONS = _counter("num_preemptions", "Times that a request gave its KV blocks up to another")
DRAFT_TOKENS = _counter("spec_decode_num_draft_tokens", "Tokens that speculation proposed")
ACCEPTED_TOKENS = _counter("spec_decode_num_accepted_tokens", "Proposed tokens that were accepted")
SUCCESS = VllmFamily(
    name="vllm:request_success_total",
    description="Requests that ended, by reason",
    kind="counter",
    label="finished_reason",
    values=tuple(REASONS.values()),
)

TTFT = _seconds("time_to_first_token", "From a request's arrival to its first token", FIRST_TOKEN_S)
TIME_PER_TOKEN = _seconds("request_time_per_output_token", "Mean time between the tokens of a request", GAP_S)
E2E = _seconds("e2e_request_latency", "From a request's arrival to its last response")
QUEUE = _seconds("request_queue_time", "From a request's arrival to the first step that it took part in")
PREFILL = _seconds("request_prefill_time", "From a request's first step to its first token")
DECODE = _seconds("request_decode_time", "From a request's first token to its last")
INFERENCE = _seconds("request_inference_time", "From a request's first step to its last token")


def request_tokens(kind: Literal["prompt", "generation"], max_seq_len: int) -> VllmFamily:
    """The histogram of a request's tokens, whose buckets end at the engine's context."""
    return VllmFamily(
        name=f"vllm:request_{kind}_tokens",
        description=f"Tokens of a request: {kind}",
        kind="histogram",
        buckets=token_buckets(max_seq_len),
    )


CACHE_INFO = _gauge("cache_config_info", "1; the labels say how the KV cache is made")
GAUGES = (RUNNING, WAITING, KV_USAGE)
COUNTERS = (PROMPT_TOKENS, GENERATED_TOKENS, PREFIX_QUERIES, PREFIX_HITS, PREEMPTIONS, DRAFT_TOKENS, ACCEPTED_TOKENS)
GAPS_NAME = "vllm:inter_token_latency_seconds"
GAPS = (  # a histogram, written as counters: see vllm_metrics.py
    VllmFamily(
        name=f"{GAPS_NAME}_bucket",
        description="Time between two tokens of a request, in seconds",
        kind="counter",
        label="le",
        values=(*(f"{bound:g}" for bound in GAP_S), "+Inf"),
    ),
    VllmFamily(name=f"{GAPS_NAME}_sum", description="Sum of the times between tokens", kind="counter"),
    VllmFamily(name=f"{GAPS_NAME}_count", description="Number of the times between tokens", kind="counter"),
)
LATENCIES = (TTFT, TIME_PER_TOKEN, E2E, QUEUE, PREFILL, DECODE, INFERENCE)

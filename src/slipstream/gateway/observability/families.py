"""Every metric family of the gateway. docs/gateway-metrics.md is written from this table.

A label never takes a value that a client made up: `model` is one that is served or empty, `route` a path of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slipstream.backend.vllm_families import FIRST_TOKEN_S, GAP_S, REQUEST_S, token_buckets

_VLLM_LABELS = ("model_name", "engine")
_LONGEST_TOKENS = 131_072
_OVERHEAD_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family; a counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram


def _counter(name: str, description: str, *labels: str) -> Family:
    return Family(name=f"slipstream_gateway_{name}_total", kind="counter", description=description, labels=labels)


def _gauge(name: str, description: str, *labels: str) -> Family:
    return Family(name=f"slipstream_gateway_{name}", kind="gauge", description=description, labels=labels)


def _vllm(
    name: str,
    kind: Literal["counter", "gauge", "histogram"],
    description: str,
    *labels: str,
    buckets: tuple[float, ...] = (),
) -> Family:
    names = (*_VLLM_LABELS, *labels)
    return Family(name=f"vllm:{name}", kind=kind, description=description, labels=names, buckets=buckets)


RUNNING = _vllm("num_requests_running", "gauge", "Generations that an engine was asked for and that have not ended")
WAITING = _vllm("num_requests_waiting", "gauge", "Generations that wait in the gateway for their turn")
PROMPT_TOKENS = _vllm("prompt_tokens_total", "counter", "Tokens of the prompts of generations that have ended")
GENERATION_TOKENS = _vllm("generation_tokens_total", "counter", "Tokens that these generated")
SUCCESS = _vllm(
    "request_success_total",
    "counter",
    "Generations that ended, by reason: stop, length, abort (the client left), error",
    "finished_reason",
)
TTFT = _vllm(
    "time_to_first_token_seconds",
    "histogram",
    "From the arrival of a request at the gateway to the first token of a generation",
    buckets=FIRST_TOKEN_S,
)
GAPS = _vllm(
    "inter_token_latency_seconds",
    "histogram",
    "Between two chunks of a generation as they reach the gateway",
    buckets=GAP_S,
)
TIME_PER_TOKEN = _vllm(
    "request_time_per_output_token_seconds",
    "histogram",
    "Mean time between the tokens of a generation",
    buckets=GAP_S,
)
E2E = _vllm(
    "e2e_request_latency_seconds",
    "histogram",
    "From the arrival of a request at the gateway to the last token of a generation",
    buckets=REQUEST_S,
)
QUEUE = _vllm(
    "request_queue_time_seconds",
    "histogram",
    "From the arrival of a request at the gateway until an engine is asked",
    buckets=REQUEST_S,
)
REQUEST_PROMPT_TOKENS = _vllm(
    "request_prompt_tokens", "histogram", "Tokens of a generation's prompt", buckets=token_buckets(_LONGEST_TOKENS)
)
REQUEST_GENERATION_TOKENS = _vllm(
    "request_generation_tokens", "histogram", "Tokens of a generation", buckets=token_buckets(_LONGEST_TOKENS)
)

REQUESTS = _counter("requests", "Requests that were answered", "route", "status", "model")
OVERHEAD = Family(
    name="slipstream_gateway_overhead_seconds",
    kind="histogram",
    description="The gateway's part of the time to an answer's first byte: without waiting for a turn or an engine",
    labels=("route",),
    buckets=_OVERHEAD_S,
)
REFUSED = _counter("refused", "Requests refused before an engine was asked, by what refused them", "reason", "model")
LIMITS_STORE_FAILURES = _counter("limits_store_failures", "Calls to the shared store of limits that failed", "error")
ROUTED = _counter("routed", "Requests sent to a backend, by why it was chosen", "model", "backend", "reason")
RETRIES = _counter(
    "retries", "Requests asked again on another backend (retry) or on two at once (hedge)", "model", "kind"
)
BACKEND_STATE = _gauge("backend_state", "1 for the state that a backend is in, else 0", "model", "backend", "state")
BACKEND_TOKENS = _gauge(
    "backend_outstanding_tokens", "Tokens that a backend was asked for and still owes", "model", "backend"
)
COMPLEXITY = _counter("complexity", "Decisions of the routing by complexity", "tier", "model", "reason")
CACHE = _counter("cache", "Look-ups in the gateway's caches: hit, miss or bypass", "cache", "result")
CACHE_STORES = _counter("cache_stores", "Values that a cache took", "cache")
CACHE_BYTES = _gauge("cache_bytes", "Memory that a cache takes", "cache")
RELOADS = _counter("reloads", "Configurations that were read again: taken or refused", "result")
TRITON_SCRAPES = _counter("triton_scrapes", "Readings of Triton's metrics, by outcome: ok or unreachable", "result")

FAMILIES = (
    RUNNING,
    WAITING,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    SUCCESS,
    TTFT,
    GAPS,
    TIME_PER_TOKEN,
    E2E,
    QUEUE,
    REQUEST_PROMPT_TOKENS,
    REQUEST_GENERATION_TOKENS,
    REQUESTS,
    OVERHEAD,
    REFUSED,
    LIMITS_STORE_FAILURES,
    ROUTED,
    RETRIES,
    BACKEND_STATE,
    BACKEND_TOKENS,
    COMPLEXITY,
    CACHE,
    CACHE_STORES,
    CACHE_BYTES,
    RELOADS,
    TRITON_SCRAPES,
)

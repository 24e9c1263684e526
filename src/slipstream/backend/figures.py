"""What the gauges say: the present state of an engine in the words of TensorRT-LLM's iteration statistics."""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.backend.engine import Engine
from slipstream.backend.metric_families import BATCHER, GENERAL, KV_CACHE, MEMORY, REQUESTS, Family
from slipstream.backend.parameters import Limits
from slipstream.backend.pipeline import KV_BLOCK_TOKENS


def gauge_values(engine: Engine, limits: Limits, *, max_kv_blocks: int) -> Mapping[Family, Mapping[str, float]]:
    """Every gauge's value, by family and label."""
    return {
        **_of_requests(engine, limits),
        KV_CACHE: _of_kv_cache(engine, max_kv_blocks),
        # The process holds weights, KV cache and activations; nothing is on a GPU.
        MEMORY: {"cpu": engine.memory_bytes(), "gpu": 0, "pinned": 0},
        GENERAL: {"timestamp": engine.last_iteration_us, "iteration_counter": engine.iterations},
    }


def _of_requests(engine: Engine, limits: Limits) -> dict[Family, Mapping[str, float]]:
    """Those that have begun run; a paused one waits, as in TensorRT-LLM.

    What is counted are generations: each row of a batch and each of `num_return_sequences`. A beam search is one, and
    counts as in its context until it is over: the pipeline tells nothing of it before.
    """
    streams = engine.streams()
    running = [stream for stream in streams if stream.has_begun]
    in_context = [stream for stream in running if not stream.tokens_generated]
    generating = len(running) - len(in_context)
    paused = min(engine.paused_requests, generating)
    scheduled = len(running) - paused
    requests = {
        "active": len(streams),
        "max": limits.max_batch_size,
        "scheduled": scheduled,
        "context": len(in_context),
        "waiting": len(streams) - scheduled,
    }
    batch = {
        "total_context_tokens": sum(len(stream.request.prompt_ids) for stream in in_context),
        "generation_requests": generating - paused,
        "micro_batch_id": 0,  # there is one: a CPU engine is no pipeline of ranks
        "paused_requests": paused,
    }
    return {REQUESTS: requests, BATCHER: batch}


def _of_kv_cache(engine: Engine, max_blocks: int) -> dict[str, float]:
    """0 are used when nothing runs: the prefix cache of a drained pipeline gives way to the next request."""
    used = round(engine.kv_cache_usage * max_blocks)
    return {
        "max": max_blocks,
        "free": max_blocks - used,
        "used": used,
        "tokens_per": KV_BLOCK_TOKENS,
        "reused": engine.tally.reused_blocks,
        "fraction": used / max_blocks if max_blocks else 0.0,
    }

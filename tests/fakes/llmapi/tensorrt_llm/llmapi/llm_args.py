"""The arguments of `LLM` and of its groups by name and type; a name that is none of them is an error."""

from __future__ import annotations

from typing import Any

_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "tokenizer": (str,),
    "trust_remote_code": (bool,),
    "tensor_parallel_size": (int,),
    "dtype": (str,),
    "pipeline_parallel_size": (int,),
    "moe_tensor_parallel_size": (int,),
    "moe_expert_parallel_size": (int,),
    "kv_cache_config": (dict,),
    "enable_chunked_prefill": (bool,),
    "guided_decoding_backend": (str,),
    "scheduler_config": (dict,),
    "speculative_config": (dict,),
    "max_batch_size": (int,),
    "max_input_len": (int,),
    "max_seq_len": (int,),
    "max_beam_width": (int,),
    "max_num_tokens": (int,),
    "backend": (str,),
    "return_perf_metrics": (bool,),
    "cuda_graph_config": (dict, type(None)),
    "disable_overlap_scheduler": (bool,),
    "stream_interval": (int,),
}
_GROUPS: dict[str, dict[str, tuple[type, ...]]] = {
    "kv_cache_config": {
        "enable_block_reuse": (bool,),
        "max_tokens": (int,),
        "free_gpu_memory_fraction": (float,),
        "host_cache_size": (int,),
        "dtype": (str,),
        "tokens_per_block": (int,),
    },
    "scheduler_config": {"capacity_scheduler_policy": (str,), "context_chunking_policy": (str,)},
    "cuda_graph_config": {"batch_sizes": (list,), "max_batch_size": (int,), "enable_padding": (bool,)},
}
_SPECULATION: dict[str, dict[str, tuple[type, ...]]] = {
    "Draft_Target": {"max_draft_len": (int,), "speculative_model": (str,)},
    "Eagle3": {"max_draft_len": (int,), "speculative_model": (str,)},
    "NGram": {"max_draft_len": (int,), "max_matching_ngram_size": (int,)},
}
_POLICIES = {"MAX_UTILIZATION", "GUARANTEED_NO_EVICT", "STATIC_BATCH"}


def check_arguments(arguments: dict[str, Any]) -> None:
    """Raise ValueError for what the real `LLM` would not take."""
    _check("LLM", arguments, _ARGUMENTS)
    if "model" not in arguments:
        raise ValueError("LLM: model is required")
    if arguments.get("backend", "pytorch") != "pytorch":
        raise ValueError(f"LLM: backend is {arguments['backend']}, expected pytorch")
    for name, known in _GROUPS.items():
        if arguments.get(name) is not None:
            _check(name, arguments[name], known)
    policy = arguments.get("scheduler_config", {}).get("capacity_scheduler_policy", "GUARANTEED_NO_EVICT")
    if policy not in _POLICIES:
        raise ValueError(f"scheduler_config: capacity_scheduler_policy is {policy}")
    if "speculative_config" in arguments:
        _check_speculation(dict(arguments["speculative_config"]))


def _check_speculation(config: dict[str, Any]) -> None:
    kind = config.pop("decoding_type", None)
    if kind not in _SPECULATION:
        raise ValueError(f"speculative_config: decoding_type is {kind}, expected one of {sorted(_SPECULATION)}")
    _check(f"speculative_config {kind}", config, _SPECULATION[kind])
    missing = _SPECULATION[kind].keys() - config.keys()
    if missing:
        raise ValueError(f"speculative_config {kind}: {sorted(missing)} is missing")


def _check(where: str, found: dict[str, Any], known: dict[str, tuple[type, ...]]) -> None:
    for name, value in found.items():
        if name not in known:
            raise ValueError(f"{where}: extra inputs are not permitted: {name}")
        if type(value) not in known[name]:
            raise ValueError(f"{where}: {name} is {value!r}, expected {known[name]}")

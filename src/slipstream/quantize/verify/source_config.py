"""Compares a checkpoint's config.json with the Hugging Face model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from slipstream.quantize.verify.findings import Finding, Kind, error
from slipstream.trtllm_checkpoint.config import Architecture, Llama3RopeScaling, active_sliding_window

_WHERE = "config.json"
_TRANSFORMERS = "quantize again with transformers 4.57 (transformers 5 loses the rotary settings in ModelOpt's export)"


def check_config(architecture: Architecture, model: Mapping[str, object]) -> Iterator[Finding]:
    """Every setting that changes what is computed."""
    yield from _rotary(architecture, model)
    heads = model.get("num_attention_heads")
    experts = architecture.experts
    settings: dict[str, tuple[object, object]] = {
        "hidden_size": (architecture.hidden_size, model.get("hidden_size")),
        "num_hidden_layers": (architecture.num_layers, model.get("num_hidden_layers")),
        "num_attention_heads": (architecture.num_heads, heads),
        "num_key_value_heads": (architecture.num_kv_heads, model.get("num_key_value_heads") or heads),
        "head_size": (architecture.head_size, model.get("head_dim") or _head_size(model)),
        "intermediate_size": (architecture.intermediate_size, model.get("intermediate_size")),
        "norm_epsilon": (architecture.norm_epsilon, model.get("rms_norm_eps")),
        "moe.num_experts": (experts.count if experts else None, model.get("num_local_experts")),
        "moe.top_k": (experts.chosen if experts else None, model.get("num_experts_per_tok")),
    }
    for key, (found, wanted) in settings.items():
        if found != wanted:
            yield _differs("config", key, found, wanted)
    yield from _vocabulary(architecture, model)
    yield from _window(architecture, model)


def _rotary(architecture: Architecture, model: Mapping[str, object]) -> Iterator[Finding]:
    base = model.get("rope_theta", 10000.0)
    if architecture.rotary_base != base:
        yield _differs("rotary", "rotary_base", architecture.rotary_base, base, _TRANSFORMERS)
    wanted = _scaling(model.get("rope_scaling"))
    found = _scaling_values(architecture.rope_scaling)
    if found != wanted:
        lost = " (it was lost)" if found is None else ""
        yield _differs("rotary", "rotary_scaling", f"{found}{lost}", wanted, _TRANSFORMERS)


def _scaling(values: object) -> dict[str, object] | None:
    if not isinstance(values, dict) or values.get("rope_type", values.get("type")) in (None, "default"):
        return None
    return {key: value for key, value in values.items() if key not in ("rope_type", "type", "rope_theta")}


def _scaling_values(scaling: Llama3RopeScaling | None) -> dict[str, object] | None:
    if scaling is None:
        return None
    return {
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context_tokens,
    }


def _vocabulary(architecture: Architecture, model: Mapping[str, object]) -> Iterator[Finding]:
    """It may be padded, never cut."""
    wanted = model.get("vocab_size")
    if isinstance(wanted, int) and architecture.vocab_size < wanted:
        yield _differs("config", "vocab_size", architecture.vocab_size, f"{wanted} or more")


def _window(architecture: Architecture, model: Mapping[str, object]) -> Iterator[Finding]:
    window = active_sliding_window(model)
    is_felt = window is not None and window < architecture.max_position_embeddings
    if is_felt and architecture.sliding_window_tokens != window:
        yield _differs("config", "sliding_window", architecture.sliding_window_tokens, window)


def _head_size(model: Mapping[str, object]) -> int | None:
    hidden, heads = model.get("hidden_size"), model.get("num_attention_heads")
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) else None


def _differs(kind: Kind, key: str, found: object, wanted: object, mend: str = "quantize the model again") -> Finding:
    return error(kind, f"{_WHERE} {key}", f"is {found}, the model's is {wanted}", mend)

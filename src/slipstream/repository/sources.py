"""Where each parameter of the five models comes from: a field of the spec, a derivation, or nowhere, with the reason.

The three tables together name every parameter of the contract once; the renderer takes its values from the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from slipstream.repository.parameters import Value
from slipstream.spec import DeploymentSpec, TensorrtLlmSpec

_MULTIMODAL = "only vision models read it, and no recipe makes one"
_ENCODER = "only encoder-decoder models read it, and no recipe makes one"

_OF_RUNTIME = (
    "batch_scheduler_policy",
    "kv_cache_free_gpu_mem_fraction",
    "enable_kv_cache_reuse",
    "enable_chunked_context",
    "exclude_input_in_output",
    "cancellation_check_period_ms",
    "stats_check_period_ms",
)
_OF_SPECULATION = (
    "lookahead_window_size",
    "lookahead_ngram_size",
    "lookahead_verification_set_size",
    "medusa_choices",
    "eagle_choices",
)

# Parameters that no field can set, and why.
NOT_SETTABLE: Mapping[str, Mapping[str, str]] = {
    "preprocessing": {
        "multimodal_model_path": _MULTIMODAL,
        "gpt_model_path": _MULTIMODAL,
        "max_num_images": _MULTIMODAL,
    },
    "tensorrt_llm": {
        "encoder_model_path": _ENCODER,
        # trtGptModelInflightBatching.cpp @00825c4ee813
        "cross_kv_cache_fraction": "only encoder-decoder models read it: a decoder-only engine does not load with it",
        # kvCacheManager.cpp since pull request 6767, first in 1.1
        "sink_token_length": "the KV cache manager no longer has StreamingLLM: the engine does not load with it",
        "enable_trt_overlap": "removed in TensorRT-LLM: it gives a warning and does nothing",
    },
    "tensorrt_llm_bls": {"multimodal_encoders_name": _MULTIMODAL},
}

# Parameters that follow from something else, and from what.
DERIVED: Mapping[str, Mapping[str, str]] = {
    "preprocessing": {"tokenizer_dir": "where the model lies"},
    "postprocessing": {"tokenizer_dir": "where the model lies"},
    "tensorrt_llm": {
        "FORCE_CPU_ONLY_INPUT_TENSORS": "has one value",
        "executor_worker_path": "has one value: where the container keeps it",
        "gpt_model_type": "in-flight batching: the other value, V1, batches statically",
        "gpt_model_path": "where the engine lies",
        "tokenizer_dir": "where the model lies",
        "xgrammar_tokenizer_info_path": "where the file lies that guided decoding reads",
    },
    "tensorrt_llm_bls": {
        "tokenizer_dir": "where the model lies",
        "tensorrt_llm_model_name": "the name of the target's model",
        "tensorrt_llm_draft_model_name": "the name of the draft's model, where engine.draft is given",
    },
}

# Model → parameter → field of the spec. Our BLS tokenizes in process, so it reads what its neighbours read.
FROM_SPEC: Mapping[str, Mapping[str, str]] = {
    "preprocessing": {"add_special_tokens": "runtime.add_special_tokens"},
    "postprocessing": {"skip_special_tokens": "runtime.skip_special_tokens"},
    "tensorrt_llm": {
        "max_beam_width": "engine.max_beam_width",
        **{name: f"runtime.{name}" for name in _OF_RUNTIME},
        **{name: f"engine.speculation.{name}" for name in _OF_SPECULATION},
        **{name: f"runtime.tensorrt_llm.{name}" for name in TensorrtLlmSpec.model_fields},
    },
    "tensorrt_llm_bls": {
        "add_special_tokens": "runtime.add_special_tokens",
        "skip_special_tokens": "runtime.skip_special_tokens",
        "accumulate_tokens": "runtime.accumulate_tokens",
    },
}


def values_from(spec: DeploymentSpec, model_name: str) -> dict[str, Value]:
    """What the fields of the spec say for the parameters of `model_name`; None where nothing is said."""
    return {name: field_value(spec, path) for name, path in FROM_SPEC[model_name].items()}


def field_value(spec: DeploymentSpec, path: str) -> Value:
    """The field at `path`, such as `runtime.tensorrt_llm.num_nodes`; None where a group on the way is not given."""
    found: Any = spec
    for name in path.split("."):
        found = None if found is None else getattr(found, name)
    return cast("Value", found)

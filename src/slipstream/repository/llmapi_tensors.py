"""The tensors of TensorRT-LLM's LLM API model: one Python model without a batch dimension.

Source: NVIDIA/TensorRT-LLM, triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt at c8c6df08bd0e. Later commits
add inputs (LoRA, images, logits processors), which the pinned 1.2.1 does not have.
"""

from __future__ import annotations

from slipstream.repository.contract import Tensor


def _optional(name: str, data_type: str, *, dims: int = 1) -> Tensor:
    return Tensor(name=name, data_type=data_type, dims=(dims,), optional=True)


def _output(name: str, data_type: str, *, dims: int = -1) -> Tensor:
    return Tensor(name=name, data_type=data_type, dims=(dims,))


INPUTS: tuple[Tensor, ...] = (
    Tensor(name="text_input", data_type="TYPE_STRING", dims=(-1,)),
    _optional("streaming", "TYPE_BOOL"),
    _optional("sampling_param_best_of", "TYPE_INT32"),
    _optional("sampling_param_temperature", "TYPE_FP32"),
    _optional("sampling_param_top_k", "TYPE_INT32"),
    _optional("sampling_param_top_p", "TYPE_FP32"),
    _optional("sampling_param_frequency_penalty", "TYPE_FP32"),
    _optional("sampling_param_presence_penalty", "TYPE_FP32"),
    _optional("sampling_param_max_tokens", "TYPE_INT32"),
    _optional("sampling_param_stop", "TYPE_STRING", dims=-1),
    _optional("sampling_param_seed", "TYPE_UINT64"),
    _optional("sampling_param_exclude_input_from_output", "TYPE_BOOL"),
    _optional("sampling_param_return_perf_metrics", "TYPE_BOOL"),
    _optional("return_finish_reason", "TYPE_BOOL"),
    _optional("return_stop_reason", "TYPE_BOOL"),
    _optional("return_cumulative_logprob", "TYPE_BOOL"),
    _optional("stop", "TYPE_BOOL"),
)

OUTPUTS: tuple[Tensor, ...] = (
    _output("text_output", "TYPE_STRING"),
    _output("finish_reason", "TYPE_STRING"),
    _output("stop_reason", "TYPE_STRING"),
    _output("cumulative_logprob", "TYPE_FP32"),
    _output("kv_cache_reused_block", "TYPE_INT32"),
    _output("kv_cache_missed_block", "TYPE_INT32"),
    _output("kv_cache_alloc_new_blocks", "TYPE_INT32"),
    _output("kv_cache_alloc_total_blocks", "TYPE_INT32"),
    _output("kv_cache_hit_rate", "TYPE_FP32"),
    _output("arrival_time_ns", "TYPE_INT64", dims=1),
    _output("first_scheduled_time_ns", "TYPE_INT64", dims=1),
    _output("first_token_time_ns", "TYPE_INT64", dims=1),
    _output("last_token_time_ns", "TYPE_INT64", dims=1),
    _output("acceptance_rate", "TYPE_FP32", dims=1),
    _output("total_accepted_draft_tokens", "TYPE_INT32", dims=1),
    _output("total_draft_tokens", "TYPE_INT32", dims=1),
)

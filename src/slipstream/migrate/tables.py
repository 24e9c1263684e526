"""What becomes of every tensor, parameter and build option of an engine deployment under the LLM API.

Old names: the contract of TensorRT-LLM 1.2.1's Triton models. New names: triton_backend/all_models/llmapi of
NVIDIA/TensorRT-LLM at c8c6df08bd0e, and tensorrt_llm/llmapi/llm_args.py of the 1.2 line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What an old name becomes."""

    new: str | None  # None: gone
    note: str = ""


def _as(new: str, note: str = "") -> Fate:
    return Fate(new=new, note=note)


def _gone(note: str) -> Fate:
    return Fate(new=None, note=note)


MODELS: Mapping[str, Fate] = {
    "ensemble": _as("tensorrt_llm", "the only model: text in, text out"),
    "tensorrt_llm_bls": _as("tensorrt_llm"),
    "preprocessing": _gone("the LLM API tokenizes itself"),
    "postprocessing": _gone("the LLM API detokenizes itself"),
    "tensorrt_llm": _gone("the name now takes text: token ids cannot be sent or received"),
    "tensorrt_llm_draft": _gone("the draft model runs within the one model"),
}

_IMAGES = "this model is for text"
_PROMPT_TUNING = "prompt tuning has no tensor"
_LOGITS = "logits are not returned"
_BEAMS = "beam search has no tensor"
_LORA = "adapters cannot be chosen in 1.2.1"
_GUIDED = "guided decoding has no tensor; the LLM API's own Python interface has it"
_ENDS = "taken from the checkpoint's generation_config.json"
_PENALTY = "not among the tensors"

# Of the text models; every shape loses its batch dimension: [1, 1] becomes [1].
INPUTS: Mapping[str, Fate] = {
    "text_input": _as("text_input"),
    "max_tokens": _as("sampling_param_max_tokens", "32 when left out"),
    "stop_words": _as("sampling_param_stop"),
    "exclude_input_in_output": _as("sampling_param_exclude_input_from_output"),
    "top_k": _as("sampling_param_top_k"),
    "top_p": _as("sampling_param_top_p"),
    "temperature": _as("sampling_param_temperature"),
    "presence_penalty": _as("sampling_param_presence_penalty"),
    "frequency_penalty": _as("sampling_param_frequency_penalty"),
    "seed": _as("sampling_param_seed"),
    "return_log_probs": _as("return_cumulative_logprob", "the sum only, not one of each token"),
    "return_perf_metrics": _as("sampling_param_return_perf_metrics"),
    "stream": _as("streaming"),
    "num_return_sequences": _gone("one answer a request: send it several times with different seeds"),
    "bad_words": _gone("not among the tensors"),
    "end_id": _gone(_ENDS),
    "pad_id": _gone(_ENDS),
    "length_penalty": _gone(_BEAMS),
    "beam_width": _gone(_BEAMS),
    "repetition_penalty": _gone(f"{_PENALTY}: use frequency_penalty or presence_penalty"),
    "min_tokens": _gone(_PENALTY),
    "return_context_logits": _gone(_LOGITS),
    "return_generation_logits": _gone(_LOGITS),
    "return_num_input_tokens": _gone("count with the tokenizer"),
    "return_num_output_tokens": _gone("count with the tokenizer"),
    "decoder_text_input": _gone("encoder-decoder models are not served"),
    "image_input": _gone(_IMAGES),
    "image_bytes_input": _gone(_IMAGES),
    "image_url_input": _gone(_IMAGES),
    "image_sizes_input": _gone(_IMAGES),
    "video_bytes_input": _gone(_IMAGES),
    "prompt_embedding_table": _gone(_PROMPT_TUNING),
    "prompt_table_extra_id": _gone(_PROMPT_TUNING),
    "prompt_vocab_size": _gone(_PROMPT_TUNING),
    "embedding_bias_words": _gone("logit bias has no tensor"),
    "embedding_bias_weights": _gone("logit bias has no tensor"),
    "num_draft_tokens": _gone("set in the deployment: engine.draft.max_draft_len"),
    "use_draft_logits": _gone("decided by the LLM API"),
    "lora_task_id": _gone(_LORA),
    "lora_weights": _gone(_LORA),
    "lora_config": _gone(_LORA),
    "guided_decoding_guide_type": _gone(_GUIDED),
    "guided_decoding_guide": _gone(_GUIDED),
}

OUTPUTS: Mapping[str, Fate] = {
    "text_output": _as("text_output"),
    "cum_log_probs": _as("cumulative_logprob"),
    "kv_cache_alloc_new_blocks": _as("kv_cache_alloc_new_blocks"),
    "kv_cache_reused_blocks": _as("kv_cache_reused_block"),
    "kv_cache_alloc_total_blocks": _as("kv_cache_alloc_total_blocks"),
    "arrival_time_ns": _as("arrival_time_ns"),
    "first_scheduled_time_ns": _as("first_scheduled_time_ns"),
    "first_token_time_ns": _as("first_token_time_ns"),
    "last_token_time_ns": _as("last_token_time_ns"),
    "acceptance_rate": _as("acceptance_rate"),
    "total_accepted_draft_tokens": _as("total_accepted_draft_tokens"),
    "total_draft_tokens": _as("total_draft_tokens"),
    "output_log_probs": _gone("only their sum is returned"),
    "context_logits": _gone(_LOGITS),
    "generation_logits": _gone(_LOGITS),
    "batch_index": _gone("one request, one answer"),
    "sequence_index": _gone("one request, one answer"),
    "num_input_tokens": _gone("count with the tokenizer"),
    "num_output_tokens": _gone("count with the tokenizer"),
}

# New tensors that no old one becomes.
NEW_INPUTS: Mapping[str, str] = {
    "return_finish_reason": "stop, length or cancelled",
    "return_stop_reason": "the stop string, or the id of the token, that ended the output",
    "sampling_param_best_of": "the best of so many",
    "stop": "with the id of a request: end it",
}

_LLM_DEFAULT = "the LLM API decides"
_ORCHESTRATOR = "the LLM API starts its ranks itself"
_LORA_CACHE = "without adapters there is no cache for them"
_HEADS = "not a mode of the PyTorch backend"

# Fields of runtime.tensorrt_llm, which are parameters of the C++ backend by name.
BACKEND_PARAMETERS: Mapping[str, Fate] = {
    "max_tokens_in_paged_kv_cache": _gone("the memory fraction alone sizes the KV cache"),
    "max_attention_window_size": _gone("taken from the checkpoint's config.json"),
    "kv_cache_host_memory_bytes": _gone("no field of runtime.llmapi carries host_cache_size yet"),
    "kv_cache_onboard_blocks": _gone(_LLM_DEFAULT),
    "normalize_log_probs": _gone("the sum is returned as it is"),
    "gpu_device_ids": _gone("one server for each replica, with CUDA_VISIBLE_DEVICES"),
    "participant_ids": _gone(_ORCHESTRATOR),
    "num_nodes": _gone("trtllm-llmapi-launch says over how many nodes"),
    "lora_cache_optimal_adapter_size": _gone(_LORA_CACHE),
    "lora_cache_max_adapter_size": _gone(_LORA_CACHE),
    "lora_cache_gpu_memory_fraction": _gone(_LORA_CACHE),
    "lora_cache_host_memory_bytes": _gone(_LORA_CACHE),
    "lora_prefetch_dir": _gone(_LORA_CACHE),
    "decoding_mode": _gone("follows from each request's sampling"),
    "guided_decoding_backend": _gone(_GUIDED),
    "gpu_weights_percent": _gone("weights cannot be streamed from host memory"),
    "enable_context_fmha_fp32_acc": _gone(_LLM_DEFAULT),
    "multi_block_mode": _gone(_LLM_DEFAULT),
    "cuda_graph_mode": _as("runtime.llmapi.cuda_graph", "on unless it is switched off"),
    "cuda_graph_cache_size": _gone("graphs are captured for the batch sizes up to engine.max_batch_size"),
    "iter_stats_max_iterations": _gone("statistics are not exported"),
    "request_stats_max_iterations": _gone("statistics are not exported"),
    "speculative_decoding_fast_logits": _gone("draft and target run in one process group"),
    "recv_poll_period_ms": _gone(_ORCHESTRATOR),
}

# Fields of engine.trtllm_build; there is no build any more.
BUILD_OPTIONS: Mapping[str, Fate] = {
    "opt_num_tokens": _gone("no TensorRT profiles"),
    "multiple_profiles": _gone("no TensorRT profiles"),
    "tokens_per_block": _gone("32, the LLM API's own"),
    "use_paged_context_fmha": _gone("always on"),
    "use_fp8_context_fmha": _gone("follows from the formats"),
    "gemm_plugin": _gone("no plugins: kernels are tuned at the start"),
    "low_latency_gemm_plugin": _gone("no plugins: kernels are tuned at the start"),
    "gemm_swiglu_plugin": _gone("no plugins: kernels are tuned at the start"),
    "reduce_fusion": _gone(_LLM_DEFAULT),
    "user_buffer": _gone(_LLM_DEFAULT),
    "use_fused_mlp": _gone("always on"),
    "pp_reduce_scatter": _gone(_LLM_DEFAULT),
    "gather_context_logits": _gone(_LOGITS),
    "max_prompt_embedding_table_size": _gone(_PROMPT_TUNING),
    "weight_streaming": _gone("weights cannot be streamed from host memory"),
    "logits_dtype": _gone("float32 where they are computed"),
    "workers": _gone("nothing is built"),
}

# Fields of runtime that concern hops and queues which are no more; the others keep their names and meanings
# (`enable_chunked_context` becomes `enable_chunked_prefill` when it is rendered).
RUNTIME: Mapping[str, Fate] = {
    "triton_max_batch_size": _gone("the model has no batch dimension; engine.max_batch_size limits what runs at once"),
    "launch_mode": _gone(_ORCHESTRATOR),
    "max_queue_delay_microseconds": _gone("the model has no queue in Triton"),
    "default_queue_timeout_microseconds": _gone("the model has no queue in Triton; max_queue_size still refuses"),
    "queue_timeout_action": _gone("the model has no queue in Triton"),
    "allow_queue_timeout_override": _gone("the model has no queue in Triton"),
    "preprocessing_instances": _gone("the LLM API tokenizes itself"),
    "postprocessing_instances": _gone("the LLM API detokenizes itself"),
    "bls_instances": _gone("there is no BLS model"),
    "engine_instances": _gone("one server for each replica"),
    "stats_check_period_ms": _gone("statistics are not exported"),
}

# Speculation without a draft model, by engine.speculation.mode.
SPECULATION: Mapping[str, Fate] = {
    "lookahead": _as("ngram", f"lookahead is {_HEADS}; n-grams of the text need no heads either"),
    "medusa": _gone(f"Medusa is {_HEADS}: train or fetch EAGLE-3 heads, and set engine.speculation.mode to eagle3"),
    "eagle": _gone(f"EAGLE 1 is {_HEADS}, and its heads do not fit EAGLE-3: fetch those, and set mode to eagle3"),
}

FEATURES: tuple[tuple[str, str], ...] = (
    ("ensemble and BLS", "one model replaces the five, and the metrics of each hop go with them"),
    ("nv_trt_llm_* metrics", "the C++ backend published them; Triton's own nv_inference_* metrics stay"),
    ("engines on disk", "weights are loaded, and kernels tuned, at every start: it takes longer"),
)

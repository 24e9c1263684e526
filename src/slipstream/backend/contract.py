"""Tensors of the `tensorrt_llm` model: served, accepted without effect, or not served, each with its reason.

A tensor that is in none of the lists would be a silent gap: unit tests hold them against the published model, and
docs/contract.md is written from them. A neutral value (one beam, `false`, …) asks for nothing and is accepted. Outputs
that are not given are simply absent from a response, as they are in TensorRT-LLM's backend when nobody asked for them.
"""

from __future__ import annotations

from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given

SERVED = frozenset(
    {
        "input_ids",
        "input_lengths",
        "request_output_len",
        "draft_input_ids",
        "draft_logits",
        "draft_acceptance_threshold",
        "end_id",
        "stop_words_list",
        "bad_words_list",
        "temperature",
        "runtime_top_k",
        "runtime_top_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "min_tokens",
        "seed",
        "return_log_probs",
        "return_context_logits",
        "return_generation_logits",
        "return_perf_metrics",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "exclude_input_in_output",
        "guided_decoding_guide_type",
        "guided_decoding_guide",
        "num_return_sequences",
        "beam_width",
        "len_penalty",  # with beams, as the next
        "early_stopping",
        "stop",
        "streaming",
    }
)

# Hints, and settings of what is not there: the text is the same with and without.
_RETENTION = "a hint; the prefix cache drops the least recently used blocks first"

ACCEPTED = {
    "pad_id": "responses hold no padding",
    "retention_token_range_starts": _RETENTION,
    "retention_token_range_ends": _RETENTION,
    "retention_token_range_priorities": _RETENTION,
    "retention_token_range_durations_ms": _RETENTION,
    "retention_decode_priority": _RETENTION,
    "retention_decode_duration_ms": _RETENTION,
}

MARK_INPUT = "prompt_table_extra_ids"

_ENCODER = "the engine is a decoder-only model"
_DIVERSITY = "the engine knows a penalty between groups of beams, and no addition to a beam's score by its rank"
_LORA = "the engine was built without LoRA adapters"
_PROMPT_TABLE = "prompt embeddings are not available on this engine"
_LOOKAHEAD = "lookahead decoding is not available on this engine"
_DECAY = "the engine's sampler has one top-p for the whole output"
BIAS = "the engine's sampler takes no bias on the logits, it can only be told which tokens are allowed"
_MROPE = "the engine is not a multimodal model"

REFUSED = {
    "encoder_input_features": _ENCODER,
    "encoder_output_lengths": _ENCODER,
    "decoder_input_ids": _ENCODER,
    "decoder_input_lengths": _ENCODER,
    "cross_attention_mask": _ENCODER,
    "skip_cross_attn_blocks": _ENCODER,
    "beam_search_diversity_rate": _DIVERSITY,
    "embedding_bias": BIAS,
    "runtime_top_p_min": _DECAY,
    "runtime_top_p_decay": _DECAY,
    "runtime_top_p_reset_ids": _DECAY,
    "prompt_embedding_table": _PROMPT_TABLE,
    "prompt_vocab_size": _PROMPT_TABLE,
    MARK_INPUT: _PROMPT_TABLE,  # the marks of the ensemble and of the BLS model aside, see trailer.py
    "mrope_rotary_cos_sin": _MROPE,
    "mrope_position_deltas": _MROPE,
    "lora_task_id": _LORA,
    "lora_weights": _LORA,
    "lora_config": _LORA,
    "context_phase_params": "disaggregated serving is not available on this engine",
    "lookahead_window_size": _LOOKAHEAD,
    "lookahead_ngram_size": _LOOKAHEAD,
    "lookahead_verification_set_size": _LOOKAHEAD,
}

SERVED_OUTPUTS = frozenset(
    {
        "output_ids",
        "sequence_length",
        "cum_log_probs",  # with return_log_probs, as the next
        "output_log_probs",
        "context_logits",  # with return_context_logits, in the last response
        "generation_logits",  # with return_generation_logits, in the last response
        "arrival_time_ns",  # with return_perf_metrics, in the last response, as the next nine
        "first_scheduled_time_ns",
        "first_token_time_ns",
        "last_token_time_ns",
        "kv_cache_alloc_new_blocks",
        "kv_cache_reused_blocks",
        "kv_cache_alloc_total_blocks",
        "acceptance_rate",
        "total_accepted_draft_tokens",
        "total_draft_tokens",
        "num_input_tokens",  # with return_num_input_tokens
        "num_output_tokens",  # with return_num_output_tokens
        "batch_index",  # with several rows
        "sequence_index",  # with num_return_sequences above 1
    }
)


ABSENT_OUTPUTS = {
    "context_phase_params": "disaggregated serving is not available on this engine",
}

NEUTRAL: dict[str, tuple[float, ...]] = {
    "beam_search_diversity_rate": (0,),
    "runtime_top_p_decay": (1,),
    "runtime_top_p_min": (0,),
    "decoder_input_lengths": (0,),
    "prompt_vocab_size": (0,),
    "embedding_bias": (0,),
}


def refuse_unserved(tensors: Tensors) -> None:
    """Raise `RequestRefusedError` for the first tensor that asks for something the engine does not do."""
    for name in tensors:
        if (
            name in SERVED
            or name in ACCEPTED
            or name == MARK_INPUT
            or not is_given(tensors, name)
            or _is_neutral(tensors, name)
        ):
            continue
        reason = REFUSED.get(name, "the model has no such input")
        raise RequestRefusedError(f"{name}: {reason}; leave it out")


def _is_neutral(tensors: Tensors, name: str) -> bool:
    neutral = NEUTRAL.get(name)
    return neutral is not None and all(float(value) in neutral for value in tensors[name].reshape(-1).tolist())

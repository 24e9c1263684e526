"""`SamplingParams` by its argument names, and the rules that it enforces itself."""

from __future__ import annotations

from typing import Any

_NAMES = {
    "end_id", "pad_id", "max_tokens", "bad", "bad_token_ids", "stop", "stop_token_ids", "include_stop_str_in_output",
    "embedding_bias", "logits_processor", "apply_batched_logits_processor", "n", "best_of", "use_beam_search", "top_k",
    "top_p", "top_p_min", "top_p_reset_ids", "top_p_decay", "seed", "temperature", "min_tokens",
    "beam_search_diversity_rate", "repetition_penalty", "presence_penalty", "frequency_penalty", "length_penalty",
    "early_stopping", "no_repeat_ngram_size", "min_p", "beam_width_array", "logprobs", "prompt_logprobs",
    "return_context_logits", "return_generation_logits", "exclude_input_from_output", "return_encoder_output",
    "return_perf_metrics", "additional_model_outputs", "lookahead_config", "guided_decoding", "ignore_eos",
    "detokenize", "add_special_tokens", "truncate_prompt_tokens", "skip_special_tokens",
    "spaces_between_special_tokens",
}  # fmt: skip


class SamplingParams:
    """What a request asks for."""

    def __init__(self, **given: Any) -> None:
        unknown = set(given) - _NAMES
        if unknown:
            raise TypeError(f"SamplingParams got unexpected arguments {sorted(unknown)}")
        if given.get("best_of", 1) < given.get("n", 1):
            raise ValueError("best_of must not be below n")
        self.given = given
        self.max_tokens: int = given.get("max_tokens", 32)
        self.stops: list[str] = given.get("stop") or []

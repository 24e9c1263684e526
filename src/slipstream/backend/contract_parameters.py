"""Parameters of the contract's models on the embedded server: which are read, and why the others have no effect.

What is in neither table is refused before anything is rendered: the spec has no field for it, or not with this engine.
"""

from __future__ import annotations

from collections.abc import Mapping

READ: Mapping[str, frozenset[str]] = {
    "preprocessing": frozenset({"tokenizer_dir", "add_special_tokens"}),
    "tensorrt_llm": frozenset(
        {
            "gpt_model_path",
            "tokenizer_dir",
            "max_beam_width",
            "enable_kv_cache_reuse",
            "enable_chunked_context",
            "batch_scheduler_policy",
            "max_tokens_in_paged_kv_cache",
            "exclude_input_in_output",
            "cancellation_check_period_ms",
            "stats_check_period_ms",
        }
    ),
    "postprocessing": frozenset({"tokenizer_dir", "skip_special_tokens"}),
    "tensorrt_llm_bls": frozenset(
        {
            "tokenizer_dir",
            "add_special_tokens",
            "skip_special_tokens",
            "accumulate_tokens",
            "tensorrt_llm_model_name",
            "tensorrt_llm_draft_model_name",
        }
    ),
}

WITHOUT_EFFECT: Mapping[str, Mapping[str, str]] = {
    "tensorrt_llm": {
        "kv_cache_free_gpu_mem_fraction": "there is no GPU; `runtime.kv_cache_gib` sizes the cache",
        "gpt_model_type": "the engine batches in flight, which is the only value that is rendered",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "there is no other memory; it is not rendered",
        "executor_worker_path": "there are no ranks to start; it is not rendered",
        "xgrammar_tokenizer_info_path": "rendered empty; the vocabulary is the engine's own",
    },
}

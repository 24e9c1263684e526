"""Small models with random weights for the verification table: every format, cut in every way, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Wide enough for W4A8's groups of 128 on four ranks, and with fewer KV heads than those.
LLAMA: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MIXTRAL: dict[str, Any] = LLAMA | {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
# Layers add to the embedding without drowning it, as in trained models: where each layer's output outgrew its input,
# one activation that falls on the other side of a rounding edge would in the end change every logit.
_EMBEDDING_DEVIATION, _WEIGHT_DEVIATION, _NORM_DEVIATION = 1.0, 0.03, 0.2


def save_synthetic(model_type: str, directory: Path, settings: dict[str, Any], seed: int = 0) -> Path:
    """Write a Hugging Face model of `model_type` with `settings` into `directory`, in float16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from slipstream.quantize.hf_model import quiet

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                is_matrix = parameter.ndim > 1
                parameter.normal_(0 if is_matrix else 1, _WEIGHT_DEVIATION if is_matrix else _NORM_DEVIATION)
            model.model.embed_tokens.weight.normal_(0, _EMBEDDING_DEVIATION)
        directory.mkdir(parents=True, exist_ok=True)
        model.half().save_pretrained(directory)
    return directory

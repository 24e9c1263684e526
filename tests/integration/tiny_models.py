"""Small random models of each supported architecture, saved as Hugging Face checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipstream.formats import Method
from slipstream.quantize.recipes import Calibration, Evaluation, Recipe, RecipeFile
from tests.unit.small_tokenizers import SCRIPTS, byte_level

SIZES = {
    "vocab_size": 432,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 16,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def a_recipe(method: Method = "int8_wo", **changes: Any) -> Recipe:
    """A recipe for `method` over a few short samples; `changes` are fields of its file."""
    text = " ".join(SCRIPTS * 4)
    settings = {
        "name": method,
        "summary": "for tests",
        "method": method,
        "calibration": Calibration(text="t", samples=2, tokens_per_sample=32),
        "evaluation": None if method == "none" else Evaluation(text="t", samples=2, tokens_per_sample=32),
        "alpha": 0.5 if method == "int8_sq" else None,
        "group_size": {"int4_awq": 64, "w4a8_awq": 128}.get(method),
    }
    return Recipe(settings=RecipeFile.model_validate(settings | changes), calibration_text=text, evaluation_text=text)


def save_model(model_type: str, directory: Path, **changes: Any) -> Path:
    """A random model of `model_type`, with biases and norms that are not trivial, and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0 if parameter.ndim > 1 else 1, 0.2)
    directory.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(directory)
    byte_level().fast.save(str(directory / "tokenizer.json"))
    return directory

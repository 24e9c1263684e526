"""Hugging Face's own model as the reference: with the weights that the engine has, decoding greedily."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipstream.engine.quantize_rows import quantize_rows


def as_quantized(directory: Path) -> Any:
    """The model in `directory` in float32, the weights of its linear layers rounded to INT8 rows."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Linear) and name != "lm_head":
            rows = quantize_rows(part.weight.detach().numpy())
            part.weight.data = torch.from_numpy(rows.values * rows.row_scales[:, None])
    return model


def greedy_tokens(model: Any, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """`num_tokens` greedy tokens after `prompt`; end tokens do not end it."""
    import torch

    ids = torch.tensor([list(prompt)])
    # Without an explicit mask, generate hides padding ids inside the prompt; without eos None, it stops early.
    with torch.inference_mode():
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, eos_token_id=None
        )
    return list(whole[0, len(prompt) :].tolist())

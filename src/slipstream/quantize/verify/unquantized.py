"""The Hugging Face model's own logits, for a checkpoint without a reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from slipstream.quantize.hf_model import load_model, quiet
from slipstream.trtllm_checkpoint.shard import Float32Array


def unquantized_logits(model_dir: Path, input_ids: npt.NDArray[np.int64]) -> Float32Array:
    """Logits [batch, tokens, vocabulary] of the model, computed in float32."""
    import torch

    model = load_model(model_dir, "bfloat16" if _is_bfloat16(model_dir) else "float16")
    with torch.inference_mode(), quiet():
        logits: Float32Array = model(torch.from_numpy(input_ids), use_cache=False).logits.float().numpy()
    return logits


def _is_bfloat16(model_dir: Path) -> bool:
    return '"bfloat16"' in (model_dir / "config.json").read_text(encoding="utf-8")

"""Every recipe with ModelOpt's own CUDA kernels, and its ranks executed on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slipstream.formats import FORMATS, KvCache, Method
from slipstream.progress import silent
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.verify.check import verify_checkpoint
from slipstream.quantize.verify.text import verification_text
from tests.integration.verify_checkpoints import Make, checkpoints, models

__all__ = ["checkpoints", "models"]  # fixtures


@pytest.mark.gpu
@pytest.mark.parametrize("kv", ["auto", "fp8"])
@pytest.mark.parametrize("method", list(FORMATS))
def test_a_recipe_is_quantized_and_executed_on_the_gpu(
    checkpoints: Make, models: Callable[[str], Path], method: Method, kv: KvCache
) -> None:
    assert load_model(models("llama"), "float16").device.type == "cuda"
    checkpoint = checkpoints(method, kv=kv, tp=2)
    verification = verify_checkpoint(checkpoint, model_dir=models("llama"), report=silent, device="cuda")
    assert verification.ok, verification_text(verification)

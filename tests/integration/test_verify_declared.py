"""A config.json that declares other tensors than those that are stored is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slipstream.formats import Method
from tests.integration.verify_checkpoints import Planted, Tensors, checkpoints, found, models, plant

__all__ = ["checkpoints", "models", "plant"]  # fixtures


@pytest.mark.parametrize(
    ("model", "key", "found_value", "what"),
    [
        ("qwen2", "attn_bias", False, "is false, but in rank0.safetensors 2 biases are stored"),
        ("qwen3", "attn_bias", True, "is true, but in rank0.safetensors 2 biases are not stored"),
        ("qwen3", "attn_bias", None, "is true, but in rank0.safetensors 2 biases are not stored"),
        ("llama", "attn_bias", True, "is true, but in rank0.safetensors 4 biases are not stored"),
        ("llama", "mlp_bias", True, "is true, but in rank0.safetensors 6 biases are not stored"),
    ],
)
def test_biases_that_are_not_those_that_the_config_declares_are_named(
    plant: Callable[..., Planted], models: Callable[[str], Path], model: str, key: str, found_value: object, what: str
) -> None:
    planted = plant("fp8", model=model, tp=2)
    planted.configure(lambda config: config.update({key: found_value}))
    finding = found(planted.verified(models(model)), "bias")
    assert finding.where == f"config.json {key}"
    assert what in finding.what


@pytest.mark.parametrize(("value", "what"), [(None, "is missing"), ("qwen", "is 'qwen'"), ("qwen3", "is 'qwen3'")])
def test_another_generation_of_qwen_is_named(plant: Callable[..., Planted], value: object, what: str) -> None:
    planted = plant("fp8", model="qwen2", tp=2)
    planted.configure(lambda config: config.update(qwen_type=value))
    finding = found(planted.verified(None), "config")
    assert finding.where == "config.json qwen_type"
    assert finding.what.startswith(what)
    assert "built from 'qwen2'" in finding.what


@pytest.mark.parametrize("method", ["fp8", "int8_wo", "int4_awq"])
def test_an_lm_head_that_the_config_would_have_quantized_is_named(
    plant: Callable[..., Planted], method: Method
) -> None:
    planted = plant(method, tp=2)
    planted.configure(lambda config: config["quantization"].update(exclude_modules=["*router"]))
    finding = found(planted.verified(None), "exclude-modules")
    assert finding.where == "rank0.safetensors lm_head.weight"
    assert "is stored in floats (F16)" in finding.what


@pytest.mark.parametrize("method", ["int4_awq", "w4a8_awq"])
@pytest.mark.parametrize("value", [False, None])
def test_prequant_scales_that_the_config_denies_are_named(
    plant: Callable[..., Planted], method: Method, value: object
) -> None:
    planted = plant(method, tp=2)
    planted.configure(lambda config: config["quantization"].update(pre_quant_scale=value))
    finding = found(planted.verified(None), "wrong-prequant-scale")
    assert finding.where == "config.json quantization.pre_quant_scale"
    assert "10 layers store prequant_scaling_factor" in finding.what


def test_smoothquant_needs_no_such_word_in_its_config(plant: Callable[..., Planted]) -> None:
    planted = plant("int8_sq", tp=2)
    planted.configure(lambda config: config["quantization"].update(pre_quant_scale=False))
    assert planted.verified(None).ok


@pytest.mark.parametrize(("method", "differ"), [("none", 17), ("int4_awq", 17)])
def test_floats_of_another_type_than_the_config_says_are_named(
    plant: Callable[..., Planted], method: Method, differ: int
) -> None:
    planted = plant(method, tp=2)
    planted.configure(lambda config: config.update(dtype="bfloat16"))
    finding = found(planted.verified(None), "wrong-dtype")
    assert finding.where == "rank0.safetensors lm_head.weight"
    assert f"is F16, config.json's dtype is bfloat16 ({differ} tensors" in finding.what


def test_floats_in_bfloat16_under_a_float16_config_are_named(plant: Callable[..., Planted]) -> None:
    def widen(tensors: Tensors) -> None:
        for name, values in tensors.items():
            if values.dtype == torch.float16:
                tensors[name] = values.bfloat16()

    planted = plant("fp8", tp=2)
    planted.change(1, widen)
    finding = found(planted.verified(None), "wrong-dtype")
    assert finding.where == "rank1.safetensors lm_head.weight"
    assert "is BF16, config.json's dtype is float16" in finding.what

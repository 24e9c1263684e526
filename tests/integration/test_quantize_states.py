"""Models that come with quantizers, calibrations that are interrupted, unified exports, and NVFP4 without CUDA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slipstream.errors import SlipstreamError, SpecError
from slipstream.formats import FORMATS, KvCache, Method
from slipstream.progress import silent
from slipstream.quantize.checkpoint import write_checkpoint
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.measure import scales_digest
from slipstream.quantize.modelopt_quantize import quantize_model
from slipstream.quantize.nvfp4_cpu import fake_quantize
from slipstream.quantize.planning import plan_export
from slipstream.quantize.trained import TRAINED_NAME
from slipstream.quantize.unified import check_unified, export_unified
from tests.integration.test_quantize_recipes import SIZES, ranks_of, written
from tests.integration.tiny_models import a_recipe, save_model

SAMPLES = [[7, 8, 9, 10] * 8, [11, 12, 13, 14] * 8]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("recipes") / "model", **SIZES)


# Interruptions


@pytest.mark.parametrize("method", ["fp8", "int8_sq", "int4_awq"])
def test_an_interrupted_calibration_goes_on_where_it_was(
    tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipstream.quantize.checkpoint.RESUMABLE_FROM_S", 0)  # else only what takes minutes
    model = save_model("llama", tmp_path / "model", **SIZES | {"num_hidden_layers": 4})
    written(model, tmp_path / "whole", method)
    seen: list[str] = []

    def interrupt(message: str, fraction: float | None = None) -> None:
        seen.append(message)
        if message.startswith("calibrating, pass 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(model, tmp_path / "broken", method, resume_directory=tmp_path / "resume", report=interrupt)
    assert any((tmp_path / "resume").rglob("manifest.json"))
    passes = sum(message.startswith("calibrating") for message in seen)
    seen.clear()
    written(
        model,
        tmp_path / "resumed",
        method,
        resume_directory=tmp_path / "resume",
        report=lambda message, fraction=None: seen.append(message),
    )
    assert 0 < sum(message.startswith("calibrating") for message in seen) <= passes
    assert (tmp_path / "resumed" / "rank0.safetensors").read_bytes() == (
        tmp_path / "whole" / "rank0.safetensors"
    ).read_bytes()
    assert not any((tmp_path / "resume").iterdir())


# Trained models


@pytest.fixture(scope="module")
def trained(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with FP8 quantizers whose weights moved afterwards, saved as ModelOpt's plugin saves it."""
    import modelopt.torch.opt as mto

    model = load_model(llama, "float16")
    quantize_model(model, a_recipe("fp8").settings, "fp8", SAMPLES, silent, dtype="float16")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    mto.enable_huggingface_checkpointing()
    directory = tmp_path_factory.mktemp("trained") / "model"
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes((llama / "tokenizer.json").read_bytes())
    return directory


def test_a_trained_model_is_exported_with_its_own_scales(trained: Path, tmp_path: Path) -> None:
    assert (trained / TRAINED_NAME).is_file()
    report = written(trained, tmp_path / "out", "fp8", "fp8")
    ranges = load_file(trained / "model.safetensors")
    (tensors,) = ranks_of(tmp_path / "out")
    scale = tensors["transformer.layers.0.mlp.proj.activation_scaling_factor"]
    assert float(scale) == pytest.approx(float(ranges["model.layers.0.mlp.down_proj.input_quantizer._amax"]) / 448)
    assert report.kv_cache_quant_algo == "FP8"


@pytest.mark.parametrize(
    ("method", "kv_cache", "message", "mend"),
    [
        ("int4_awq", "fp8", "was trained for fp8", "fp8"),
        ("fp8", "auto", "trained with KV cache fp8", "kv_cache to fp8"),
    ],
)
def test_a_trained_model_keeps_its_recipe(
    trained: Path, tmp_path: Path, method: Method, kv_cache: KvCache, message: str, mend: str
) -> None:
    with pytest.raises(SlipstreamError, match=message) as caught:
        written(trained, tmp_path / "out", method, kv_cache)
    assert mend in caught.value.mend


# Unified Hugging Face export


@pytest.mark.parametrize("method", [name for name, entry in FORMATS.items() if entry.llm_api])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_unified_export_is_in_16_bits_beside_its_quantized_weights(
    llama: Path, tmp_path: Path, method: Method, dtype: str
) -> None:
    recipe = a_recipe(method)
    plan = plan_export(llama, recipe=recipe, kv_cache="fp8", tp_size=1, pp_size=1, dtype=dtype)
    model = load_model(llama, plan.dtype)
    quantize_model(model, recipe.settings, "fp8", SAMPLES, silent, dtype=plan.dtype)
    export_unified(model, plan, llama, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == tensors["model.norm.weight"].dtype == getattr(torch, dtype)
    weight = tensors["model.layers.0.mlp.down_proj.weight"]
    assert (weight.dtype == getattr(torch, dtype)) == (method == "none")
    assert float(tensors["model.layers.0.self_attn.k_proj.k_scale"]) == 1.0
    assert (tmp_path / "tokenizer.json").is_file()
    quantization = json.loads((tmp_path / "hf_quant_config.json").read_text())["quantization"]
    assert (quantization["quant_algo"], quantization["kv_cache_quant_algo"]) == (plan.quant_algo, "FP8")


@pytest.mark.parametrize(
    ("method", "kv_cache", "tp_size", "message"),
    [
        ("int8_sq", "auto", 1, "no kernel"),
        ("fp8", "int8", 1, "no INT8 KV cache"),
        ("fp8", "fp8", 2, "one for all ranks"),
    ],
)
def test_what_the_llm_api_cannot_read_is_refused(
    llama: Path, method: Method, kv_cache: KvCache, tp_size: int, message: str
) -> None:
    plan = plan_export(llama, recipe=a_recipe(method), kv_cache=kv_cache, tp_size=tp_size, pp_size=1, dtype="float16")
    with pytest.raises(SpecError, match=message):
        check_unified(plan)


# NVFP4 without CUDA


@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_nvfp4_on_the_cpu_is_modelopts_own_value(size: float) -> None:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 256, generator=generator) * size
    values[3] = 0
    values[5, :16] = 1e-9
    values[6, :16] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6] * 2) * size
    amax = values.abs().amax() * 1.3
    packed, scale, tensor_scale = NVFP4QTensor.quantize(values.clone(), 16, weights_scaling_factor_2=amax / (6 * 448))
    wanted = packed.dequantize(torch.float32, scale=scale, double_scale=tensor_scale, block_sizes={-1: 16})
    assert torch.equal(fake_quantize(values, amax), wanted)
    assert not torch.equal(wanted, values)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_nvfp4_on_the_cpu_is_the_kernels_value(size: float) -> None:
    from modelopt.torch.quantization import tensor_quant

    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * size
    amax = values.abs().amax()
    kernel = tensor_quant.dynamic_block_quantize_op(values.cuda(), 16, amax.cuda(), 4, 2, 8, 4).cpu()
    assert torch.allclose(fake_quantize(values, amax), kernel, rtol=1e-5, atol=0)


def test_two_calibrations_find_the_same_scales(llama: Path) -> None:
    digests = set()
    for _ in range(2):
        model = load_model(llama, "float16")
        quantize_model(model, a_recipe("int4_awq").settings, "fp8", SAMPLES, silent, dtype="float16")
        digests.add(scales_digest(model))
    assert len(digests) == 1


def test_modelopts_own_configs_are_not_changed(llama: Path) -> None:
    import copy

    import modelopt.torch.quantization as mtq

    before = copy.deepcopy(mtq.INT4_AWQ_CFG), copy.deepcopy(mtq.FP8_DEFAULT_CFG)
    for method in ("int4_awq", "fp8"):
        settings = a_recipe(method, exclude=("model.layers.0.*",)).settings
        quantize_model(load_model(llama, "float16"), settings, "fp8", SAMPLES, silent, dtype="float16")
    assert before == (mtq.INT4_AWQ_CFG, mtq.FP8_DEFAULT_CFG)


def test_a_recipe_that_is_not_calibrated_reads_no_text(llama: Path, tmp_path: Path) -> None:
    recipe = replace(a_recipe("int8_wo"), calibration_text="too short")
    (tmp_path / "out").mkdir()
    report = write_checkpoint(
        llama, tmp_path / "out", recipe=recipe, kv_cache="auto", tp_size=1, pp_size=1, dtype="float16", report=silent
    )
    assert report.measurement is not None
    assert report.measurement.tokens_calibrated == 0

"""What the quantize stage cannot do is refused from the model's config alone, before any weight is read."""

from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from slipstream.errors import SlipstreamError, SpecError
from slipstream.quantize.architectures import read_architecture, trtllm_settings
from slipstream.quantize.disk import writing_to
from slipstream.quantize.export import ExportPlan, check_quantization, check_rotary
from slipstream.quantize.planning import plan_export
from slipstream.quantize.recipes import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "quantize" / "recipes"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 512,
    "vocab_size": 1000,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
}


def a_plan(
    directory: Path, *, recipe: str = "int8_wo", config: dict[str, Any] | None = None, **settings: Any
) -> ExportPlan:
    (directory / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    chosen = {"kv_cache": "auto", "tp_size": 1, "pp_size": 1, "dtype": "float16"} | settings
    return plan_export(directory, recipe=load_recipe(recipe, RECIPES), **chosen)


def test_a_plan_says_what_tensorrt_llm_will_read(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, tp_size=4, pp_size=2)
    assert (plan.quant_algo, plan.architecture.decoder_type, plan.tp_size, plan.pp_size) == ("W8A16", "llama", 4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tp_size": 3}, "8 attention heads"),
        ({"pp_size": 3}, "4 layers"),
        ({"recipe": "int8_sq", "tp_size": 4}, "2 KV heads"),
        ({"recipe": "w4a8_awq", "tp_size": 8}, "group size 128"),
        ({"recipe": "nvfp4", "kv_cache": "int8"}, "rejects an INT8 KV cache"),
        ({"dtype": "float32"}, "float32 would become float16"),
    ],
)
def test_a_setting_that_cannot_work_is_a_spec_error(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        a_plan(tmp_path, **settings)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["Phi3ForCausalLM"]}, "Phi3ForCausalLM is not supported"),
        ({"rope_parameters": {"rope_theta": 500000.0}}, "how transformers 5 writes the rotary settings"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is of type 'yarn'"),
        ({"architectures": None}, "architectures is None"),
        ({"num_attention_heads": "8"}, "num_attention_heads is '8'"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized already \(gptq\)"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "sliding_window": 1024}, "sliding window"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 1024}, "sliding window of 1024"),
    ],
)
def test_a_model_that_cannot_be_exported_is_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SlipstreamError, match=message):
        a_plan(tmp_path, config=config)


@pytest.mark.parametrize(
    ("method", "nearest"),
    [
        ("gptq", "int4_awq"),
        ("awq", "int4_awq"),
        ("bitsandbytes", "int8_wo"),
        ("fp8", "fp8"),
        ("unheard", "name a recipe"),
    ],
)
def test_a_quantized_checkpoint_is_answered_with_the_nearest_recipe(tmp_path: Path, method: str, nearest: str) -> None:
    with pytest.raises(SlipstreamError, match=method) as caught:
        a_plan(tmp_path, config={"quantization_config": {"quant_method": method}})
    assert nearest in caught.value.mend


def test_a_unified_export_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(SlipstreamError, match=r"quantized already \(modelopt\)"):
        a_plan(tmp_path)


def test_a_kv_cache_needs_a_calibration(tmp_path: Path) -> None:
    assert a_plan(tmp_path, kv_cache="fp8").kv_cache == "fp8"
    recipe = load_recipe("int8_wo", RECIPES)
    without = replace(recipe, settings=recipe.settings.model_copy(update={"calibration": None}))
    with pytest.raises(SpecError, match="scales depend on activations"):
        plan_export(tmp_path, recipe=without, kv_cache="fp8", tp_size=1, pp_size=1, dtype="float16")


@pytest.mark.parametrize(
    ("kv_cache", "written", "is_lost"),
    [
        ("int8", "INT8", False),
        ("int8", None, True),
        ("fp8", "FP8", False),
        ("auto", None, False),
        ("auto", "FP8", True),
    ],
)
def test_a_kv_cache_lost_in_the_export_is_noticed(
    tmp_path: Path, kv_cache: str, written: str | None, is_lost: bool
) -> None:
    plan = a_plan(tmp_path, recipe="fp8", kv_cache=kv_cache)
    config = {"quant_algo": "FP8", "kv_cache_quant_algo": written}
    with pytest.raises(SlipstreamError, match="kv_cache_quant_algo is") if is_lost else nullcontext():
        check_quantization(config, plan)


def test_a_quant_algo_lost_in_the_export_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="quant_algo is MIXED_PRECISION, FP8 was asked for"):
        check_quantization({"quant_algo": "MIXED_PRECISION"}, a_plan(tmp_path, recipe="fp8"))


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["MistralForCausalLM"], "sliding_window": None},
        {"architectures": ["MistralForCausalLM"], "sliding_window": 4096},
        {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 1024, "use_sliding_window": False},
    ],
)
def test_a_window_that_never_takes_effect_is_no_obstacle(tmp_path: Path, config: dict[str, Any]) -> None:
    assert a_plan(tmp_path, config=config).architecture.name == config["architectures"][0]


def test_a_model_without_kv_heads_has_one_for_each_head(tmp_path: Path) -> None:
    assert a_plan(tmp_path, config={"num_key_value_heads": None}).architecture.shape.kv_heads == 8


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, {"attn_bias": False, "mlp_bias": False}),
        ({"attention_bias": True, "mlp_bias": True}, {"attn_bias": True, "mlp_bias": True}),
        ({"architectures": ["Qwen2ForCausalLM"]}, {"attn_bias": True, "qk_layernorm": False, "qwen_type": "qwen2"}),
        ({"architectures": ["Qwen3ForCausalLM"]}, {"attn_bias": False, "qk_layernorm": True, "qwen_type": "qwen3"}),
    ],
)
def test_tensorrt_llm_is_told_what_modelopt_leaves_out(
    tmp_path: Path, config: dict[str, Any], wanted: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | config))
    assert wanted.items() <= trtllm_settings(read_architecture(tmp_path)).items()


@pytest.mark.parametrize("field", ["rotary_base", "rotary_scaling"])
def test_a_rotary_setting_lost_in_the_export_is_noticed(field: str) -> None:
    exported = {"rotary_base": 5e5, "rotary_scaling": {"rope_type": "llama3"}}
    model = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"}}
    check_rotary(exported, model)
    del exported[field]
    with pytest.raises(SlipstreamError, match=f"{field} is None"):
        check_rotary(exported, model)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "not writable"),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space" })'), "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_clear_error(tmp_path: Path, error: Exception, message: str) -> None:
    with pytest.raises(SlipstreamError, match=message), writing_to(tmp_path):
        raise error


def test_other_failures_of_the_disk_are_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "nowhere").read_bytes()

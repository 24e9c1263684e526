"""What the quantize stage cannot do is refused from the model's config alone, before any weight is read."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from slipstream.errors import SlipstreamError, SpecError
from slipstream.quantize.architectures import read_architecture, trtllm_settings
from slipstream.quantize.checkpoint import plan_export
from slipstream.quantize.disk import writing_to
from slipstream.quantize.export import ExportPlan, check_rotary
from slipstream.quantize.recipes import Calibration, Evaluation, load_recipe
from slipstream.quantize.samples import calibration_samples, evaluation_samples
from tests.unit.small_tokenizers import byte_level

RECIPES = Path(__file__).resolve().parents[2] / "quantize" / "recipes"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "max_position_embeddings": 2048,
}


def a_plan(directory: Path, *, config: dict[str, Any] | None = None, **settings: Any) -> ExportPlan:
    (directory / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    chosen = {"kv_cache": "auto", "tp_size": 1, "pp_size": 1, "dtype": "float16"} | settings
    return plan_export(directory, recipe=load_recipe("int8_wo", RECIPES), **chosen)


def test_a_plan_says_what_tensorrt_llm_will_read(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, tp_size=4, pp_size=2)
    assert (plan.quant_algo, plan.architecture.decoder_type, plan.tp_size, plan.pp_size) == ("W8A16", "llama", 4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tp_size": 3}, "8 attention heads"),
        ({"pp_size": 3}, "4 layers"),
        ({"kv_cache": "fp8"}, "paged context FMHA"),
        ({"kv_cache": "int8"}, "paged context FMHA"),
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
        ({"architectures": None}, "architectures is None"),
        ({"num_attention_heads": "8"}, "num_attention_heads is '8'"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized already \(gptq\)"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 1024}, "sliding window of 1024"),
    ],
)
def test_a_model_that_cannot_be_exported_is_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SlipstreamError, match=message):
        a_plan(tmp_path, config=config)


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


TEXT = "The quick brown fox jumps over the lazy dog. " * 40


def test_calibration_takes_the_same_samples_for_the_same_seed() -> None:
    settings = Calibration(text="t", samples=3, tokens_per_sample=16, seed=1)
    first, again = (calibration_samples(byte_level(), TEXT, settings) for _ in range(2))
    assert first == again
    assert [len(sample) for sample in first] == [16, 16, 16]
    assert first != calibration_samples(byte_level(), TEXT, settings.model_copy(update={"seed": 2}))


def test_evaluation_reads_the_text_from_its_beginning() -> None:
    samples = evaluation_samples(byte_level(), TEXT, Evaluation(text="t", samples=2, tokens_per_sample=16))
    assert [token for sample in samples for token in sample] == byte_level().encode(TEXT)[:32]


def test_a_text_that_is_too_short_is_refused_with_the_numbers() -> None:
    with pytest.raises(SpecError, match=r"t\.txt: has \d+ tokens, the recipe wants 4 x 256"):
        evaluation_samples(byte_level(), "short", Evaluation(text="t.txt", samples=4, tokens_per_sample=256))


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

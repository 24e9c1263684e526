"""config.json is read whole, and what the graph cannot express is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipstream.engine.architecture import read_architecture
from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import QUANT_ALGOS, Architecture, Llama3RopeScaling
from tests.fakes.checkpoints import LLAMA3_SCALING, TinyModel, checkpoint_config


def read(tmp_path: Path, *, tp_size: int = 1, pp_size: int = 1, **changes: Any) -> Architecture:
    config = {**checkpoint_config(TinyModel(), tp_size=tp_size, pp_size=pp_size), **changes}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))
    return read_architecture(path)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_every_architecture_of_the_family_is_read(tmp_path: Path, name: str) -> None:
    architecture = read(tmp_path, architecture=name)
    assert (architecture.name, architecture.has_qk_norm) == (name, name == "Qwen3ForCausalLM")


def test_defaults_are_tensorrt_llms(tmp_path: Path) -> None:
    architecture = read(tmp_path, head_size="absent", num_key_value_heads="absent", mapping="absent")
    assert (architecture.head_size, architecture.num_kv_heads) == (16, 4)
    assert (architecture.parallelism.tp_size, architecture.parallelism.pp_size) == (1, 1)


def test_llama3_rope_scaling_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, rotary_scaling=LLAMA3_SCALING).rope_scaling == Llama3RopeScaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context_tokens=64
    )


@pytest.mark.parametrize("algo", QUANT_ALGOS)
@pytest.mark.parametrize("kv_cache_algo", [None, "FP8", "INT8"])
def test_every_format_is_taken(tmp_path: Path, algo: str, kv_cache_algo: str | None) -> None:
    section = {"quant_algo": algo, "kv_cache_quant_algo": kv_cache_algo, "group_size": 64}
    quantization = read(tmp_path, quantization=section).quantization
    assert (quantization.algo, quantization.kv_cache_algo) == (algo, kv_cache_algo)


@pytest.mark.parametrize("pattern", ["lm_head", "*lm_head*", "*vocab_embedding", "transformer.layers.1*", "*.mlp.proj"])
def test_patterns_that_leave_known_layers_in_floats_are_taken(tmp_path: Path, pattern: str) -> None:
    section = {"quant_algo": "FP8", "exclude_modules": [pattern]}
    assert read(tmp_path, quantization=section).quantization.exclude_modules == (pattern,)


def test_missing_rotary_base_is_refused_and_never_assumed(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="rotary_base is missing") as caught:
        read(tmp_path, rotary_base="absent")
    assert "transformers 4.57" in caught.value.mend


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "FalconForCausalLM"}, "architecture is 'FalconForCausalLM'"),
        ({"architecture": "MixtralForCausalLM"}, "architecture is 'MixtralForCausalLM'"),
        ({"moe": {"num_experts": 8, "top_k": 2}}, "moe.num_experts is 8"),
        ({"moe_num_experts": 8, "moe_top_k": 2}, "moe.num_experts is 8"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.5"),
        ({"rotary_embedding_dim": 16}, "rotary_embedding_dim is 16"),
        ({"rotary_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rotary_scaling.rope_type is 'yarn'"),
        ({"residual_mlp": True}, "residual_mlp is True"),
        ({"quantization": {"quant_algo": "W4A16_GPTQ"}}, "quantization.quant_algo is 'W4A16_GPTQ'"),
        ({"quantization": {"quant_algo": "MIXED_PRECISION"}}, "quantization.quant_algo is 'MIXED_PRECISION'"),
        ({"quantization": {"exclude_modules": ["*router"]}}, "quantization.exclude_modules is '*router'"),
        ({"quantization": {"exclude_modules": ["transformer.layers.2.mlp.fc"]}}, "is 'transformer.layers.2.mlp.fc'"),
        ({"mapping": {"tp_size": 1, "pp_size": 1, "cp_size": 2}}, "mapping.cp_size is 2"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_what_the_graph_cannot_express_is_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(SlipstreamError) as caught:
        read(tmp_path, **change)
    assert named in caught.value.message
    assert str(tmp_path / "config.json") in caught.value.message


@pytest.mark.parametrize(
    ("tp_size", "pp_size", "named"), [(3, 1, "tp_size 3"), (8, 1, "tp_size 8"), (1, 3, "3 equal pipeline stages")]
)
def test_shards_that_cut_a_head_or_a_stage_in_half_are_refused(
    tmp_path: Path, tp_size: int, pp_size: int, named: str
) -> None:
    with pytest.raises(SlipstreamError, match=named):
        read(tmp_path, tp_size=tp_size, pp_size=pp_size)


@pytest.mark.parametrize("value", [None, 0, -1, "64", True, 1.5])
def test_malformed_size_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(SlipstreamError, match=r"hidden_size is .*a whole number above 0 is needed"):
        read(tmp_path, hidden_size=value)


@pytest.mark.parametrize(("text", "named"), [("{", "is not JSON"), ("[]", "holds no JSON object")])
def test_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SlipstreamError, match=named):
        read_architecture(tmp_path / "config.json")


def test_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match=r"config\.json: cannot be read"):
        read_architecture(tmp_path / "config.json")

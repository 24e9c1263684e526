"""What is read of a checkpoint before it is built, and how what TensorRT-LLM could not load is explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipstream.engine.trtllm import CheckpointFacts, planned_facts, read_facts
from slipstream.engine.trtllm.facts import KV_CACHE_QUANT_ALGOS, QUANT_ALGOS, QUANTIZATION_KEYS
from slipstream.errors import SlipstreamError
from slipstream.formats import FORMATS
from tests.unit.trtllm_fixtures import contract, write_checkpoint


def refusal(directory: Path) -> str:
    with pytest.raises(SlipstreamError) as caught:
        read_facts(directory)
    return str(caught.value)


def test_the_facts_of_a_checkpoint_are_those_of_its_config(tmp_path: Path) -> None:
    found = read_facts(write_checkpoint(tmp_path, ranks=2))
    assert found == CheckpointFacts(
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        quant_algo="FP8",
        kv_cache_quant_algo="FP8",
        tp_size=2,
        num_hidden_layers=32,
        vocab_size=128256,
        context_tokens=131072,
        checkpoint_bytes=16,
        is_read=True,
    )
    assert found.world_size == 2


def test_a_planned_checkpoint_says_what_the_read_one_will_say(tmp_path: Path) -> None:
    planned = planned_facts(architecture="LlamaForCausalLM", dtype="bfloat16", method="fp8", kv_cache="fp8", tp_size=2)
    read = read_facts(write_checkpoint(tmp_path, ranks=2))
    for name in ("architecture", "dtype", "quant_algo", "kv_cache_quant_algo", "tp_size", "pp_size", "world_size"):
        assert getattr(planned, name) == getattr(read, name), name
    assert not planned.is_read


def test_sixteen_bits_have_no_format(tmp_path: Path) -> None:
    for quantization in ({}, {"quant_algo": None}, {"quant_algo": "NO_QUANT", "kv_cache_quant_algo": None}):
        found = read_facts(write_checkpoint(tmp_path, {"quantization": quantization}))
        assert (found.quant_algo, found.kv_cache_quant_algo) == (None, None)


def test_the_names_are_those_of_the_contract() -> None:
    known = contract("checkpoint_format")
    assert list(QUANT_ALGOS) == known["quant_algos"]
    assert list(KV_CACHE_QUANT_ALGOS) == known["kv_cache_quant_algos"]
    # The contract lists the keys of 1.0; 1.2's own convert_checkpoint.py writes one more.
    assert set(QUANTIZATION_KEYS) == {*known["config"]["fields"]["quantization"], "mamba_ssm_cache_dtype"}
    assert {entry.quant_algo for entry in FORMATS.values()} - {None} <= set(QUANT_ALGOS)


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        (None, 131072),
        ({"type": "linear", "factor": 2.0}, 262144),
        ({"rope_type": "dynamic", "factor": 1.5}, 196608),
        ({"rope_type": "llama3", "factor": 8.0}, 131072),
        ({"type": "longrope", "factor": 32.0}, 131072),
    ],
)
def test_a_rotary_scaling_stretches_the_context_as_the_builder_does(
    scaling: dict[str, Any] | None, tokens: int, tmp_path: Path
) -> None:
    assert read_facts(write_checkpoint(tmp_path, {"rotary_scaling": scaling})).context_tokens == tokens


@pytest.mark.parametrize("key", ["architecture", "dtype", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_what_the_contract_requires_is_required(key: str, tmp_path: Path) -> None:
    assert key in contract("checkpoint_format")["config"]["required"]
    assert key in refusal(write_checkpoint(tmp_path, {key: ...}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float8"}, "dtype is 'float8', TensorRT-LLM 1.2 knows float16"),
        ({"quantization": {"quant_algo": "Q4_K_M"}}, "quantization.quant_algo is 'Q4_K_M'"),
        ({"quantization": {"kv_cache_quant_algo": "INT4"}}, "quantization.kv_cache_quant_algo is 'INT4'"),
        ({"quantization": {"quant_method": "awq"}}, "quantization is 'quant_method'"),
        ({"quantization": "fp8"}, "quantization is 'fp8', an object is needed"),
        ({"mapping": {"world_size": 4, "tp_size": 2, "pp_size": 1}}, "mapping.world_size is 4"),
        ({"mapping": {"tp_size": True}}, "tp_size is True"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ],
)
def test_each_fault_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(write_checkpoint(tmp_path, changes))


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, ranks=3) / "rank1.safetensors").unlink()
    assert "rank1.safetensors: is missing, config.json says 3 ranks" in refusal(tmp_path)


def test_mixed_precision_comes_with_the_formats_of_its_layers(tmp_path: Path) -> None:
    mixed = write_checkpoint(tmp_path, {"quantization": {"quant_algo": "MIXED_PRECISION"}})
    assert "quant_cfg.json: is missing" in refusal(mixed)


def test_no_checkpoint_is_said_so(tmp_path: Path) -> None:
    assert "there is no TensorRT-LLM checkpoint" in refusal(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "JSON" in refusal(tmp_path)


def test_a_huge_config_is_not_read(tmp_path: Path) -> None:
    config = write_checkpoint(tmp_path) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding": " " * (17 << 20)}))
    assert "the limit is" in refusal(tmp_path)


def test_an_unreadable_config_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert "cannot be read" in refusal(tmp_path)

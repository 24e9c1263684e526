"""Models and GPUs as people name them, and counts that follow from shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipstream.errors import SlipstreamError
from slipstream.plan.catalogue import Model, find_gpu, find_model, gpus, models
from slipstream.plan.formats import KV_FORMATS, WEIGHT_FORMATS
from slipstream.plan.memory import Limits, Parallelism, gpu_memory, kv_bytes, kv_bytes_per_token, weight_bytes
from slipstream.plan.shape import shape_from_config

FP16, FP8 = WEIGHT_FORMATS["fp16"], WEIGHT_FORMATS["fp8"]
AUTO = KV_FORMATS["auto"]


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_the_count_from_the_shape_is_the_published_count(model: Model) -> None:
    assert model.published_parameters_b is not None
    assert model.shape.parameters / 1e9 == pytest.approx(model.published_parameters_b, rel=0.01)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("LLaMA v3.1 70B", "Llama 3.1 70B"),
        ("meta-llama/Llama-3.1-70B", "Llama 3.1 70B"),
        ("Meta-Llama-3.1-8B-Instruct", "Llama 3.1 8B"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "Llama 3.3 70B"),
        ("Llama-4-Scout-17B-16E-Instruct", "Llama 4 Scout"),
        ("LLaMA v2 7B", "Llama 2 7B"),
        ("Mixtral-8x22B-Instruct-v0.1", "Mixtral 8x22B"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen3 235B-A22B"),
        ("DeepSeek-R1-0528", "DeepSeek R1"),
        ("gpt-oss-20b", "GPT-OSS 20B"),
        ("GPTJ 6B", "GPT-J 6B"),
        ("google/gemma-3-27b-it", "Gemma 3 27B"),
        ("Phi-4", "Phi-4"),
        ("Falcon-180B", "Falcon 180B"),
        ("Qwen2.5-72B-Instruct", "Qwen2.5 72B"),
    ],
)
def test_a_model_is_found_as_people_write_it(written: str, name: str) -> None:
    assert find_model(written).name == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("H100 80GB HBM3", "H100 80GB SXM"),
        ("h100_sxm", "H100 80GB SXM"),
        ("NVIDIA H100 PCIe", "H100 80GB PCIe"),
        ("H100 NVL", "H100 NVL 94GB"),
        ("A100-SXM4-80GB", "A100 80GB SXM"),
        ("A100 40GB PCIe", "A100 40GB PCIe"),
        ("H200 141GB", "H200"),
        ("GH200 120GB", "GH200 96GB"),
        ("b200_sxm", "B200"),
        ("GB300", "GB300"),
        ("L4", "L4"),
        ("A30", "A30"),
        ("RTX 4090", "RTX 4090"),
        ("RTX PRO 6000", "RTX PRO 6000"),
    ],
)
def test_a_gpu_is_found_as_people_write_it(written: str, name: str) -> None:
    assert find_gpu(written).name == name


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SlipstreamError, match="did you mean Mixtral 8x22B"):
        find_model("Mixtral 8x23B")
    with pytest.raises(SlipstreamError, match="H300"):
        find_gpu("H300")


def test_a_local_config_is_a_model(tmp_path: Path) -> None:
    config = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_model(str(tmp_path)).shape.parameters == find_model("Llama 3 8B").shape.parameters


def test_a_config_without_dimensions_says_which() -> None:
    with pytest.raises(SlipstreamError, match="num_hidden_layers"):
        shape_from_config({"hidden_size": 8, "num_attention_heads": 1, "vocab_size": 10}, "here")


def test_peaks_are_dense_and_do_not_fall_with_the_generation() -> None:
    for gpu in gpus():
        assert gpu.peak_flops(FP16) <= gpu.peak_flops(FP8)
    assert find_gpu("H100").peak_flops(FP8) == 1978e12


def test_the_kv_cache_of_llama_70b_is_320_kib_a_token() -> None:
    shape = find_model("Llama 3 70B").shape
    assert kv_bytes_per_token(shape, AUTO, Parallelism()) == 2 * 80 * 8 * 128 * 2 == 320 * 1024
    assert kv_bytes_per_token(shape, AUTO, Parallelism(tp=4)) == 80 * 1024


def test_beyond_one_head_a_rank_the_kv_cache_does_not_shrink() -> None:
    shape = find_model("Llama 3 70B").shape
    assert kv_bytes_per_token(shape, AUTO, Parallelism(tp=16)) == kv_bytes_per_token(shape, AUTO, Parallelism(tp=8))


def test_latent_attention_caches_one_vector_that_every_rank_keeps() -> None:
    shape = find_model("DeepSeek V3").shape
    assert kv_bytes_per_token(shape, AUTO, Parallelism(tp=8)) == 61 * (512 + 64) * 2


def test_a_window_forgets() -> None:
    shape = find_model("GPT-OSS 20B").shape
    short, long = (kv_bytes(shape, AUTO, Parallelism(), tokens) for tokens in (128, 12800))
    per_layer = 2 * 8 * 64 * 2
    assert short == per_layer * 24 * 128
    assert long == per_layer * (12 * 12800 + 12 * (128 + 32))


def test_weights_split_over_ranks_and_stages() -> None:
    shape = find_model("Llama 3 8B").shape
    whole = weight_bytes(shape, FP16, Parallelism())
    assert whole == 2 * shape.parameters
    assert weight_bytes(shape, FP16, Parallelism(tp=4)) == pytest.approx(whole / 4, rel=1e-6)
    two_stages = weight_bytes(shape, FP16, Parallelism(pp=2))
    assert two_stages == pytest.approx(shape.dense_parameters + 2 * shape.vocab * shape.hidden, rel=1e-6)


def test_only_experts_of_mxfp4_are_quantized() -> None:
    shape = find_model("GPT-OSS 120B").shape
    size = weight_bytes(shape, WEIGHT_FORMATS["mxfp4"], Parallelism())
    assert size == pytest.approx(shape.expert_parameters * 0.53125 + 2 * (shape.parameters - shape.expert_parameters))


def test_what_does_not_fit_is_negative_room() -> None:
    limits = Limits(max_batch_size=1, max_num_tokens=8192, max_seq_len=4096)
    shape = find_model("Llama 3 70B").shape
    memory = gpu_memory(shape, find_gpu("L4"), weights=FP16, kv=AUTO, split=Parallelism(), limits=limits)
    assert memory.free_bytes < 0
    assert memory.kv_cache_bytes == 0


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 0, "vocab_size": 9}',
        '{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 9, "head_dim": "x"}',
        '{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": true}',
        '{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 9, "num_experts": "x"}',
    ],
)
def test_a_config_with_impossible_dimensions_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SlipstreamError, match=r"config\.json: "):
        find_model(str(tmp_path))

"""Every recipe with ModelOpt on small models: what is written, and how it is cut into ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slipstream.formats import FORMATS, KvCache, Method
from slipstream.progress import silent
from slipstream.quantize.architectures import read_architecture
from slipstream.quantize.checkpoint import CheckpointReport, write_checkpoint
from slipstream.quantize.disk_space import checkpoint_bytes
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.modelopt_quantize import quantize_model, quantizers_of
from slipstream.quantize.recipes import Evaluation, Limits
from tests.integration.tiny_models import a_recipe, save_model

SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 32, "num_hidden_layers": 2}
HEADS, KV_HEADS, HEAD_SIZE = 8, 2, 32
EXPERTS = 4
QUANTIZED: list[Method] = ["int8_sq", "fp8", "int4_awq", "w4a8_awq", "nvfp4"]
WEIGHT_TYPES = {
    "int8_sq": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "int4_awq": torch.int8,
    "w4a8_awq": torch.int8,
    "nvfp4": torch.uint8,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("recipes") / "model", **SIZES)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = SIZES | {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}
    return save_model("mixtral", tmp_path_factory.mktemp("mixtral") / "model", **sizes)


def written(model: Path, out: Path, method: Method, kv_cache: KvCache = "auto", **settings: Any) -> CheckpointReport:
    changes = settings.pop("recipe", {})
    out.mkdir()
    chosen = {"tp_size": 1, "pp_size": 1, "dtype": "float16", "report": silent} | settings
    return write_checkpoint(model, out, recipe=a_recipe(method, **changes), kv_cache=kv_cache, **chosen)


def config_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "config.json").read_text())


def ranks_of(checkpoint: Path) -> list[dict[str, torch.Tensor]]:
    return [
        load_file(checkpoint / f"rank{rank}.safetensors")
        for rank in range(config_of(checkpoint)["mapping"]["world_size"])
    ]


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_checkpoint_says_its_format_and_holds_it(llama: Path, tmp_path: Path, method: Method) -> None:
    report = written(llama, tmp_path / "out", method)
    quantization = config_of(tmp_path / "out")["quantization"]
    assert quantization["quant_algo"] == report.quant_algo == FORMATS[method].quant_algo
    assert quantization["exclude_modules"] == ["lm_head"]
    assert quantization.get("group_size") == {"int4_awq": 64, "w4a8_awq": 128, "nvfp4": 16}.get(method)
    (tensors,) = ranks_of(tmp_path / "out")
    linears = {name for name in tensors if name.endswith(("qkv.weight", "dense.weight", "proj.weight", "fc.weight"))}
    assert {tensors[name].dtype for name in linears} == {WEIGHT_TYPES[method]}
    assert {tensors[name].dtype for name in ("lm_head.weight", "transformer.vocab_embedding.weight")} == {torch.float16}
    assert report.measurement is not None
    assert report.measurement.quantized_layers == 14
    assert report.measurement.perplexity_after != report.measurement.perplexity_before
    expected = checkpoint_bytes(read_architecture(llama).shape, FORMATS[method], a_recipe(method).settings.group_size)
    assert report.checkpoint_bytes == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("tp_size", "pp_size"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("method", QUANTIZED)
def test_ranks_join_to_the_whole(llama: Path, tmp_path: Path, method: Method, tp_size: int, pp_size: int) -> None:
    written(llama, tmp_path / "whole", method)
    report = written(llama, tmp_path / "cut", method, tp_size=tp_size, pp_size=pp_size)
    (whole,) = ranks_of(tmp_path / "whole")
    parts = ranks_of(tmp_path / "cut")
    assert report.ranks == len(parts) == 2
    for name in ("mlp.fc.weight", "mlp.gate.weight", "mlp.proj.weight", "attention.dense.weight"):
        if pp_size == 2:
            joined, wanted = parts[1][f"transformer.layers.0.{name}"], whole[f"transformer.layers.1.{name}"]
        else:
            shards = [part[f"transformer.layers.0.{name}"].view(torch.uint8) for part in parts]
            joined = torch.cat(shards, dim=1 if "proj" in name or "dense" in name else 0)
            wanted = whole[f"transformer.layers.0.{name}"]
        assert torch.equal(joined.view(torch.uint8), wanted.view(torch.uint8)), name


@pytest.mark.parametrize("method", ["none", "int8_wo", "fp8", "int4_awq", "nvfp4"])
def test_kv_heads_are_repeated_where_ranks_outnumber_them(llama: Path, tmp_path: Path, method: Method) -> None:
    written(llama, tmp_path / "out", method, tp_size=4)
    name = "transformer.layers.0.attention.qkv.weight"
    rows = [part[name].view(torch.uint8) for part in ranks_of(tmp_path / "out")]
    scale = rows[0].shape[0] / ((HEADS // 4 + 2) * HEAD_SIZE)  # AWQ packs two rows into a byte
    keys = [part[int(HEADS // 4 * HEAD_SIZE * scale) :] for part in rows]
    assert torch.equal(keys[0], keys[1])
    assert torch.equal(keys[2], keys[3])
    assert not torch.equal(keys[0], keys[2])


@pytest.mark.parametrize("method", ["none", "int8_wo", *QUANTIZED])
def test_the_reference_is_the_quantized_models_logits(llama: Path, tmp_path: Path, method: Method) -> None:
    written(llama, tmp_path / "out", method)
    reference = load_file(tmp_path / "out" / "reference_logits.safetensors")
    assert reference["input_ids"].shape == (2, 24)
    assert (reference["logits"].shape, reference["logits"].dtype) == ((2, 24, 432), torch.float32)
    with torch.inference_mode():
        float_logits = load_model(llama, "float16")(reference["input_ids"]).logits
    assert torch.equal(float_logits, reference["logits"]) == (method == "none")


@pytest.mark.parametrize("method", ["int8_sq", "int4_awq"])
def test_codes_are_those_of_the_stored_prequant_scale(llama: Path, tmp_path: Path, method: Method) -> None:
    """The scale is stored in 16 bits; ModelOpt alone would compute the codes with one of 32."""
    written(llama, tmp_path / "out", method)
    (tensors,) = ranks_of(tmp_path / "out")
    layer = "transformer.layers.1.mlp.proj."
    scale = tensors[f"{layer}weights_scaling_factor"]
    weight = load_file(llama / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].float()
    smoothed = weight / tensors[f"{layer}prequant_scaling_factor"].float()
    spread = scale[:, None] if method == "int8_sq" else scale.repeat_interleave(64, dim=1)
    limit = 127 if method == "int8_sq" else 7
    codes = (smoothed / spread).round().clamp(-limit - 1, limit).to(torch.int8)
    found = tensors[f"{layer}weight"]
    if method == "int4_awq":
        found = torch.stack([found << 4 >> 4, found >> 4], dim=1).flatten(0, 1)
    assert (codes != found).float().mean() < 1e-4


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("method", ["int8_wo", "fp8", "int4_awq"])
def test_biases_and_norms_go_with_their_heads(tmp_path: Path, model_type: str, method: Method) -> None:
    model = save_model(model_type, tmp_path / "model", **SIZES)
    written(model, tmp_path / "out", method, "fp8", tp_size=4)
    theirs, ranks = load_file(model / "model.safetensors"), ranks_of(tmp_path / "out")
    for rank, tensors in enumerate(ranks):
        if model_type == "qwen2":
            query, key, value = (theirs[f"model.layers.1.self_attn.{part}_proj.bias"] for part in "qkv")
            own, head = slice(rank * 64, rank * 64 + 64), slice(rank // 2 * 32, rank // 2 * 32 + 32)
            wanted = torch.cat([query[own], key[head], value[head]])
            assert torch.equal(tensors["transformer.layers.1.attention.qkv.bias"], wanted)
        if model_type == "qwen3":
            for part in "qk":
                wanted = theirs[f"model.layers.1.self_attn.{part}_norm.weight"]
                assert torch.equal(tensors[f"transformer.layers.1.attention.{part}_layernorm.weight"], wanted)


# The KV cache


@pytest.mark.parametrize("method", ["none", "int8_wo", "fp8", "int4_awq"])
@pytest.mark.parametrize("kv_cache", ["fp8", "int8"])
def test_a_kv_cache_is_written_with_one_scale_a_layer(
    llama: Path, tmp_path: Path, method: Method, kv_cache: KvCache
) -> None:
    report = written(llama, tmp_path / "out", method, kv_cache)
    assert report.kv_cache_quant_algo == kv_cache.upper()
    assert bool(report.notes) == (kv_cache == "int8" or method != "fp8")
    (tensors,) = ranks_of(tmp_path / "out")
    for layer in range(2):
        found = {
            float(tensors[f"transformer.layers.{layer}.attention.{kind}cache_scaling_factor"])
            for kind in ("k_", "v_", "kv_")
        }
        assert len(found) == 1
        assert found == {1.0} if kv_cache == "fp8" else 0 < found.pop() < 1.0


@pytest.mark.parametrize("kv_cache", ["fp8", "int8"])
def test_a_kv_cache_alone_is_measured_and_judged(llama: Path, tmp_path: Path, kv_cache: KvCache) -> None:
    gated = {
        "evaluation": Evaluation(text="t", samples=2, tokens_per_sample=32),
        "limits": Limits(max_kl=0.0, min_top1_agreement=1.0),
    }
    report = written(llama, tmp_path / "out", "none", kv_cache, recipe=gated)
    assert report.measurement is not None
    assert report.measurement.kl_mean > 0
    assert "max_kl" in {violation.measure for violation in report.violations}
    unchanged = written(llama, tmp_path / "auto", "none", recipe=gated)
    assert (unchanged.measurement, unchanged.violations) == (None, ())


# SmoothQuant's alpha, exclusions


def test_the_alpha_with_the_least_divergence_wins(llama: Path, tmp_path: Path) -> None:
    report = written(llama, tmp_path / "out", "int8_sq", recipe={"alpha": None, "alpha_search": (0.1, 0.5, 0.9)})
    search = report.alpha_search
    assert search is not None
    assert set(search.kl_by_alpha) == {"0.1", "0.5", "0.9"}
    assert search.kl_by_alpha[f"{search.alpha:g}"] == min(search.kl_by_alpha.values())
    written(llama, tmp_path / "again", "int8_sq", recipe={"alpha": search.alpha})
    assert (tmp_path / "again" / "rank0.safetensors").read_bytes() == (
        tmp_path / "out" / "rank0.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("method", ["int8_wo", *QUANTIZED])
def test_an_excluded_layer_stays_in_16_bits(llama: Path, tmp_path: Path, method: Method) -> None:
    report = written(llama, tmp_path / "out", method, recipe={"exclude": ("model.layers.1.mlp.down_proj",)})
    (tensors,) = ranks_of(tmp_path / "out")
    weight = load_file(llama / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(tensors["transformer.layers.1.mlp.proj.weight"], weight)
    excluded = config_of(tmp_path / "out")["quantization"]["exclude_modules"]
    assert [name.rstrip("*") for name in excluded] == ["lm_head", "transformer.layers.1.mlp.proj"]
    assert report.measurement is not None
    assert report.measurement.quantized_layers == 13


# Vocabulary


def test_a_padded_vocabulary_is_recorded_and_the_models_own_kept(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model", **SIZES, vocab_size=433)
    awq = written(model, tmp_path / "awq", "int4_awq")
    fp8 = written(model, tmp_path / "fp8", "fp8", tp_size=2)
    assert (awq.vocab_size, awq.padded_vocab_size, config_of(tmp_path / "awq")["vocab_size"]) == (433, 448, 448)
    assert (fp8.vocab_size, fp8.padded_vocab_size, config_of(tmp_path / "fp8")["vocab_size"]) == (433, 434, 433)
    assert load_file(tmp_path / "awq" / "reference_logits.safetensors")["logits"].shape[-1] == 433


# Experts


@pytest.mark.parametrize("method", ["none", "int8_wo", "fp8", "int4_awq", "w4a8_awq", "nvfp4"])
def test_experts_are_distributed_whole(mixtral: Path, tmp_path: Path, method: Method) -> None:
    written(mixtral, tmp_path / "whole", method)
    written(mixtral, tmp_path / "ep", method, tp_size=2, moe_ep_size=2)
    mapping = config_of(tmp_path / "ep")["mapping"]
    assert (mapping["world_size"], mapping["moe_tp_size"], mapping["moe_ep_size"]) == (2, 1, 2)
    (whole,), ranks = ranks_of(tmp_path / "whole"), ranks_of(tmp_path / "ep")
    compared = 0
    for name, tensor in whole.items():
        if ".mlp.fc." in name or ".mlp.proj." in name:
            parts = [rank[name] for rank in ranks]
            shared = name.endswith("activation_scaling_factor")
            joined = parts[0] if shared else torch.cat([part.view(torch.uint8) for part in parts])
            assert torch.equal(joined.view(torch.uint8), tensor.view(torch.uint8)), name
            compared += 1
        elif "router" in name:
            assert all(torch.equal(rank[name], tensor) for rank in ranks)
    assert compared >= 4
    assert (
        ranks[0]["transformer.layers.0.attention.dense.weight"].shape[1] * 2
        == (whole["transformer.layers.0.attention.dense.weight"].shape[1])
    )


def test_experts_can_be_distributed_and_cut(mixtral: Path, tmp_path: Path) -> None:
    written(mixtral, tmp_path / "whole", "none")
    written(mixtral, tmp_path / "cut", "none", tp_size=4, moe_ep_size=2)
    name = "transformer.layers.1.mlp.proj.weight"
    (whole,), ranks = ranks_of(tmp_path / "whole"), ranks_of(tmp_path / "cut")
    for rank, tensors in enumerate(ranks):
        experts, columns = slice(rank % 2 * 2, rank % 2 * 2 + 2), slice(rank // 2 * 256, rank // 2 * 256 + 256)
        assert torch.equal(tensors[name], whole[name][experts, :, columns])


def test_an_expert_that_no_token_reached_is_quantized_all_the_same(mixtral: Path, tmp_path: Path) -> None:
    model = save_model("mixtral", tmp_path / "model", **SIZES, num_local_experts=16, num_experts_per_tok=1)
    quantized = load_model(model, "float16")
    quantize_model(quantized, a_recipe("fp8").settings, "auto", [[1, 2, 3]], silent, dtype="float16")
    assert all(quantizer.amax is not None for name, quantizer in quantizers_of(quantized) if quantizer.is_enabled)
    report = written(model, tmp_path / "out", "fp8")
    assert report.measurement is not None

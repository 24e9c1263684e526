"""The quantize stage with ModelOpt: the checkpoint of the real model, and of small ones of every architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slipstream.errors import SlipstreamError
from slipstream.progress import silent
from slipstream.quantize.checkpoint import CheckpointReport, write_checkpoint
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.measure import scales_digest
from slipstream.quantize.modelopt_quantize import quantize_model, quantizers_of
from slipstream.quantize.recipes import Recipe, load_recipe
from tests.integration.tiny_models import LLAMA3_ROPE, a_recipe, save_model

CONTRACT_REQUIRED = {"architecture", "dtype", "hidden_size", "num_hidden_layers", "num_attention_heads"}
ARCHITECTURES = {"llama": {"attention_bias": True, "mlp_bias": True}, "mistral": {}, "qwen2": {}, "qwen3": {}}


def export(model: Path, out: Path, *, tp_size: int = 1, pp_size: int = 1, recipe: Recipe | None = None) -> Path:
    written(model, out, tp_size=tp_size, pp_size=pp_size, recipe=recipe)
    return out


def written(
    model: Path, out: Path, *, tp_size: int = 1, pp_size: int = 1, recipe: Recipe | None = None
) -> CheckpointReport:
    out.mkdir()
    return write_checkpoint(
        model,
        out,
        recipe=recipe or a_recipe(),
        kv_cache="auto",
        tp_size=tp_size,
        pp_size=pp_size,
        dtype="float16",
        report=silent,
    )


def config_of(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "config.json").read_text())


# The real model


def test_the_checkpoint_is_what_tensorrt_llm_loads_as_int8_weight_only(artifacts: Path) -> None:
    config = config_of(artifacts / "checkpoint")
    assert config.keys() >= CONTRACT_REQUIRED
    assert config["quantization"] == {"quant_algo": "W8A16", "kv_cache_quant_algo": None}
    assert (config["architecture"], config["dtype"], config["vocab_size"]) == ("LlamaForCausalLM", "float16", 49152)
    assert config["rotary_base"] == 100_000
    assert config["mapping"] == {"world_size": 1, "tp_size": 1, "pp_size": 1}


def test_the_exported_weights_are_the_models_to_the_bit(artifacts: Path) -> None:
    ours = load_file(artifacts / "checkpoint" / "rank0.safetensors")
    model = load_file(artifacts / "model" / "model.safetensors")
    assert {weight.dtype for weight in ours.values()} == {torch.float16}
    for layer in range(30):
        hf, trtllm = f"model.layers.{layer}.", f"transformer.layers.{layer}."
        qkv = torch.cat([model[f"{hf}self_attn.{part}_proj.weight"] for part in "qkv"])
        assert torch.equal(ours[f"{trtllm}attention.qkv.weight"], qkv)
        for ours_name, hf_name in (
            ("attention.dense", "self_attn.o_proj"),
            ("mlp.fc", "mlp.gate_proj"),
            ("mlp.gate", "mlp.up_proj"),
            ("mlp.proj", "mlp.down_proj"),
            ("input_layernorm", "input_layernorm"),
            ("post_layernorm", "post_attention_layernorm"),
        ):
            assert torch.equal(ours[f"{trtllm}{ours_name}.weight"], model[f"{hf}{hf_name}.weight"]), ours_name
    for name in ("lm_head.weight", "transformer.vocab_embedding.weight"):
        assert torch.equal(ours[name], model["model.embed_tokens.weight"])
    assert len(ours) == 30 * 7 + 3


def test_a_rows_scale_is_its_largest_magnitude(artifacts: Path) -> None:
    quantized = load_model(artifacts / "model", "float16")
    quantize_model(quantized, a_recipe().settings, "auto", [], silent, dtype="float16")
    rows = {
        name.removesuffix("_quantizer"): quantizer.amax.flatten()
        for name, quantizer in quantizers_of(quantized)
        if quantizer.is_enabled
    }
    model = load_file(artifacts / "model" / "model.safetensors")
    assert len(rows) == 30 * 7
    for name, largest in rows.items():
        assert torch.equal(largest, model[name].float().abs().amax(dim=1)), name
    report = json.loads((artifacts / "checkpoint" / "quantization_report.json").read_text())
    assert report["measurement"]["scales_sha256"] == scales_digest(quantized)


def test_int8_weights_cost_the_real_model_next_to_no_perplexity(artifacts: Path) -> None:
    report = json.loads((artifacts / "checkpoint" / "quantization_report.json").read_text())
    measured = report["measurement"]
    assert report["recipe"]["name"] == "int8_wo"
    assert measured["tokens_evaluated"] > 1000
    assert 20 < measured["perplexity_before"] < 60
    assert measured["perplexity_after"] != measured["perplexity_before"]
    assert abs(measured["perplexity_change"]) < 0.02


# Small models


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("llama") / "model", rope_theta=5e5, rope_scaling=LLAMA3_ROPE)


@pytest.fixture(scope="module")
def whole(llama: Path) -> Path:
    return export(llama, llama.parent / "whole")


def test_two_runs_write_the_same_bytes(llama: Path, whole: Path, tmp_path: Path) -> None:
    again = export(llama, tmp_path / "again")
    names = sorted(path.name for path in whole.iterdir())
    assert names == ["config.json", "quantization_report.json", "rank0.safetensors", "reference_logits.safetensors"]
    for name in names:
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_files_are_readable_for_the_server(whole: Path) -> None:
    modes = {path.stat().st_mode for path in whole.iterdir()}
    assert len(modes) == 1


def test_rotary_settings_reach_the_checkpoint(whole: Path) -> None:
    assert config_of(whole)["rotary_base"] == 5e5
    assert config_of(whole)["rotary_scaling"] == LLAMA3_ROPE


@pytest.mark.parametrize(("tp_size", "pp_size"), [(2, 1), (1, 2), (2, 2)])
def test_the_shards_join_to_the_whole_checkpoint(
    llama: Path, whole: Path, tmp_path: Path, tp_size: int, pp_size: int
) -> None:
    sharded = export(llama, tmp_path / "sharded", tp_size=tp_size, pp_size=pp_size)
    assert config_of(sharded)["mapping"] == {"world_size": tp_size * pp_size, "tp_size": tp_size, "pp_size": pp_size}
    wanted = load_file(whole / "rank0.safetensors")
    joined = {}
    for stage in range(pp_size):
        ranks = [load_file(sharded / f"rank{stage * tp_size + rank}.safetensors") for rank in range(tp_size)]
        for name in ranks[0]:
            joined[global_name(name, stage * 4 // pp_size)] = join(name, [rank[name] for rank in ranks])
    assert joined.keys() == wanted.keys()
    for name, weight in joined.items():
        assert torch.equal(weight, wanted[name]), name


def global_name(name: str, first_layer: int) -> str:
    parts = name.split(".")
    if parts[1] == "layers":
        parts[2] = str(int(parts[2]) + first_layer)
    return ".".join(parts)


def join(name: str, shards: list[torch.Tensor]) -> torch.Tensor:
    if "layernorm" in name or "ln_f" in name:
        return shards[0]
    if "qkv" in name:
        sizes = [8 * 16 // len(shards), 2 * 16 // len(shards), 2 * 16 // len(shards)]
        return torch.cat([torch.cat(part) for part in zip(*(shard.split(sizes) for shard in shards), strict=True)])
    return torch.cat(shards, dim=1 if "dense" in name or "proj" in name else 0)


def test_ranks_beyond_the_kv_heads_each_hold_a_copy(llama: Path, whole: Path, tmp_path: Path) -> None:
    sharded = export(llama, tmp_path / "sharded", tp_size=4)
    name = "transformer.layers.0.attention.qkv.weight"
    query, key, value = load_file(whole / "rank0.safetensors")[name].split([128, 32, 32])
    for rank in range(4):
        head = slice(rank // 2 * 16, rank // 2 * 16 + 16)
        wanted = torch.cat([query[rank * 32 : rank * 32 + 32], key[head], value[head]])
        assert torch.equal(load_file(sharded / f"rank{rank}.safetensors")[name], wanted)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_is_exported_with_its_biases_and_norms(model_type: str, tmp_path: Path) -> None:
    model = save_model(model_type, tmp_path / "model", **ARCHITECTURES[model_type])
    out = export(model, tmp_path / "out")
    config, ours, theirs = (
        config_of(out),
        load_file(out / "rank0.safetensors"),
        load_file(model / "model.safetensors"),
    )
    assert config["attn_bias"] == ("transformer.layers.0.attention.qkv.bias" in ours)
    assert config["attn_bias"] == ("model.layers.0.self_attn.q_proj.bias" in theirs)
    assert config["mlp_bias"] == ("transformer.layers.0.mlp.fc.bias" in ours)
    assert config.get("qk_layernorm", False) == ("transformer.layers.0.attention.q_layernorm.weight" in ours)
    assert config["head_size"] == 16
    assert sum(weight.numel() for weight in ours.values()) == sum(weight.numel() for weight in theirs.values())


def test_the_recipe_none_writes_the_weights_and_measures_nothing(llama: Path, whole: Path, tmp_path: Path) -> None:
    recipe = load_recipe("none", Path(__file__).resolve().parents[2] / "quantize" / "recipes")
    report = written(llama, tmp_path / "out", recipe=recipe)
    assert (report.quant_algo, report.measurement) == (None, None)
    assert config_of(tmp_path / "out")["quantization"]["quant_algo"] is None
    assert (tmp_path / "out" / "rank0.safetensors").read_bytes() == (whole / "rank0.safetensors").read_bytes()


def test_a_corrupt_weight_file_is_one_clear_error(llama: Path, tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SlipstreamError, match="is not a whole safetensors file") as caught:
        export(model, tmp_path / "out")
    assert str(weights) in caught.value.message


def test_a_tensor_that_is_missing_is_named_and_not_made_up(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(SlipstreamError, match=r"1 tensors .* first model\.layers\.2\.mlp\.up_proj\.weight"):
        export(model, tmp_path / "out")


def test_a_full_disk_is_one_clear_error(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").symlink_to("/dev/full")
    with pytest.raises(SlipstreamError, match="the disk is full"):
        write_checkpoint(
            llama, out, recipe=a_recipe(), kv_cache="auto", tp_size=1, pp_size=1, dtype="float16", report=silent
        )


def test_weights_that_overflow_are_noticed(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][:] = float("inf")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(SlipstreamError, match="the perplexity before quantization is not a number"):
        export(model, tmp_path / "out")


def test_nothing_is_printed(llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(llama, tmp_path / "out")
    assert capfd.readouterr().out == ""

"""Each planted fault is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slipstream.errors import SlipstreamError
from slipstream.formats import KvCache, Method
from slipstream.progress import silent
from slipstream.quantize.memory import LIBRARIES_BYTES
from slipstream.quantize.verify import room
from slipstream.quantize.verify.check import verify_checkpoint
from slipstream.quantize.verify.text import verification_text
from slipstream.trtllm_checkpoint.config import KV_SCALES
from tests.integration.verify_checkpoints import Make, Planted, Tensors, checkpoints, errors, found, models, plant

__all__ = ["checkpoints", "models", "plant"]  # fixtures

QKV = "transformer.layers.1.attention.qkv"
Q_ROWS, KV_ROWS, HEAD = 256, 64, 64  # of one of two ranks


def test_swapped_q_and_k_rows_are_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    def swap(tensors: Tensors) -> None:
        weight = tensors[f"{QKV}.weight"]
        q, k = weight[:KV_ROWS].clone(), weight[Q_ROWS : Q_ROWS + KV_ROWS].clone()
        weight[:KV_ROWS], weight[Q_ROWS : Q_ROWS + KV_ROWS] = k, q

    planted = plant("none", tp=2)
    planted.change(1, swap)
    verification = planted.verified(models("llama"))
    finding = found(verification, "swapped-rows")
    assert finding.where == f"rank1.safetensors {QKV}.weight (q)"
    assert "rows of model.layers.1.self_attn.k_proj in the place of model.layers.1.self_attn.q_proj" in finding.what
    found(verification, "logits")


@pytest.mark.parametrize("method", ["fp8", "int8_sq", "int4_awq", "nvfp4"])
def test_swapped_q_rows_are_named_in_every_format(
    plant: Callable[..., Planted], models: Callable[[str], Path], method: Method
) -> None:
    def swap(tensors: Tensors) -> None:
        for suffix in ("weight", "weights_scaling_factor"):
            values = tensors[f"{QKV}.{suffix}"]
            if values.numel() > 1:
                half = 32 // (2 if suffix == "weight" and method == "int4_awq" else 1)
                values = values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values
                values[: 2 * half] = values[: 2 * half].clone().roll(half, 0)

    planted = plant(method, tp=2)
    planted.change(0, swap)
    finding = found(planted.verified(models("llama")), "swapped-rows")
    assert finding.where == f"rank0.safetensors {QKV}.weight (q)"
    assert "64 rows are not in their order" in finding.what


def test_a_shard_cut_mid_head_is_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    whole = load_file(models("llama") / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]

    def shift(tensors: Tensors) -> None:
        tensors[f"{QKV}.weight"][:Q_ROWS] = whole[HEAD // 2 : HEAD // 2 + Q_ROWS]

    planted = plant("none", tp=2)
    planted.change(0, shift)
    finding = found(planted.verified(models("llama")), "cut-mid-head")
    assert "begins at row 32 of head 0, which has 64 rows" in finding.what


def test_sizes_that_cut_heads_are_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    planted = plant("none", tp=2)
    planted.configure(lambda config: config["mapping"].update(tp_size=3, world_size=3))
    assert "8 heads and 2 KV heads cannot be cut" in found(planted.verified(models("llama")), "cut-mid-head").what


def test_shards_of_other_ranks_are_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    planted = plant("none", tp=2)
    shutil.copy(planted.directory / "rank1.safetensors", planted.directory / "rank0.safetensors")
    verification = planted.verified(models("llama"))
    assert "holds the rows of another rank, +256 rows off" in found(verification, "wrong-shard").what
    assert "is token 250's, not 0's" in found(verification, "swapped-rows").what


def test_layers_in_the_wrong_place_are_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    def swap(tensors: Tensors) -> None:
        name = "transformer.layers.{}.mlp.proj.weight"
        tensors[name.format(0)], tensors[name.format(1)] = tensors[name.format(1)], tensors[name.format(0)]

    planted = plant("none", tp=2)
    planted.change(0, swap)
    finding = found(planted.verified(models("llama")), "wrong-layer")
    assert "holds model.layers.1.mlp.down_proj in the place of model.layers.0.mlp.down_proj" in finding.what


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("fp8", "the scale is about 1.5 times"),
        ("int8_sq", "the scale is about 1.5 times"),
        ("int4_awq", "the scale is about 1.5 times"),
        ("nvfp4", "the scale is about 1.5 times"),
    ],
)
def test_a_wrong_scale_is_named_with_its_factor(
    plant: Callable[..., Planted], models: Callable[[str], Path], method: Method, what: str
) -> None:
    suffix = "weights_scaling_factor_2" if method == "nvfp4" else "weights_scaling_factor"
    planted = plant(method, tp=2)
    for rank in (0, 1):
        planted.change(rank, lambda tensors: tensors[f"transformer.layers.0.mlp.fc.{suffix}"].mul_(1.5))
    verification = planted.verified(models("llama"))
    finding = found(verification, "wrong-scale")
    assert finding.where == "rank0.safetensors transformer.layers.0.mlp.fc.weight (fc)"
    assert what in finding.what


@pytest.mark.parametrize(("method", "kv"), [("fp8", "fp8"), ("int8_wo", "int8")])
@pytest.mark.parametrize("scales", [KV_SCALES, KV_SCALES[:1]], ids=["all", "k"])
def test_a_wrong_kv_cache_scale_is_named(
    plant: Callable[..., Planted],
    models: Callable[[str], Path],
    method: Method,
    kv: KvCache,
    scales: Sequence[str],
) -> None:
    def double(tensors: Tensors) -> None:
        for name in scales:
            tensors[f"transformer.layers.1.attention.{name}"] *= 2

    planted = plant(method, kv=kv, tp=2)
    for rank in (0, 1):
        planted.change(rank, double)
    finding = found(planted.verified(models("llama")), "kv-scale")
    assert "transformer.layers.1.attention" in finding.where


def test_a_wrong_second_scale_is_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    planted = plant("w4a8_awq", tp=2)
    name = "transformer.layers.0.mlp.proj.weights_scaling_factor_2"
    for rank in (0, 1):
        planted.change(rank, lambda tensors: tensors[name].mul_(4))
    finding = found(planted.verified(models("llama")), "wrong-scale")
    assert name in finding.where
    assert "4 times what it should be" in finding.what


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("dtype", "float8", "dtype is 'float8'"),
        ("mapping", {"world_size": 7, "tp_size": 2, "pp_size": 1}, "mapping.world_size is 7"),
        ("mapping", {"world_size": 2, "tp_size": 2, "pp_size": 1, "moe_ep_size": 4}, "mapping.moe_ep_size is 4"),
        ("quantization", {"quant_algo": "FP8", "scale_of_everything": 1}, "quantization.scale_of_everything is 1"),
    ],
)
def test_a_config_that_tensorrt_llm_would_refuse_is_a_finding(
    plant: Callable[..., Planted], models: Callable[[str], Path], key: str, value: object, named: str
) -> None:
    planted = plant("fp8", tp=2)
    planted.configure(lambda config: config.update({key: value}))
    assert named in found(planted.verified(models("llama")), "config").what


def test_a_tensor_of_another_type_on_every_rank_is_a_finding(
    plant: Callable[..., Planted], models: Callable[[str], Path]
) -> None:
    planted = plant("none", tp=2)
    for rank in (0, 1):
        planted.change(
            rank,
            lambda tensors: tensors.update({"transformer.ln_f.weight": tensors["transformer.ln_f.weight"].double()}),
        )
    finding = found(planted.verified(models("llama")), "wrong-dtype")
    assert finding.where == "rank0.safetensors transformer.ln_f.weight"
    assert "is F64, the format stores F16" in finding.what


def test_one_wrong_scale_of_many_is_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    def break_one(tensors: Tensors) -> None:
        tensors["transformer.layers.0.mlp.fc.weights_scaling_factor"][7, 3] *= 3

    planted = plant("int4_awq", tp=2)
    planted.change(0, break_one)
    finding = found(planted.verified(models("llama")), "wrong-scale")
    assert "1 of 2048 scales are wrong, that of row 7, group 3 is about" in finding.what


def test_a_wrong_prequant_scale_is_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    def break_one(tensors: Tensors) -> None:
        tensors["transformer.layers.0.mlp.proj.prequant_scaling_factor"][5] *= 2

    planted = plant("int8_sq", tp=2)
    planted.change(0, break_one)
    finding = found(planted.verified(models("llama")), "wrong-prequant-scale")
    assert "1 of 256 prequant scales are wrong, that of column 5 by a factor of 2" in finding.what


@pytest.mark.parametrize("method", ["int4_awq", "nvfp4"])
def test_a_wrong_group_order_is_named(
    plant: Callable[..., Planted], models: Callable[[str], Path], method: Method
) -> None:
    def reverse(tensors: Tensors) -> None:
        name = "transformer.layers.0.mlp.fc.weights_scaling_factor"
        tensors[name] = (
            tensors[name].view(torch.uint8 if method == "nvfp4" else torch.float32).flip(1).view(tensors[name].dtype)
        )

    planted = plant(method, tp=2)
    planted.change(1, reverse)
    finding = found(planted.verified(models("llama")), "wrong-group-order")
    assert finding.where == "rank1.safetensors transformer.layers.0.mlp.fc.weight (fc)"
    assert "group 0 has group" in finding.what


@pytest.mark.parametrize(("factor", "is_calibrated"), [(2.0, True), (0.01, False)])
def test_a_wrong_activation_scale_is_named(
    plant: Callable[..., Planted], models: Callable[[str], Path], factor: float, is_calibrated: bool
) -> None:
    """Exactly where the reference knows what was calibrated, else by what went through the layer."""
    name = "transformer.layers.0.mlp.proj.activation_scaling_factor"
    planted = plant("fp8", tp=2)
    amax = load_file(planted.directory / "rank0.safetensors")[name] * 448
    for rank in (0, 1):
        planted.change(rank, lambda tensors: tensors[name].mul_(factor))
    known = "model.layers.0.mlp.down_proj.input_amax"

    def set_known(tensors: Tensors) -> None:
        for each in [each for each in tensors if each.endswith(".input_amax")]:
            del tensors[each]
        if is_calibrated:
            tensors[known] = amax

    planted.change(0, set_known, "reference_logits.safetensors")
    verification = planted.verified(models("llama"))
    named = [finding for finding in verification.findings if finding.kind == "wrong-activation-scale"]
    assert not verification.ok
    assert named
    assert {finding.where for finding in named} == {f"rank{rank}.safetensors {name}" for rank in (0, 1)}
    if is_calibrated:
        assert "the scale is 2 times what it should be" in named[0].what


def test_missing_and_extra_tensors_are_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    def lose(tensors: Tensors) -> None:
        del tensors["transformer.layers.1.mlp.gate.weight"]
        tensors["transformer.layers.9.mlp.gate.weight"] = torch.zeros(1)

    planted = plant("none", tp=2)
    planted.change(1, lose)
    verification = planted.verified(models("llama"))
    assert "layers.1.mlp.gate.weight" in found(verification, "missing-tensor").where
    extra = [finding for finding in verification.findings if finding.kind == "extra-tensor"]
    assert [finding.where for finding in extra] == ["rank1.safetensors transformer.layers.9.mlp.gate.weight"]
    assert verification.max_abs_logit_error is None


def test_lost_rotary_settings_are_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    planted = plant("none", model="rope", tp=2)
    planted.configure(lambda config: config.pop("rotary_scaling"))
    verification = planted.verified(models("rope"))
    assert "it was lost" in found(verification, "rotary").what
    planted.configure(lambda config: config.update(rotary_base=10000.0))
    assert "is 10000.0, the model's is 500000.0" in found(planted.verified(models("rope")), "rotary").what
    planted.configure(lambda config: config.pop("rotary_base"))
    assert "rotary_base is missing" in found(planted.verified(models("rope")), "rotary").what


def test_ranks_that_disagree_are_named(plant: Callable[..., Planted]) -> None:
    planted = plant("fp8", tp=2)
    planted.change(1, lambda tensors: tensors["transformer.layers.0.input_layernorm.weight"].add_(0.5))
    planted.change(1, lambda tensors: tensors[f"{QKV}.activation_scaling_factor"].mul_(2))
    verification = planted.verified(None)
    wheres = [finding.where for finding in errors(verification) if finding.kind == "ranks-disagree"]
    assert wheres == [
        "rank1.safetensors transformer.layers.0.input_layernorm.weight",
        f"rank1.safetensors {QKV}.activation_scaling_factor",
    ]


@pytest.mark.parametrize("name", ["transformer.vocab_embedding", "lm_head", "transformer.ln_f"])
def test_different_ends_are_named(plant: Callable[..., Planted], models: Callable[[str], Path], name: str) -> None:
    planted = plant("none", tp=2)
    for rank in (0, 1):
        planted.change(rank, lambda tensors: tensors[f"{name}.weight"][3:4].add_(1))
    assert f"{name}.weight" in found(planted.verified(models("llama")), "wrong-values").where


def test_one_wrong_number_is_named(plant: Callable[..., Planted], models: Callable[[str], Path]) -> None:
    def flip(tensors: Tensors) -> None:
        tensors["transformer.layers.0.attention.dense.weight"].view(torch.uint8)[9, 4] ^= 0x11

    planted = plant("fp8", tp=2)
    planted.change(0, flip)
    finding = found(planted.verified(models("llama")), "wrong-values")
    assert "1 of 131072 numbers are not those of the model, the first in row 9, column 4" in finding.what


def test_a_kv_cache_without_scales_is_named(plant: Callable[..., Planted]) -> None:
    planted = plant("fp8", tp=2)
    planted.configure(lambda config: config["quantization"].update(kv_cache_quant_algo="FP8"))
    assert "kv_cache_quant_algo is FP8" in found(planted.verified(None), "kv-scale").what


def test_exclude_modules_that_do_not_fit_the_tensors_are_named(plant: Callable[..., Planted]) -> None:
    planted = plant("fp8", tp=2)
    planted.configure(lambda config: config["quantization"].update(exclude_modules=["lm_head", "*.layers.0.mlp.fc"]))
    finding = found(planted.verified(None), "exclude-modules")
    assert "transformer.layers.0.mlp.fc" in finding.where


def test_damaged_files_are_named(plant: Callable[..., Planted]) -> None:
    planted = plant("fp8", tp=2)
    path = planted.directory / "rank1.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert found(planted.verified(None), "damaged-file").where == "rank1.safetensors"
    path.unlink()
    assert "cannot be read" in found(planted.verified(None), "damaged-file").what
    (planted.directory / "config.json").write_text("{")
    assert "is not JSON" in found(planted.verified(None), "config").what


def test_without_reference_or_model_it_says_what_was_not_compared(
    plant: Callable[..., Planted], models: Callable[[str], Path]
) -> None:
    planted = plant("nvfp4", tp=4)
    (planted.directory / "reference_logits.safetensors").unlink()
    verification = planted.verified(models("llama"))
    assert verification.ok, verification_text(verification)
    assert verification.compared_with == "the model before quantization"
    assert verification.tolerance is None
    assert 0 < (verification.kl or 0) < 0.1
    alone = planted.verified(None)
    assert alone.ok
    assert alone.kl is None
    assert [finding.kind for finding in alone.findings] == ["not-compared", "not-compared"]


def test_a_reference_of_another_model_is_named(plant: Callable[..., Planted]) -> None:
    planted = plant("fp8", tp=2)
    planted.change(0, lambda tensors: tensors["input_ids"].add_(10**6), "reference_logits.safetensors")
    assert "are not of this checkpoint" in found(planted.verified(None), "damaged-file").what


def test_a_damaged_reference_does_not_make_a_model_fit(
    plant: Callable[..., Planted], models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant("fp8", tp=2)
    planted.change(0, lambda tensors: tensors["input_ids"].add_(10**6), "reference_logits.safetensors")
    for figure in ("RANK_BYTES", "BYTES_PER_PARAMETER_OF_A_LAYER"):
        monkeypatch.setattr(room, figure, 0)
    monkeypatch.setattr(room, "available_bytes", lambda: LIBRARIES_BYTES)
    assert "are not of this checkpoint" in found(planted.verified(None), "damaged-file").what
    with pytest.raises(SlipstreamError, match="running the unquantized model"):
        planted.verified(models("llama"))


def test_a_reference_without_layers_is_said_to_tell_less(plant: Callable[..., Planted]) -> None:
    planted = plant("fp8", tp=2)
    planted.change(0, lambda tensors: tensors.pop("hidden_states"), "reference_logits.safetensors")
    verification = planted.verified(None)
    assert verification.ok
    assert verification.exact_layers is None
    assert any("has no hidden_states" in finding.what for finding in verification.findings)


def test_a_layer_that_computes_something_else_is_named(plant: Callable[..., Planted]) -> None:
    """Without the model's weights at hand, by what comes out of it."""
    planted = plant("int4_awq", tp=2)
    for rank in (0, 1):
        planted.change(rank, lambda tensors: tensors["transformer.layers.1.mlp.proj.weights_scaling_factor"].mul_(1.1))
    assert found(planted.verified(None), "layer-output").where == "layer 1"


def test_json_has_the_keys_that_scripts_read(checkpoints: Make, models: Callable[[str], Path]) -> None:
    verification = verify_checkpoint(checkpoints("none", tp=4), model_dir=models("llama"), report=silent)
    document = json.loads(json.dumps(verification.as_json()))
    assert list(document)[:5] == ["ok", "max_abs_logit_error", "kl", "top1_agreement", "findings"]
    assert document["ok"] is True

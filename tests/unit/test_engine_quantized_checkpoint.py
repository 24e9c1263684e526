"""Quantized linear layers are whole again whatever their parallelism, and what does not fit together is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.engine.architecture import read_architecture
from slipstream.engine.checkpoint import Checkpoint
from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.linear import Linear
from slipstream.trtllm_checkpoint.shard import Shard
from tests.fakes.checkpoints import Stored, TinyModel, quantized_linears, write_checkpoint, write_safetensors

MODEL = TinyModel(intermediate_size=128)
FORMATS = ("W8A8_SQ_PER_CHANNEL", "FP8", "W4A16_AWQ", "W4A8_AWQ", "NVFP4")
FC = "transformer.layers.0.mlp.fc"


def read(directory: Path) -> Checkpoint:
    return Checkpoint(directory, read_architecture(directory / "config.json"))


def linears_of(checkpoint: Checkpoint, layer: int) -> dict[str, Linear]:
    columns = {name: checkpoint.column_parallel(layer, name, 128) for name in ("mlp.fc", "mlp.gate")}
    rows = {name: checkpoint.row_parallel(layer, name, 128) for name in ("attention.dense", "mlp.proj")}
    return {"attention.qkv": checkpoint.qkv(layer), **columns, **rows}


@pytest.mark.parametrize("quant_algo", FORMATS)
@pytest.mark.parametrize(("tp_size", "pp_size"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
def test_shards_merge_to_the_quantized_layer_they_were_cut_from(
    tmp_path: Path, quant_algo: str, tp_size: int, pp_size: int
) -> None:
    stored = Stored(quant_algo=quant_algo, tp_size=tp_size, pp_size=pp_size, shares_input_scales=False)
    checkpoint = read(write_checkpoint(tmp_path, MODEL, stored))
    expected = quantized_linears(MODEL, stored)
    for layer in range(MODEL.num_layers):
        for name, linear in linears_of(checkpoint, layer).items():
            whole = expected[f"{layer}.{name}"]
            np.testing.assert_array_equal(linear.weight(), whole.weight(), err_msg=name)
            np.testing.assert_equal(linear.input_scales, whole.input_scales, err_msg=name)


def test_layers_left_out_of_quantization_are_the_floats_they_are(tmp_path: Path) -> None:
    stored = Stored(quant_algo="FP8", exclude_modules=("lm_head", "transformer.layers.0.mlp*"), tp_size=2)
    checkpoint = read(write_checkpoint(tmp_path, MODEL, stored))
    assert checkpoint.column_parallel(0, "mlp.fc", 128).scales is None
    assert checkpoint.row_parallel(0, "mlp.proj", 128).scales is None
    assert checkpoint.column_parallel(1, "mlp.fc", 128).scales is not None
    assert checkpoint.qkv(0).scales is not None


def test_w8a16_quantizes_all_but_the_excluded_layers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL, quant_algo="W8A16")
    change_config(tmp_path, exclude_modules=["lm_head", "*.mlp.fc"])
    checkpoint = read(tmp_path)
    assert checkpoint.column_parallel(0, "mlp.fc", 128).values.dtype == np.float16
    assert checkpoint.column_parallel(0, "mlp.gate", 128).values.dtype == np.int8


def test_every_tensor_of_a_quantized_checkpoint_has_a_place(tmp_path: Path) -> None:
    checkpoint = read(write_checkpoint(tmp_path, MODEL, quant_algo="W4A8_AWQ", kv_cache_quant_algo="FP8", tp_size=2))
    for layer in range(MODEL.num_layers):
        linears_of(checkpoint, layer)
        checkpoint.norm(layer, "input_layernorm")
        checkpoint.norm(layer, "post_layernorm")
    for rest in (checkpoint.embedding, checkpoint.lm_head, checkpoint.final_norm):
        rest()
    checkpoint.require_all_read()


@pytest.mark.parametrize(
    ("excluded", "said"),
    [
        (["lm_head", "*.mlp.fc"], "mlp.fc is stored quantized, but quantization.exclude_modules names it"),
        ([], "mlp.gate is stored in floats, but quantization.exclude_modules does not name it"),
    ],
)
def test_config_that_tells_other_layers_than_are_stored_is_refused(
    tmp_path: Path, excluded: list[str], said: str
) -> None:
    write_checkpoint(tmp_path, MODEL, quant_algo="FP8", exclude_modules=("*.mlp.gate",))
    change_config(tmp_path, exclude_modules=excluded)
    with pytest.raises(SlipstreamError, match=re.escape(said)):
        linears_of(read(tmp_path), 0)


def other_scale(values: Any) -> Any:
    return values * 2


def as_half(values: Any) -> Any:
    return values.astype(np.float16)


def shorter(values: Any) -> Any:
    return values[:-1]


@pytest.mark.parametrize(
    ("quant_algo", "tensor", "change", "said"),
    [
        ("FP8", "weights_scaling_factor", other_scale, f"the scales of {FC} differ between ranks"),
        ("FP8", "activation_scaling_factor", other_scale, f"{FC}.activation_scaling_factor differs"),
        ("NVFP4", "weights_scaling_factor_2", other_scale, f"{FC}.weights_scaling_factor_2 differs"),
        ("W4A16_AWQ", "prequant_scaling_factor", other_scale, f"the scales of {FC} differ between ranks"),
        ("FP8", "weight", as_half, f"{FC}.weight is float16, its quant_algo asks for float8_e4m3fn"),
        ("W4A8_AWQ", "weight", shorter, f"{FC}.weight has shape [31, 64], config.json asks for [32, 64]"),
        ("NVFP4", "weights_scaling_factor", as_half, f"{FC}.weights_scaling_factor is float16"),
        ("W8A8_SQ_PER_CHANNEL", "weights_scaling_factor", shorter, "has shape [63], config.json asks for [64]"),
        ("W8A8_SQ_PER_CHANNEL", "prequant_scaling_factor", None, f"tensor {FC}.prequant_scaling_factor is missing"),
        ("W4A8_AWQ", "weights_scaling_factor_2", None, f"tensor {FC}.weights_scaling_factor_2 is missing"),
        ("NVFP4", "weights_scaling_factor", None, f"{FC} is stored in floats, but quantization.exclude_modules does"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_fault_in_one_rank_is_named(
    tmp_path: Path, quant_algo: str, tensor: str, change: Callable[[Any], Any] | None, said: str
) -> None:
    write_checkpoint(tmp_path, MODEL, quant_algo=quant_algo, tp_size=2)
    path = tmp_path / "rank1.safetensors"
    shard = Shard(path)
    tensors = {name: shard.tensor(name).copy() for name in shard.entries}
    changed = tensors.pop(f"{FC}.{tensor}")
    if change is not None:
        tensors[f"{FC}.{tensor}"] = change(changed)
    write_safetensors(path, tensors)
    with pytest.raises(SlipstreamError, match=re.escape(said)):
        read(tmp_path).column_parallel(0, "mlp.fc", 128)


def test_quantized_layer_under_another_algo_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL, quant_algo="FP8")
    change_config(tmp_path, quant_algo=None)
    with pytest.raises(SlipstreamError, match=r"qkv is quantized, quantization\.quant_algo is None"):
        read(tmp_path).qkv(0)


def test_integer_weight_without_scales_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MODEL)
    shard = Shard(tmp_path / "rank0.safetensors")
    tensors = {name: shard.tensor(name).copy() for name in shard.entries}
    write_safetensors(shard.path, tensors | {f"{FC}.weight": np.zeros((128, 64), np.int8)})
    with pytest.raises(SlipstreamError, match=r"mlp\.fc\.weight is int8 and has no scales"):
        read(tmp_path).column_parallel(0, "mlp.fc", 128)


def change_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["quantization"] |= changes
    (directory / "config.json").write_text(json.dumps(config))

"""How many bits a weight of the linear layers takes, scales included, counted in a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slipstream.text.tokenizer import read_json
from slipstream.trtllm_checkpoint.shard import Shard, TensorEntry

_LINEARS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
_FOUR_BITS = {"W4A16_AWQ": "I8", "W4A8_AWQ": "I8", "NVFP4": "U8"}  # the type that holds two weights in a byte
_AWQ = ("W4A16_AWQ", "W4A8_AWQ")
_SCALE_BITS = 16  # of a row's scale, that TensorRT-LLM makes when it quantizes W8A16's floats
_GROUP_SCALES = "weights_scaling_factor"  # of AWQ: float32 in the file, rounded to the model's 16 bits when loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBits:
    """Of one weight of the linear layers, on average."""

    weights: int
    in_file: float
    in_engine: float  # differs for W8A16, whose floats are quantized when they are loaded, and for AWQ's scales


def stored_bits(checkpoint: Path) -> StoredBits:
    """Count the tensors of all ranks of `checkpoint`; layers that were left in floats count as they are.

    What TensorRT-LLM makes of them when it loads them: the layers of tensorrt_llm/quantization/layers.py.
    """
    quantization = read_json(checkpoint / "config.json")["quantization"]
    algo, excluded = quantization.get("quant_algo"), quantization.get("exclude_modules") or ()
    weights, file_bits, engine_bits = 0, 0, 0
    for name, entry in _linear_tensors(checkpoint):
        bits = 8 * (entry.end - entry.start)
        file_bits += bits
        if not name.endswith(".weight"):
            is_rounded = algo in _AWQ and name.endswith(_GROUP_SCALES)
            engine_bits += _count(entry, None) * _SCALE_BITS if is_rounded else bits
            continue
        count = _count(entry, algo)
        weights += count
        is_quantized_at_load = algo == "W8A16" and name.removesuffix(".weight") not in excluded
        engine_bits += 8 * count + _SCALE_BITS * (count // entry.shape[-1]) if is_quantized_at_load else bits
    return StoredBits(weights=weights, in_file=file_bits / weights, in_engine=engine_bits / weights)


def _linear_tensors(checkpoint: Path) -> Iterator[tuple[str, TensorEntry]]:
    for path in sorted(checkpoint.glob("rank*.safetensors")):
        for name, entry in Shard(path).entries.items():
            module, _, tensor = name.rpartition(".")
            is_weight_part = tensor == "weight" or tensor.endswith(("scaling_factor", "scaling_factor_2"))
            if module.endswith(_LINEARS) and is_weight_part:
                yield name, entry


def _count(entry: TensorEntry, algo: str | None) -> int:
    count = 1
    for size in entry.shape:
        count *= size
    return 2 * count if algo in _FOUR_BITS and entry.dtype == _FOUR_BITS[algo] else count

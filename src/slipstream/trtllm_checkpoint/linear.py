"""A linear layer as one rank stores it, taken apart into values and scales, and the ranks' parts put together.

weight[o, i] = values[o, i] * scale of o and i; the layer's input is first multiplied by `input_scales`. The scales of
activations and of the KV cache are not part of the weight: they are checked to be there, not kept. W4A8_AWQ's
`weights_scaling_factor_2` neither: it only maps the dequantized weight into the range of FP8 for the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import QuantAlgo, Quantization
from slipstream.trtllm_checkpoint.packing import scaled_by_group, unpack_fp4, unpack_int4
from slipstream.trtllm_checkpoint.shard import Array, Float32Array, Shard, as_float32

MEND = "delete the checkpoint and quantize the model again"
REPLICATED = ("activation_scaling_factor", "weights_scaling_factor_2")  # one number, the same on every rank
PARTS = ("weight", "weights_scaling_factor", "prequant_scaling_factor", *REPLICATED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear:
    """Values and scales of a weight; for floats the values alone."""

    values: Array  # [out, in]: floats, int8 (of INT8 and INT4), float8, or FP4's values in float32
    scales: Float32Array | None = None  # [] of the whole weight, [out] of its rows, [out, groups] of groups of inputs
    input_scales: Array | None = None  # [in]

    def weight(self) -> Float32Array:
        """The dequantized weight, [out, in]."""
        if self.scales is None:
            return as_float32(self.values)
        if self.scales.ndim == 2:
            return scaled_by_group(self.values, self.scales)
        return as_float32(self.values) * self.scales.reshape(-1, 1)

    def scaled_by_row(self) -> Linear:
        """The same weight, one scale for all of it written out for every row."""
        if self.scales is None or self.scales.ndim > 0:
            return self
        scales = np.full(len(self.values), self.scales, np.float32)
        return Linear(values=self.values, scales=scales, input_scales=self.input_scales)

    def rows(self, start: int, stop: int) -> Linear:
        """Only the outputs from `start` to before `stop`."""
        whole = self.scales is None or self.scales.ndim == 0
        scales = self.scales if whole or self.scales is None else self.scales[start:stop]
        return Linear(values=self.values[start:stop], scales=scales, input_scales=self.input_scales)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How a format lies in the file."""

    weight: np.dtype[Any]
    scales: np.dtype[Any]
    scale_axes: int  # as in `Linear.scales`
    required: tuple[str, ...]  # beside the weight and its scales


_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_INT8, _FLOAT32 = np.dtype(np.int8), np.dtype(np.float32)
_LAYOUTS: dict[QuantAlgo, _Layout] = {
    "W8A8_SQ_PER_CHANNEL": _Layout(
        weight=_INT8,
        scales=_FLOAT32,
        scale_axes=1,
        required=("prequant_scaling_factor", "activation_scaling_factor"),
    ),
    "FP8": _Layout(
        weight=np.dtype(ml_dtypes.float8_e4m3fn),
        scales=_FLOAT32,
        scale_axes=0,
        required=("activation_scaling_factor",),
    ),
    "W4A16_AWQ": _Layout(weight=_INT8, scales=_FLOAT32, scale_axes=2, required=("prequant_scaling_factor",)),
    "W4A8_AWQ": _Layout(
        weight=_INT8,
        scales=_FLOAT32,
        scale_axes=2,
        required=("prequant_scaling_factor", "weights_scaling_factor_2", "activation_scaling_factor"),
    ),
    "NVFP4": _Layout(
        weight=np.dtype(np.uint8),
        scales=np.dtype(ml_dtypes.float8_e4m3fn),
        scale_axes=2,
        required=("weights_scaling_factor_2", "activation_scaling_factor"),
    ),
}


def is_stored_quantized(shard: Shard, name: str) -> bool:
    """Whether the layer `name` has scales: a layer that was left out of quantization has none."""
    return f"{name}.weights_scaling_factor" in shard.entries


def read_linear(shard: Shard, name: str, quantization: Quantization, out_size: int, in_size: int) -> Linear:
    """The layer `name` of one rank, `out_size` and `in_size` being that rank's share of it."""
    if not is_stored_quantized(shard, name):
        weight = _read(shard, f"{name}.weight", (out_size, in_size))
        if weight.dtype not in _FLOATS:
            raise SlipstreamError(f"{shard.path}: {name}.weight is {weight.dtype} and has no scales", mend=MEND)
        return Linear(values=weight)
    layout = None if quantization.algo is None else _LAYOUTS.get(quantization.algo)
    if layout is None:
        raise SlipstreamError(
            f"{shard.path}: {name} is quantized, quantization.quant_algo is {quantization.algo!r}", mend=MEND
        )
    for part in layout.required:
        shard.tensor(f"{name}.{part}")
    prequant = f"{name}.prequant_scaling_factor"
    return Linear(
        values=_values(shard, name, layout, out_size, in_size),
        scales=_scales(shard, name, layout, (out_size, in_size // quantization.group_size)),
        input_scales=_read(shard, prequant, (in_size,)) if prequant in shard.entries else None,
    )


def joined(parts: Sequence[Linear], axis: int) -> Linear:
    """One layer of `parts`: its outputs one after the other (axis 0), or its inputs (axis 1).

    What the parts share must be equal in all of them; check it with `can_join`.
    """
    first = parts[0]
    inputs = [part.input_scales for part in parts if part.input_scales is not None]
    return Linear(
        values=np.concatenate([part.values for part in parts], axis),
        scales=_joined_scales(parts, axis),
        input_scales=np.concatenate(inputs) if axis == 1 and inputs else first.input_scales,
    )


def can_join(parts: Sequence[Linear], axis: int) -> bool:
    """Whether `parts` are stored alike and agree in what they share along `axis`."""
    first = parts[0]
    alike = all(
        part.values.dtype == first.values.dtype
        and (part.scales is None) == (first.scales is None)
        and (part.input_scales is None) == (first.input_scales is None)
        for part in parts
    )
    return alike and all(_agree(part, first, axis) for part in parts[1:])


def _agree(part: Linear, first: Linear, axis: int) -> bool:
    shares_scales = first.scales is not None and first.scales.ndim <= axis
    return (axis == 1 or _equal(part.input_scales, first.input_scales)) and (
        not shares_scales or _equal(part.scales, first.scales)
    )


def _equal(left: Array | None, right: Array | None) -> bool:
    return left is right or (left is not None and right is not None and np.array_equal(left, right))


def _joined_scales(parts: Sequence[Linear], axis: int) -> Float32Array | None:
    scales = [part.scales for part in parts if part.scales is not None]
    if not scales:
        return None
    if scales[0].ndim <= axis:
        return scales[0]
    return np.concatenate(scales, axis)


def _values(shard: Shard, name: str, layout: _Layout, out_size: int, in_size: int) -> Array:
    is_int4, is_fp4 = layout.weight == _INT8 and layout.scale_axes == 2, layout.weight == np.uint8
    shape = (out_size // 2 if is_int4 else out_size, in_size // 2 if is_fp4 else in_size)
    stored = _read(shard, f"{name}.weight", shape, layout.weight)
    return unpack_int4(stored) if is_int4 else unpack_fp4(stored) if is_fp4 else stored


def _scales(shard: Shard, name: str, layout: _Layout, groups: tuple[int, int]) -> Float32Array:
    tensor = f"{name}.weights_scaling_factor"
    if layout.scale_axes == 0:
        return _number(shard, tensor)
    scales = as_float32(_read(shard, tensor, groups[: layout.scale_axes], layout.scales))
    # In this order: the scale itself is rounded to float32 once, as ModelOpt rounds it.
    return scales * _number(shard, f"{name}.weights_scaling_factor_2") if layout.weight == np.uint8 else scales


def _number(shard: Shard, tensor: str) -> Float32Array:
    """A float32 array without dimensions; the exporter writes it with one or none."""
    found = shard.tensor(tensor)
    if found.size != 1 or found.dtype != np.float32:
        raise SlipstreamError(f"{shard.path}: {tensor} is {found.dtype}{list(found.shape)}, not one float32", mend=MEND)
    return found.reshape(())


def _read(shard: Shard, tensor: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> Array:
    found = shard.tensor(tensor)
    if found.shape != shape:
        raise SlipstreamError(
            f"{shard.path}: {tensor} has shape {list(found.shape)}, config.json asks for {list(shape)}", mend=MEND
        )
    if dtype is not None and found.dtype != dtype:
        raise SlipstreamError(f"{shard.path}: {tensor} is {found.dtype}, its quant_algo asks for {dtype}", mend=MEND)
    return found

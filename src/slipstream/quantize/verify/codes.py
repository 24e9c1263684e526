"""The codes that a format stores for given weights and scales, and how those in a checkpoint differ from them.

What holds between a checkpoint and the Hugging Face weights W [out, in], for every format:

    codes x weights_scaling_factor (x weights_scaling_factor_2 in NVFP4) x prequant_scaling_factor[in]  ≈  W

SmoothQuant and AWQ multiply W's columns by a factor and the activations by its inverse, the prequant scale, before W
is quantized; so the stored weight times the prequant scale is W again, to within half a step. W4A8's second scale is
that of a further rounding to FP8 and does not enter.

Exact bit for bit: floats, FP8, NVFP4 (its block scales too). INT8 SmoothQuant and AWQ codes come from W times a factor
that was rounded, to 16 bits where the prequant scale that is stored was: a code may be one off where W / (prequant x
scale) lies as close to a rounding edge as that error reaches, and nowhere else. Both are
counted. W8A16 stores floats; its codes are made at load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from slipstream.trtllm_checkpoint.config import QuantAlgo
from slipstream.trtllm_checkpoint.packing import FP4_TABLE, unpack_fp4, unpack_int4
from slipstream.trtllm_checkpoint.shard import Array, Float32Array, as_float32

BoolArray = npt.NDArray[np.bool_]
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
FP8_MAX, FP4_MAX = np.float32(448), np.float32(6)
FP8_MIN = np.float32(2.0**-9)
# A prequant scale rounded to 16 bits is off by half a unit in its last place.
_ROUNDING = {np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}
_FLOAT32_ROUNDING = 2.0**-21  # of a few float32 operations
_INTEGER_LIMITS = {"W8A8_SQ_PER_CHANNEL": (-128, 127), "W4A16_AWQ": (-8, 7), "W4A8_AWQ": (-8, 7)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows of one linear layer on one rank, taken apart: weight = codes x scales, unfolded = weight x prequant."""

    algo: QuantAlgo | None
    codes: Float32Array  # [rows, columns]; floats as they are stored
    scales: Float32Array  # [rows or 1, groups]: of codes; NVFP4 with the tensor's
    prequant: Float32Array | None  # [columns]
    block_scales: Float32Array | None  # NVFP4's own, [rows, groups]
    tensor_scale: np.float32 | None  # NVFP4's
    rounding: float  # of prequant, relative
    stored_type: np.dtype[np.generic]

    @property
    def spread_scales(self) -> Float32Array:
        """One scale for each code, [rows or 1, columns]."""
        return np.repeat(self.scales, self.codes.shape[1] // self.scales.shape[1], axis=1)

    @property
    def unfolded(self) -> Float32Array:
        """The weights that the codes stand for, in the place of the Hugging Face model's."""
        weights: Float32Array = self.codes * self.spread_scales
        return weights if self.prequant is None else weights * self.prequant


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where codes are not those of the weights; arrays [rows, columns]."""

    is_equal: BoolArray
    is_wrong: BoolArray  # not equal, and more than rounding explains


def take_apart(algo: QuantAlgo | None, stored: Mapping[str, Array], rows: slice) -> Block:
    """`rows` of the layer that is `stored` in `algo`."""
    weight, scale = stored["weight"], stored.get("weights_scaling_factor")
    prequant = stored.get("prequant_scaling_factor")
    block_scales = tensor_scale = None
    if algo in (None, "W8A16"):
        codes, scales = as_float32(weight[rows]), np.ones((1, 1), np.float32)
    else:
        assert scale is not None, "the layout was checked"
        scale = as_float32(scale)
        if algo == "FP8":
            codes, scales = as_float32(weight[rows]), scale.reshape(1, 1)
        elif algo == "NVFP4":
            tensor_scale = np.float32(as_float32(stored["weights_scaling_factor_2"]).reshape(-1)[0])
            block_scales = scale[rows]
            codes, scales = unpack_fp4(weight[rows]), block_scales * tensor_scale
        elif algo == "W8A8_SQ_PER_CHANNEL":
            codes, scales = as_float32(weight[rows]), scale.reshape(-1, 1)[rows]
        else:
            codes, scales = as_float32(unpack_int4(weight))[rows], scale[rows]
    return Block(
        algo=algo,
        codes=codes,
        scales=scales,
        prequant=None if prequant is None else as_float32(prequant),
        block_scales=block_scales,
        tensor_scale=tensor_scale,
        rounding=0.0 if prequant is None else _ROUNDING.get(prequant.dtype, 0.0),
        stored_type=weight.dtype,
    )


def compare(block: Block, weights: Float32Array) -> Difference:
    """The codes of `block` against those that its scales give for the Hugging Face `weights` [rows, columns]."""
    if block.algo in _INTEGER_LIMITS:
        return _compare_integers(block, weights)
    is_equal = block.codes == _expected_codes(block, weights)
    return Difference(is_equal=is_equal, is_wrong=~is_equal)


def expected_block_scales(block: Block, weights: Float32Array) -> Float32Array:
    """NVFP4's block scales for `weights`, given the tensor's scale."""
    assert block.tensor_scale is not None
    largest = np.abs(weights.reshape(weights.shape[0], block.scales.shape[1], -1)).max(2)
    scales = largest / (FP4_MAX * block.tensor_scale)
    return as_float32(np.clip(np.where(scales == 0, np.float32(1), scales), FP8_MIN, FP8_MAX).astype(FP8))


def _expected_codes(block: Block, weights: Float32Array) -> Float32Array:
    if block.algo == "FP8":
        return as_float32(np.clip(weights / block.scales, -FP8_MAX, FP8_MAX).astype(FP8))
    if block.algo == "NVFP4":
        return _nearest_fp4(weights / block.spread_scales)
    return as_float32(weights.astype(block.stored_type))


def _compare_integers(block: Block, weights: Float32Array) -> Difference:
    """A code is right where it is the nearest whole number to the scaled weight, or as near as rounding leaves it."""
    low, high = _INTEGER_LIMITS[block.algo or ""]
    unfolded = weights.astype(np.float64) / block.spread_scales
    if block.prequant is not None:
        unfolded /= block.prequant
    is_equal = block.codes == np.clip(np.rint(unfolded), low, high)
    slack = 0.5 + np.abs(unfolded) * (block.rounding + _FLOAT32_ROUNDING)
    is_near = np.abs(np.clip(unfolded, low - 0.5, high + 0.5) - block.codes) <= slack
    return Difference(is_equal=is_equal, is_wrong=~(is_equal | is_near))


def _nearest_fp4(values: Float32Array) -> Float32Array:
    """Halves go to the even code."""
    magnitudes = np.abs(values)
    steps = np.where(magnitudes < 2, 0.5, np.where(magnitudes < 4, 1.0, 2.0)).astype(np.float32)
    nearest = np.minimum(np.rint(magnitudes / steps) * steps, FP4_TABLE.max())
    return np.copysign(nearest, values)

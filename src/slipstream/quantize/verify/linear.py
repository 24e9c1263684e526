"""What the linear layer of each format stores and computes: one class each, called with activations [..., in].

Activations and scales are float32. The arithmetic is that of ModelOpt's fake quantization, step by step, so that
values fall on the same side of a rounding edge; int8 products are accumulated exactly. TensorRT-LLM's kernels round
alike but sum in another order, and in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from slipstream.trtllm_checkpoint.config import QuantAlgo
from slipstream.trtllm_checkpoint.packing import scaled_by_group, unpack_fp4, unpack_int4
from slipstream.trtllm_checkpoint.shard import Array, as_float32

if TYPE_CHECKING:
    from torch import Tensor

INT8_MAX = 127.0
FP8_MAX = 448.0
FP4_MAX = 6.0
FP8_MIN = 2.0**-9  # above 0, so that a block's scale is never 0
SMALLEST_AMAX = 2.0**-24  # ModelOpt takes rows below it for zero
NVFP4_BLOCK = 16

Stored = Mapping[str, Array]  # weight, weights_scaling_factor … of one layer, or of one expert
MaxOfRanks = Callable[["Tensor"], "Tensor"]


class LinearFormat(Protocol):
    """A linear layer without its bias and without what ranks have to tell each other."""

    def __call__(self, activations: Tensor) -> Tensor: ...


def load_linear(  # noqa: PLR0911 - a case, a return
    algo: QuantAlgo | None, stored: Stored, device: str, max_of_ranks: MaxOfRanks
) -> LinearFormat:
    """The layer that `stored` holds in `algo`; `max_of_ranks` is for what a row-parallel layer quantizes at load."""
    match algo:
        case None:
            return Float(weight=_tensor(stored["weight"], device))
        case "W8A16":
            return Float(weight=int8_rows(_tensor(stored["weight"], device), max_of_ranks))
        case "FP8":
            return Fp8(
                weight=_tensor(stored["weight"], device),
                weight_scale=_tensor(stored["weights_scaling_factor"], device),
                activation_scale=_tensor(stored["activation_scaling_factor"], device),
            )
        case "W8A8_SQ_PER_CHANNEL":
            return SmoothInt8(
                weight=_tensor(stored["weight"], device),
                weight_scales=_tensor(stored["weights_scaling_factor"], device),
                activation_scale=_tensor(stored["activation_scaling_factor"], device),
                prequant=_tensor(stored["prequant_scaling_factor"], device),
            )
        case "W4A16_AWQ":
            return Awq(weight=_int4(stored, device), prequant=_tensor(stored["prequant_scaling_factor"], device))
        case "W4A8_AWQ":
            return AwqFp8(
                weight=fp8_rounded(_int4(stored, device), _tensor(stored["weights_scaling_factor_2"], device)),
                activation_scale=_tensor(stored["activation_scaling_factor"], device),
                prequant=_tensor(stored["prequant_scaling_factor"], device),
            )
        case "NVFP4":
            return Nvfp4(
                weight=_fp4(stored, device),
                activation_scale=_tensor(stored["activation_scaling_factor"], device),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Float:
    """16-bit weights and activations; also W8A16, whose float weights are rounded to int8 when they are loaded."""

    weight: Tensor  # [out, in]

    def __call__(self, activations: Tensor) -> Tensor:
        return activations @ self.weight.T


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8:
    """E4M3 weights and activations, one scale each for the tensor."""

    weight: Tensor  # [out, in], E4M3 values
    weight_scale: Tensor
    activation_scale: Tensor

    def __call__(self, activations: Tensor) -> Tensor:
        values = fp8_values(activations, self.activation_scale)
        return (values @ self.weight.T) * (self.weight_scale * self.activation_scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothInt8:
    """int8 x int8, activations smoothed by `prequant` first; one weight scale per row, one activation scale."""

    weight: Tensor  # [out, in], integers
    weight_scales: Tensor  # [out]
    activation_scale: Tensor
    prequant: Tensor  # [in]

    def __call__(self, activations: Tensor) -> Tensor:
        values = int8_values(activations * self.prequant, self.activation_scale)
        exact = values.double() @ self.weight.double().T  # sums of int8 products are whole numbers far below 2^53
        return exact.float() * (self.weight_scales * self.activation_scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Awq:
    """int4 weights in groups with a scale each; activations times `prequant`, in 16 bits."""

    weight: Tensor  # [out, in], times their scales
    prequant: Tensor  # [in]

    def __call__(self, activations: Tensor) -> Tensor:
        return (activations * self.prequant) @ self.weight.T


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqFp8:
    """AWQ with E4M3 activations; the int4 weights times their scales are rounded to E4M3 once more."""

    weight: Tensor  # [out, in], times their scales
    activation_scale: Tensor
    prequant: Tensor  # [in]

    def __call__(self, activations: Tensor) -> Tensor:
        return fp8_rounded(activations * self.prequant, self.activation_scale) @ self.weight.T


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvfp4:
    """E2M1 weights and activations in blocks of 16; the activations' block scales are found as they come."""

    weight: Tensor  # [out, in], times their scales
    activation_scale: Tensor  # of the tensor: its largest magnitude / (6 x 448)

    def __call__(self, activations: Tensor) -> Tensor:
        return nvfp4_rounded(activations, self.activation_scale) @ self.weight.T


def int8_rows(weight: Tensor, max_of_ranks: MaxOfRanks) -> Tensor:
    """`weight` [out, in] rounded to int8 with a scale per row, as ModelOpt's INT8 weight-only quantizer does.

    The scale is that of the whole row. TensorRT-LLM takes the maximum of the rank's own part of a row-parallel
    layer's row, never a coarser one; here shards are to compute what the whole model does.
    """
    import torch

    row_max = max_of_ranks(weight.abs().amax(1, keepdim=True))
    is_zero = row_max <= SMALLEST_AMAX
    steps = _int8_steps(torch.where(is_zero, 1.0, row_max))
    rounded = (weight * steps).round().clamp(-INT8_MAX - 1, INT8_MAX) / steps
    return torch.where(is_zero, 0.0, rounded)


def int8_values(values: Tensor, scale: Tensor) -> Tensor:
    """Integers -128…127."""
    return (values * _int8_steps(scale * INT8_MAX)).round().clamp(-INT8_MAX - 1, INT8_MAX)


def fp8_values(values: Tensor, scale: Tensor) -> Tensor:
    """E4M3 numbers."""
    import torch

    step = FP8_MAX / (scale * FP8_MAX)  # as ModelOpt has it: 448 / amax, which rounds apart from 1 / scale
    return (values * step).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float()


def fp8_rounded(values: Tensor, scale: Tensor) -> Tensor:
    """`values` as E4M3 numbers times `scale`."""
    return fp8_values(values, scale) * (1 / (FP8_MAX / (scale * FP8_MAX)))


def int8_rounded(values: Tensor, scale: Tensor) -> Tensor:
    """`values` as int8 numbers times `scale`."""
    return int8_values(values, scale) / _int8_steps(scale * INT8_MAX)


def _int8_steps(amax: Tensor) -> Tensor:
    """Steps a unit. A number divided by a tensor would be its reciprocal times the number, which rounds apart."""
    return amax.new_tensor(INT8_MAX) / amax


def nvfp4_rounded(values: Tensor, tensor_scale: Tensor) -> Tensor:
    """`values` [..., n x 16] in E2M1 with a scale for each block, itself E4M3 times `tensor_scale`."""
    import torch

    blocks = values.reshape(*values.shape[:-1], -1, NVFP4_BLOCK)
    block_scale = blocks.abs().amax(-1, keepdim=True) / (FP4_MAX * tensor_scale)
    block_scale = torch.where(block_scale == 0, 1.0, block_scale).clamp(FP8_MIN, FP8_MAX)
    scale = block_scale.to(torch.float8_e4m3fn).float() * tensor_scale
    return (_fp4_values(blocks / scale) * scale).flatten(-2)


def _fp4_values(values: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with the sign; halves go to the even code, as torch rounds."""
    import torch

    magnitude = values.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return ((magnitude / step).round() * step).clamp(max=FP4_MAX).copysign(values)


def _int4(stored: Stored, device: str) -> Tensor:
    return _tensor(scaled_by_group(unpack_int4(stored["weight"]), stored["weights_scaling_factor"]), device)


def _fp4(stored: Stored, device: str) -> Tensor:
    scales = as_float32(stored["weights_scaling_factor"]) * as_float32(stored["weights_scaling_factor_2"])
    return _tensor(scaled_by_group(unpack_fp4(stored["weight"]), scales), device)


def _tensor(values: Array, device: str) -> Tensor:
    import torch

    return torch.from_numpy(np.array(as_float32(values))).to(device)

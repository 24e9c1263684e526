"""Weights quantized by the plainest rule of each format, cut and packed as ModelOpt's export does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
FP8_MAX, FP4_MAX = 448, 6
FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
ACTIVATION_SCALED = ("W8A8_SQ_PER_CHANNEL", "FP8", "W4A8_AWQ", "NVFP4")
INPUT_SCALED = ("W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "W4A8_AWQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """A linear layer's tensors before they are packed."""

    quant_algo: str
    values: Array  # [out, in]: int8, float8, or FP4 codes 0-15 in uint8
    scales: Array  # [1], [out], or [out, groups]
    input_scales: Array | None = None  # [in]
    second_scale: float | None = None

    def weight(self) -> Array:
        """What it stands for, [out, in] in float32, `input_scales` not in it."""
        values = _fp4_numbers(self.values) if self.quant_algo == "NVFP4" else self.values.astype(np.float32)
        scales = self.scales.astype(np.float32)
        if self.quant_algo == "NVFP4":
            scales = scales * np.float32(self.second_scale)
        if scales.ndim == 2:
            return values * np.repeat(scales, values.shape[1] // scales.shape[1], axis=1)
        return values * scales[:, None]

    def rows(self, chosen: Array) -> QuantizedWeight:
        """The outputs `chosen`."""
        scales = self.scales if len(self.scales) == 1 else self.scales[chosen]
        return replace(self, values=self.values[chosen], scales=scales)

    def columns(self, rank: int, ranks: int) -> QuantizedWeight:
        """One rank's share of the inputs."""
        return replace(
            self,
            values=np.split(self.values, ranks, 1)[rank],
            scales=np.split(self.scales, ranks, 1)[rank] if self.scales.ndim == 2 else self.scales,
            input_scales=None if self.input_scales is None else np.split(self.input_scales, ranks)[rank],
        )

    def tensors(self) -> dict[str, Array]:
        """As they lie in the file, by the last part of their names."""
        stored = {"weight": self._packed(), "weights_scaling_factor": self.scales}
        if self.input_scales is not None:
            stored["prequant_scaling_factor"] = self.input_scales
        if self.second_scale is not None:
            stored["weights_scaling_factor_2"] = np.array([self.second_scale], np.float32)
        if self.quant_algo in ACTIVATION_SCALED:
            stored["activation_scaling_factor"] = np.array([0.0125], np.float32)
        return stored

    def _packed(self) -> Array:
        if self.quant_algo in ("W4A16_AWQ", "W4A8_AWQ"):
            even, odd = self.values[::2].view(np.uint8) & 0x0F, self.values[1::2].view(np.uint8) & 0x0F
            return (even | odd << 4).view(np.int8)
        if self.quant_algo == "NVFP4":
            return self.values[:, ::2] | self.values[:, 1::2] << 4
        return self.values


def quantize(weight: Array, quant_algo: str, group_size: int, input_scales: Array | None) -> QuantizedWeight:
    """Quantize `weight` [out, in] in float32; `input_scales` [in] are divided out of it."""
    if quant_algo not in INPUT_SCALED:
        input_scales = None
    if input_scales is not None:
        weight = weight / input_scales.astype(np.float32)
    if quant_algo == "FP8":
        scales = np.abs(weight).max(keepdims=True).reshape(1) / np.float32(FP8_MAX)
        values: Array = (weight / scales).astype(FP8)
    elif quant_algo == "W8A8_SQ_PER_CHANNEL":
        scales = np.abs(weight).max(axis=1) / np.float32(127)
        values = np.rint(weight / scales[:, None]).astype(np.int8)
    elif quant_algo == "NVFP4":
        return _nvfp4(weight)
    else:
        scales = _group_max(weight, group_size) / np.float32(7)
        values = np.clip(np.rint(weight / np.repeat(scales, group_size, axis=1)), -8, 7).astype(np.int8)
    return QuantizedWeight(
        quant_algo=quant_algo,
        values=values,
        scales=scales,
        input_scales=input_scales,
        # ModelOpt's: the largest weight on FP8's range. It is no part of the weight.
        second_scale=float(np.abs(weight).max() / FP8_MAX) if quant_algo == "W4A8_AWQ" else None,
    )


def _nvfp4(weight: Array) -> QuantizedWeight:
    second = np.float32(np.abs(weight).max() / (FP4_MAX * FP8_MAX))
    scales = (_group_max(weight, 16) / FP4_MAX / second).astype(FP8)
    steps = weight / np.repeat(scales.astype(np.float32) * second, 16, axis=1)
    nearest = np.abs(np.abs(steps)[..., None] - FP4_VALUES).argmin(-1).astype(np.uint8)
    codes = nearest | (steps < 0).astype(np.uint8) << 3
    return QuantizedWeight(quant_algo="NVFP4", values=codes, scales=scales, second_scale=float(second))


def _fp4_numbers(codes: Array) -> Array:
    return FP4_VALUES[codes & 7] * np.where(codes & 8, np.float32(-1), np.float32(1))


def _group_max(weight: Array, group_size: int) -> Array:
    return np.abs(weight).reshape(len(weight), -1, group_size).max(-1)

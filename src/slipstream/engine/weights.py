"""Weights as OpenVINO constants, each in the fastest form that keeps the checkpoint's numbers exactly.

Imports OpenVINO: import this module only where a build runs. Every form ends in a value [out, in] that OpenVINO's
plugin recognises as a compressed weight and multiplies by without ever storing it in floats.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import openvino as ov
from openvino import opset13 as ops

from slipstream.trtllm_checkpoint.linear import Linear
from slipstream.trtllm_checkpoint.packing import FP4_VALUES
from slipstream.trtllm_checkpoint.shard import Array, Float32Array

Value = Any  # an openvino Node or Output; the package has no types for them


def weight_value(linear: Linear) -> Value:
    """The dequantized weight of `linear`, [out, in] in float32."""
    values, scales = linear.values, linear.scales
    if scales is None:
        return float_constant(values)
    if values.dtype == ml_dtypes.float8_e4m3fn:
        return scaled(owned_constant(values, ov.Type.f8e4m3), scales)
    if scales.ndim < 2:
        return scaled(ops.constant(np.ascontiguousarray(values)), scales)
    if values.dtype == np.int8:
        return scaled_by_group(int4_constant(values, scales.shape[1]), scales)
    return scaled_by_group(fp4_constant(values, scales.shape[1]), scales)


def float_constant(weight: Array) -> Value:
    """The checkpoint's own bits; widened only while computing."""
    if weight.dtype == ml_dtypes.bfloat16:
        return ops.convert(owned_constant(weight, ov.Type.bf16), "f32")
    constant = ops.constant(np.ascontiguousarray(weight))
    return constant if weight.dtype == np.float32 else ops.convert(constant, "f32")


def owned_constant(values: Array, dtype: ov.Type) -> Value:
    """A constant of a type that NumPy lacks, from values of ml_dtypes."""
    # The tensor must own its memory: over a numpy array that goes away, saving the model crashes the process.
    tensor = ov.Tensor(dtype, ov.Shape(values.shape))
    tensor.data[:] = values.view(tensor.data.dtype)
    return ops.constant(tensor)


def int4_constant(values: Array, groups: int) -> Value:
    """Whole numbers -8…7 [out, in] as [out, groups, in / groups] of 4 bits."""
    return _nibble_constant(values.view(np.uint8) & 0x0F, groups, ov.Type.i4)


def fp4_constant(values: Array, groups: int) -> Value:
    """FP4's numbers [out, in] as [out, groups, in / groups] of 4 bits."""
    codes = np.searchsorted(FP4_VALUES, np.abs(values)).astype(np.uint8) | np.signbit(values).astype(np.uint8) << 3
    return _nibble_constant(codes, groups, ov.Type.f4e2m1)


def _nibble_constant(codes: Array, groups: int, dtype: ov.Type) -> Value:
    """Two codes a byte, the first of a pair in the low nibble."""
    tensor = ov.Tensor(dtype, ov.Shape([len(codes), groups, codes.shape[1] // groups]))
    pairs = codes.reshape(-1, 2)
    tensor.data.view(np.uint8).reshape(-1)[:] = pairs[:, 0] | pairs[:, 1] << 4
    return ops.constant(tensor)


def scaled(constant: Value, scales: Float32Array) -> Value:
    """One scale for everything, or one a row."""
    return ops.multiply(ops.convert(constant, "f32"), ops.constant(scales.reshape(-1, 1)))


def scaled_by_group(constant: Value, scales: Float32Array) -> Value:
    """`constant` [out, groups, group] times `scales` [out, groups], [out, in] again."""
    dequantized = ops.multiply(ops.convert(constant, "f32"), ops.constant(scales[:, :, None]))
    rows = np.array([len(scales), -1], np.int64)
    return ops.reshape(dequantized, ops.constant(rows), special_zero=False)

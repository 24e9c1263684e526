"""How quantized weights lie in a checkpoint, and the numbers that they stand for.

==================  =====================================================  ==================================
format              stored                                                 scales of the weight
==================  =====================================================  ==================================
FP8                 float8_e4m3fn [out, in]                                one float32
W8A8_SQ             int8 [out, in]                                         float32 [out]
W4A16, W4A8 AWQ     int8 [out / 2, in]; low nibble: the even output row    float32 [out, in / group]
NVFP4               uint8 [out, in / 2]; low nibble: the even input        float8 [out, in / 16], one float32
==================  =====================================================  ==================================

Source: TensorRT-LLM's checkpoint documentation and loader, and what ModelOpt 0.47 writes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slipstream.trtllm_checkpoint.shard import Array, Float32Array, as_float32

# FP4 E2M1 by code; the fourth bit is the sign.
FP4_VALUES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=np.float32)
FP4_TABLE = np.concatenate([FP4_VALUES, -FP4_VALUES])


def unpack_int4(packed: Array) -> npt.NDArray[np.int8]:
    """int8 bytes [out / 2, in] to values -8…7 [out, in]."""
    values: npt.NDArray[np.int8] = np.repeat(packed.view(np.int8), 2, axis=0)
    values[::2] <<= 4
    return values >> 4  # an arithmetic shift: the nibble's sign is kept


def unpack_fp4(packed: Array) -> Float32Array:
    """uint8 bytes [out, in / 2] to values -6…6 [out, in]."""
    codes = np.stack([packed & 0x0F, packed >> 4], axis=-1)
    values: Float32Array = FP4_TABLE[codes.reshape(packed.shape[0], -1)]
    return values


def scaled_by_group(values: Array, scales: Array) -> Float32Array:
    """`values` [out, in] times `scales` [out, in / group], each scale for the `group` inputs it covers."""
    rows, groups = scales.shape
    grouped = as_float32(values).reshape(rows, groups, -1) * as_float32(scales)[:, :, None]
    return grouped.reshape(rows, -1)

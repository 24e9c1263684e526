"""INT8 weights, symmetric, one scale an output row: what ModelOpt's INT8 weight-only quantizer computes.

TensorRT-LLM quantizes W8A16 weights itself at load, a little differently: it divides the row's maximum by 128, rounds
halves away from zero and clips to [-128, 127], so that the largest positive weight of a row is cut by 1/128
(`symmetric_quantize` in cpp/tensorrt_llm/kernels/cutlass_kernels/cutlass_preprocessors.cpp, quant_range_scale).
Here the values are those that were calibrated and whose perplexity was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slipstream.trtllm_checkpoint.shard import Float32Array

INT8_MAX = np.float32(127)
SMALLEST_ROW_MAX = np.float32(2.0**-24)  # the smallest float16; ModelOpt takes rows below it for zero


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedRows:
    """weight ≈ values * row_scales[:, None]"""

    values: npt.NDArray[np.int8]  # [out, in]
    row_scales: Float32Array  # [out]


def quantize_rows(weight: Float32Array) -> QuantizedRows:
    """Quantize `weight` [out, in] row by row."""
    row_max = np.abs(weight).max(axis=1)
    is_zero = row_max <= SMALLEST_ROW_MAX
    # Multiplied by 127 / max and not divided by max / 127: the two round apart, and ModelOpt does the former.
    steps = np.where(is_zero, 0, INT8_MAX / np.where(is_zero, 1, row_max)).astype(np.float32)
    values = np.clip(np.rint(weight * steps[:, None]), -INT8_MAX - 1, INT8_MAX).astype(np.int8)
    row_scales = np.where(row_max == 0, 1, row_max / INT8_MAX).astype(np.float32)
    return QuantizedRows(values=values, row_scales=row_scales)

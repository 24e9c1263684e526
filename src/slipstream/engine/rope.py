"""The frequencies of rotary position embedding."""

from __future__ import annotations

import math

import numpy as np

from slipstream.trtllm_checkpoint.config import Architecture, Llama3RopeScaling
from slipstream.trtllm_checkpoint.shard import Float32Array


def inverse_frequencies(architecture: Architecture) -> Float32Array:
    """Radians a token, [head_size / 2], from the fastest to the slowest."""
    exponents = np.arange(0, architecture.head_size, 2, dtype=np.float32) / np.float32(architecture.head_size)
    frequencies = (1.0 / np.float32(architecture.rotary_base) ** exponents).astype(np.float32)
    return frequencies if architecture.rope_scaling is None else _stretch(frequencies, architecture.rope_scaling)


def _stretch(frequencies: Float32Array, scaling: Llama3RopeScaling) -> Float32Array:
    """Slow the low frequencies by `factor`, keep the high ones, blend between, as Llama 3.1 was trained."""
    turns = scaling.original_context_tokens * frequencies / (2 * math.pi)  # within the original context
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (kept * frequencies + (1 - kept) * frequencies / scaling.factor).astype(np.float32)

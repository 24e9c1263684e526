"""Causal grouped-query attention over one rank's heads, with rotary positions and a quantized KV cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slipstream.quantize.verify.linear import fp8_rounded, int8_rounded
from slipstream.trtllm_checkpoint.config import Architecture, KvCacheAlgo, Llama3RopeScaling

if TYPE_CHECKING:
    from torch import Tensor


def attend(queries: Tensor, keys: Tensor, values: Tensor, window_tokens: int | None) -> Tensor:
    """Mix `values` [batch, KV heads, tokens, head] by queries [batch, heads, tokens, head] and `keys`."""
    import torch

    tokens = queries.shape[2]
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    position = torch.arange(tokens, device=queries.device)
    distance = position[:, None] - position[None, :]
    is_seen = distance >= 0
    if window_tokens is not None:
        is_seen &= distance < window_tokens
    scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
    return scores.masked_fill(~is_seen, -math.inf).softmax(-1) @ values


def through_cache(values: Tensor, algo: KvCacheAlgo | None, scale: Tensor | None) -> Tensor:
    """Keys or values as they come back from the KV cache."""
    if algo is None or scale is None:
        return values
    return fp8_rounded(values, scale) if algo == "FP8" else int8_rounded(values, scale)


class Rotary:
    """Rotary positions: halves of a head are rotated against each other, slower from pair to pair."""

    def __init__(self, architecture: Architecture, tokens: int, device: str) -> None:
        import torch

        pairs = torch.arange(0, architecture.head_size, 2, dtype=torch.float32) / architecture.head_size
        frequencies = 1.0 / architecture.rotary_base**pairs  # radians a token
        if architecture.rope_scaling is not None:
            frequencies = _llama3(frequencies, architecture.rope_scaling)
        angles = torch.arange(tokens, dtype=torch.float32)[:, None] * frequencies
        self._cos = torch.cat([angles.cos(), angles.cos()], 1).to(device)
        self._sin = torch.cat([angles.sin(), angles.sin()], 1).to(device)

    def __call__(self, heads: Tensor) -> Tensor:
        """Rotate `heads` [batch, heads, tokens, head]."""
        import torch

        first, second = heads.chunk(2, -1)
        return heads * self._cos + torch.cat([-second, first], -1) * self._sin


def _llama3(frequencies: Tensor, scaling: Llama3RopeScaling) -> Tensor:
    """Waves longer than the original context are slowed by `factor`, short ones kept, those between blended."""
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((scaling.original_context_tokens / wavelengths - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor

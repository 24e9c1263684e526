"""Logits that hold NaN or infinity, made visible: such a token's logits give one id, which is behind the vocabulary.

The pipeline picks id 0 from a row of NaN, or any id when it samples, and breaks down when log-probs are asked for. It
reads no other output of the graph, so what is wrong with a token must travel in its logits.
"""

from __future__ import annotations

import numpy as np
from openvino import opset13 as ops

from slipstream.engine.weights import Value, float_constant
from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.shard import Array, as_float32

_FAR = 1e30  # between the flag's logit and the others, whatever the temperature
_LEAST_FACTOR = 1e-3


def flagged_logits(hidden: Value, lm_head: Array) -> Value:
    """Logits [batch, tokens, vocab_size + 1] of the last norm's output; the last one wins where `hidden` is not finite.

    Otherwise it is far below all others. A row of `hidden` that is not finite is replaced by one that is large in its
    first number alone, and the flag's weight there is twice as large as any token's.
    Still one matrix product and a bias: before anything else the pipeline's conversion would not find the product, and
    would compute the logits of every token of a prompt.
    """
    _require_finite(lm_head)
    factor = max(float(np.abs(as_float32(lm_head[:, 0])).max()), _LEAST_FACTOR)
    flag_row = np.zeros((1, lm_head.shape[1]), lm_head.dtype)
    flag_row[0, 0] = 2 * factor
    marker = np.zeros((1, 1, lm_head.shape[1]), np.float32)
    marker[..., 0] = 4 * _FAR / factor
    bias = np.zeros((1, 1, len(lm_head) + 1), np.float32)
    bias[..., -1] = -_FAR
    weight = float_constant(np.concatenate([lm_head, flag_row]))
    clean = ops.select(_is_finite(hidden), hidden, ops.constant(marker))
    return ops.add(ops.matmul(clean, weight, transpose_a=False, transpose_b=True), ops.constant(bias))


def _is_finite(hidden: Value) -> Value:
    """[batch, tokens, 1]. A norm makes zeros of what is too large to be squared, so a row of zeros is none either."""
    total = ops.reduce_sum(ops.absolute(hidden), ops.constant(np.array([-1], np.int64)), keep_dims=True)
    return ops.is_finite(ops.divide(np.float32(1), total))


def _require_finite(lm_head: Array) -> None:
    if not all(np.isfinite(as_float32(lm_head[start : start + 4096])).all() for start in range(0, len(lm_head), 4096)):
        raise SlipstreamError(
            "lm_head.weight (or the embedding, if it is used again) holds NaN or infinity: no output would be right",
            mend="quantize the model again, and check its source",
        )

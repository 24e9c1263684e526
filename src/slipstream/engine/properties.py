"""How an engine is executed: the OpenVINO properties of each mode."""

from __future__ import annotations

from typing import Literal

Execution = Literal["performance", "accuracy"]
Properties = dict[str, str | int]


def pipeline_properties(execution: Execution) -> Properties:
    """What `ContinuousBatchingPipeline` is given beside the scheduler's configuration.

    performance: bfloat16 where the CPU has it, activations quantized as they come, KV cache in 8 bits.
    accuracy: float32 throughout, for exact comparison with a reference; about half as fast.
    The KV type is always said: an IR may carry another one in its runtime options.
    """
    if execution == "accuracy":
        return {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
    return {"KV_CACHE_PRECISION": "u8"}

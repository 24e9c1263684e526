"""What the planner knows of number formats: bytes a weight, the oldest GPU that computes with them, at which peak.

Bytes include the scales: AWQ one FP16 scale per 128 weights, NVFP4 one FP8 scale per 16, MXFP4 one byte per 32
(ModelOpt's and the OCP microscaling layouts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Peak = Literal["bf16", "fp8", "int8", "fp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the weights of the linear layers are stored and multiplied."""

    name: str
    bytes_per_weight: float
    minimum_sm: int
    peak: Peak  # the matrix units that multiply; weight-only formats multiply in 16 bits
    recipe: str  # of a deployment file
    published_kv_bytes: float = 2  # of one KV element where a published table names this precision


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFormat:
    """How one element of the KV cache is stored."""

    name: str
    bytes_per_element: float
    minimum_sm: int
    needs_weights: tuple[str, ...] = ()  # weight formats it is restricted to; empty: all


_WEIGHTS = (
    WeightFormat(name="fp16", bytes_per_weight=2, minimum_sm=80, peak="bf16", recipe="none"),
    WeightFormat(name="fp8", bytes_per_weight=1, minimum_sm=89, peak="fp8", recipe="fp8", published_kv_bytes=1),
    WeightFormat(name="int8_wo", bytes_per_weight=1, minimum_sm=80, peak="bf16", recipe="int8_wo"),
    WeightFormat(name="int8_sq", bytes_per_weight=1, minimum_sm=80, peak="int8", recipe="int8_sq"),
    WeightFormat(name="int4_awq", bytes_per_weight=0.5 + 2 / 128, minimum_sm=80, peak="bf16", recipe="int4_awq"),
    WeightFormat(
        name="nvfp4", bytes_per_weight=0.5 + 1 / 16, minimum_sm=100, peak="fp4", recipe="nvfp4", published_kv_bytes=1
    ),
    WeightFormat(name="mxfp4", bytes_per_weight=0.5 + 1 / 32, minimum_sm=80, peak="bf16", recipe="mxfp4"),
)
WEIGHT_FORMATS = {weights.name: weights for weights in _WEIGHTS}

# TensorRT-LLM 1.2.1 switches off paged context FMHA (and with it KV reuse and chunked prefill) for an FP8 KV cache on
# weights that are not FP8, and for every INT8 KV cache; so the planner does not propose those.
KV_FORMATS = {
    "auto": KvFormat(name="auto", bytes_per_element=2, minimum_sm=80),
    "fp8": KvFormat(name="fp8", bytes_per_element=1, minimum_sm=89, needs_weights=("fp8", "nvfp4")),
}

WORDS = {
    "fp16": "fp16",
    "bf16": "fp16",
    "float16": "fp16",
    "bfloat16": "fp16",
    "fp8": "fp8",
    "int8": "int8_wo",
    "int8_wo": "int8_wo",
    "w8a16": "int8_wo",
    "int8_sq": "int8_sq",
    "w8a8": "int8_sq",
    "smoothquant": "int8_sq",
    "int4_awq": "int4_awq",
    "awq": "int4_awq",
    "w4a16": "int4_awq",
    "int4": "int4_awq",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
}


def weight_format(word: str) -> WeightFormat | None:
    """The format that a word such as `BF16`, `FP4` or `int4_awq` means, or None."""
    name = WORDS.get(word.strip().lower().replace("-", "_"))
    return WEIGHT_FORMATS[name] if name else None

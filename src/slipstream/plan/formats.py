"""The formats of `slipstream.formats` as the planner sees them: bytes a weight, where they run, at which peak.

Bytes include the scales. MXFP4, in which some published models come, has no recipe: one byte per 32 weights (the OCP
microscaling layout).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slipstream.formats import FORMATS, Method, format_for, sm_problem

Peak = Literal["bf16", "fp8", "int8", "fp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the weights of the linear layers are stored and multiplied."""

    name: str
    bytes_per_weight: float
    peak: Peak  # the matrix units that multiply; weight-only formats multiply in 16 bits
    recipe: str  # of a deployment file
    published_kv_bytes: float = 2  # of one KV element where a published table names this precision

    def problem_on(self, sm: int) -> str | None:
        """Why it does not run on a GPU of compute capability `sm`, if so."""
        return sm_problem(self.recipe, sm) if self.recipe in FORMATS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFormat:
    """How one element of the KV cache is stored."""

    name: str
    bytes_per_element: float
    minimum_sm: int
    needs_weights: tuple[str, ...] = ()  # weight formats it is restricted to; empty: all


def _weights(name: str, method: Method, peak: Peak, *, published_kv_bytes: float = 2) -> WeightFormat:
    return WeightFormat(
        name=name,
        bytes_per_weight=format_for(method).bits_per_weight / 8,
        peak=peak,
        recipe=method,
        published_kv_bytes=published_kv_bytes,
    )


_WEIGHTS = (
    _weights("fp16", "none", "bf16"),
    _weights("fp8", "fp8", "fp8", published_kv_bytes=1),
    _weights("int8_wo", "int8_wo", "bf16"),
    _weights("int8_sq", "int8_sq", "int8"),
    _weights("int4_awq", "int4_awq", "bf16"),
    _weights("nvfp4", "nvfp4", "fp4", published_kv_bytes=1),
    WeightFormat(name="mxfp4", bytes_per_weight=0.5 + 1 / 32, peak="bf16", recipe="mxfp4"),
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

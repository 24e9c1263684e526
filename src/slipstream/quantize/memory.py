"""What a run will need, told before it starts: memory from config.json alone, and time from measured speeds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from slipstream.errors import SlipstreamError
from slipstream.formats import Method
from slipstream.progress import Reporter
from slipstream.quantize.batches import BATCH_TOKENS
from slipstream.quantize.calibrate import remaining_time
from slipstream.quantize.sharding import ModelShape

GIB = 1 << 30
# The model in float32, and as much again while it is quantized and exported: a Llama of 0.6 billion parameters took
# 6.0 bytes a parameter unquantized and 7.6 in FP8, beside the libraries.
BYTES_PER_PARAMETER = 8
LIBRARIES_BYTES = GIB  # torch, transformers and ModelOpt, imported
# Parameters x tokens that a core computes in a second with fake quantization: 8k tokens of 7B took 1.5 CPU-hours.
PARAMETER_TOKENS_PER_CPU_S = 1.0e10
PLAIN_PARAMETER_TOKENS_PER_CPU_S = 4.0e10  # without: SmolLM2-135M answered questions at 4.2e10, read text at 5.1e10
QUESTION_TOKENS = 158  # of a multiple-choice question with its options, the mean of 500 with SmolLM2's tokenizer
# The work of calibrating a token, in forward passes, as measured on SmolLM2-135M: AWQ tries eleven alphas on a sample.
FORWARDS: Mapping[Method, int] = {
    "none": 1,  # for the KV cache's scales
    "int8_wo": 1,
    "int8_sq": 1,
    "fp8": 1,
    "nvfp4": 1,
    "int4_awq": 3,
    "w4a8_awq": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens that run through the whole model for one purpose, each counted as often as it does."""

    what: str
    quantized_tokens: int = 0  # with quantizers in the model
    plain_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a quantization needs, and what there is."""

    parameters: int
    weights_bytes: int  # in float32, and the copies of quantization and export
    activations_bytes: int
    needed_bytes: int
    available_bytes: int
    work: tuple[Work, ...]
    cores: int

    @property
    def cpu_s(self) -> float:
        return sum(map(self._cpu_s, self.work))

    def _cpu_s(self, work: Work) -> float:
        quantized_s = self.parameters * work.quantized_tokens / PARAMETER_TOKENS_PER_CPU_S
        return quantized_s + self.parameters * work.plain_tokens / PLAIN_PARAMETER_TOKENS_PER_CPU_S

    @property
    def memory_basis(self) -> str:
        """The memory in one line."""
        return (
            f"about {gib(self.needed_bytes)} of memory of {gib(self.available_bytes)} available"
            f" ({self.parameters / 1e9:.2f} billion parameters: {gib(self.weights_bytes)} with the export's copies;"
            f" {gib(self.activations_bytes)} for activations; {gib(LIBRARIES_BYTES)} for the libraries)"
        )

    @property
    def time_basis(self) -> str:
        """The time in one line."""
        parts = [f"{remaining_time(self._cpu_s(part) / self.cores)} for {part.what}" for part in self.work]
        if not parts:
            return "no text runs through the model"
        return (
            f"about {remaining_time(self.cpu_s / self.cores)} on {self.cores} cores ({', '.join(parts)}; a core"
            f" computes {PARAMETER_TOKENS_PER_CPU_S / 1e9:g} billion parameters x tokens a second with quantizers,"
            f" {PLAIN_PARAMETER_TOKENS_PER_CPU_S / 1e9:g} without)"
        )


def estimate(
    shape: ModelShape,
    config: Mapping[str, Any],
    *,
    work: tuple[Work, ...],
    tokens_per_sample: int = BATCH_TOKENS,
) -> Estimate:
    """What quantizing the model of `config`, with all the `work` that belongs to it, takes on this machine."""
    parameters = count_parameters(shape, tied=bool(config.get("tie_word_embeddings", False)))
    weights = BYTES_PER_PARAMETER * parameters
    activations = _activations(shape, tokens_per_sample)
    return Estimate(
        parameters=parameters,
        weights_bytes=weights,
        activations_bytes=activations,
        needed_bytes=weights + activations + LIBRARIES_BYTES,
        available_bytes=available_bytes(),
        work=work,
        cores=len(os.sched_getaffinity(0)),
    )


def check_memory(needed: Estimate, report: Reporter) -> None:
    """Say what is needed; refuse a run that the kernel would kill."""
    report(f"{needed.memory_basis}, {needed.time_basis}")
    if needed.needed_bytes > needed.available_bytes:
        raise SlipstreamError(
            f"quantizing this model needs {needed.memory_basis}",
            mend=f"quantize on a machine with {gib(needed.needed_bytes)} of free memory, and copy the checkpoint here",
        )


def count_parameters(shape: ModelShape, *, tied: bool) -> int:
    """Parameters of the decoder, norms and biases left out."""
    attention = shape.hidden_size * shape.head_size * (2 * shape.attention_heads + 2 * shape.kv_heads)
    mlp = 3 * shape.hidden_size * shape.intermediate_size * (shape.experts or 1)
    return shape.layers * (attention + mlp) + shape.vocab_size * shape.hidden_size * (1 if tied else 2)


def available_bytes() -> int:
    """Memory that this process may still take: the machine's, within the limit of its control group."""
    free = psutil.virtual_memory().available
    return min(free, *(left for left in map(_left_in_group, _CONTROL_GROUPS) if left is not None), free)


def gib(size: int) -> str:
    """`5.2 GiB`."""
    return f"{size / GIB:.1f} GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ControlGroup:
    limit: Path
    used: Path
    statistics: Path
    cache_key: str  # memory that the kernel gives back when asked


_CONTROL_GROUPS = (
    _ControlGroup(
        limit=Path("/sys/fs/cgroup/memory.max"),
        used=Path("/sys/fs/cgroup/memory.current"),
        statistics=Path("/sys/fs/cgroup/memory.stat"),
        cache_key="inactive_file",
    ),
    _ControlGroup(
        limit=Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        used=Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        statistics=Path("/sys/fs/cgroup/memory/memory.stat"),
        cache_key="total_inactive_file",
    ),
)


def _left_in_group(group: _ControlGroup) -> int | None:
    """None: there is no such group, or it has no limit (`max`)."""
    try:
        limit, used = group.limit.read_text().strip(), int(group.used.read_text())
        statistics = dict(line.split(" ", 1) for line in group.statistics.read_text().splitlines())
    except OSError:
        return None
    return max(0, int(limit) - used + int(statistics.get(group.cache_key, 0))) if limit.isdigit() else None


def _activations(shape: ModelShape, tokens_per_sample: int) -> int:
    """Of one batch in float32: logits and their log-softmax, a layer's hidden states and its MLP.

    A batch has BATCH_TOKENS, or one sample where that is longer.
    """
    per_token = 3 * shape.vocab_size + 16 * shape.hidden_size + 4 * shape.intermediate_size
    return 4 * max(BATCH_TOKENS, tokens_per_sample) * per_token

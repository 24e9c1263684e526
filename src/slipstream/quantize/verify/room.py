"""Memory that a verification needs, checked before it starts: what does not fit is refused, not killed."""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.errors import SlipstreamError
from slipstream.quantize.memory import LIBRARIES_BYTES, available_bytes, count_parameters, gib
from slipstream.quantize.sharding import ModelShape
from slipstream.quantize.verify.logits import REFERENCE_NAME
from slipstream.trtllm_checkpoint.config import Architecture

# The model in float32, and in 16 bits while it is loaded: a Llama of 0.6 billion parameters took 6.0 bytes each.
BYTES_PER_PARAMETER = 6
# Of the largest thing that a rank holds at a time, a layer or its part of lm_head: as it is stored, unpacked and in
# float32. Layers of 61 million parameters took 8.1 (NVFP4) to 9.3 (floats) bytes each.
BYTES_PER_PARAMETER_OF_A_LAYER = 10
RANK_BYTES = 256 << 20  # Python and torch


def check_room_for_model(architecture: Architecture, model_config: Mapping[str, object]) -> None:
    """Refuse to run the unquantized model where it does not fit, with what it needs."""
    parameters = count_parameters(_shape(architecture), tied=bool(model_config.get("tie_word_embeddings", False)))
    _check(
        BYTES_PER_PARAMETER * parameters + LIBRARIES_BYTES,
        f"running the unquantized model of {parameters / 1e9:.2f} billion parameters, since the checkpoint has no"
        f" {REFERENCE_NAME},",
        f"; or quantize the model again: its {REFERENCE_NAME} makes the unquantized model unnecessary",
    )


def check_room_for_ranks(architecture: Architecture) -> None:
    """Refuse to run the ranks where they do not fit together, with what they need."""
    shape, parallelism = _shape(architecture), architecture.parallelism
    layer = (count_parameters(shape, tied=True) - shape.vocab_size * shape.hidden_size) // shape.layers
    held = parallelism.pp_size * max(layer, shape.vocab_size * shape.hidden_size)  # tensor-parallel ranks share a layer
    ranks = parallelism.world_size
    _check(
        BYTES_PER_PARAMETER_OF_A_LAYER * held + RANK_BYTES * ranks + LIBRARIES_BYTES,
        f"running {ranks} rank{'s'[: ranks > 1]} a layer at a time",
    )


def _check(needed: int, what: str, other_mend: str = "") -> None:
    available = available_bytes()
    if needed > available:
        raise SlipstreamError(
            f"verify: {what} needs about {gib(needed)} of memory, {gib(available)} are available",
            mend=f"verify on a machine with {gib(needed)} of free memory{other_mend}",
        )


def _shape(architecture: Architecture) -> ModelShape:
    return ModelShape(
        attention_heads=architecture.num_heads,
        kv_heads=architecture.num_kv_heads,
        head_size=architecture.head_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        layers=architecture.num_layers,
        vocab_size=architecture.vocab_size,
        experts=architecture.experts.count if architecture.experts else None,
    )

"""Which linear layers a recipe leaves in 16 bits: its patterns against the layers that config.json tells of."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from slipstream.errors import SpecError

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
# What TensorRT-LLM fuses must be in one format.
FUSED = (ATTENTION[:3], MLP[:2])


def check_exclusions(patterns: Sequence[str], *, layers: int, experts: int | None, pp_size: int) -> frozenset[str]:
    """The names of the excluded linear layers; refuses patterns that match nothing or part of a fused layer."""
    if not patterns:
        return frozenset()
    if experts is not None:
        raise SpecError(
            "exclude: ModelOpt's export stacks a layer's experts, which must all be in one format",
            mend="leave exclude out of the recipe for a model with experts",
        )
    names = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in (*ATTENTION, *MLP)]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise SpecError(f"exclude: {pattern!r} matches no linear layer", mend=f"name layers such as {names[0]}")
    excluded = frozenset(name for name in names if any(_matches(name, pattern) for pattern in patterns))
    if len(excluded) == len(names):
        raise SpecError("exclude: every linear layer is excluded", mend="use the recipe none")
    _refuse_parts_of_fused(excluded, layers)
    _refuse_differing_stages(excluded, layers, pp_size)
    return excluded


def _matches(name: str, pattern: str) -> bool:
    """As ModelOpt matches `{pattern}.*` with the quantizers below `name`."""
    return fnmatchcase(f"{name}.weight_quantizer", f"{pattern}.*")


def _refuse_parts_of_fused(excluded: frozenset[str], layers: int) -> None:
    for layer in range(layers):
        for group in FUSED:
            inside = [f"model.layers.{layer}.{part}" in excluded for part in group]
            if any(inside) and not all(inside):
                raise SpecError(
                    f"exclude: layer {layer}: {', '.join(group)} are fused by TensorRT-LLM, and only"
                    f" {inside.count(True)} of them is excluded",
                    mend="exclude all of them or none",
                )


def _refuse_differing_stages(excluded: frozenset[str], layers: int, pp_size: int) -> None:
    """config.json has one list for all ranks, and names layers by their number within a pipeline stage."""
    per_stage = layers // pp_size
    stages: list[set[str]] = [set() for _ in range(pp_size)]
    for name in excluded:
        _, _, layer, part = name.split(".", 3)
        stages[int(layer) // per_stage].add(f"{int(layer) % per_stage}.{part}")
    if any(stage != stages[0] for stage in stages):
        raise SpecError(
            f"exclude: with engine.pp_size {pp_size} the stages would exclude different layers, and a checkpoint has"
            " one list for all of them",
            mend="exclude the same layers in every stage, or set engine.pp_size to 1",
        )

"""Which tensor- and pipeline-parallel sizes cut a model into whole pieces.

ModelOpt's export does not refuse the others: it cuts attention heads in half and writes shards that compute nonsense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slipstream.errors import SpecError
from slipstream.formats import Format

MAX_TP_SIZE = 64  # of the sizes that a mend names


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder that ranks share among them."""

    attention_heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    vocab_size: int
    experts: int | None = None  # None: a dense model


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How many ranks share a model, and in which way."""

    tp_size: int
    pp_size: int = 1
    moe_ep_size: int = 1  # of the `tp_size` ranks, so many groups hold different experts; the rest cut each expert

    @property
    def moe_tp_size(self) -> int:
        return self.tp_size // self.moe_ep_size


def check_sharding(shape: ModelShape, parallel: Parallel, entry: Format, group_size: int | None) -> None:
    """Refuse sizes with which a rank would hold part of a head, of a layer, of an MLP column or of a scale's group."""
    tp_size, pp_size = parallel.tp_size, parallel.pp_size
    problem = tp_problem(shape, tp_size)
    if problem is not None:
        raise SpecError(f"engine.tp_size is {tp_size}: {problem}", mend=_mend("tp_size", tp_sizes(shape)))
    problem = pp_problem(shape, pp_size)
    if problem is not None:
        raise SpecError(f"engine.pp_size is {pp_size}: {problem}", mend=_mend("pp_size", pp_sizes(shape)))
    _check_duplication(shape, tp_size, entry)
    _check_groups(shape, tp_size, entry, group_size)
    _check_experts(shape, parallel, entry)


def tp_problem(shape: ModelShape, tp_size: int) -> str | None:
    """Why `tp_size` ranks cannot share the layers of `shape`, whatever their format, if so."""
    if shape.attention_heads % tp_size:
        return f"the model's {shape.attention_heads} attention heads are not divisible by it"
    # With more ranks than KV heads each KV head is repeated on the ranks that share it.
    if shape.kv_heads % tp_size and tp_size % shape.kv_heads:
        return f"the model's {shape.kv_heads} KV heads neither divide nor are divisible by it"
    if shape.intermediate_size % tp_size:
        return f"the model's MLP width {shape.intermediate_size} is not divisible by it"
    if shape.hidden_size % tp_size:
        return f"the model's hidden size {shape.hidden_size} is not divisible by it"
    return None


def pp_problem(shape: ModelShape, pp_size: int) -> str | None:
    """Why `pp_size` stages cannot share the layers of `shape`, if so."""
    if shape.layers % pp_size:
        return f"the model's {shape.layers} layers are not divisible by it"
    return None


def group_problem(shape: ModelShape, tp_size: int, group_size: int) -> str | None:
    """Which linear layer's inputs on one of `tp_size` ranks are not whole groups of `group_size`, if any."""
    inputs = {
        "qkv, gate and up": shape.hidden_size,
        "the attention's output": shape.attention_heads * shape.head_size // tp_size,
        "the MLP's down": shape.intermediate_size // tp_size,
    }
    for layer, size in inputs.items():
        if size % group_size:
            return f"{layer} layer has {size} inputs on each rank, no multiple of the group size {group_size}"
    return None


def tp_sizes(shape: ModelShape) -> tuple[int, ...]:
    """Every tensor-parallel size that fits."""
    return _sizes(shape.attention_heads, lambda size: tp_problem(shape, size) is None)


def pp_sizes(shape: ModelShape) -> tuple[int, ...]:
    """Every pipeline-parallel size that fits."""
    return _sizes(shape.layers, lambda size: pp_problem(shape, size) is None)


def padding_notes(shape: ModelShape, tp_size: int, entry: Format) -> tuple[str, ...]:
    """What TensorRT-LLM will pad when it loads 4-bit AWQ weights, whose kernels take tiles of 64 or 128."""
    if entry.name not in ("int4_awq", "w4a8_awq"):
        return ()
    tile = 64 if entry.name == "int4_awq" else 128
    outputs = {
        "qkv": (shape.attention_heads + 2 * max(shape.kv_heads, tp_size)) * shape.head_size // tp_size,
        "gate and up": shape.intermediate_size // tp_size,
        "attention output and down": shape.hidden_size,
    }
    return tuple(
        f"{layer}: {size} outputs on each rank are no multiple of {tile}, TensorRT-LLM pads them"
        for layer, size in outputs.items()
        if size % tile
    )


def _check_duplication(shape: ModelShape, tp_size: int, entry: Format) -> None:
    if tp_size > shape.kv_heads and not entry.duplicates_kv_heads:
        fitting = tuple(size for size in tp_sizes(shape) if size <= shape.kv_heads)
        raise SpecError(
            f"engine.tp_size is {tp_size}: the model has {shape.kv_heads} KV heads, and {entry.name} has a scale per"
            " output row, which ModelOpt's export cannot repeat with the heads",
            mend=f"{_mend('tp_size', fitting)}, or use another recipe, such as fp8 or int8_wo",
        )


def _check_groups(shape: ModelShape, tp_size: int, entry: Format, group_size: int | None) -> None:
    size = group_size or next(iter(entry.group_sizes), 1)
    problem = group_problem(shape, tp_size, size)
    if problem is None:
        return
    mends = [
        f"set group_size in the recipe to {other}"
        for other in entry.group_sizes
        if group_problem(shape, tp_size, other) is None
    ]
    fitting = tuple(tp for tp in tp_sizes(shape) if group_problem(shape, tp, size) is None)
    mends += [_mend("tp_size", fitting)] if fitting else []
    mends.append("use another recipe, such as " + ("int4_awq with groups of 64" if size > 64 else "fp8"))
    only = f"; TensorRT-LLM's {entry.name} has no other group size" if len(entry.group_sizes) == 1 else ""
    raise SpecError(f"recipe {entry.name}, engine.tp_size {tp_size}: {problem}{only}", mend=", or ".join(mends))


def _check_experts(shape: ModelShape, parallel: Parallel, entry: Format) -> None:
    ep_size, tp_size = parallel.moe_ep_size, parallel.tp_size
    if shape.experts is None:
        if ep_size != 1:
            raise SpecError(f"moe_ep_size is {ep_size}: the model has no experts", mend="set moe_ep_size to 1")
        return
    if entry.name == "int8_sq":
        raise SpecError(
            "recipe int8_sq: the model has experts, whose scales per output row ModelOpt's export cannot stack",
            mend="use another recipe, such as fp8 or int8_wo",
        )
    if tp_size % ep_size or shape.experts % ep_size:
        raise SpecError(
            f"moe_ep_size is {ep_size}: it must divide engine.tp_size ({tp_size}) and the {shape.experts} experts",
            mend=_mend_ep(shape.experts, tp_size),
        )
    if shape.experts % parallel.moe_tp_size:
        raise SpecError(
            f"engine.tp_size is {tp_size}, {parallel.moe_tp_size} ranks cut each expert: ModelOpt's export would add"
            f" empty experts to the model's {shape.experts} to make them divisible by it",
            mend=_mend_ep(shape.experts, tp_size),
        )


def _mend_ep(experts: int, tp_size: int) -> str:
    fitting = _sizes(
        tp_size, lambda size: tp_size % size == 0 and experts % size == 0 and experts % (tp_size // size) == 0
    )
    return f"set moe_ep_size to one of {', '.join(map(str, fitting))}" if fitting else "set another engine.tp_size"


def _sizes(largest: int, fits: Callable[[int], bool]) -> tuple[int, ...]:
    return tuple(size for size in range(1, largest + 1) if fits(size))


def _mend(field: str, sizes: tuple[int, ...]) -> str:
    return f"set engine.{field} to one of {', '.join(map(str, sizes[:MAX_TP_SIZE]))}"

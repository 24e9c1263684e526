"""Which tensor- and pipeline-parallel sizes cut a model into whole pieces.

ModelOpt's export does not refuse the others: it cuts attention heads in half and writes shards that compute nonsense.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipstream.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder that ranks share among them."""

    attention_heads: int
    kv_heads: int
    intermediate_size: int
    layers: int


def check_sharding(shape: ModelShape, *, tp_size: int, pp_size: int) -> None:
    """Refuse sizes with which a rank would hold part of a head, of a layer or of an MLP column."""
    problem = tp_problem(shape, tp_size)
    if problem is not None:
        raise SpecError(f"engine.tp_size is {tp_size}: {problem}", mend=_mend("tp_size", tp_sizes(shape)))
    problem = pp_problem(shape, pp_size)
    if problem is not None:
        raise SpecError(f"engine.pp_size is {pp_size}: {problem}", mend=_mend("pp_size", pp_sizes(shape)))


def tp_problem(shape: ModelShape, tp_size: int) -> str | None:
    """Why `tp_size` ranks cannot share the layers of `shape`, if so."""
    if shape.attention_heads % tp_size:
        return f"the model's {shape.attention_heads} attention heads are not divisible by it"
    # With more ranks than KV heads each KV head is repeated on the ranks that share it.
    if shape.kv_heads % tp_size and tp_size % shape.kv_heads:
        return f"the model's {shape.kv_heads} KV heads neither divide nor are divisible by it"
    if shape.intermediate_size % tp_size:
        return f"the model's MLP width {shape.intermediate_size} is not divisible by it"
    return None


def pp_problem(shape: ModelShape, pp_size: int) -> str | None:
    """Why `pp_size` stages cannot share the layers of `shape`, if so."""
    if shape.layers % pp_size:
        return f"the model's {shape.layers} layers are not divisible by it"
    return None


def tp_sizes(shape: ModelShape) -> tuple[int, ...]:
    """Every tensor-parallel size that fits."""
    return tuple(size for size in range(1, shape.attention_heads + 1) if tp_problem(shape, size) is None)


def pp_sizes(shape: ModelShape) -> tuple[int, ...]:
    """Every pipeline-parallel size that fits."""
    return tuple(size for size in range(1, shape.layers + 1) if pp_problem(shape, size) is None)


def _mend(field: str, sizes: tuple[int, ...]) -> str:
    return f"set engine.{field} to one of {', '.join(map(str, sizes))}"

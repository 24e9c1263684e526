"""What each rank of a checkpoint holds: its linear layers, and which part of the Hugging Face model they are.

A column-parallel layer is cut by output rows, a row-parallel one by input columns. Query heads are cut evenly; with
more ranks than KV heads each KV head lies on tp_size / num_kv_heads neighbours. Layer numbers restart on every
pipeline stage. Experts are cut by expert (moe_ep_size) and within each expert like an MLP (moe_tp_size); rank
tp_rank holds part tp_rank // moe_ep_size of the experts of group tp_rank % moe_ep_size.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from slipstream.trtllm_checkpoint.config import Architecture, Experts, QuantAlgo, Quantization

# What TensorRT-LLM leaves out where config.json has no exclude_modules.
DEFAULT_EXCLUDED = ("*lm_head", "*router", "*vocab_embedding")

Cut = Literal["column", "row", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One rank's place."""

    index: int
    tp_rank: int
    pp_rank: int
    first_layer: int  # of the model
    num_layers: int  # on this rank
    is_first_stage: bool
    is_last_stage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one rank's linear layer, and what they are in the Hugging Face model."""

    label: str  # what a person calls it: q, k, v, fc, gate
    source: str  # the Hugging Face tensor
    first_row: int  # of this part in the rank's tensor
    source_rows: range
    source_columns: range
    expert: int | None = None  # place on this rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One rank's linear layer."""

    name: str  # transformer.layers.0.attention.qkv
    cut: Cut
    rows: int  # on this rank
    columns: int
    experts: int | None  # on this rank, stacked; None: no mixture of experts
    algo: QuantAlgo | None  # None: floats
    parts: tuple[Part, ...]


def rank_of(architecture: Architecture, index: int) -> Rank:
    """Where rank `index` stands."""
    parallelism = architecture.parallelism
    pp_rank, tp_rank = divmod(index, parallelism.tp_size)
    num_layers = architecture.num_layers // parallelism.pp_size
    return Rank(
        index=index,
        tp_rank=tp_rank,
        pp_rank=pp_rank,
        first_layer=pp_rank * num_layers,
        num_layers=num_layers,
        is_first_stage=pp_rank == 0,
        is_last_stage=pp_rank == parallelism.pp_size - 1,
    )


def linears_of_layer(architecture: Architecture, rank: Rank, local_layer: int) -> list[Linear]:
    """The linear layers of one decoder layer, as `rank` holds them."""
    prefix = f"transformer.layers.{local_layer}"
    source = f"model.layers.{rank.first_layer + local_layer}"
    linears = [_qkv(architecture, rank, prefix, source), _dense(architecture, rank, prefix, source)]
    if architecture.experts is None:
        return linears + _mlp(architecture, rank, prefix, source)
    return linears + _experts(architecture, architecture.experts, rank, prefix, source)


def vocabulary_rows(architecture: Architecture, rank: Rank, vocab_size: int) -> range:
    """The tokens whose embedding or logits `rank` holds; those from `vocab_size` on are padding."""
    tp_size = architecture.parallelism.tp_size
    rows = math.ceil(vocab_size / tp_size)
    return range(rank.tp_rank * rows, (rank.tp_rank + 1) * rows)


def kv_heads_of(architecture: Architecture, rank: Rank) -> range:
    """The KV heads of the model that `rank` holds."""
    tp_size, kv_heads = architecture.parallelism.tp_size, architecture.num_kv_heads
    if tp_size > kv_heads:
        head = rank.tp_rank // (tp_size // kv_heads)
        return range(head, head + 1)
    return _share(kv_heads, tp_size, rank.tp_rank)


def is_excluded(quantization: Quantization, name: str) -> bool:
    """Whether the layer `name` stays in floats though the model is quantized."""
    patterns = quantization.exclude_modules or DEFAULT_EXCLUDED
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*patterns, "*router"))


def _algo(architecture: Architecture, name: str) -> QuantAlgo | None:
    quantization = architecture.quantization
    return None if is_excluded(quantization, name) else quantization.algo


def _share(size: int, shares: int, share: int) -> range:
    each = size // shares
    return range(share * each, (share + 1) * each)


def _qkv(architecture: Architecture, rank: Rank, prefix: str, source: str) -> Linear:
    heads = _share(architecture.num_heads, architecture.parallelism.tp_size, rank.tp_rank)
    kv_heads = kv_heads_of(architecture, rank)
    parts, first_row = [], 0
    for label, held in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        rows = range(held.start * architecture.head_size, held.stop * architecture.head_size)
        parts.append(
            Part(
                label=label,
                source=f"{source}.self_attn.{label}_proj",
                first_row=first_row,
                source_rows=rows,
                source_columns=range(architecture.hidden_size),
            )
        )
        first_row += len(rows)
    name = f"{prefix}.attention.qkv"
    return Linear(
        name=name,
        cut="column",
        rows=first_row,
        columns=architecture.hidden_size,
        experts=None,
        algo=_algo(architecture, name),
        parts=tuple(parts),
    )


def _dense(architecture: Architecture, rank: Rank, prefix: str, source: str) -> Linear:
    heads = _share(architecture.num_heads, architecture.parallelism.tp_size, rank.tp_rank)
    columns = range(heads.start * architecture.head_size, heads.stop * architecture.head_size)
    return _row_parallel(architecture, f"{prefix}.attention.dense", "dense", f"{source}.self_attn.o_proj", columns)


def _mlp(architecture: Architecture, rank: Rank, prefix: str, source: str) -> list[Linear]:
    held = _share(architecture.intermediate_size, architecture.parallelism.tp_size, rank.tp_rank)
    return [
        _column_parallel(architecture, f"{prefix}.mlp.fc", "fc", f"{source}.mlp.gate_proj", held),
        _column_parallel(architecture, f"{prefix}.mlp.gate", "gate", f"{source}.mlp.up_proj", held),
        _row_parallel(architecture, f"{prefix}.mlp.proj", "proj", f"{source}.mlp.down_proj", held),
    ]


def _column_parallel(architecture: Architecture, name: str, label: str, source: str, rows: range) -> Linear:
    columns = range(architecture.hidden_size)
    part = Part(label=label, source=source, first_row=0, source_rows=rows, source_columns=columns)
    return Linear(
        name=name,
        cut="column",
        rows=len(rows),
        columns=len(columns),
        experts=None,
        algo=_algo(architecture, name),
        parts=(part,),
    )


def _row_parallel(architecture: Architecture, name: str, label: str, source: str, columns: range) -> Linear:
    rows = range(architecture.hidden_size)
    part = Part(label=label, source=source, first_row=0, source_rows=rows, source_columns=columns)
    return Linear(
        name=name,
        cut="row",
        rows=len(rows),
        columns=len(columns),
        experts=None,
        algo=_algo(architecture, name),
        parts=(part,),
    )


def _experts(architecture: Architecture, experts: Experts, rank: Rank, prefix: str, source: str) -> list[Linear]:
    """The router, whole on every rank, and the stacked experts: fc holds the up rows (w3), then the gate rows (w1)."""
    parallelism = architecture.parallelism
    held = _share(experts.count, parallelism.moe_ep_size, rank.tp_rank % parallelism.moe_ep_size)
    inner = _share(architecture.intermediate_size, parallelism.moe_tp_size, rank.tp_rank // parallelism.moe_ep_size)
    hidden = range(architecture.hidden_size)
    moe = f"{source}.block_sparse_moe"
    algo = _algo(architecture, f"{prefix}.mlp")
    return [
        _router(f"{prefix}.mlp.router", f"{moe}.gate", experts.count, hidden),
        Linear(
            name=f"{prefix}.mlp.fc",
            cut="column",
            rows=2 * len(inner),
            columns=len(hidden),
            experts=len(held),
            algo=algo,
            parts=tuple(_expert_parts(moe, held, (("up", "w3"), ("gate", "w1")), inner, hidden)),
        ),
        Linear(
            name=f"{prefix}.mlp.proj",
            cut="row",
            rows=len(hidden),
            columns=len(inner),
            experts=len(held),
            algo=algo,
            parts=tuple(_expert_parts(moe, held, (("proj", "w2"),), hidden, inner)),
        ),
    ]


def _router(name: str, source: str, experts: int, columns: range) -> Linear:
    part = Part(label="router", source=source, first_row=0, source_rows=range(experts), source_columns=columns)
    return Linear(name=name, cut="whole", rows=experts, columns=len(columns), experts=None, algo=None, parts=(part,))


def _expert_parts(
    moe: str, held: range, weights: tuple[tuple[str, str], ...], rows: range, columns: range
) -> Iterator[Part]:
    for place, expert in enumerate(held):
        for index, (label, weight) in enumerate(weights):
            yield Part(
                label=f"expert {expert} {label}",
                source=f"{moe}.experts.{expert}.{weight}",
                first_row=index * len(rows),
                source_rows=rows,
                source_columns=columns,
                expert=place,
            )

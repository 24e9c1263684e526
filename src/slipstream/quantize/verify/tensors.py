"""Compares every tensor of every rank with the Hugging Face model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from slipstream.progress import Reporter
from slipstream.quantize.verify.codes import Block, Difference, compare, expected_block_scales, take_apart
from slipstream.quantize.verify.diagnosis import Surroundings, diagnose
from slipstream.quantize.verify.findings import Codes, Finding, Kind, error
from slipstream.quantize.verify.source import EMBEDDING, LM_HEAD, SourceModel
from slipstream.trtllm_checkpoint.config import Architecture
from slipstream.trtllm_checkpoint.ranks import Linear, Part, Rank, linears_of_layer, rank_of, vocabulary_rows
from slipstream.trtllm_checkpoint.shard import Array, Float32Array, Shard, as_float32

# Which tensors of a layer may have been mistaken for one another.
_NEIGHBOURS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
_SUFFIXES = ("weight", "weights_scaling_factor", "weights_scaling_factor_2", "prequant_scaling_factor")


@dataclass(slots=True, kw_only=True)
class TensorCheck:
    """What the comparison found."""

    findings: list[Finding] = field(default_factory=list)
    codes: Codes = field(default_factory=Codes)  # of quantized layers; for floats their numbers


def check_tensors(
    architecture: Architecture, shards: Sequence[Shard], source: SourceModel, report: Reporter
) -> TensorCheck:
    """Every number of every rank against the model's; the layout must have been checked before."""
    check = TensorCheck()
    for index, shard in enumerate(shards):
        rank = rank_of(architecture, index)
        for layer in range(rank.num_layers):
            report(f"comparing rank {index}", layer / rank.num_layers)
            for linear in linears_of_layer(architecture, rank, layer):
                _linear(architecture, shard, linear, source, check)
            check.findings += _layer_vectors(architecture, shard, rank, layer, source)
        check.findings += _ends(architecture, shard, rank, source)
    return check


def _linear(architecture: Architecture, shard: Shard, linear: Linear, source: SourceModel, check: TensorCheck) -> None:
    names = {suffix: f"{linear.name}.{suffix}" for suffix in _SUFFIXES}
    stored = {suffix: shard.tensor(name) for suffix, name in names.items() if name in shard.entries}
    for part in linear.parts:
        block = take_apart(linear.algo, _of_expert(stored, part), _rows_of(part, len(part.source_rows)))
        weights, difference = _compared(block, part, source)
        check.codes += _counted(difference)
        where = f"{shard.path.name} {linear.name}.weight ({part.label})"
        if difference.is_wrong.any():
            fault = diagnose(block, weights, difference, part, _surroundings(architecture, linear, part, source))
            check.findings.append(error(fault.kind, where, fault.what))
        elif block.block_scales is not None and not np.array_equal(
            expected := expected_block_scales(block, weights), block.block_scales
        ):
            wrong = int(np.count_nonzero(expected != block.block_scales))
            check.findings.append(
                error("wrong-scale", where, f"{wrong} of {expected.size} block scales are not the largest weight's")
            )
    bias = f"{linear.name}.bias"
    if bias in shard.entries:
        check.findings += _biases(shard, bias, linear, source)


def _rows_of(part: Part, count: int) -> slice:
    return slice(part.first_row, part.first_row + count)


def _of_expert(stored: Mapping[str, Array], part: Part) -> Mapping[str, Array]:
    return stored if part.expert is None else {suffix: values[part.expert] for suffix, values in stored.items()}


def _compared(block: Block, part: Part, source: SourceModel) -> tuple[Float32Array, Difference]:
    """With the weights rounded to the checkpoint's type, as the model is loaded; else as they are stored."""
    name = f"{part.source}.weight"
    weights = _cut(source.tensor(name), part)
    difference = compare(block, weights)
    if difference.is_wrong.any():
        unrounded = _cut(source.unrounded(name), part)
        other = compare(block, unrounded)
        if np.count_nonzero(other.is_wrong) < np.count_nonzero(difference.is_wrong) / 2:
            return unrounded, other
    return weights, difference


def _cut(whole: Float32Array, part: Part) -> Float32Array:
    rows, columns = part.source_rows, part.source_columns
    return whole[rows.start : rows.stop, columns.start : columns.stop]


def _counted(difference: Difference) -> Codes:
    equal = int(np.count_nonzero(difference.is_equal))
    wrong = int(np.count_nonzero(difference.is_wrong))
    size = difference.is_equal.size
    return Codes(compared=size, equal=equal, within_rounding=size - equal - wrong)


def _surroundings(architecture: Architecture, linear: Linear, part: Part, source: SourceModel) -> Surroundings:
    own = part.source.rpartition(".")[2]
    group = next((names for names in _NEIGHBOURS if own in names), (own,))
    names = [part.source, *(f"{part.source.removesuffix(own)}{name}" for name in group if name != own)]
    suffix = part.source.split(".", 3)[3] + ".weight"
    return Surroundings(
        candidates={name: source.tensor(f"{name}.weight") for name in names},
        other_layers=(
            (name.removesuffix(".weight"), source.tensor(name)) for name in source.layer_tensors(f".{suffix}")
        ),
        head_size=architecture.head_size,
        is_cut_by_heads=linear.name.endswith((".qkv", ".dense")),
    )


def _biases(shard: Shard, name: str, linear: Linear, source: SourceModel) -> Iterator[Finding]:
    found = as_float32(shard.tensor(name))
    for part in linear.parts:
        if f"{part.source}.bias" not in source:
            yield error("extra-tensor", f"{shard.path.name} {name}", f"the model has no {part.source}.bias")
            continue
        wanted = source.tensor(f"{part.source}.bias")[part.source_rows.start : part.source_rows.stop]
        here = found[_rows_of(part, len(wanted))]
        yield from _vector(shard, f"{name} ({part.label})", here, wanted, f"{part.source}.bias")


def _layer_vectors(
    architecture: Architecture, shard: Shard, rank: Rank, layer: int, source: SourceModel
) -> Iterator[Finding]:
    """Norms, and biases that got lost."""
    prefix, there = f"transformer.layers.{layer}", f"model.layers.{rank.first_layer + layer}"
    names = {"input_layernorm": "input_layernorm", "post_layernorm": "post_attention_layernorm"}
    if architecture.has_qk_norm:
        names |= {f"attention.{part}_layernorm": f"self_attn.{part}_norm" for part in "qk"}
    for name, wanted in names.items():
        found = as_float32(shard.tensor(f"{prefix}.{name}.weight"))
        yield from _vector(
            shard, f"{prefix}.{name}.weight", found, source.tensor(f"{there}.{wanted}.weight"), f"{there}.{wanted}"
        )
    for linear in linears_of_layer(architecture, rank, layer):
        for part in linear.parts[:1]:
            if f"{part.source}.bias" in source and f"{linear.name}.bias" not in shard.entries:
                yield error(
                    "missing-tensor",
                    f"{shard.path.name} {linear.name}.bias",
                    f"is missing, the model has {part.source}.bias",
                )


def _ends(architecture: Architecture, shard: Shard, rank: Rank, source: SourceModel) -> Iterator[Finding]:
    """The embedding, the final norm and lm_head."""
    if rank.is_first_stage:
        yield from _vocabulary(architecture, shard, rank, "transformer.vocab_embedding.weight", EMBEDDING, source)
    if rank.is_last_stage:
        name = "transformer.ln_f.weight"
        yield from _vector(
            shard, name, as_float32(shard.tensor(name)), source.tensor("model.norm.weight"), "model.norm"
        )
        if "lm_head.weight" in shard.entries:
            yield from _vocabulary(architecture, shard, rank, "lm_head.weight", LM_HEAD, source)
        elif LM_HEAD in source and not np.array_equal(source.tensor(LM_HEAD), source.tensor(EMBEDDING)):
            yield error(
                "missing-tensor", f"{shard.path.name} lm_head.weight", "is missing, the model's is not its embedding"
            )


def _vocabulary(
    architecture: Architecture, shard: Shard, rank: Rank, name: str, there: str, source: SourceModel
) -> Iterator[Finding]:
    """Rows from the model's vocabulary size on are padding, zeros."""
    found, whole = as_float32(shard.tensor(name)), source.tensor(there)
    where = f"{shard.path.name} {name}"
    held = vocabulary_rows(architecture, rank, architecture.vocab_size)
    if name.startswith("transformer") and architecture.parallelism.embedding_axis != 0:
        held = range(architecture.vocab_size)
        if architecture.parallelism.embedding_axis == 1:
            columns = found.shape[1]
            whole = whole[:, rank.tp_rank * columns : (rank.tp_rank + 1) * columns]
    real = max(0, min(held.stop, len(whole)) - held.start)
    wanted = np.zeros_like(found)
    wanted[:real] = whole[held.start : held.start + real]
    wrong = np.flatnonzero((found != wanted).any(1))
    if not len(wrong):
        return
    if (wrong >= real).all():
        yield error(
            "wrong-values", where, f"{len(wrong)} rows of padding, from token {held.start + wrong[0]} on, are not 0"
        )
        return
    row = int(wrong[0])
    matches = np.flatnonzero((whole == found[row]).all(1))
    if len(matches):
        what = f"{len(wrong)} rows differ from {there}: row {row} is token {matches[0]}'s, not {held.start + row}'s"
        yield error("swapped-rows", where, what)
    else:
        yield error(
            "wrong-values", where, f"{len(wrong)} of {real} rows are not those of {there}, the first is row {row}"
        )


def _vector(shard: Shard, name: str, found: Float32Array, wanted: Float32Array, there: str) -> Iterator[Finding]:
    where = f"{shard.path.name} {name}"
    if found.shape != wanted.shape:
        yield error("wrong-shape", where, f"has {found.size} numbers, {there} has {wanted.size}")
    elif (wrong := found != wanted).any():
        place = int(np.flatnonzero(wrong)[0])
        kind: Kind = "swapped-rows" if np.array_equal(np.sort(found), np.sort(wanted)) else "wrong-values"
        yield error(
            kind,
            where,
            f"{np.count_nonzero(wrong)} of {wanted.size} numbers are not those of {there}: number {place} is"
            f" {found[place]:g}, not {wanted[place]:g}",
        )

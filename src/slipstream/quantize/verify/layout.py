"""Which tensors each rank has to hold, of which type and shape, and which of them every rank holds alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slipstream.errors import SlipstreamError
from slipstream.quantize.verify.findings import Finding, Kind, error, warning
from slipstream.trtllm_checkpoint.config import KV_SCALES, Architecture
from slipstream.trtllm_checkpoint.ranks import Linear, Rank, linears_of_layer, rank_of, vocabulary_rows
from slipstream.trtllm_checkpoint.shard import Shard, as_float32

FLOATS = ("F16", "BF16", "F32")
_WEIGHT_TYPES = {
    None: FLOATS,
    "W8A16": FLOATS,
    "W8A8_SQ_PER_CHANNEL": ("I8",),
    "FP8": ("F8_E4M3",),
    "W4A16_AWQ": ("I8",),
    "W4A8_AWQ": ("I8",),
    "NVFP4": ("U8",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A tensor that belongs into a rank's file."""

    dtypes: Sequence[str]
    shape: tuple[int, ...]  # (): one number, whatever its shape
    is_replicated: bool = False  # the same on every tensor-parallel rank of the stage
    is_optional: bool = False


def open_shards(checkpoint: Path, architecture: Architecture) -> tuple[list[Shard], list[Finding]]:
    """Every rank's file that can be read, and what is wrong with the others."""
    shards, findings = [], []
    for index in range(architecture.parallelism.world_size):
        path = checkpoint / f"rank{index}.safetensors"
        try:
            shards.append(Shard(path))
        except SlipstreamError as problem:
            findings.append(error("damaged-file", path.name, problem.message, problem.mend))
    return shards, findings


def check_layout(architecture: Architecture, shards: Sequence[Shard]) -> list[Finding]:
    """Missing, extra and misshapen tensors, numbers that are none, and ranks that disagree."""
    findings: list[Finding] = []
    for index, shard in enumerate(shards):
        rank = rank_of(architecture, index)
        wanted = wanted_tensors(architecture, rank)
        findings += _names(architecture, rank, shard, wanted)
        for name, one in wanted.items():
            if name in shard.entries:
                wrong = list(_tensor(shard, name, one))
                findings += wrong
                if one.is_replicated and rank.tp_rank > 0 and not wrong:
                    findings += _agreement(shard, shards[index - rank.tp_rank], name)
    return findings


def wanted_tensors(architecture: Architecture, rank: Rank) -> dict[str, Wanted]:
    """By name, what `rank`'s file has to hold."""
    hidden = Wanted(dtypes=FLOATS, shape=(architecture.hidden_size,), is_replicated=True)
    wanted: dict[str, Wanted] = {}
    if rank.is_first_stage:
        wanted["transformer.vocab_embedding.weight"] = _embedding(architecture, rank)
    for layer in range(rank.num_layers):
        prefix = f"transformer.layers.{layer}"
        wanted |= {f"{prefix}.{norm}.weight": hidden for norm in ("input_layernorm", "post_layernorm")}
        for linear in linears_of_layer(architecture, rank, layer):
            wanted |= {f"{linear.name}.{suffix}": one for suffix, one in _linear(architecture, linear).items()}
        wanted |= {f"{prefix}.attention.{name}": one for name, one in _attention_extras(architecture).items()}
    if rank.is_last_stage:
        wanted["transformer.ln_f.weight"] = hidden
        rows = len(vocabulary_rows(architecture, rank, architecture.vocab_size))
        # Alone, a stage that holds the embedding may use it twice.
        wanted["lm_head.weight"] = Wanted(
            dtypes=FLOATS, shape=(rows, architecture.hidden_size), is_optional=rank.is_first_stage
        )
    return wanted


def _embedding(architecture: Architecture, rank: Rank) -> Wanted:
    axis = architecture.parallelism.embedding_axis
    rows, columns = architecture.vocab_size, architecture.hidden_size
    if axis == 0:
        rows = len(vocabulary_rows(architecture, rank, rows))
    elif axis == 1:
        columns //= architecture.parallelism.tp_size
    return Wanted(dtypes=FLOATS, shape=(rows, columns), is_replicated=axis is None)


def _linear(architecture: Architecture, linear: Linear) -> Mapping[str, Wanted]:
    experts = () if linear.experts is None else (linear.experts,)
    rows, columns, algo = linear.rows, linear.columns, linear.algo
    is_grouped = algo in ("W4A16_AWQ", "W4A8_AWQ", "NVFP4")
    is_row_parallel = linear.cut == "row"
    packed = {"W4A16_AWQ": (rows // 2, columns), "W4A8_AWQ": (rows // 2, columns), "NVFP4": (rows, columns // 2)}
    wanted = {
        "weight": Wanted(
            dtypes=_WEIGHT_TYPES[algo],
            shape=(*experts, *packed.get(algo or "", (rows, columns))),
            is_replicated=linear.cut == "whole",
        )
    }
    if experts == () and linear.cut != "whole":
        wanted["bias"] = Wanted(dtypes=FLOATS, shape=(rows,), is_replicated=is_row_parallel, is_optional=True)
    if algo in (None, "W8A16"):
        return wanted
    one_scale = Wanted(dtypes=("F32",), shape=(), is_replicated=True)
    groups = columns // architecture.quantization.group_size
    one_scale_shape = (*experts, 1) if experts else ()
    ungrouped = (rows,) if algo == "W8A8_SQ_PER_CHANNEL" else one_scale_shape
    has_ep = bool(experts) and architecture.parallelism.moe_ep_size > 1
    wanted["weights_scaling_factor"] = Wanted(
        dtypes=("F8_E4M3",) if algo == "NVFP4" else ("F32",),
        shape=(*experts, rows, groups) if is_grouped else ungrouped,
        is_replicated=not has_ep and (algo == "FP8" or (algo == "W8A8_SQ_PER_CHANNEL" and is_row_parallel)),
    )
    if algo in ("W4A8_AWQ", "NVFP4"):
        wanted["weights_scaling_factor_2"] = (
            Wanted(dtypes=("F32",), shape=(*experts, -1), is_replicated=not has_ep) if experts else one_scale
        )
    if algo != "W4A16_AWQ":
        wanted["activation_scaling_factor"] = one_scale
    if algo in ("W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "W4A8_AWQ"):
        wanted["prequant_scaling_factor"] = Wanted(
            dtypes=FLOATS, shape=(*experts, columns), is_replicated=not is_row_parallel and not has_ep
        )
    return wanted


def _attention_extras(architecture: Architecture) -> dict[str, Wanted]:
    extras = {}
    if architecture.quantization.kv_cache_algo is not None:
        scale = Wanted(dtypes=("F32",), shape=(), is_replicated=True)
        extras = dict.fromkeys(KV_SCALES, scale)
    if architecture.has_qk_norm:
        norm = Wanted(dtypes=FLOATS, shape=(architecture.head_size,), is_replicated=True)
        extras |= dict.fromkeys(("q_layernorm.weight", "k_layernorm.weight"), norm)
    return extras


def _names(architecture: Architecture, rank: Rank, shard: Shard, wanted: Mapping[str, Wanted]) -> Iterator[Finding]:
    for name, one in wanted.items():
        if name not in shard.entries and not one.is_optional:
            yield _missing(architecture, rank, shard, name)
    for name in sorted(set(shard.entries) - set(wanted)):
        if any(name.endswith(f".attention.{scale}") for scale in KV_SCALES):
            yield error(
                "kv-scale",
                f"{shard.path.name} {name}",
                "a KV cache scale, but config.json's kv_cache_quant_algo is null: it would be ignored",
                "set quantization.kv_cache and quantize again",
            )
        elif _is_scale(name) and _layer_name(name) in _linear_names(architecture, rank):
            yield error(
                "exclude-modules",
                f"{shard.path.name} {name}",
                "a scale of a layer that config.json's quant_algo and exclude_modules make a float one",
                "quantize again, or take the layer out of exclude_modules",
            )
        else:
            yield warning(
                "extra-tensor",
                f"{shard.path.name} {name}",
                "no part of the model: TensorRT-LLM would ignore it",
                "find out what it was meant to be; quantize again",
            )


def _missing(architecture: Architecture, rank: Rank, shard: Shard, name: str) -> Finding:
    where = f"{shard.path.name} {name}"
    if any(name.endswith(scale) for scale in KV_SCALES):
        algo = architecture.quantization.kv_cache_algo
        return error("kv-scale", where, f"is missing, but config.json's kv_cache_quant_algo is {algo}")
    weight = shard.entries.get(f"{_layer_name(name)}.weight")
    if _is_scale(name) and weight is not None and weight.dtype in FLOATS:
        return error(
            "exclude-modules",
            where,
            f"is missing: the layer is stored in floats ({weight.dtype}), but config.json's quant_algo is"
            f" {architecture.quantization.algo} and exclude_modules has no pattern for it",
            "quantize again, or add the layer to exclude_modules",
        )
    return error(
        "missing-tensor",
        where,
        f"is missing (layer {_global_layer(rank, name)})" if ".layers." in name else "is missing",
    )


def _tensor(shard: Shard, name: str, wanted: Wanted) -> Iterator[Finding]:
    entry, where = shard.entries[name], f"{shard.path.name} {name}"
    if entry.dtype not in wanted.dtypes:
        kind: Kind = "exclude-modules" if name.endswith(".weight") and entry.dtype in FLOATS else "wrong-dtype"
        yield error(kind, where, f"is {entry.dtype}, the format stores {' or '.join(wanted.dtypes)}")
        return
    if not _has_shape(entry.shape, wanted.shape):
        shape = list(wanted.shape) if wanted.shape else "one number"
        yield error("wrong-shape", where, f"has shape {list(entry.shape)}, this rank's is {shape}")
        return
    if entry.dtype in FLOATS or entry.dtype == "F8_E4M3":
        values = as_float32(shard.tensor(name))
        if not np.isfinite(values).all():
            yield error("not-finite", where, f"{np.count_nonzero(~np.isfinite(values))} of its numbers are not finite")
        elif _is_scale(name) and (values <= 0).any():
            yield error("wrong-scale", where, f"{np.count_nonzero(values <= 0)} of its scales are not above 0")


def _agreement(shard: Shard, first: Shard, name: str) -> Iterator[Finding]:
    there_is, here_is = first.entries.get(name), shard.entries[name]
    if there_is is None or (there_is.shape, there_is.dtype) != (here_is.shape, here_is.dtype):
        return  # said elsewhere
    here, there = as_float32(shard.tensor(name)), as_float32(first.tensor(name))
    if not np.array_equal(here, there, equal_nan=True):
        differ = int(np.count_nonzero(here != there))
        example = f": {here.flat[0]:g} and {there.flat[0]:g}" if here.size == 1 else ""
        yield error(
            "ranks-disagree",
            f"{shard.path.name} {name}",
            f"{differ} of {here.size} numbers differ from {first.path.name}'s, every rank must hold the same{example}",
        )


def _has_shape(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """One number may have any shape, and so may one number an expert."""
    size = int(np.prod(found))
    if wanted == ():
        return size == 1
    return size == wanted[0] if wanted[-1] == -1 else found == wanted


def _is_scale(name: str) -> bool:
    return "scaling_factor" in name.rpartition(".")[2]


def _layer_name(name: str) -> str:
    return name.rpartition(".")[0]


def _linear_names(architecture: Architecture, rank: Rank) -> set[str]:
    names = {"lm_head"}
    for layer in range(rank.num_layers):
        names |= {linear.name for linear in linears_of_layer(architecture, rank, layer)}
    return names


def _global_layer(rank: Rank, name: str) -> int:
    return rank.first_layer + int(name.split(".")[2])

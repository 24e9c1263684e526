"""Scales that no weight shows: of activations, KV caches and W4A8's FP8 step, against what they have to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slipstream.quantize.verify.findings import Finding, error, warning
from slipstream.quantize.verify.logits import K_CACHE, V_CACHE
from slipstream.trtllm_checkpoint.config import KV_SCALES, Architecture, QuantAlgo
from slipstream.trtllm_checkpoint.packing import scaled_by_group, unpack_int4
from slipstream.trtllm_checkpoint.ranks import Linear, linears_of_layer, rank_of
from slipstream.trtllm_checkpoint.shard import Shard, as_float32

# The largest magnitude that a scale of 1 covers.
_BOUNDS: dict[QuantAlgo, float] = {"FP8": 448.0, "W4A8_AWQ": 448.0, "W8A8_SQ_PER_CHANNEL": 127.0, "NVFP4": 6.0 * 448.0}
_KV_BOUNDS = {"FP8": 448.0, "INT8": 127.0}
_ROUNDING = 1e-4
# Calibration text and reference tokens differ; factors within these are no sign of anything.
_CLIPS, _WASTES = 4.0, 1 / 64


def check_calibrated(
    architecture: Architecture, shards: Sequence[Shard], input_amax: Mapping[str, float]
) -> Iterator[Finding]:
    """Every activation scale against the range that ModelOpt's quantizer had."""
    for where, linear, covered, _ in _scales(architecture, shards):
        known = [input_amax[part.source] for part in linear.parts if part.source in input_amax]
        if known and abs(covered / max(known) - 1) > _ROUNDING:
            yield error(
                "wrong-activation-scale",
                where,
                f"covers activations up to {covered:.6g}, calibrated were {max(known):.6g}: the scale is"
                f" {covered / max(known):.4g} times what it should be",
            )


def check_kv_scales(
    architecture: Architecture, shards: Sequence[Shard], input_amax: Mapping[str, float]
) -> Iterator[Finding]:
    """KV cache scales against each other and, where the reference has them, against what was calibrated."""
    bound = _KV_BOUNDS.get(architecture.quantization.kv_cache_algo or "")
    for index, shard in enumerate(shards):
        rank = rank_of(architecture, index)
        for layer in range(rank.num_layers if bound else 0):
            prefix = f"transformer.layers.{layer}.attention"
            k, v, both = (float(as_float32(shard.tensor(f"{prefix}.{name}")).reshape(-1)[0]) for name in KV_SCALES)
            where = f"{shard.path.name} {prefix}"
            if both != max(k, v):
                what = f"kv_cache_scaling_factor is {both:g}, the larger one of k's {k:g} and v's {v:g} is expected"
                yield error("kv-scale", where, what)
            source = f"model.layers.{rank.first_layer + layer}.self_attn"
            for name, scale, key in (("k", k, f"{source}{K_CACHE}"), ("v", v, f"{source}{V_CACHE}")):
                wanted = input_amax.get(key, 0.0) / bound if bound else 0.0
                if wanted and abs(scale / wanted - 1) > _ROUNDING:
                    what = f"is {scale:g}, calibrated was {wanted:g}: {scale / wanted:.4g} times what it should be"
                    yield error("kv-scale", f"{where}.{name}_cache_scaling_factor", what)


def check_second_scales(architecture: Architecture, shards: Sequence[Shard]) -> Iterator[Finding]:
    """W4A8's weights_scaling_factor_2 maps a layer's largest weight, on whichever rank, to FP8's largest number."""
    largest: dict[tuple[int, str], float] = defaultdict(float)
    stored: list[tuple[Shard, tuple[int, str], float]] = []
    for index, shard in enumerate(shards):
        rank = rank_of(architecture, index)
        for layer in range(rank.num_layers):
            for linear in linears_of_layer(architecture, rank, layer):
                name = f"{linear.name}.weights_scaling_factor_2"
                if linear.algo == "W4A8_AWQ" and linear.experts is None and name in shard.entries:
                    codes = unpack_int4(shard.tensor(f"{linear.name}.weight"))
                    weights = scaled_by_group(codes, shard.tensor(f"{linear.name}.weights_scaling_factor"))
                    key = (rank.first_layer, name)  # layers are numbered within a stage
                    largest[key] = max(largest[key], float(np.abs(weights).max()))
                    stored.append((shard, key, float(as_float32(shard.tensor(name)).reshape(-1)[0])))
    for shard, key, found in stored:
        wanted = largest[key] / _BOUNDS["W4A8_AWQ"]
        if abs(found / wanted - 1) > _ROUNDING:
            what = f"is {found:g}, the largest weight asks for {wanted:g}: {found / wanted:.4g} times what it should be"
            yield error("wrong-scale", f"{shard.path.name} {key[1]}", what)


def suspicious_scales(
    architecture: Architecture, shards: Sequence[Shard], input_ranges: Sequence[Mapping[str, float]]
) -> Iterator[Finding]:
    """Scales that cut off most of what was seen, or leave most of their range empty; for logits that are wrong."""
    for where, linear, covered, index in _scales(architecture, shards):
        seen = input_ranges[index].get(linear.name, 0.0)
        if seen and not _WASTES < seen / covered < _CLIPS:
            yield warning(
                "wrong-activation-scale",
                where,
                f"covers activations up to {covered:.4g}, seen were {seen:.4g}: the scale may be off by a factor of"
                f" {covered / seen:.2g}",
                "quantize the model again",
            )


def _scales(architecture: Architecture, shards: Sequence[Shard]) -> Iterator[tuple[str, Linear, float, int]]:
    for index, shard in enumerate(shards):
        rank = rank_of(architecture, index)
        for layer in range(rank.num_layers):
            for linear in linears_of_layer(architecture, rank, layer):
                name = f"{linear.name}.activation_scaling_factor"
                if linear.algo in _BOUNDS and name in shard.entries:
                    scale = float(as_float32(shard.tensor(name)).reshape(-1)[0])
                    yield f"{shard.path.name} {name}", linear, scale * _BOUNDS[linear.algo], index

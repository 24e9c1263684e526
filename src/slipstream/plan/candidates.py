"""Configurations that could serve a workload, each with its memory and its predicted speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slipstream.plan.calibration import Calibration, Interval
from slipstream.plan.cases import Case, active_requests, case_memory, columns
from slipstream.plan.catalogue import Gpu, Model
from slipstream.plan.cost import breakdown, step_seconds
from slipstream.plan.formats import KV_FORMATS, WEIGHT_FORMATS, KvFormat, WeightFormat
from slipstream.plan.inputs import PlanInput
from slipstream.plan.memory import GpuMemory, Parallelism

# Of what is free after weights and activations; TensorRT-LLM's own default.
KV_FRACTION = 0.9
# TensorRT-LLM's default budget of an iteration; longer prompts are split over iterations (chunked context).
MAX_NUM_TOKENS = 8192
_BATCHES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_DEGREES = (1, 2, 4, 8, 16, 32, 64)
_GBIT = 1e9 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve: formats, split, batch and replicas; with its predictions."""

    case: Case
    memory: GpuMemory
    batch: int  # requests that one replica runs at once
    replicas: int
    gpus: int  # of all replicas
    tokens_per_s: Interval  # output tokens of all replicas
    tpot_ms: Interval
    ttft_ms: Interval  # mean, under a steady stream of arrivals at this batch
    limits: tuple[tuple[str, float], ...]  # what an iteration's time goes to, largest share first

    @property
    def tokens_per_s_per_gpu(self) -> float:
        return self.tokens_per_s.value / self.gpus

    @property
    def tokens_per_s_per_user(self) -> float:
        return 1000 / self.tpot_ms.value


def weight_choices(model: Model, gpu: Gpu, wanted: str | None) -> list[WeightFormat]:
    """The formats to try: the one that was asked for, or what the GPU multiplies or expands well."""
    if wanted is not None:
        return [WEIGHT_FORMATS[wanted]]
    if model.name.startswith("GPT-OSS"):
        return [WEIGHT_FORMATS["mxfp4"]]
    names = ("fp16", "fp8", "int4_awq", "nvfp4")
    return [WEIGHT_FORMATS[name] for name in names if WEIGHT_FORMATS[name].problem_on(gpu.sm) is None]


def kv_choices(weights: WeightFormat, gpu: Gpu) -> list[KvFormat]:
    """KV formats that keep paged context attention, hence KV reuse and chunked prefill, on."""
    return [
        kv
        for kv in KV_FORMATS.values()
        if kv.minimum_sm <= gpu.sm and (not kv.needs_weights or weights.name in kv.needs_weights)
    ]


def splits(model: Model, gpus_per_node: int, nodes: int) -> list[Parallelism]:
    """Tensor parallelism inside of a node where heads divide; pipelines over what is left, across nodes if need be."""
    found = []
    for tp in _DEGREES:
        if model.shape.heads % tp or model.shape.ffn % tp:
            continue
        for pp in _DEGREES:
            fits = tp * pp <= gpus_per_node or (gpus_per_node % tp == 0 and tp * pp <= gpus_per_node * nodes)
            if fits and pp <= min(8, model.shape.layers):
                found.append(Parallelism(tp=tp, pp=pp))
    return found


def make_case(plan: PlanInput, model: Model, gpu: Gpu, weights: WeightFormat, kv: KvFormat, split: Parallelism) -> Case:
    """The case of one configuration before its batch is chosen."""
    hardware, workload = plan.hardware, plan.workload
    crosses = split.gpus > hardware.gpus_per_node
    # A stage's ranks send their copies over as many links of the node.
    network = hardware.network_gbit_s * _GBIT / 1e9
    return Case(
        model=model,
        gpu=gpu,
        weights=weights,
        kv=kv,
        split=split,
        input_tokens=workload.input_tokens,
        output_tokens=workload.output_tokens,
        kv_fraction=KV_FRACTION,
        max_num_tokens=MAX_NUM_TOKENS,
        hop_gb_s=network if crosses else None,
    )


def evaluate(cases: Sequence[Case], plan: PlanInput, known: Calibration) -> list[Candidate]:
    """Each case at each batch that its memory holds."""
    loaded = [
        replace(case, concurrency=float(batch), max_batch_size=batch) for case in cases for batch in _batches(case)
    ]
    if not loaded:
        return []
    speeds = known.predict(loaded, "throughput")
    tpots = known.predict(loaded, "tpot")
    ttfts = _ttft_ms(loaded, tpots, known)
    shares = _shares(loaded, known)
    all_gpus = plan.hardware.gpus_per_node * plan.hardware.nodes
    return [
        _candidate(case, plan, all_gpus, speed, tpot, ttft, share)
        for case, speed, tpot, ttft, share in zip(loaded, speeds, tpots, ttfts, shares, strict=True)
    ]


def _batches(case: Case) -> Iterable[int]:
    most = active_requests(case)
    return sorted({batch for batch in (*_BATCHES, most) if case.split.pp <= batch <= most})


def _ttft_ms(cases: Sequence[Case], tpots: Sequence[Interval], known: Calibration) -> list[Interval]:
    """The iteration under way, then one's own prompt behind those that came before it: a queue's 1 / (1 - load)."""
    c, k = columns(cases), known.coefficients
    nothing = np.zeros_like(c.active)
    decode = step_seconds(c, k, c.active, nothing)
    with_prompt = step_seconds(c, k, c.active, nothing + 1)
    period = step_seconds(c, k, c.active, c.active / c.output_tokens)
    load = np.clip(1 - decode / period, 0, 0.95)
    mean = 1e3 * (0.5 * period + with_prompt / (1 - load))
    return [t.scaled(m / t.value) for t, m in zip(tpots, mean, strict=True)]


def _shares(cases: Sequence[Case], known: Calibration) -> list[tuple[tuple[str, float], ...]]:
    c = columns(cases)
    parts = breakdown(c, known.coefficients, c.active, c.active / c.output_tokens)
    total = np.sum(list(parts.values()), axis=0)
    rows = [{name: float(part[i] / total[i]) for name, part in parts.items()} for i in range(len(cases))]
    return [tuple(sorted(row.items(), key=lambda item: -item[1])) for row in rows]


def _candidate(
    case: Case,
    plan: PlanInput,
    all_gpus: int,
    speed: Interval,
    tpot: Interval,
    ttft: Interval,
    share: tuple[tuple[str, float], ...],
) -> Candidate:
    batch = case.max_batch_size
    most = all_gpus // case.split.gpus
    replicas = _replicas(plan, speed, batch, most)
    return Candidate(
        case=case,
        memory=case_memory(case, batch),
        batch=batch,
        replicas=replicas,
        gpus=replicas * case.split.gpus,
        tokens_per_s=speed.scaled(replicas),
        tpot_ms=tpot,
        ttft_ms=ttft,
        limits=share,
    )


# Replicas are planned to run at this share of their speed, so that a burst or a lost replica does not queue at once.
LOAD = 0.8


def _replicas(plan: PlanInput, speed: Interval, batch: int, most: int) -> int:
    """As many as the load needs; all that fit when no load is given."""
    workload = plan.workload
    if workload.requests_per_s is not None:
        wanted = workload.requests_per_s * workload.output_tokens / (speed.value * LOAD)
    elif workload.concurrency is not None:
        wanted = workload.concurrency / batch
    else:
        return most
    return max(1, int(np.ceil(wanted)))

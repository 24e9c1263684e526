"""Searches formats, parallelism and batch for the best configuration that keeps its promises; says why none does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipstream.errors import SlipstreamError
from slipstream.plan.calibration import Calibration, Interval
from slipstream.plan.candidates import Candidate, evaluate, kv_choices, make_case, splits, weight_choices
from slipstream.plan.cases import Case
from slipstream.plan.catalogue import Gpu, Model, find_gpu, find_model, gpus
from slipstream.plan.formats import WEIGHT_FORMATS, WeightFormat
from slipstream.plan.inputs import PlanInput
from slipstream.plan.memory import Parallelism, weight_bytes

_HOURS_PER_MONTH = 730
_MOST_ALTERNATIVES = 5
# Two documented versions of TensorRT-LLM differ by this much on the same configuration in the median (the published
# tables 0.12 to 1.0): what is closer than that is equal, and the simpler configuration wins.
_NOISE = 0.037


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a plan costs, at a price per GPU and hour that is an assumption."""

    price_usd_hour: float
    usd_per_month: float
    usd_per_million_output_tokens: Interval  # at full load


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The chosen configuration and what it was chosen from."""

    input: PlanInput
    model: Model
    gpu: Gpu
    chosen: Candidate
    cost: Cost | None
    unmet: tuple[str, ...]  # promises that no configuration keeps, with the nearest that one comes
    alternatives: tuple[Candidate, ...]  # the best of other formats and splits
    other_formats: tuple[Candidate, ...]  # the best of each format that was not allowed, fastest first
    pareto: tuple[Candidate, ...]  # none is better in both tokens/s a GPU and tokens/s a user
    searched: int


def make_plan(plan: PlanInput, known: Calibration) -> Plan:
    """Search. Raises SlipstreamError naming what would make an impossible case possible."""
    model, gpu = find_model(plan.model.name), _gpu(plan)
    _refuse_formats(plan, gpu)
    candidates = evaluate(_cases(plan, model, gpu), plan, known)
    if not candidates:
        raise _nothing_fits(plan, model, gpu)
    able = [c for c in candidates if c.gpus <= plan.hardware.gpus_per_node * plan.hardware.nodes]
    if not able:
        raise _load_too_high(plan, candidates)
    kept = [c for c in able if not _broken(plan, c)]
    better = _order(plan) if kept else _least_broken(plan)
    chosen = _simplest_of_the_best(kept, better) if kept else min(able, key=better)
    return Plan(
        input=plan,
        model=model,
        gpu=gpu,
        chosen=chosen,
        cost=_cost(plan, gpu, chosen),
        unmet=() if kept else tuple(_broken(plan, chosen)),
        alternatives=_alternatives(kept or able, chosen, better),
        other_formats=_other_formats(plan, known, model, gpu),
        pareto=pareto(able),
        searched=len(candidates),
    )


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in both tokens/s a GPU and tokens/s a user, fastest for the user first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.tokens_per_s_per_user, -c.tokens_per_s_per_gpu)):
        if not kept or candidate.tokens_per_s_per_gpu > kept[-1].tokens_per_s_per_gpu:
            kept.append(candidate)
    return tuple(kept)


def label(candidate: Candidate) -> str:
    """For example `fp8 TP4 PP1 ×2, batch 256`."""
    split = candidate.case.split
    pipeline = f" PP{split.pp}" if split.pp > 1 else ""
    kv = "" if candidate.case.kv.name == "auto" else f", KV {candidate.case.kv.name}"
    return f"{candidate.case.weights.name} TP{split.tp}{pipeline} ×{candidate.replicas}, batch {candidate.batch}{kv}"


def _gpu(plan: PlanInput) -> Gpu:
    gpu = find_gpu(plan.hardware.gpu)
    if plan.hardware.nvlink is None or plan.hardware.nvlink == (gpu.link == "nvlink"):
        return gpu
    if plan.hardware.nvlink:
        raise SlipstreamError(
            f"hardware: nvlink is true, the {gpu.name} is joined by PCIe", mend="leave nvlink out, or name the SXM part"
        )
    pcie = next((g for g in gpus() if g.link == "pcie" and g.sm == gpu.sm), None)
    link = pcie.link_gb_s if pcie else 64.0
    fields = {name: getattr(gpu, name) for name in Gpu.__slots__} | {"link": "pcie", "link_gb_s": link}
    return Gpu(**fields)


def _refuse_formats(plan: PlanInput, gpu: Gpu) -> None:
    wanted = plan.model.weights
    if wanted is None:
        return
    if wanted not in WEIGHT_FORMATS:
        raise SlipstreamError(
            f"model.weights is {wanted!r}, known are {', '.join(WEIGHT_FORMATS)}", mend="name one of them, or none"
        )
    problem = WEIGHT_FORMATS[wanted].problem_on(gpu.sm)
    if problem is not None:
        raise SlipstreamError(
            f"model.weights is {wanted}: {problem} ({gpu.name})", mend="leave the format open, or name another GPU"
        )


def _cases(plan: PlanInput, model: Model, gpu: Gpu) -> list[Case]:
    return [
        make_case(plan, model, gpu, weights, kv, split)
        for weights in weight_choices(model, gpu, plan.model.weights)
        for kv in kv_choices(weights, gpu)
        for split in splits(model, plan.hardware.gpus_per_node, plan.hardware.nodes)
    ]


def _broken(plan: PlanInput, candidate: Candidate) -> list[str]:
    """The promises that a candidate's middle prediction does not keep."""
    workload, broken = plan.workload, []
    if workload.ttft_ms is not None and candidate.ttft_ms.value > workload.ttft_ms:
        broken.append(f"TTFT {candidate.ttft_ms.value:.0f} ms, at most {workload.ttft_ms:g} ms is asked for")
    if workload.tpot_ms is not None and candidate.tpot_ms.value > workload.tpot_ms:
        broken.append(f"TPOT {candidate.tpot_ms.value:.1f} ms, at most {workload.tpot_ms:g} ms is asked for")
    return broken


def _order(plan: PlanInput) -> Callable[[Candidate], tuple[float, ...]]:
    objective = plan.workload.objective
    if objective == "latency":
        return lambda c: (c.tpot_ms.value, c.gpus)
    has_load = plan.workload.requests_per_s is not None or plan.workload.concurrency is not None
    if has_load:
        return lambda c: (c.gpus, -c.tokens_per_s.value)
    if objective == "cost":
        return lambda c: (-c.tokens_per_s_per_gpu, c.gpus)
    return lambda c: (-c.tokens_per_s.value, c.gpus)


def _least_broken(plan: PlanInput) -> Callable[[Candidate], tuple[float, ...]]:
    workload = plan.workload

    def excess(c: Candidate) -> tuple[float, ...]:
        over = [1.0]
        if workload.ttft_ms is not None:
            over.append(c.ttft_ms.value / workload.ttft_ms)
        if workload.tpot_ms is not None:
            over.append(c.tpot_ms.value / workload.tpot_ms)
        return (max(over), -c.tokens_per_s.value)

    return excess


def _simplest_of_the_best(
    candidates: Sequence[Candidate], better: Callable[[Candidate], tuple[float, ...]]
) -> Candidate:
    best = min(candidates, key=better)
    equal = [
        c
        for c in candidates
        if c.gpus <= best.gpus
        and c.tokens_per_s.value >= best.tokens_per_s.value * (1 - _NOISE)
        and c.tpot_ms.value <= best.tpot_ms.value * (1 + _NOISE)
    ]
    return min(equal, key=lambda c: (c.case.split.pp, c.case.split.gpus, better(c)))


def _other_formats(plan: PlanInput, known: Calibration, model: Model, gpu: Gpu) -> tuple[Candidate, ...]:
    """What the formats that were not asked for would do, under the same promises."""
    if plan.model.weights is None or plan.model.weights == "mxfp4":
        return ()
    names = [name for name in ("fp16", "fp8", "int8_wo", "int4_awq", "nvfp4") if name != plan.model.weights]
    found = []
    for name in names:
        if WEIGHT_FORMATS[name].problem_on(gpu.sm) is not None:
            continue
        other = plan.model_copy(update={"model": plan.model.model_copy(update={"weights": name})})
        able = [
            c
            for c in evaluate(_cases(other, model, gpu), other, known)
            if c.gpus <= plan.hardware.gpus_per_node * plan.hardware.nodes and not _broken(plan, c)
        ]
        if able:
            found.append(_simplest_of_the_best(able, _order(plan)))
    return tuple(sorted(found, key=lambda c: -c.tokens_per_s.value))


def _alternatives(
    candidates: Sequence[Candidate], chosen: Candidate, better: Callable[[Candidate], tuple[float, ...]]
) -> tuple[Candidate, ...]:
    best: dict[object, Candidate] = {}
    for candidate in sorted(candidates, key=better):
        best.setdefault((candidate.case.weights.name, candidate.case.kv.name, candidate.case.split), candidate)
    best.pop((chosen.case.weights.name, chosen.case.kv.name, chosen.case.split), None)
    return tuple(best.values())[:_MOST_ALTERNATIVES]


def _cost(plan: PlanInput, gpu: Gpu, chosen: Candidate) -> Cost | None:
    given = plan.hardware.price_usd_hour
    price = gpu.price_usd_hour if given is None else given
    if price is None:
        return None
    hourly = price * chosen.gpus
    return Cost(
        price_usd_hour=price,
        usd_per_month=hourly * _HOURS_PER_MONTH,
        usd_per_million_output_tokens=chosen.tokens_per_s.inverse(hourly / 3600 * 1e6),
    )


def _nothing_fits(plan: PlanInput, model: Model, gpu: Gpu) -> SlipstreamError:
    total = plan.hardware.gpus_per_node * plan.hardware.nodes
    tried = weight_choices(model, gpu, plan.model.weights)
    one = Parallelism()
    sizes = ", ".join(f"{w.name} {weight_bytes(model.shape, w, one) / 2**30:.0f} GiB" for w in tried)
    smallest = min(tried, key=lambda w: w.bytes_per_weight)
    enough = next((tp for tp in (1, 2, 4, 8, 16, 32, 64) if _room(model, gpu, smallest.name, tp) > 0), None)
    mend = (
        f"{enough} × {gpu.name} hold it in {smallest.name}" if enough else f"no number up to 64 of {gpu.name} holds it"
    )
    return SlipstreamError(
        f"{model.name} does not fit on {total} × {gpu.name} ({gpu.memory_gib:.0f} GiB each): its weights take {sizes},"
        f" and a request of {plan.workload.input_tokens + plan.workload.output_tokens:.0f} tokens needs room"
        " beside them",
        mend=mend + _smaller_formats(model, gpu, tried, total),
    )


def _smaller_formats(model: Model, gpu: Gpu, tried: Sequence[WeightFormat], total: int) -> str:
    others = [w for w in weight_choices(model, gpu, None) if w not in tried and _room(model, gpu, w.name, total) > 0]
    return f"; or allow {', '.join(w.name for w in others)} on what there is" if others else ""


def _room(model: Model, gpu: Gpu, weights: str, ranks: int) -> float:
    used = weight_bytes(model.shape, WEIGHT_FORMATS[weights], Parallelism(tp=ranks))
    return gpu.memory_bytes * 0.9 - used


def _load_too_high(plan: PlanInput, candidates: Sequence[Candidate]) -> SlipstreamError:
    best = min(candidates, key=lambda c: (bool(_broken(plan, c)), c.gpus))
    have = plan.hardware.gpus_per_node * plan.hardware.nodes
    return SlipstreamError(
        f"the load needs {best.gpus} × {best.case.gpu.name} ({label(best)}), there are {have}",
        mend=(
            f"give {-(-best.gpus // plan.hardware.gpus_per_node)} nodes of {plan.hardware.gpus_per_node}, or"
            " a lower load"
        ),
    )

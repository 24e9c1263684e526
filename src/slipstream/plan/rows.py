"""Rows in the columns of the published tables, read into cases; a row that cannot be one says why."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slipstream.errors import SlipstreamError
from slipstream.plan.cases import Case, Runtime, active_requests
from slipstream.plan.catalogue import Gpu, Model, find_gpu, find_model
from slipstream.plan.formats import KV_FORMATS, WEIGHT_FORMATS, WeightFormat, weight_format
from slipstream.plan.memory import Parallelism, weight_bytes

Quantity = Literal["throughput", "tpot", "ttft"]

# Requests in NVIDIA's documented max-load runs, by input and output tokens (TensorRT-LLM perf-overview.md, "Number of
# requests"); other shapes: 3000.
_REQUESTS = {
    (128, 128): 30000,
    (128, 4096): 1500,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20000, 2000): 1000,
}
_REQUESTS_OTHERWISE = 3000
_MOST_TOKENS = 10_000_000
_MOST_GPUS = 1024
_OUTPUT_RATES = ("total_output_tok_s", "output_tok_s_per_gpu", "output_tok_s_per_user", "total_tok_s", "req_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published figure, or one to predict."""

    case: Case
    metric: str
    quantity: Quantity
    scale: float  # the metric is `scale` times the quantity
    rate: float | None  # requests a second offered; None: closed loop or max load
    value: float | None


class NoPredictionError(SlipstreamError):
    """A row that the model has nothing to say about."""

    def __init__(self, message: str) -> None:
        super().__init__(message, mend="correct the row, or leave it out")


def read_row(cells: Mapping[str, str]) -> Row:
    """A row of the published tables' columns. Raises SlipstreamError with the reason why there is no prediction."""
    model, gpu = find_model(cells["model"]), find_gpu(cells["gpu"])
    extra = _extra(cells)
    n_gpus = _count(cells, "n_gpus") or _count(cells, "tp") or 1
    weights = _weights(cells, model, gpu, extra)
    isl, osl = _tokens(cells, "isl"), _tokens(cells, "osl")
    split = _split(cells, model, n_gpus)
    concurrency = _number(extra.get("batch") or extra.get("concurrency"))
    if concurrency is not None and not 0 < concurrency < math.inf:
        raise NoPredictionError(f"concurrency is {concurrency:g}, a positive number is expected")
    rate = _number(extra.get("qps") or extra.get("rate") or extra.get("request_rate"))
    if rate is not None and rate <= 0:
        raise NoPredictionError(f"the request rate is {rate:g}, a positive number or INF is expected")
    case = Case(
        model=model,
        gpu=gpu,
        weights=weights,
        kv=KV_FORMATS["fp8" if weights.published_kv_bytes == 1 else "auto"],
        split=split,
        input_tokens=isl,
        output_tokens=osl,
        concurrency=concurrency,
        requests=None if concurrency or rate else _REQUESTS.get((int(isl), int(osl)), _REQUESTS_OTHERWISE),
        runtime=_runtime(cells),
        version=cells.get("version", ""),
    )
    _refuse_what_does_not_fit(case)
    metric = cells["metric"].strip()
    quantity, scale = _quantity(metric, case, n_gpus)
    return Row(case=case, metric=metric, quantity=quantity, scale=scale, rate=rate, value=_number(cells.get("value")))


def _weights(cells: Mapping[str, str], model: Model, gpu: Gpu, extra: Mapping[str, str]) -> WeightFormat:
    is_mxfp4 = model.name.startswith("GPT-OSS")  # its experts are published in MXFP4 and nothing else
    written = cells.get("precision") or extra.get("gemm") or "bf16"
    if is_mxfp4:
        return WEIGHT_FORMATS["nvfp4" if gpu.sm >= 100 else "mxfp4"]
    weights = weight_format(written)
    if weights is None:
        raise NoPredictionError(f"precision {written!r} is not known")
    problem = weights.problem_on(gpu.sm)
    if problem is not None:
        raise NoPredictionError(f"{problem} ({gpu.name})")
    return weights


def _split(cells: Mapping[str, str], model: Model, n_gpus: int) -> Parallelism:
    tp = _count(cells, "tp")
    extra = cells.get("extra") or ""
    if model.shape.experts is not None and ("attention-DP" in extra or (tp is None and "DEP" in extra)):
        return Parallelism(tp=n_gpus, ep=n_gpus, attention_dp=n_gpus > 1)
    pp = _count(cells, "pp") or 1
    return Parallelism(tp=tp or max(1, n_gpus // pp), pp=pp)


def _refuse_what_does_not_fit(case: Case) -> None:
    if active_requests(case) >= 1:
        return
    need = weight_bytes(case.model.shape, case.weights, case.split) / 2**30
    raise NoPredictionError(
        f"{case.model.name} in {case.weights.name} takes {need:.0f} GiB of weights on each of {case.split.gpus} GPUs:"
        f" the {case.gpu.name} has {case.gpu.memory_gib:.0f} GiB, which leaves no room for a request"
    )


def _quantity(metric: str, case: Case, n_gpus: int) -> tuple[Quantity, float]:
    replicas = max(1, n_gpus // case.split.gpus)
    if "ttft" in metric:
        return "ttft", 1
    if "tpot" in metric or "itl" in metric:
        return "tpot", 1
    if metric not in _OUTPUT_RATES:
        raise NoPredictionError(f"metric {metric!r} is not one of ttft_ms, tpot_ms, itl_ms, {', '.join(_OUTPUT_RATES)}")
    scale = float(replicas)
    if metric == "output_tok_s_per_gpu":
        scale = replicas / n_gpus
    elif metric == "req_s":
        scale = replicas / case.output_tokens
    elif metric == "total_tok_s":
        scale = replicas * (case.input_tokens + case.output_tokens) / case.output_tokens
    elif metric == "output_tok_s_per_user":
        scale = 1 / active_requests(case)
    return "throughput", scale


def _runtime(cells: Mapping[str, str]) -> Runtime:
    backend = cells.get("backend", "").lower()
    for name in ("vllm", "sglang", "pytorch"):
        if name in backend:
            return name
    if "engine" in backend or "triton" in backend:
        return "engine"
    version = re.match(r"0\.(\d+)", cells.get("version", ""))
    return "engine" if version and int(version[1]) < 19 else "pytorch"


def _extra(cells: Mapping[str, str]) -> dict[str, str]:
    parts = (part.partition("=") for part in re.split(r"[;,]", cells.get("extra") or ""))
    return {key.strip().lower(): value.strip() for key, equals, value in parts if equals and value.strip()}


def _tokens(cells: Mapping[str, str], name: str) -> float:
    value = _number(cells.get(name))
    if value is None or not 1 <= value <= _MOST_TOKENS:
        raise NoPredictionError(f"{name} is {cells.get(name)!r}, 1 to {_MOST_TOKENS} tokens are expected")
    return value


def _count(cells: Mapping[str, str], name: str) -> int | None:
    value = _number(cells.get(name))
    if value is not None and not 0 <= value <= _MOST_GPUS:
        raise NoPredictionError(f"{name} is {cells.get(name)!r}, at most {_MOST_GPUS} is expected")
    return int(value) if value and value >= 1 else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return None if value is None or math.isnan(value) else value

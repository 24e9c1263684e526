"""`slipstream simulate SCENARIO.yaml`: what is served, by how many replicas, and the requests that arrive."""

from __future__ import annotations

import csv
import math
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from slipstream.errors import SpecError
from slipstream.plan.calibration import Calibration
from slipstream.plan.candidates import kv_choices, make_case
from slipstream.plan.cases import Case, Floats
from slipstream.plan.catalogue import find_gpu, find_model
from slipstream.plan.formats import WEIGHT_FORMATS
from slipstream.plan.inputs import HardwareInput, ModelInput, PlanInput, WorkloadInput
from slipstream.plan.memory import Limits, Parallelism, gpu_memory, requests_in_kv
from slipstream.plan.replica import Request, StepTimes, step_times
from slipstream.plan.simulate import Autoscaling, Cluster, Failure, Outcome, Policy
from slipstream.spec import Group

# Columns of a trace: those of the Azure LLM inference traces, and the same in plain words.
_ARRIVAL, _INPUT, _OUTPUT = (
    ("TIMESTAMP", "arrival_s"),
    ("ContextTokens", "input_tokens"),
    ("GeneratedTokens", "output_tokens"),
)


class Arrivals(Group):
    """Requests by distribution, or from a trace."""

    requests: int = Field(1000, ge=1, le=2_000_000)
    requests_per_s: float | None = Field(None, gt=0, description="Poisson arrivals; null: all at once")
    input_tokens: int = Field(500, ge=1)
    output_tokens: int = Field(200, ge=1)
    spread: float = Field(0, ge=0, le=3, description="sigma of log-normal lengths around these means; 0: all equal")
    prefixes: int = Field(0, ge=0, description="distinct shared prefixes, drawn evenly; 0: none")
    prefix_tokens: int = Field(0, ge=0)
    trace: str | None = Field(None, description="CSV with arrival_s, input_tokens, output_tokens, or an Azure trace")
    speed: float = Field(1, gt=0, description="how much faster than recorded a trace is played")


class FailureInput(Group):
    """One replica that goes away."""

    replica: int = Field(ge=0)
    at_s: float = Field(ge=0)
    for_s: float = Field(gt=0)


class AutoscalingInput(Group):
    """Replicas by outstanding requests."""

    minimum: int = Field(1, ge=1)
    maximum: int = Field(ge=1, le=10_000)
    target_outstanding: float = Field(gt=0)
    start_s: float = Field(ge=0, description="from the decision to the first request; measure it")


class Scenario(Group):
    """Everything that a simulation needs; the same scenario gives the same result."""

    model: ModelInput
    hardware: HardwareInput
    tp_size: int = Field(1, ge=1, le=64)
    pp_size: int = Field(1, ge=1, le=64)
    max_batch_size: int = Field(256, ge=1, le=8192)
    max_num_tokens: int = Field(8192, ge=16, le=131_072)
    kv_fraction: float = Field(0.9, gt=0, lt=1)
    replicas: int = Field(1, ge=1, le=10_000)
    routing: Policy = "least_outstanding"
    arrivals: Arrivals
    failures: list[FailureInput] = Field(default_factory=list)
    autoscaling: AutoscalingInput | None = None
    seed: int = 0
    runtime: Literal["engine", "pytorch"] = "engine"

    @model_validator(mode="after")
    def _batch_fits(self) -> Scenario:
        if self.max_batch_size >= self.max_num_tokens:
            raise ValueError(f"max_batch_size {self.max_batch_size} leaves no tokens for prompts in max_num_tokens")
        gone = [failure.replica for failure in self.failures if failure.replica >= self.replicas]
        if gone:
            raise ValueError(f"failures name replica {gone[0]}, there are {self.replicas}, counted from 0")
        return self


def read_scenario(path: Path) -> Scenario:
    """A scenario file. Raises SpecError naming the field."""
    try:
        return Scenario.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid YAML: {error}", mend="start from perf/scenarios/") from error
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise SpecError("\n".join(lines), mend="correct the scenario") from error


def simulate(scenario: Scenario, known: Calibration, *, root: Path) -> Outcome:
    """Run the scenario; a trace's path is relative to `root`."""
    requests = make_requests(scenario, root)
    cluster = Cluster(
        times=scenario_times(scenario, requests, known),
        size=scenario.replicas,
        policy=scenario.routing,
        seed=scenario.seed,
        failures=[Failure(replica=f.replica, at_s=f.at_s, for_s=f.for_s) for f in scenario.failures],
        autoscaling=Autoscaling(**scenario.autoscaling.model_dump()) if scenario.autoscaling else None,
    )
    return cluster.run(requests)


def scenario_times(scenario: Scenario, requests: list[Request], known: Calibration) -> StepTimes:
    """Times of iterations, and how many tokens of KV cache a replica has."""
    mean_in = float(np.mean([request.input_tokens for request in requests]))
    mean_out = float(np.mean([request.output_tokens for request in requests]))
    case = _case(scenario, mean_in, mean_out)
    memory = gpu_memory(
        case.model.shape,
        case.gpu,
        weights=case.weights,
        kv=case.kv,
        split=case.split,
        limits=Limits(
            max_batch_size=scenario.max_batch_size,
            max_num_tokens=scenario.max_num_tokens,
            max_seq_len=math.ceil(mean_in + mean_out),
        ),
        kv_fraction=scenario.kv_fraction,
    )
    held = requests_in_kv(case.model.shape, memory, case.kv, case.split, mean_in + mean_out)
    if held < 1:
        raise SpecError(
            f"{case.model.name} in {case.weights.name} on {case.split.gpus} × {case.gpu.name}: no room for a request",
            mend="give more GPUs with tp_size, or a smaller weight format",
        )
    tokens = int(held * (mean_in + mean_out))
    return step_times(case, known, max_batch=scenario.max_batch_size, kv_capacity_tokens=tokens)


def make_requests(scenario: Scenario, root: Path) -> list[Request]:
    """The requests of a scenario, sorted by arrival."""
    arrivals = scenario.arrivals
    if arrivals.trace is not None:
        return _from_trace(root / arrivals.trace, arrivals)
    random = np.random.default_rng(scenario.seed)
    count = arrivals.requests
    gaps = random.exponential(1 / arrivals.requests_per_s, count) if arrivals.requests_per_s else np.zeros(count)
    prompts = _lengths(random, arrivals.input_tokens, arrivals.spread, count)
    replies = _lengths(random, arrivals.output_tokens, arrivals.spread, count)
    shared = random.integers(1, arrivals.prefixes + 1, count) if arrivals.prefixes else np.zeros(count, dtype=int)
    return [
        Request(float(at), int(prompt), int(reply), int(prefix), arrivals.prefix_tokens if prefix else 0)
        for at, prompt, reply, prefix in zip(np.cumsum(gaps), prompts, replies, shared, strict=True)
    ]


def _case(scenario: Scenario, mean_in: float, mean_out: float) -> Case:
    model, gpu = find_model(scenario.model.name), find_gpu(scenario.hardware.gpu)
    workload = WorkloadInput(input_tokens=max(mean_in, 1), output_tokens=max(mean_out, 1))
    plan = PlanInput(model=scenario.model, workload=workload, hardware=scenario.hardware)
    weights = WEIGHT_FORMATS.get(scenario.model.weights or "fp16")
    if weights is None:
        raise SpecError(f"model.weights is {scenario.model.weights!r}", mend=f"name one of {', '.join(WEIGHT_FORMATS)}")
    kv = kv_choices(weights, gpu)[-1]
    split = Parallelism(tp=scenario.tp_size, pp=scenario.pp_size)
    case = make_case(plan, model, gpu, weights, kv, split)
    fields = {name: getattr(case, name) for name in Case.__slots__}
    return Case(**fields | {"max_num_tokens": scenario.max_num_tokens, "runtime": scenario.runtime})


def _lengths(random: np.random.Generator, mean: int, spread: float, count: int) -> Floats:
    if spread == 0:
        return np.full(count, float(mean))
    drawn = mean * np.exp(random.normal(-spread * spread / 2, spread, count))
    return np.asarray(np.maximum(1, np.round(drawn)))


def _from_trace(path: Path, arrivals: Arrivals) -> list[Request]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(islice(csv.DictReader(file), arrivals.requests))
    if not rows:
        raise SpecError(f"{path}: no rows", mend="give a CSV with arrival_s, input_tokens and output_tokens")
    try:
        times = [_seconds(_cell(row, _ARRIVAL)) for row in rows]
        sizes = [(int(_cell(row, _INPUT)), int(_cell(row, _OUTPUT))) for row in rows]
    except (KeyError, ValueError) as error:
        raise SpecError(
            f"{path}: {error}", mend="give the columns arrival_s, input_tokens and output_tokens"
        ) from error
    begin = min(times)
    made = [
        Request((at - begin) / arrivals.speed, max(prompt, 1), max(reply, 1))
        for at, (prompt, reply) in zip(times, sizes, strict=True)
    ]
    return sorted(made, key=lambda request: request.arrival_s)


def _cell(row: dict[str, str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in row:
            return row[name]
    raise KeyError(f"no column {names[-1]}")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # The Azure traces have seven digits of a second, datetime reads six.
        return datetime.fromisoformat(text[:26]).timestamp()

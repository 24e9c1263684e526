"""What a plan is made from: model, workload and hardware, as typed YAML or as values that the text reader fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from slipstream.errors import SpecError
from slipstream.plan.formats import WEIGHT_FORMATS
from slipstream.spec import Group

Objective = Literal["throughput", "latency", "cost"]

_EXAMPLE = "model: {name: Llama 3.1 8B}, workload: {input_tokens: 500, output_tokens: 200}, hardware: {gpu: H100}"


class ModelInput(Group):
    """Which model, and how it may be quantized."""

    name: str = Field(min_length=1, max_length=4096, description="name, hub id, or path of a config.json")
    weights: str | None = Field(None, description=f"one of {', '.join(WEIGHT_FORMATS)}; null: the planner chooses")
    context_tokens: int | None = Field(None, ge=2, description="prompt and reply together; null: what the load needs")
    draft: str | None = Field(None, description="a draft model for speculation, of the same tokenizer")


class WorkloadInput(Group):
    """Who asks what, how often, and how fast the answer must come."""

    kind: Literal["chat", "batch", "completion", "retrieval", "agent"] = "chat"
    input_tokens: float = Field(ge=1, description="mean tokens of a prompt")
    output_tokens: float = Field(ge=1, description="mean tokens of a reply")
    concurrency: float | None = Field(None, gt=0, description="replies wanted at once")
    requests_per_s: float | None = Field(None, gt=0, description="arrivals, all replicas together")
    ttft_ms: float | None = Field(None, gt=0, description="mean time to the first token, at most")
    tpot_ms: float | None = Field(None, gt=0, description="mean time between tokens, at most")
    objective: Objective = "throughput"
    acceptance: float = Field(
        0.7, ge=0, le=1, description="chance that a drafted token is right; measure it on your own traffic"
    )


class HardwareInput(Group):
    """The machines."""

    gpu: str = Field(min_length=1, max_length=200)
    gpus_per_node: int = Field(8, ge=1, le=72)
    nodes: int = Field(1, ge=1, le=10_000)
    nvlink: bool | None = Field(None, description="inside of a node; null: as the GPU has it")
    network_gbit_s: float = Field(400, gt=0, description="between nodes, a node's links together")
    price_usd_hour: float | None = Field(None, ge=0, description="of one GPU; null: the catalogue's list price")


class PlanInput(Group):
    """Everything that a plan is made from."""

    model: ModelInput
    workload: WorkloadInput
    hardware: HardwareInput


def read_plan_input(path: Path) -> PlanInput:
    """A plan's YAML file. Raises SpecError naming the field."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid YAML: {error}", mend=f"write for example {_EXAMPLE}") from error
    try:
        return PlanInput.model_validate(settings)
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise SpecError("\n".join(lines), mend=f"correct the file; for example {_EXAMPLE}") from error

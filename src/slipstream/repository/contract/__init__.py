"""TensorRT-LLM's contract, read from `triton_models.json` into typed values; README.md names the source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

Kind = Literal["str", "path", "bool", "int", "uint", "float", "int_csv", "instance_csv", "choices"]

# Upstream leaves these types to the deployer. Its runtime returns FP32 logits; FP16 is the type of its examples.
_DEPLOYER_TYPES = {
    "${logits_datatype}": "TYPE_FP32",
    "${encoder_input_features_data_type}": "TYPE_FP16",
    "${prompt_embedding_table_data_type}": "TYPE_FP16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output as `config.pbtxt` declares it; outputs are never optional or ragged."""

    name: str
    data_type: str  # Triton's name: TYPE_INT32, …
    dims: tuple[int, ...]  # without the batch dimension; -1 is variable
    optional: bool = False
    allow_ragged_batch: bool = False
    reshape_to_scalar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One key of `parameters`, which Triton hands to the backend as a string."""

    name: str
    kind: Kind
    meaning: str
    required: bool = False  # the model does not load without the key
    may_be_empty: bool = False  # the backend takes "" for unset
    allowed: tuple[str, ...] = ()  # empty: every value of the kind
    fixed: str | None = None  # the only value that makes sense
    minimum: float | None = None  # of a number, or of each number of a list
    maximum: float | None = None
    exclusive: bool = False  # the limits themselves are outside
    default: str | float | None = None  # what the backend does when the key is absent


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleStep:
    """One model of an ensemble; the maps go from the model's tensor to the ensemble's."""

    model_name: str
    model_version: int
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """What one model of the repository has to declare."""

    backends: tuple[str, ...]  # empty: an ensemble
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Parameter]
    steps: tuple[EnsembleStep, ...] = ()


@cache
def contract() -> Mapping[str, ModelContract]:
    """The five models by name."""
    text = files(__name__).joinpath("triton_models.json").read_text(encoding="utf-8")
    return {name: _model(entry) for name, entry in json.loads(text)["models"].items()}


def contract_name(model_name: str) -> str:
    """The model of the contract that `model_name` follows: the draft is a second `tensorrt_llm`."""
    return "tensorrt_llm" if model_name == "tensorrt_llm_draft" else model_name


def _model(entry: Mapping[str, Any]) -> ModelContract:
    return ModelContract(
        backends=tuple(entry.get("backends", ())),
        inputs=tuple(_tensor(row) for row in entry["inputs"]),
        outputs=tuple(_tensor(row) for row in entry["outputs"]),
        parameters={row["name"]: _parameter(row) for row in entry["parameters"]},
        steps=tuple(_step(row) for row in entry.get("ensemble_scheduling", ())),
    )


def _tensor(row: Mapping[str, Any]) -> Tensor:
    return Tensor(
        name=row["name"],
        data_type=_DEPLOYER_TYPES.get(row["data_type"], row["data_type"]),
        dims=tuple(row["dims"]),
        optional=row.get("optional", False),
        allow_ragged_batch=row.get("allow_ragged_batch", False),
        reshape_to_scalar=row.get("reshape_to_scalar", False),
    )


def _parameter(row: Mapping[str, Any]) -> Parameter:
    assert row["kind"] in get_args(Kind), row
    return Parameter(
        name=row["name"],
        kind=row["kind"],
        meaning=row["meaning"],
        required=row.get("required", False),
        may_be_empty=row.get("may_be_empty", False),
        allowed=tuple(row.get("allowed", ())),
        fixed=row.get("fixed"),
        minimum=row.get("minimum"),
        maximum=row.get("maximum"),
        exclusive=row.get("exclusive", False),
        default=row.get("default"),
    )


def _step(row: Mapping[str, Any]) -> EnsembleStep:
    return EnsembleStep(
        model_name=row["model_name"],
        model_version=row["model_version"],
        input_map=row["input_map"],
        output_map=row["output_map"],
    )

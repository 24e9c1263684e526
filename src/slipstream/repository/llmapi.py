"""The model repository of target `llmapi`: one Python model `tensorrt_llm`, and `model.yaml` with `LLM`'s arguments.

`Locations.engine_dir` is the directory of the unified Hugging Face checkpoint here, `draft_engine_dir` the draft's;
the checkpoint holds the tokenizer. What upstream leaves to `model.yaml` alone (no batch dimension, decoupled) stands in
`config.pbtxt` too: the server runs with automatic completion switched off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from slipstream.errors import SlipstreamError
from slipstream.repository.contract import Tensor
from slipstream.repository.llmapi_arguments import KNOWN_ARGUMENTS, model_yaml
from slipstream.repository.llmapi_tensors import INPUTS, OUTPUTS
from slipstream.repository.model_plan import Locations
from slipstream.repository.pbtxt import read_config, to_text
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import did_you_mean, read_yaml

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

MODEL = "tensorrt_llm"
ARGUMENTS_FILE = "model.yaml"

_REQUIRED = ("model", "backend", "triton_config")
_MEND = "render the repository again: slipstream render NAME"
_ENTRY_POINT = (
    '"""Text in, text out: TensorRT-LLM\'s LLM API behind its Triton tensors.\n\n'
    "Rendered by `slipstream render`; the code is in `slipstream.backend.llmapi_model`.\n"
    '"""\n\n'
    "from slipstream.backend.llmapi_model import LlmApiModel as TritonPythonModel\n\n"
    '__all__ = ["TritonPythonModel"]\n'
)
_HEADER = (
    "# Rendered by `slipstream render`: the arguments of TensorRT-LLM's LLM(...), and what the Triton model reads.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmApiPlan:
    """The one model of the repository."""

    decoupled: bool
    arguments: Mapping[str, Any]  # the contents of model.yaml


def plan_llmapi(spec: DeploymentSpec, locations: Locations) -> LlmApiPlan:
    """The model of a deployment for target `llmapi`; SpecError for a setting that it has no word for."""
    return LlmApiPlan(decoupled=spec.runtime.decoupled, arguments=model_yaml(spec, locations))


def write_llmapi(plan: LlmApiPlan, out: Path) -> None:
    """Write the model into the existing directory `out`; equal plans give equal files."""
    version = out / MODEL / "1"
    version.mkdir(parents=True)
    (out / MODEL / "config.pbtxt").write_text(to_text(_config(decoupled=plan.decoupled)), encoding="utf-8")
    (version / "model.py").write_text(_ENTRY_POINT, encoding="utf-8")
    text = yaml.safe_dump(dict(plan.arguments), sort_keys=False, allow_unicode=True)
    (version / ARGUMENTS_FILE).write_text(_HEADER + text, encoding="utf-8")


def is_llmapi(path: Path) -> bool:
    """Whether the model repository at `path` is one of target `llmapi`."""
    return (path / MODEL / "1" / ARGUMENTS_FILE).is_file()


def verify_llmapi(path: Path) -> None:
    """Raise SlipstreamError at the first thing in which the repository at `path` differs from what the server needs."""
    directory = path / MODEL
    others = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name != MODEL)
    if others:
        raise SlipstreamError(
            f"{path / others[0]}: the LLM API's repository has one model, {MODEL}",
            mend=f"remove the directory {path / others[0]}",
        )
    config = read_config(directory / "config.pbtxt")
    _check_config(directory / "config.pbtxt", config)
    _check_arguments(directory / "1" / ARGUMENTS_FILE, decoupled=bool(config.model_transaction_policy.decoupled))
    if not (directory / "1" / "model.py").is_file():
        raise SlipstreamError(f"{directory / '1' / 'model.py'}: no such file, the Python backend needs it", mend=_MEND)


def _config(*, decoupled: bool) -> ModelConfig:
    from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

    config = ModelConfig(name=MODEL, backend="python", max_batch_size=0)
    for tensor in INPUTS:
        entry = config.input.add(name=tensor.name, data_type=DataType.Value(tensor.data_type), dims=tensor.dims)
        if tensor.optional:
            entry.optional = True
    for tensor in OUTPUTS:
        config.output.add(name=tensor.name, data_type=DataType.Value(tensor.data_type), dims=tensor.dims)
    config.model_transaction_policy.decoupled = decoupled
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_CPU)
    return config


def _check_config(path: Path, config: ModelConfig) -> None:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    for key, found, expected in (
        ("name", config.name, MODEL),
        ("backend", config.backend, "python"),
        ("max_batch_size", config.max_batch_size, 0),
        (
            "instance_group",
            [(group.kind, group.count) for group in config.instance_group],
            [(ModelInstanceGroup.KIND_CPU, 1)],
        ),
    ):
        if found != expected:
            raise _refusal(path, key, found, expected)
    _check_tensors(path, "input", config.input, INPUTS)
    _check_tensors(path, "output", config.output, OUTPUTS)


def _check_tensors(path: Path, key: str, declared: Sequence[Any], expected: Sequence[Tensor]) -> None:
    names, wanted = [entry.name for entry in declared], [tensor.name for tensor in expected]
    if sorted(names) != sorted(wanted):
        differing = sorted(set(names) ^ set(wanted)) or names
        raise _refusal(path, key, f"not as it should be ({', '.join(differing)})", ", ".join(wanted))
    found = {entry.name: _tensor(entry) for entry in declared}
    for tensor in expected:
        for field in fields(Tensor):
            was, should = getattr(found[tensor.name], field.name), getattr(tensor, field.name)
            if was != should:
                raise _refusal(path, f"{key} {tensor.name}: {field.name}", was, should)


def _tensor(entry: Any) -> Tensor:
    from tritonclient.grpc.model_config_pb2 import DataType

    return Tensor(
        name=entry.name,
        data_type=DataType.Name(entry.data_type),
        dims=tuple(entry.dims),
        optional=getattr(entry, "optional", False),
    )


def _check_arguments(path: Path, *, decoupled: bool) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SlipstreamError(f"{path}: cannot be read: {error}", mend=_MEND) from error
    if "${" in text:
        raise _refusal(path, "a value", "an unfilled placeholder ${", "a value: nothing fills it")
    arguments = read_yaml(str(path), text)
    if not isinstance(arguments, dict):
        raise _refusal(path, "the file", type(arguments).__name__, "a mapping")
    for name in _REQUIRED:
        if name not in arguments:
            raise _refusal(path, name, "absent", "present")
    _check_names(path, arguments, KNOWN_ARGUMENTS, "")
    triton = arguments["triton_config"]
    for name, expected in (("max_batch_size", 0), ("decoupled", decoupled)):
        if triton.get(name) != expected:
            raise _refusal(path, f"triton_config.{name}", triton.get(name), f"{expected} as in config.pbtxt")


def _check_names(path: Path, found: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for name, value in found.items():
        if name not in known:
            raise _refusal(path, f"{prefix}{name}", "given", f"no such argument{did_you_mean(name, known)}")
        if known[name] and value is not None:
            if not isinstance(value, dict):
                raise _refusal(path, f"{prefix}{name}", value, "a mapping")
            _check_names(path, value, known[name], f"{prefix}{name}.")


def _refusal(path: Path, key: str, found: object, expected: object) -> SlipstreamError:
    return SlipstreamError(f"{path}: {key} is {found}, expected {expected}", mend=_MEND)

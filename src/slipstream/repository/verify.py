"""Holds a model repository on disk to the contract: tensors, parameters, the ensemble's wiring, the profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.repository.contract import EnsembleStep, ModelContract, Tensor, contract, contract_name
from slipstream.repository.llmapi import is_llmapi, verify_llmapi
from slipstream.repository.parameters import expected_instead, known_parameters
from slipstream.repository.pbtxt import read_config
from slipstream.repository.profile import check_profile
from slipstream.repository.watch_steps import WATCH_STEPS
from slipstream.spec_file import did_you_mean

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

Refuse = Callable[[str, object, object], SlipstreamError]
"""Makes the error of one file from key, what was found and what was expected."""


def verify_repository(path: Path) -> None:
    """Raise SlipstreamError at the first thing in which the repository at `path` differs from the contract.

    Files beside the model directories are not looked at, as Triton does not.
    """
    if is_llmapi(path):
        verify_llmapi(path)
        return
    models = model_directories(path)
    _check_names(path, [model.name for model in models])
    configs = {model.name: verify_model(model) for model in models}
    check_profile(path, configs)


def verify_model(directory: Path) -> ModelConfig:
    """The configuration of the model in `directory`, after it was found to be in order."""
    path = directory / "config.pbtxt"

    def refuse(key: str, found: object, expected: object) -> SlipstreamError:
        return SlipstreamError(f"{path}: {key} is {found}, expected {expected}", mend=_MEND)

    config = read_config(path)
    _check_no_placeholder(path, refuse)
    rules = contract()[contract_name(directory.name)]
    _check_slot(config, directory, rules, refuse)
    for key, declared, tensors in (("input", config.input, rules.inputs), ("output", config.output, rules.outputs)):
        _check_tensors(key, [_tensor(entry) for entry in declared], tensors, refuse)
    _check_parameters(config, directory.name, refuse)
    _check_steps(config, rules.steps, refuse)
    _check_files(directory, config.backend)
    return config


def model_directories(path: Path) -> list[Path]:
    """The directories that Triton takes for models, sorted."""
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        raise SlipstreamError(f"{path}: no model repository: {error}", mend=_MEND) from error


_MEND = "render the repository again: slipstream render NAME"


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in contract():
        if name not in names:
            raise SlipstreamError(
                f"{path}: the model {name} is missing, found {', '.join(names) or 'none'}", mend=_MEND
            )
    for name in names:
        if contract_name(name) not in contract():
            raise SlipstreamError(
                f"{path}: {name} is not a model of the contract{did_you_mean(name, contract())}",
                mend=f"remove the directory {path / name}",
            )


def _check_no_placeholder(path: Path, refuse: Refuse) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if "${" in line:
            raise refuse(f"line {number}", line.strip(), "no placeholder: nothing fills it")


def _check_slot(config: ModelConfig, directory: Path, rules: ModelContract, refuse: Refuse) -> None:
    if config.name != directory.name:
        raise refuse("name", repr(config.name), repr(directory.name))
    if config.max_batch_size < 1:
        raise refuse(
            "max_batch_size", config.max_batch_size, "1 or more: tensors are declared without their batch dimension"
        )
    if not rules.backends:
        if config.platform != "ensemble":
            raise refuse("platform", repr(config.platform), "'ensemble'")
        return
    if config.backend not in rules.backends:
        raise refuse("backend", repr(config.backend), " or ".join(map(repr, rules.backends)))
    groups = [group.kind == group.KIND_CPU and group.count >= 1 for group in config.instance_group]
    if groups != [True]:
        raise refuse("instance_group", str(list(config.instance_group)) or "absent", "one group of KIND_CPU")


def _tensor(entry: Any) -> Tensor:
    """A declared input or output in the contract's words."""
    from tritonclient.grpc.model_config_pb2 import DataType

    return Tensor(
        name=entry.name,
        data_type=DataType.Name(entry.data_type),
        dims=tuple(entry.dims),
        optional=getattr(entry, "optional", False),
        allow_ragged_batch=getattr(entry, "allow_ragged_batch", False),
        reshape_to_scalar=entry.HasField("reshape") and not entry.reshape.shape,
    )


def _check_tensors(key: str, found: Sequence[Tensor], expected: Sequence[Tensor], refuse: Refuse) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    for tensor in expected:
        if tensor.name not in by_name:
            raise refuse(f"{key} {tensor.name}", "absent", f"{tensor.data_type} {list(tensor.dims)}")
        for field in fields(Tensor):
            was, wanted = getattr(by_name[tensor.name], field.name), getattr(tensor, field.name)
            if was != wanted:
                raise refuse(f"{key} {tensor.name}: {field.name}", was, wanted)
    known = [tensor.name for tensor in expected]
    for name, count in Counter(tensor.name for tensor in found).items():
        if name not in known:
            raise refuse(f"{key} {name}", "declared", f"no such tensor{did_you_mean(name, known)}")
        if count > 1:
            raise refuse(f"{key} {name}", f"declared {count} times", "once")


def _check_parameters(config: ModelConfig, model_name: str, refuse: Refuse) -> None:
    known = known_parameters(model_name, config.backend)
    for name, value in config.parameters.items():
        if name not in known:
            raise refuse(f"parameter {name}", "set", f"no such parameter{did_you_mean(name, known)}")
        expected = expected_instead(known[name], value.string_value)
        if expected is not None:
            raise refuse(f"parameter {name}", repr(value.string_value), expected)
    for name, parameter in known.items():
        if parameter.required and name not in config.parameters:
            raise refuse(f"parameter {name}", "absent", "present: the model does not load without it")


def _check_steps(config: ModelConfig, expected: Sequence[EnsembleStep], refuse: Refuse) -> None:
    found = config.ensemble_scheduling.step
    names = [step.model_name for step in found]
    if len(found) == len(expected) + len(WATCH_STEPS):
        expected = [*expected, *WATCH_STEPS]
    if names != [step.model_name for step in expected]:
        raise refuse("ensemble_scheduling", names, [step.model_name for step in expected])
    for was, wanted in zip(found, expected, strict=True):
        step = f"ensemble_scheduling {wanted.model_name}"
        if was.model_version != wanted.model_version:
            raise refuse(f"{step}: model_version", was.model_version, wanted.model_version)
        _check_map(f"{step}: input_map", was.input_map, wanted.input_map, refuse)
        _check_map(f"{step}: output_map", was.output_map, wanted.output_map, refuse)


def _check_map(key: str, found: Mapping[str, str], expected: Mapping[str, str], refuse: Refuse) -> None:
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise refuse(f"{key} {name}", found.get(name, "absent"), expected.get(name, "absent"))


def _check_files(directory: Path, backend: str) -> None:
    version = directory / "1"
    if not version.is_dir():
        raise SlipstreamError(f"{version}: no such directory, Triton wants a version of every model", mend=_MEND)
    if backend == "python" and not (version / "model.py").is_file():
        raise SlipstreamError(f"{version / 'model.py'}: no such file, the Python backend needs it", mend=_MEND)

"""Loads the models of a repository as far as can be told without running them, and refuses what the backends refuse.

Facts: tests/contract/trtllm-1.2.1/triton_models.json (parameters, required keys, how a value is read) and
launch.json (ranks).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from gpu.machine import Machine, contract

_NUMBERS = {"int": r"-?\d+", "uint": r"\d+", "size_t": r"\d+", "float": r"-?\d+(\.\d+)?(e-?\d+)?"}
_LISTS = {"csv of int": r"\d+(,\d+)*", "csv; ; separates instances": r"\d+(,\d+)*(;\d+(,\d+)*)*"}
_BOOLEANS = {"True", "true", "TRUE", "1", "False", "false", "FALSE", "0"}
_TRUE = {"True", "true", "TRUE", "1"}


class LoadError(Exception):
    """A model cannot be loaded; the text is its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The MPI world that this server is in."""

    rank: int
    size: int
    nodes: int
    is_orchestrated: bool
    spawns: bool

    @classmethod
    def of_environment(cls) -> Ranks:
        is_orchestrated = os.environ.get("TRTLLM_ORCHESTRATOR") == "1"
        return cls(
            rank=int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("SLURM_PROCID", "0"))),
            size=int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))),
            nodes=int(os.environ.get("LWS_GROUP_SIZE", os.environ.get("SLURM_JOB_NUM_NODES", "1"))),
            is_orchestrated=is_orchestrated,
            spawns=is_orchestrated and os.environ.get("TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES", "1") == "1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of the repository: its parsed config.pbtxt."""

    name: str
    directory: Path
    config: Any  # the protobuf message ModelConfig

    @property
    def parameters(self) -> Mapping[str, str]:
        return {key: value.string_value for key, value in self.config.parameters.items()}

    @property
    def is_engine(self) -> bool:
        return bool(self.config.backend == "tensorrtllm")


def read_models(repository: Path) -> dict[str, Model]:
    """Every model's configuration; LoadError for one that protobuf does not parse."""
    if not repository.is_dir():
        raise LoadError(f"failed to stat file {repository}")
    return {path.name: _read_model(path) for path in sorted(repository.iterdir()) if path.is_dir()}


def _read_model(directory: Path) -> Model:
    model_config_pb2, text_format = _protobuf()
    path = directory / "config.pbtxt"
    if not path.is_file():
        raise LoadError(f"{directory.name}: no config.pbtxt, and --disable-auto-complete-config is set")
    text = path.read_text()
    if "${" in text:
        raise LoadError(f"{path}: a placeholder was left")
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise LoadError(f"failed to read text proto from {path}: {error}") from error
    if config.name != directory.name:
        raise LoadError(f"{directory.name}: config.pbtxt names the model {config.name!r}")
    if not (directory / "1").is_dir():
        raise LoadError(f"{directory.name}: at least one version must be available under the version policy of model")
    return Model(name=directory.name, directory=directory, config=config)


@cache
def _protobuf() -> Sequence[Any]:
    """Triton's message ModelConfig, without the gRPC client around it, which takes long to import; and its parser."""
    package = find_spec("tritonclient")
    if package is None or package.origin is None:
        raise LoadError("the stand-in parses config.pbtxt with tritonclient[grpc]: run it with a python3 that has it")
    from google.protobuf import text_format

    spec = spec_from_file_location("model_config_pb2", Path(package.origin).parent / "grpc" / "model_config_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, text_format


def load(model: Model, models: Mapping[str, Model], machine: Machine, ranks: Ranks) -> None:
    """LoadError with the reason, where the model would not come up."""
    if model.config.platform == "ensemble":
        for step in model.config.ensemble_scheduling.step:
            if step.model_name not in models:
                raise LoadError(f"ensemble {model.name} contains models that are not available: {step.model_name}")
    elif model.config.backend == "python":
        _load_python(model, models)
    elif model.is_engine:
        _check_parameters(model)
        _load_engine(model, machine, ranks)
    else:
        raise LoadError(f"unable to find backend library for backend '{model.config.backend}'")


def _load_python(model: Model, models: Mapping[str, Model]) -> None:
    if not (model.directory / "1" / "model.py").is_file():
        raise LoadError(f"model.py does not exist in the model repository path: {model.directory}/1/model.py")
    parameters = model.parameters
    if model.name in {"preprocessing", "postprocessing"}:
        tokenizer = parameters.get("tokenizer_dir")
        if tokenizer is None:
            raise LoadError("KeyError: 'tokenizer_dir'")
        if not any((Path(tokenizer) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise LoadError(f"OSError: no tokenizer in {tokenizer}")
    for key in ("tensorrt_llm_model_name", "tensorrt_llm_draft_model_name"):
        if parameters.get(key) and parameters[key] not in models:
            raise LoadError(f"{key} is {parameters[key]}, which is not in the repository")
    if parameters.get("tensorrt_llm_draft_model_name"):
        target = models[parameters.get("tensorrt_llm_model_name", "tensorrt_llm")]
        _check_speculation(target, models[parameters["tensorrt_llm_draft_model_name"]])


def _check_speculation(target: Model, draft: Model) -> None:
    """`speculation.limits` and `speculation.engines` of triton_models.json."""
    for model, mode in ((target, 2), (draft, 1)):
        built = _engine_config(model)["build_config"]
        if built["speculative_decoding_mode"] != mode:
            raise LoadError(f"{model.name}: the engine's speculative_decoding_mode is not {mode}")
        if model.config.model_transaction_policy.decoupled:
            raise LoadError(f"{model.name} is decoupled: the BLS model reaches target and draft non-decoupled only")
        if model.parameters.get("exclude_input_in_output", "false") in _TRUE:
            raise LoadError(f"{model.name}: exclude_input_in_output is true, the BLS model needs the prompt echoed")
        if model.parameters.get("enable_kv_cache_reuse", "true") not in _TRUE:
            raise LoadError(f"{model.name}: speculation needs enable_kv_cache_reuse")


def _check_parameters(model: Model) -> None:
    facts = contract("triton_models")["models"]["tensorrt_llm"]
    known = {**facts["parameters"], **facts["extra_parameters"]}
    parameters = model.parameters
    for key in parameters.keys() - known.keys():
        raise LoadError(f"{model.name}: the backend knows no parameter {key}")
    for key, entry in known.items():
        if entry.get("required_key") and key not in parameters:
            raise LoadError(f"unexpected error when creating modelInstanceState: {key}: Cannot find parameter")
    for key, value in parameters.items():
        _check_value(key, value, known[key])


def _check_value(key: str, value: str, entry: Mapping[str, Any]) -> None:
    """The backend would warn and take its default, or fail to load: neither is what was asked for."""
    allowed = [choice for choice in entry.get("allowed", []) if not choice.startswith("${")]
    if value == "" and entry.get("required_key") and (not allowed or "" in allowed):
        return
    kind = entry.get("type", "str")
    form = _NUMBERS.get(kind) or _LISTS.get(kind)
    if kind == "bool":
        is_right = value in _BOOLEANS
    elif form:
        is_right = re.fullmatch(form, value) is not None
    else:
        is_right = value != ""
    if not is_right or (allowed and value not in allowed):
        raise LoadError(f"{key} is {value!r}: not of type {kind}, or not one of {allowed}")
    if "fixed_value" in entry and value != entry["fixed_value"]:
        raise LoadError(f"{key} is {value!r}, the backend's own value is {entry['fixed_value']!r}")


def _engine_config(model: Model) -> Any:
    """config.json of the engine that a model loads."""
    path = Path(model.parameters.get("gpt_model_path", ""), "config.json")
    if not model.parameters.get("gpt_model_path") or not path.is_file():
        raise LoadError(f"gpt_model_path: {path} does not exist, both engine paths are empty")
    return json.loads(path.read_text())


def _load_engine(model: Model, machine: Machine, ranks: Ranks) -> None:
    engine = _engine_config(model)
    if engine["version"] != machine.trtllm:
        raise LoadError(
            f"[TensorRT-LLM][ERROR] engine version {engine['version']}, runtime {machine.trtllm}: The engine plan file"
            " is not compatible with this version of TensorRT, please rebuild."
        )
    mapping = engine["pretrained_config"]["mapping"]
    world_size = mapping["tp_size"] * mapping["pp_size"]
    for rank in range(world_size):
        _check_rank(Path(model.parameters["gpt_model_path"]), rank, machine)
    _check_world(model, world_size, machine, ranks)
    _check_sizes(model, engine["build_config"])
    _check_logits(model, engine["pretrained_config"]["logits_dtype"])


def _check_logits(model: Model, dtype: str) -> None:
    """The flag reference on --logits_dtype: it is the type that the Triton model declares."""
    wanted_type = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}[dtype]
    field = type(model.config).DESCRIPTOR.fields_by_name["output"].message_type.fields_by_name["data_type"]
    for tensor in model.config.output:
        declared = field.enum_type.values_by_number[tensor.data_type].name
        if tensor.name in {"context_logits", "generation_logits"} and declared != wanted_type:
            raise LoadError(f"{tensor.name} is {declared}, the engine's logits are {dtype}")


def _check_rank(directory: Path, rank: int, machine: Machine) -> None:
    path = directory / f"rank{rank}.engine"
    if not path.is_file():
        raise LoadError(f"Error opening engine file: {path}")
    try:
        stamp = json.loads(path.read_text())
    except ValueError as error:
        raise LoadError(f"Assertion failed: Failed to deserialize cuda engine. ({path})") from error
    if stamp["sm"] != machine.sm:
        built, here = (f"{sm // 10}.{sm % 10}" for sm in (stamp["sm"], machine.sm))
        raise LoadError(
            "The engine plan file is generated on an incompatible device, "
            f"expecting compute {here} got compute {built}, please rebuild."
        )


def _check_world(model: Model, world_size: int, machine: Machine, ranks: Ranks) -> None:
    participants = model.parameters.get("participant_ids")
    if ranks.is_orchestrated:
        if model.parameters.get("executor_worker_path") is None:
            raise LoadError("orchestrator mode needs executor_worker_path")
        if ranks.spawns:
            if ranks.size != 1:
                raise LoadError("World size must be 1 when using multi-model without disable-spawn-processes")
        elif participants is None:
            raise LoadError("Error: participant_ids is mandatory in orchestrator mode without spawning processes")
        else:
            _check_participants(participants, world_size, ranks)
    elif participants is None and ranks.size != world_size:
        raise LoadError(
            "[TensorRT-LLM][ERROR] Assertion failed: With communicationMode kLEADER, MPI worldSize is expected to be"
            f" equal to tp*pp when participantIds are not specified (world size {ranks.size}, tp*pp {world_size})"
        )
    if world_size > len(machine.visible_gpus) * ranks.nodes:
        raise LoadError(
            f"{world_size} ranks, {len(machine.visible_gpus)} visible GPUs: CUDA error: invalid device ordinal"
        )
    chosen = model.parameters.get("gpu_device_ids", "").replace(";", ",")
    for gpu in (int(text) for text in chosen.split(",") if text):
        if gpu not in machine.visible_gpus:
            raise LoadError(f"gpu_device_ids has {gpu}: CUDA error: invalid device ordinal")


def _check_participants(participants: str, world_size: int, ranks: Ranks) -> None:
    for instance in participants.split(";"):
        ids = [int(text) for text in instance.split(",")]
        if len(ids) != world_size or 0 in ids or max(ids) >= ranks.size:
            raise LoadError(f"participant_ids {participants}: {world_size} ranks of 1 to {ranks.size - 1} are needed")


def _check_sizes(model: Model, built: Mapping[str, Any]) -> None:
    parameters, plugins = model.parameters, built["plugin_config"]
    if model.config.max_batch_size > built["max_batch_size"]:
        raise LoadError(f"max_batch_size {model.config.max_batch_size} exceeds the engine's {built['max_batch_size']}")
    if int(parameters.get("max_beam_width", "1")) > built["max_beam_width"]:
        raise LoadError(f"max_beam_width {parameters['max_beam_width']} exceeds the engine's {built['max_beam_width']}")
    if parameters["gpt_model_type"].startswith("inflight") and not (
        built["kv_cache_type"].lower() == "paged"
        and plugins["remove_input_padding"]
        and plugins["gpt_attention_plugin"]
    ):
        raise LoadError("inflight batching needs a paged KV cache, packed input and the GPT attention plugin")
    for key, default in (("enable_kv_cache_reuse", "true"), ("enable_chunked_context", "false")):
        if parameters.get(key, default) in _TRUE and not plugins["use_paged_context_fmha"]:
            raise LoadError(f"{key} needs an engine with use_paged_context_fmha")
    # model_instance_state.cc and the executor (pull request 6767): these end the load.
    if "sink_token_length" in parameters:
        raise LoadError("sink_token_length: StreamingLLM is no longer supported")
    onboards = parameters.get("kv_cache_onboard_blocks", "true") in _TRUE
    if not onboards and plugins["use_paged_context_fmha"]:
        raise LoadError("kv_cache_onboard_blocks false does not go with paged context FMHA")


def wanted(models: Mapping[str, Model], mode: str, chosen: Sequence[str]) -> list[str]:
    """The models that are loaded at the start."""
    if mode != "explicit" or "*" in chosen:
        return list(models)
    for name in chosen:
        if name not in models:
            raise LoadError(f"failed to load '{name}', failed to poll from model repository")
    return list(chosen)

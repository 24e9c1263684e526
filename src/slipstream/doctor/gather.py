"""Gathers the facts: thin functions over nvidia-smi, files and installed packages; what is not there stays out."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slipstream import artifacts
from slipstream.doctor.facts import EngineFacts, Facts, GpuFacts, Machine, Memory, Methods, Pins, Role, Serving
from slipstream.doctor.findings import Finding
from slipstream.errors import SlipstreamError
from slipstream.project import Workspace, pinned_versions
from slipstream.spec import DeploymentSpec

PACKAGES = (
    "tensorrt-llm",
    "nvidia-modelopt",
    "transformers",
    "torch",
    "nvidia-pytriton",
    "openvino-genai",
    "numpy",
    "tritonclient",
)
_SHM = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory
_SMI_FIELDS = "index,name,compute_cap,memory.total,driver_version"
_SMI_TIMEOUT_S = 5
_MAX_CONFIG_BYTES = 16 << 20


def gather_facts(
    *,
    root: Path,
    spec: DeploymentSpec | None = None,
    workspace: Workspace | None = None,
    methods: Methods | None = None,
    hardware_sm: int | None = None,
    memory: Memory | None = None,
    stale: Sequence[SlipstreamError] = (),
    serving: Serving | None = None,
) -> Facts:
    """The facts of this machine, of the project at `root`, and of a deployment where one is given.

    What only other stages know is handed in: `methods` of the recipes, `hardware_sm` of the spec's GPU, the planner's
    `memory` table, and the errors of artifacts that are `stale`.
    """
    found = [Finding(id="artifact-stale", severity="high", what=error.message, mend=error.mend) for error in stale]
    engines: list[EngineFacts] = []
    if spec is not None and spec.engine.target == "tensorrt_llm" and workspace is not None:
        for role, directory in _engine_directories(spec, workspace):
            try:
                engines.append(read_engine(directory, role))
            except SlipstreamError as error:
                what = error.message
                found.append(Finding(id="engine-unreadable", severity="critical", what=what, mend=error.mend))
    pins = read_pins(root)
    if pins is None:
        found.append(_no_pins(root))
    multi_node = spec is not None and spec.hardware is not None and spec.hardware.nodes > 1
    return Facts(
        machine=this_machine(),
        pins=pins,
        spec=spec,
        methods=methods,
        hardware_sm=hardware_sm,
        memory=memory,
        engines=tuple(engines),
        serving=serving or Serving(multi_node=multi_node),
        found=tuple(found),
    )


def this_machine() -> Machine:
    """GPUs, shared memory and packages of this machine."""
    return Machine(gpus=read_gpus(), shm_bytes=_shared_memory_bytes(), packages=installed_packages())


def read_gpus() -> tuple[GpuFacts, ...]:
    """What nvidia-smi says; nothing where it is not there or fails."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ()
    query = [smi, f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(run.stdout)


def parse_gpus(text: str) -> tuple[GpuFacts, ...]:
    """Rows of `--query-gpu`; a row with a field that the driver does not know (`[N/A]`) is left out."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        try:
            index, name, capability, memory, driver = row
            sm = int(capability.replace(".", ""))
            gpu = GpuFacts(index=int(index), name=name, sm=sm, memory_mib=int(memory), driver=driver)
        except ValueError:
            continue
        found.append(gpu)
    return tuple(found)


def installed_packages() -> dict[str, str]:
    """Versions of the packages that matter, without importing them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_pins(root: Path) -> Pins | None:
    """docker/versions.env of the project; None where it is missing or lacks a line."""
    try:
        values = pinned_versions(root)
        return Pins(
            image=values["TRITON_TRTLLM_IMAGE"],
            tensorrt_llm=values["TENSORRT_LLM_VERSION"],
            tensorrt=values["TENSORRT_VERSION"],
            modelopt=values["MODELOPT_CONTAINER_VERSION"],
            transformers=values["TRANSFORMERS_CONTAINER_VERSION"],
            cuda=values["CUDA_VERSION"],
            minimum_driver=values["MINIMUM_DRIVER_VERSION"],
        )
    except (SlipstreamError, KeyError):
        return None


def read_engine(directory: Path, role: Role) -> EngineFacts:
    """A built engine's config.json, rank files and manifest; SlipstreamError for what cannot be read."""
    path = directory / "config.json"
    config = _read_object(path)
    pretrained, build = _object(path, config, "pretrained_config"), _object(path, config, "build_config")
    mapping = _object(path, pretrained, "mapping")
    quantization = _object(path, {"quantization": pretrained.get("quantization") or {}}, "quantization")
    gpu = _built_on(directory)
    sm = gpu.get("sm")
    return EngineFacts(
        role=role,
        directory=str(directory),
        version=str(config.get("version", "unknown")),
        world_size=_ranks(path, mapping),
        ranks=len(list(directory.glob("rank*.engine"))),
        quant_algo=_text(path, quantization, "quant_algo"),
        kv_cache_quant_algo=_text(path, quantization, "kv_cache_quant_algo"),
        build=build,
        plugins=_object(path, build, "plugin_config"),
        built_on=gpu.get("name"),
        built_sm=sm if isinstance(sm, int) else None,
    )


def _engine_directories(spec: DeploymentSpec, workspace: Workspace) -> list[tuple[Role, Path]]:
    """Of the engines that are there."""
    found: list[tuple[Role, Path]] = [("target", workspace.engine)]
    if spec.engine.draft is not None:
        found.append(("draft", workspace.draft.engine))
    return [(role, directory) for role, directory in found if directory.is_dir()]


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise _unreadable(path, f"larger than {_MAX_CONFIG_BYTES >> 20} MiB")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, dict):
        raise _unreadable(path, "not a JSON object")
    return found


def _object(path: Path, of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key, {})
    if not isinstance(found, dict):
        raise _unreadable(path, f"{key} is not an object")
    return found


def _ranks(path: Path, mapping: Mapping[str, Any]) -> int:
    found = mapping.get("world_size", 1)
    if not isinstance(found, int) or found < 1:
        raise _unreadable(path, f"mapping.world_size is {found!r}, a number from 1 is expected")
    return found


def _text(path: Path, of: Mapping[str, Any], key: str) -> str | None:
    found = of.get(key)
    if not isinstance(found, str | None):
        raise _unreadable(path, f"{key} is {found!r}, text is expected")
    return found


def _unreadable(path: Path, why: str) -> SlipstreamError:
    return SlipstreamError(f"{path}: the engine's config cannot be read: {why}", mend="build the engine again")


def _built_on(directory: Path) -> Mapping[str, Any]:
    """The GPU of the build's report; an engine that was built elsewhere by hand has no manifest."""
    try:
        gpu = json.loads((directory / artifacts.MANIFEST).read_bytes())["facts"]["gpu"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return gpu if isinstance(gpu, dict) else {}


def _shared_memory_bytes() -> int | None:
    try:
        found = os.statvfs(_SHM)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def _no_pins(root: Path) -> Finding:
    return Finding(
        id="pins",
        severity="high",
        what=f"{root / 'docker' / 'versions.env'}: missing or incomplete, versions are not compared",
        mend="take docker/versions.env from the repository",
    )

"""What an examination reads: plain values, so that every machine can be examined on any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from slipstream.doctor.findings import Finding
from slipstream.formats import Method
from slipstream.spec import DeploymentSpec

Role = Literal["target", "draft"]


class MemoryProblem(Protocol):
    """What does not fit, or fits badly."""

    @property
    def what(self) -> str: ...
    @property
    def mend(self) -> str: ...
    @property
    def is_fatal(self) -> bool: ...


class Memory(Protocol):
    """The memory table of a deployment: the planner's, handed in by the caller."""

    @property
    def problems(self) -> Sequence[MemoryProblem]: ...
    @property
    def unknown(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """The quantization methods that the recipes of a deployment stand for."""

    target: Method
    draft: Method | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """A GPU of this machine, as its driver describes it."""

    index: int
    name: str
    sm: int  # compute capability x 10
    memory_mib: int
    driver: str

    @property
    def is_consumer(self) -> bool:
        """GeForce and RTX cards: CUDA's forward compatibility is made for data-centre cards."""
        return "GeForce" in self.name or "RTX" in self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is here: GPUs, shared memory, packages."""

    gpus: tuple[GpuFacts, ...] = ()
    shm_bytes: int | None = None
    packages: Mapping[str, str] = field(default_factory=dict)  # installed ones of those that matter → version


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """docker/versions.env: what the GPU path is held to."""

    image: str
    tensorrt_llm: str
    tensorrt: str
    modelopt: str
    transformers: str
    cuda: str
    minimum_driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """A built engine: its config.json, its files, and what its manifest says of the GPU that it was built on."""

    role: Role
    directory: str
    version: str  # of TensorRT-LLM
    world_size: int
    ranks: int  # rank files that are there
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    build: Mapping[str, Any]  # build_config
    plugins: Mapping[str, Any]  # build_config.plugin_config
    built_on: str | None = None  # the GPU's name
    built_sm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How Triton is reached: what decides whether a vulnerability is exposed. The launcher's own settings."""

    address: str = "127.0.0.1"
    model_control: Literal["none", "poll", "explicit"] = "none"
    multi_node: bool = False

    @property
    def is_local(self) -> bool:
        return self.address in {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that is examined; what is None or empty was not there to be read."""

    machine: Machine
    pins: Pins | None = None
    spec: DeploymentSpec | None = None
    methods: Methods | None = None
    hardware_sm: int | None = None  # of spec.hardware.gpu
    memory: Memory | None = None
    engines: tuple[EngineFacts, ...] = ()
    serving: Serving = Serving()
    found: tuple[Finding, ...] = ()  # while gathering: what was stale or could not be read

    @property
    def is_gpu_path(self) -> bool:
        return self.spec is not None and self.spec.engine.target != "openvino"

    @property
    def name(self) -> str:
        return "this machine" if self.spec is None else self.spec.name

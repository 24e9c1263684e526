"""Versions against each other: the pins, the installed packages, the end of the engine workflow."""

from __future__ import annotations

from collections.abc import Iterator

from slipstream.doctor.compatibility import Compatibility
from slipstream.doctor.facts import Facts, Pins
from slipstream.doctor.findings import Finding
from slipstream.doctor.versions import Version, is_older


def check_versions(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    """Pins, packages and the engine workflow; the embedded server for a deployment on the CPU."""
    if facts.pins is not None:
        yield from _pins(facts.pins, table)
        yield from _runtime(facts, facts.pins, table)
    yield from _export(facts, table)
    if facts.spec is None or facts.spec.engine.target == "openvino":
        yield from _embedded(facts, table)
    if facts.spec is not None and facts.spec.engine.target == "tensorrt_llm":
        yield _workflow(facts.spec.name, table)


def _pins(pins: Pins, table: Compatibility) -> Iterator[Finding]:
    container = table.container(pins.image)
    mend = "take all lines of docker/versions.env from one row of Triton's compatibility matrix"
    if container is None:
        yield Finding(
            id="pins",
            severity="medium",
            what=f"docker/versions.env: {pins.image} is not in the compatibility table; its content is taken on trust",
            mend=f"use one of the tags {', '.join(list(table.containers)[:4])}, …, or add its row to the table",
        )
        return
    pairs = [
        ("TENSORRT_LLM_VERSION", pins.tensorrt_llm, container.tensorrt_llm),
        ("TENSORRT_VERSION", pins.tensorrt, container.tensorrt),
        ("CUDA_VERSION", pins.cuda, container.cuda),
        ("MINIMUM_DRIVER_VERSION", pins.minimum_driver, container.driver),
    ]
    companions = table.released_with.get(container.tensorrt_llm)
    if companions is not None:
        pairs += [
            ("TRANSFORMERS_CONTAINER_VERSION", pins.transformers, companions.transformers),
            ("MODELOPT_CONTAINER_VERSION", pins.modelopt, companions.modelopt),
        ]
    for name, pinned, inside in pairs:
        if pinned != inside:
            yield Finding(
                id="pins",
                severity="high",
                what=f"docker/versions.env: {name} is {pinned}, {pins.image} has {inside}",
                mend=mend,
            )


def _runtime(facts: Facts, pins: Pins, table: Compatibility) -> Iterator[Finding]:
    """Where TensorRT-LLM is installed, this is the container (or a stand-in for it)."""
    packages = facts.machine.packages
    installed = packages.get("tensorrt-llm")
    if installed is None:
        return
    if installed != pins.tensorrt_llm:
        yield Finding(
            id="runtime-version",
            severity="critical" if facts.is_gpu_path else "high",
            what=f"TensorRT-LLM {installed} is installed, docker/versions.env pins {pins.tensorrt_llm}",
            mend=f"run inside {pins.image}, or pin {installed} and build the engines again",
        )
    companions = table.released_with.get(installed)
    transformers = packages.get("transformers")
    if companions is not None and transformers is not None and transformers != companions.transformers:
        yield Finding(
            id="runtime-packages",
            severity="medium",
            what=f"transformers {transformers} is installed beside TensorRT-LLM {installed}, which is released with"
            f" {companions.transformers}",
            mend=f"run inside {pins.image} without installing over its packages",
        )


def _export(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    modelopt, transformers = (facts.machine.packages.get(name) for name in ("nvidia-modelopt", "transformers"))
    engine_path = facts.spec is None or facts.spec.engine.target != "llmapi"
    if modelopt is not None and engine_path:
        removed, deprecated = is_older(modelopt, table.export_removed), is_older(modelopt, table.export_deprecated)
        if removed is False or deprecated is False:
            yield Finding(
                id="export-packages",
                severity="high" if removed is False else "low",
                what=f"ModelOpt {modelopt} is installed: its export of TensorRT-LLM checkpoints is deprecated in"
                f" {table.export_deprecated} and gone in {table.export_removed}",
                mend="install the locked requirements: make setup",
            )
    version = Version.parse(transformers) if transformers is not None else None
    if version is not None and version.major >= 5:
        yield Finding(
            id="export-packages",
            severity="high",
            what=f"transformers {transformers} is installed: with 5 the exported checkpoint loses rotary_base",
            mend="install the locked requirements (transformers 4.57): make setup",
        )


def _embedded(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    packages = facts.machine.packages
    needed = ("nvidia-pytriton", "openvino-genai")
    missing = [name for name in needed if name not in packages]
    is_needed = facts.spec is not None
    if missing and is_needed:
        yield Finding(
            id="embedded-triton",
            severity="critical",
            what=f"{' and '.join(missing)} not installed: the CPU engine is served with them",
            mend="install the locked requirements: make setup",
        )
    numpy = Version.parse(packages.get("numpy", ""))
    if numpy is not None and numpy.major >= 2 and "nvidia-pytriton" in packages:
        yield Finding(
            id="embedded-triton",
            severity="critical" if is_needed else "high",
            what=f"numpy {packages['numpy']} is installed: the embedded Triton's Python backend dies at the first text"
            " input with numpy 2",
            mend="install the locked requirements (numpy 1.26): make setup",
        )
    server = table.embedded_servers.get(packages.get("nvidia-pytriton", ""))
    release = table.release_of(server) if server else None
    if server is not None and release is not None:
        yield Finding(
            id="embedded-triton",
            severity="low",
            what=f"the embedded tritonserver {server} is of Triton {release}: no newer one comes as a wheel, and later"
            " bulletins are not mended in it",
            mend="keep it on the loopback address and on machines whose users you trust; serve others from the GPU"
            " container",
        )


def _workflow(name: str, table: Compatibility) -> Finding:
    return Finding(
        id="engine-workflow",
        severity="low",
        what=f"TensorRT-LLM {table.last_engine_release} is the last one with trtllm-build and the C++ Triton backend:"
        " engines get no fixes from here on",
        mend=f"slipstream migrate {name} writes the same deployment for the LLM API",
    )

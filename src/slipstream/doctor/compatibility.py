"""The table of versions that belong together, from data/compatibility.yaml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from slipstream.doctor.versions import Version

_IMAGE = "nvcr.io/nvidia/tritonserver:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What is inside one Triton image."""

    tensorrt_llm: str
    tensorrt: str
    cuda: str
    driver: str
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """The packages that one TensorRT-LLM is released with."""

    modelopt: str
    transformers: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """Which versions belong together."""

    containers: Mapping[str, Container]  # tag → content
    released_with: Mapping[str, Companions]  # TensorRT-LLM → packages
    last_engine_release: str
    export_deprecated: str
    export_removed: str
    server_releases: Mapping[str, str]  # 2.51 → 24.10
    embedded_servers: Mapping[str, str]  # nvidia-pytriton → tritonserver

    def container(self, image: str) -> Container | None:
        return self.containers.get(image.removeprefix(_IMAGE)) if image.startswith(_IMAGE) else None

    def release_of(self, server: str) -> str | None:
        """The container release of a `tritonserver` 2.x, such as 24.10 for 2.51.0."""
        version = Version.parse(server)
        if version is None or len(version.numbers) < 2:
            return None
        return self.server_releases.get(f"{version.numbers[0]}.{version.numbers[1]}")


def release_of_image(image: str) -> str | None:
    """The release in an image's tag, such as 26.07."""
    release = image.rpartition(":")[2].split("-")[0]
    return release if Version.parse(release) else None


@functools.cache
def compatibility() -> Compatibility:
    """The table, read once."""
    text = (resources.files("slipstream.doctor") / "data" / "compatibility.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    data["containers"] = {tag: Container(**row) for tag, row in data["containers"].items()}
    data["released_with"] = {version: Companions(**row) for version, row in data["released_with"].items()}
    return Compatibility(**data)

"""Projects on a machine whose TensorRT-LLM, MPI, Triton and driver are strict stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.gpu_project import Project, Running, write_deployment
from tests.integration.tiny_models import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny Llamas with one tokenizer: `target` and `draft`."""
    directory = tmp_path_factory.mktemp("gpu-path")
    save_model("llama", directory / "target")
    save_model("llama", directory / "draft", num_hidden_layers=2)
    return directory


@pytest.fixture(scope="module")
def one_rank(models: Path) -> Project:
    deployment = write_deployment(models / "single.yaml", models / "target")
    project = Project(deployment=deployment, workspace=models / "ws-single")
    project.done("quantize")
    return project


@pytest.fixture(scope="module")
def pair(models: Path) -> Project:
    """Target and draft over two ranks."""
    deployment = write_deployment(models / "pair.yaml", models / "target", draft=models / "draft")
    project = Project(deployment=deployment, workspace=models / "ws-pair")
    project.done("quantize")
    return project


@pytest.fixture(scope="module")
def two_ranks(pair: Project, models: Path) -> Project:
    """The target alone: its checkpoint over two ranks is that of the pair."""
    deployment = write_deployment(models / "double.yaml", models / "target")
    return Project(deployment=deployment, workspace=pair.copy("ws-double").workspace)


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Callable[..., Project]:
    """A copy of a project that a test may damage."""

    def copy(project: Project, **env: str) -> Project:
        return project.copy("ws-" + "".join(one if one.isalnum() else "-" for one in request.node.name), **env)

    return copy


@pytest.fixture
def started() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(project: Project, verb: str, *arguments: str, **env: str) -> Running:
        running.append(project.start(verb, *arguments, **env))
        return running[-1]

    yield start
    for one in running:
        one.end()

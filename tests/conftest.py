"""Marks by folder, and the real thing to test against: artifacts of the default deployment and servers on them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from slipstream.pipeline import Context, run_stage, stages_for
from slipstream.progress import silent
from slipstream.project import Workspace
from slipstream.serve.supervise import served as serving
from slipstream.spec_file import load_deployment

# Torch's threads spin while they wait for each other; beside a server and a test runner on two cores that costs most.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts the tests in the background has Ctrl-C ignored, and so has every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")

ROOT = Path(__file__).resolve().parents[1]
SLIPSTREAM = [sys.executable, "-m", "slipstream"]
DEFAULT = "smollm2-135m-cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        item.add_marker(getattr(pytest.mark, folder))
        if item.get_closest_marker("gpu") and shutil.which("nvidia-smi") is None:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: nvidia-smi was not found"))


@dataclass(frozen=True)
class Served:
    """A running deployment: addresses as host:port."""

    http: str
    grpc: str
    metrics: str
    workspace: Workspace
    pid: int  # of tritonserver

    @property
    def model_dir(self) -> Path:
        return self.workspace.model


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of the default deployment, made once a session: model/ checkpoint/ engine/ model_repository/."""
    directory = tmp_path_factory.mktemp("build") / DEFAULT
    context = a_context(directory)
    for stage in stages_for(context.spec):
        run_stage(stage, context, silent)
    return directory


@pytest.fixture(scope="session")
def served(artifacts: Path) -> Iterator[Served]:
    """The default deployment in performance mode."""
    with serve_copy(artifacts, "performance") as server:
        yield server


@pytest.fixture(scope="session")
def served_accuracy(artifacts: Path) -> Iterator[Served]:
    """The default deployment in accuracy mode: float32, the mode for exact comparisons."""
    with serve_copy(artifacts, "accuracy", "runtime.execution=accuracy") as server:
        yield server


def a_context(directory: Path, *overrides: str) -> Context:
    spec = load_deployment(DEFAULT, overrides, root=ROOT)
    return Context(spec=spec, root=ROOT, workspace=Workspace(directory=directory))


def copy_artifacts(artifacts: Path, name: str) -> Path:
    """A second workspace with the same artifacts, as hard links: a test may render, damage or remove its own."""
    target = artifacts.parent / name
    shutil.copytree(artifacts, target, copy_function=os.link, ignore=shutil.ignore_patterns("run", ".lock*"))
    return target


@contextmanager
def serve_copy(artifacts: Path, name: str, *overrides: str) -> Iterator[Served]:
    """Serve a copy of `artifacts` on free ports with `overrides`."""
    context = a_context(copy_artifacts(artifacts, name), "runtime.ports=auto", *overrides)
    run_stage(stages_for(context.spec)[-1], context, silent)
    workspace = context.workspace
    with serving(context.spec, workspace.model_repository, workspace.run, silent) as deployment:
        where = deployment.server.endpoints
        yield Served(where.http, where.grpc, where.metrics, workspace, deployment.server.process.pid)


def run_slipstream(
    *arguments: str, text: str = "", cwd: Path = ROOT, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, with `text` on its standard input."""
    return subprocess.run(
        [*SLIPSTREAM, *arguments], cwd=cwd, input=text, capture_output=True, text=True, timeout=timeout_s, check=False
    )

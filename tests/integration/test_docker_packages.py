"""What the Triton image installs, installed for real: the instructions of its first stage, run beside the base image.

The base image cannot be had here; a plain Python of its version stands in for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.docker_files import DOCKER, ROOT, Stage, exec_form, lineage, stages

_DOCKERFILE = DOCKER / "Dockerfile.triton"
_DEPLOYMENT = "llama-3.1-8b-fp8-h100"


@dataclass(frozen=True)
class Image:
    """A directory that stands for the root of the image's file system, and its Python."""

    root: Path
    python: Path
    version: str

    def environment(self, stage: str) -> dict[str, str]:
        """What ENV leaves to a process of `stage`."""
        found = {"PATH": f"{self.root}/usr/local/bin:{self.python.parent}:/usr/bin:/bin"}
        for each in lineage(_DOCKERFILE, stage):
            for line in each.all("ENV"):
                found |= dict(word.split("=", 1) for word in line.split())
        return {name: self.inside(value) for name, value in found.items()}

    def inside(self, text: str) -> str:
        """The image's absolute paths, under `root`; its Python 3.12 is ours."""
        for place in ("/opt/slipstream", "/build", "/project", "/models"):
            text = text.replace(place, f"{self.root}{place}")
        return text.replace("python3.12", f"python{self.version}")

    def run(self, *command: str, stage: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment(stage) | more,
            cwd=self.root / "project",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The first stage as Docker would run it, then what the second one copies of it."""
    root = tmp_path_factory.mktemp("image")
    version, python = a_python()
    image = Image(root=root, python=python, version=version)
    packages, server = stages(_DOCKERFILE)[:2]
    assert packages.name == "packages"
    for place in ("build", "opt/slipstream", "models", "usr/local/bin"):
        (root / place).mkdir(parents=True)
    for keyword, arguments in packages.instructions:
        if keyword == "COPY":
            copy(arguments, root / "build")
        elif keyword == "RUN":
            run_instruction(image, arguments)
    assert "--from=packages /opt/slipstream /opt/slipstream" in server.all("COPY")
    copy_project(server, root)
    (root / "usr/local/bin/slipstream").symlink_to(root / "opt/slipstream/venv/bin/slipstream")
    return image


def a_python() -> tuple[str, Path]:
    """The container's Python 3.12 where there is one, else 3.11; as the image has it, beside its `python3`."""
    for version in ("3.12", "3.11"):
        found = [
            shutil.which(f"python{version}"),
            *Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"),
        ]
        for python in found:
            if python and subprocess.run([str(python), "-c", ""], capture_output=True, check=False).returncode == 0:
                real = subprocess.run(
                    [str(python), "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=True
                )
                return version, Path(real.stdout.strip())
    raise AssertionError("neither Python 3.12 nor 3.11")


def copy(arguments: str, to: Path) -> None:
    *sources, target = arguments.split()
    for source in sources:
        place = to / target if target.endswith("/") or len(sources) == 1 else to
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place = place / Path(source).name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, place)


def copy_project(server: Stage, root: Path) -> None:
    for arguments in server.all("COPY"):
        source, target = arguments.split()[-2:]
        if not target.startswith("/project"):
            continue
        place = root / target.lstrip("/")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place)
        else:
            assert target.endswith("/"), "a file goes into a directory"
            place.mkdir(parents=True)
            shutil.copy(ROOT / source, place)


def run_instruction(image: Image, arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME"))}
    (image.root / "bin").mkdir(exist_ok=True)
    python3 = image.root / "bin" / "python3"
    if not python3.exists():
        python3.write_text(f'#!/bin/sh\nexec {image.python} "$@"\n')
        python3.chmod(0o755)
    ran = subprocess.run(
        ["/bin/sh", "-ec", image.inside(arguments)],
        cwd=image.root / "build",
        env=environment | {"PATH": f"{image.root}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_the_installed_packages_fit_together(image: Image) -> None:
    python = f"{image.root}/opt/slipstream/venv/bin/python"
    ran = image.run(str(image.python), "-m", "pip", "--python", python, "check", stage="llmapi")
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("stage", ["engine", "llmapi"])
def test_the_command_line_renders_in_the_image(image: Image, stage: str) -> None:
    out = image.root / "models" / stage
    ran = image.run("slipstream", "render", _DEPLOYMENT, "--out", str(out), stage=stage)
    assert ran.returncode == 0, ran.stderr
    assert (out / "model_repository/tensorrt_llm/config.pbtxt").is_file()


def test_the_command_of_the_image_runs(image: Image) -> None:
    [command] = [arguments for each in lineage(_DOCKERFILE, "engine") for arguments in each.all("CMD")]
    ran = image.run(*exec_form(command), stage="engine")
    assert ran.returncode == 0
    assert "render" in ran.stdout


def test_tritons_own_python_finds_the_code_of_the_models(image: Image) -> None:
    """The stub runs the container's Python, not that of Slipstream's environment."""
    code = (
        "import sys, slipstream.backend.preprocessing, slipstream.backend.postprocessing, slipstream.backend.bls;"
        "assert sys.prefix == sys.base_prefix; print(slipstream.__file__); import numpy; print(numpy.__version__)"
    )
    ran = image.run(str(image.python), "-c", code, stage="engine", PYTHONSAFEPATH="1")
    assert ran.returncode == 0, ran.stderr
    where, numpy = ran.stdout.splitlines()
    assert where.startswith(f"{image.root}/opt/slipstream/venv/lib/")
    assert f"numpy=={numpy}" in (ROOT / "requirements/serve.txt").read_text().splitlines()


def test_the_llm_api_gets_the_code_and_no_package_that_could_hide_the_containers(image: Image) -> None:
    [path] = image.environment("llmapi")["PYTHONPATH"].split(":")
    assert sorted(entry.name.partition("-")[0] for entry in Path(path).iterdir() if entry.name != "bin") == [
        "slipstream",
        "slipstream",
    ]


def test_the_wheel_carries_what_the_image_renders_from(image: Image) -> None:
    assert not list((image.root / "opt/slipstream/venv/lib").rglob("*.egg-link"))
    [contract] = (image.root / "opt/slipstream/code").rglob("triton_models.json")
    assert contract.read_bytes() == (ROOT / "src/slipstream/repository/contract/triton_models.json").read_bytes()

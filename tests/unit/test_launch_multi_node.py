"""The lines for Slurm and LeaderWorkerSet, run by a real bash against programs that tell what they were given."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from slipstream.command_line import Command
from tests.fakes.gpu.server_flags import Options, parse_options
from tests.unit.test_launch import CONTRACT, LLMAPI, SPLIT, TWO_NODES, a_plan, check_ranks

_TELL = '#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory for the PATH whose programs print their arguments, one a line."""
    for name in ("mpirun", "tritonserver"):
        (tmp_path / name).write_text(_TELL)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def told(command: list[str], programs: Path, **environment: str) -> list[str]:
    """What the program that `command` becomes was given."""
    ran = subprocess.run(
        command,
        env={"PATH": f"{programs}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    return [Path(lines[0]).name, *lines[1:]]


def srun_of(command: Command) -> tuple[set[str], list[str]]:
    """srun's own options, and the command of every task."""
    assert command.argv[0] == "srun"
    at = command.argv.index("bash")
    return set(command.argv[1:at]), list(command.argv[at:])


def test_srun_starts_a_task_a_gpu_and_each_becomes_its_rank(programs: Path) -> None:
    options, task = srun_of(a_plan(SPLIT, *TWO_NODES, for_="slurm"))
    assert "srun --mpi=pmix -N n --ntasks-per-node=g tritonserver" in CONTRACT["multi_node"]["srun"]
    assert {"--mpi=pmix", "--nodes=2", "--ntasks-per-node=4"} <= options
    ranks: list[Options] = []
    for rank in range(8):
        program, *arguments = told(task, programs, SLURM_PROCID=str(rank))
        assert program == "tritonserver"
        ranks.append(parse_options(arguments))
    check_ranks(ranks, ("tensorrt_llm",))
    assert [rank.prefix for rank in ranks] == [f"slipstream_rank{rank}_" for rank in range(8)]


def test_slurm_gets_the_image_and_the_workspace() -> None:
    options, _ = srun_of(a_plan(SPLIT, *TWO_NODES, for_="slurm"))
    assert "--container-image=an/image:1" in options
    assert f"--container-mounts=/models/{SPLIT}:/models/{SPLIT}" in options


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("nvcr.io/nvidia/tritonserver:26.07", "nvcr.io#nvidia/tritonserver:26.07"),
        ("localhost:5000/triton", "localhost:5000#triton"),
        ("nvidia/cuda:13.1", "nvidia/cuda:13.1"),
        ("triton", "triton"),
    ],
)
def test_slurms_container_plugin_parts_the_registry_by_a_hash(image: str, named: str) -> None:
    assert f"--container-image={named}" in a_plan(SPLIT, *TWO_NODES, for_="slurm", container=image).argv


def test_the_leader_pod_starts_a_rank_for_each_gpu_of_its_group(programs: Path) -> None:
    command = a_plan(SPLIT, *TWO_NODES, for_="lws")
    where = {"LWS_LEADER_ADDRESS": "llama-0.llama.prod.svc", "LWS_GROUP_SIZE": "2"}
    program, *arguments = told(list(command.argv), programs, **where)
    assert program == "mpirun"
    assert CONTRACT["multi_node"]["lws"]["mpirun"].startswith("-mca plm_rsh_agent kubessh")
    at = arguments.index("-n")
    mpi = arguments[:at]
    assert mpi == ["--allow-run-as-root", "-mca", "plm_rsh_agent", "kubessh", "--host", "llama-0:4,llama-0-1:4"]
    contexts: list[list[str]] = [[]]
    for word in arguments[at:]:
        contexts.append([]) if word == ":" else contexts[-1].append(word)
    assert all(context[:3] == ["-n", "1", "tritonserver"] for context in contexts)
    ranks = [parse_options(context[3:]) for context in contexts]
    assert len(ranks) == 8
    check_ranks(ranks, ("tensorrt_llm",))


def test_a_group_of_another_size_is_refused_before_anything_starts(programs: Path) -> None:
    command = a_plan(SPLIT, *TWO_NODES, for_="lws")
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "LWS_LEADER_ADDRESS": "a-0.a", "LWS_GROUP_SIZE": "3"}
    ran = subprocess.run(command.argv, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert ran.returncode == 1
    assert "LWS_GROUP_SIZE is 3, the deployment needs 2 pods" in ran.stderr
    assert ran.stdout == ""


def test_the_llm_api_is_launched_over_the_pods_of_the_group(programs: Path) -> None:
    command = a_plan(LLMAPI, "engine.tp_size=8", *TWO_NODES, for_="lws")
    _, *arguments = told(list(command.argv), programs, LWS_LEADER_ADDRESS="llama-3.llama.prod.svc", LWS_GROUP_SIZE="2")
    assert arguments[arguments.index("--host") + 1] == "llama-3:4,llama-3-1:4"
    at = arguments.index("-n")
    assert arguments[at : at + 4] == ["-n", "8", "trtllm-llmapi-launch", "tritonserver"]
    parse_options(arguments[at + 4 :])


def test_a_script_passes_through_a_persons_shell(programs: Path) -> None:
    """What `--dry-run` prints can be pasted: the shell gives bash the very script of the plan."""
    command = a_plan(SPLIT, *TWO_NODES, for_="lws")
    (programs / "bash").write_text('#!/usr/bin/python3\nimport json, sys\nprint(json.dumps(["bash", *sys.argv[1:]]))\n')
    (programs / "bash").chmod(0o755)
    ran = subprocess.run(
        ["/bin/sh", "-c", command.shell_text],
        env={"PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert json.loads(ran.stdout) == list(command.argv)

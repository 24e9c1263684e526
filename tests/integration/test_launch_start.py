"""The ranks of a plan as processes: started with what they need and nothing secret, stopped whole."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from slipstream.command_line import Command
from slipstream.errors import SlipstreamError
from slipstream.progress import silent
from slipstream.serve.environment import without_secrets
from slipstream.serve.health import LLMAPI_PROBE, TEXT_PROBE
from slipstream.serve.ports import resolve_ports
from slipstream.serve.triton import TritonServer, start_ranks
from tests.unit.test_launch import CONTRACT

# Like mpirun: ranks in process groups of their own, which a signal to the launcher's group does not reach.
_LAUNCHER = (
    "import subprocess, sys, time\n"
    "for rank in range(2):\n"
    "    subprocess.Popen(['sleep', '100'], process_group=0)\n"
    "time.sleep(float(sys.argv[1]))\n"
)


def started(run: Path, *, lasts_s: float) -> TritonServer:
    command = Command(purpose="test", argv=(sys.executable, "-c", _LAUNCHER, str(lasts_s)), env={"GIVEN": "1"})
    return start_ranks(command, resolve_ports("auto"), run, environment=dict(os.environ), probe=TEXT_PROBE)


def ranks_of(server: TritonServer) -> list[psutil.Process]:
    launcher = psutil.Process(server.process.pid)
    deadline = time.monotonic() + 20
    while len(launcher.children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = launcher.children()
    assert len(children) == 2
    return children


def test_kill_ends_ranks_that_have_process_groups_of_their_own(tmp_path: Path) -> None:
    server = started(tmp_path, lasts_s=100)
    ranks = ranks_of(server)
    server.kill()
    gone, alive = psutil.wait_procs(ranks, timeout=10)
    assert len(gone) == 2
    assert not alive


def test_kill_ends_ranks_whose_launcher_has_died(tmp_path: Path) -> None:
    server = started(tmp_path, lasts_s=100)
    ranks = ranks_of(server)
    server.process.kill()
    server.process.wait()
    assert all(rank.is_running() for rank in ranks)
    server.kill()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


def test_ranks_get_the_environment_of_the_plan_beside_the_containers(tmp_path: Path) -> None:
    command = Command(purpose="test", argv=("/bin/sh", "-c", 'echo "$GIVEN $KEPT"'), env={"GIVEN": "plan"})
    server = start_ranks(
        command, resolve_ports("auto"), tmp_path, environment={"GIVEN": "container", "KEPT": "yes"}, probe=TEXT_PROBE
    )
    server.process.wait(20)
    assert server.log.read_text() == "plan yes\n"
    assert server.name == "sh"


def test_a_large_stack_is_given_to_the_ranks(tmp_path: Path) -> None:
    command = Command(purpose="test", argv=("/bin/sh", "-c", "ulimit -s"))
    server = start_ranks(command, resolve_ports("auto"), tmp_path, environment={"PATH": "/bin"}, probe=TEXT_PROBE)
    server.process.wait(20)
    assert server.log.read_text().strip() in {"unlimited", "262144"}


RULE = "-" * 74


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "the log is empty"),
        ("one\ntwo", "two"),
        (f"one\n{RULE}\nmpirun noticed that process rank 1\nexited on signal 9.\n{RULE}\n", "mpirun noticed that"),
        (f"E1 1 x.cc:1] no memory\n{RULE}\nmpirun noticed\n{RULE}", "no memory"),
        (f"{RULE}\na warning\n{RULE}\nlast", "last"),
    ],
)
def test_a_launch_that_fails_says_why(tmp_path: Path, log: str, reason: str) -> None:
    server = start_ranks(
        Command(purpose="test", argv=("/bin/sh", "-c", 'printf %s "$LOG"; exit 3'), env={"LOG": log}),
        resolve_ports("auto"),
        tmp_path,
        environment={"PATH": "/bin"},
        probe=TEXT_PROBE,
    )
    server.process.wait(20)
    with pytest.raises(SlipstreamError, match=f"sh ended with code 3 while starting: {reason}"):
        server.wait_until_ready(5, silent)


@pytest.mark.parametrize("name", ["HF_TOKEN", "NGC_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "hf_token"])
def test_what_is_called_a_secret_is_not_handed_on(name: str) -> None:
    kept = {"LD_LIBRARY_PATH": "/x", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "0", "KEYMAP": "us"}
    assert without_secrets(kept | {name: "secret"}) == kept


def test_the_llm_api_is_probed_by_its_own_names() -> None:
    import json

    models = json.loads((Path(__file__).parents[1] / "contract/trtllm-1.2.1/triton_models.json").read_text())
    assert LLMAPI_PROBE.model == "tensorrt_llm"
    assert {*LLMAPI_PROBE.body} <= {line.split()[0] for line in models["llmapi"]["inputs"]}
    assert TEXT_PROBE.model in models["models"]
    assert CONTRACT["modes"]["leader"]["procs"].endswith("only rank 0 serves")

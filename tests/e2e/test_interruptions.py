"""Ctrl-C and kill -TERM at every stage leave no process, port, shared memory or partial artifact."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from tests.conftest import DEFAULT, ROOT, SLIPSTREAM, copy_artifacts, run_slipstream


class Command:
    """A running slipstream command whose progress lines can be waited for."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*SLIPSTREAM, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.family: list[psutil.Process] = []

    def wait_for(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                break
        else:
            pytest.fail(f"the command ended with {self.process.wait()} before it said {text!r}")
        me = psutil.Process(self.process.pid)
        self.family = [me, *me.children(recursive=True)]
        # Keep the pipe flowing, or the command blocks on its own progress lines.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def interrupt(self, how: signal.Signals) -> int:
        if how is signal.SIGINT:
            os.killpg(self.process.pid, how)  # a terminal signals the whole foreground group
        else:
            self.process.send_signal(how)
        return self.process.wait(60)


def leftovers(workspace: Path) -> list[str]:
    partial = [str(path) for path in workspace.rglob(".*.partial")] + [str(path) for path in workspace.rglob(".*.old")]
    files = ("state.json", "gateway.json", "gateway.outcome.json")
    return partial + [str(path) for name in files for path in workspace.glob(f"run/{name}")]


def shared_memory(pid: int) -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"slipstream_{pid}_*")]


@pytest.fixture
def workspace(artifacts: Path, request: pytest.FixtureRequest) -> Path:
    name = "".join(character if character.isalnum() else "-" for character in request.node.name)
    return copy_artifacts(artifacts, name)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
@pytest.mark.parametrize(
    ("verb", "moment", "remade"),
    [
        ("quantize", "reading", "model"),
        ("quantize", "loading the model", "checkpoint"),
        ("quantize", "evaluation text before", "checkpoint"),
        ("build", "", "engine"),
    ],
    ids=["model", "load", "measure", "build"],
)
def test_an_interrupted_stage_leaves_nothing(
    workspace: Path, verb: str, moment: str, remade: str, how: signal.Signals
) -> None:
    (workspace / remade / "manifest.json").unlink()
    before = sorted(path.name for path in workspace.iterdir())
    command = Command(verb, DEFAULT, "--out", str(workspace))
    command.wait_for(moment)
    assert command.interrupt(how) == 130
    assert leftovers(workspace) == []
    after = sorted(path.name for path in workspace.iterdir() if not path.name.startswith(".lock"))
    assert after == before
    assert [process for process in command.family if process.is_running()] == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupted_start_leaves_nothing(workspace: Path, how: signal.Signals) -> None:
    command = Command("up", DEFAULT, "--out", str(workspace), "--set", "runtime.ports=auto")
    command.wait_for("loading models")
    assert command.interrupt(how) == 130
    assert_gone(command, workspace)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupted_server_leaves_nothing(workspace: Path, how: signal.Signals) -> None:
    command = Command("up", DEFAULT, "--out", str(workspace), "--set", "runtime.ports=auto")
    command.wait_for("ready, a token came out")
    state = json.loads((workspace / "run" / "state.json").read_text())
    assert command.interrupt(how) == 0
    assert_gone(command, workspace)
    gateway = state["gateway"].removeprefix("http://")
    for address in (state["triton_http"], state["triton_grpc"], state["triton_metrics"], gateway):
        with socket.socket() as probe:
            host, port = address.split(":")
            assert probe.connect_ex((host, int(port))) != 0


def test_a_killed_supervisor_takes_the_server_with_it(workspace: Path) -> None:
    command = Command("up", DEFAULT, "--out", str(workspace), "--set", "runtime.ports=auto")
    command.wait_for("ready, a token came out")
    command.process.kill()
    _, alive = psutil.wait_procs(command.family[1:], timeout=40)
    assert alive == []


def assert_gone(command: Command, workspace: Path) -> None:
    assert leftovers(workspace) == []
    _, alive = psutil.wait_procs(command.family, timeout=30)
    assert alive == []
    assert shared_memory(command.process.pid) == []


def test_two_runs_on_one_deployment_do_not_meet(workspace: Path) -> None:
    (workspace / "checkpoint" / "manifest.json").unlink()
    command = Command("quantize", DEFAULT, "--out", str(workspace))
    command.wait_for("loading the model")
    refused = run_slipstream("quantize", DEFAULT, "--out", str(workspace))
    assert refused.returncode == 1
    assert f"another slipstream (pid {command.process.pid}) is making artifacts" in refused.stderr
    assert command.interrupt(signal.SIGTERM) == 130


def test_a_server_that_is_starting_can_be_stopped_and_its_artifacts_are_safe(workspace: Path) -> None:
    command = Command("up", DEFAULT, "--out", str(workspace), "--set", "runtime.ports=auto")
    command.wait_for("loading models")
    replaced = run_slipstream("render", DEFAULT, "--out", str(workspace), "--set", "runtime.execution=accuracy")
    assert replaced.returncode == 1
    assert "already served" in replaced.stderr
    stopped = run_slipstream("down", DEFAULT, "--out", str(workspace), "--json")
    assert json.loads(stopped.stdout)["stopped"] is True
    assert_gone(command, workspace)

"""A GPU deployment of a tiny model, and the command line that is run on it with the stand-ins first on the PATH."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.conftest import ROOT, SLIPSTREAM
from tests.fakes.gpu_tools import tool_environment

TWO_RANKS = ("--set", "engine.tp_size=2")
# Draft-target speculation needs the profile that does not stream.
DRAFT = {
    "engine": {"tp_size": 2, "draft": {"max_draft_len": 5, "kv_cache_free_gpu_mem_fraction": 0.1}},
    "runtime": {"decoupled": False, "exclude_input_in_output": False, "kv_cache_free_gpu_mem_fraction": 0.8},
}
SPEC = {
    "engine": {
        "target": "tensorrt_llm",
        "max_batch_size": 8,
        "max_num_tokens": 512,
        "max_seq_len": 128,
        "max_input_len": 127,
    },
    "runtime": {"triton_max_batch_size": 8, "ports": "auto"},
    "hardware": {"gpu": "H100 80GB SXM", "gpus_per_node": 8},
}


@dataclass(frozen=True, kw_only=True)
class Project:
    """One deployment file and one workspace; commands see a machine with eight H100s."""

    deployment: Path
    workspace: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def calls_log(self) -> Path:
        return self.workspace.with_name(f"{self.workspace.name}.calls")

    def run(self, verb: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(verb, *arguments),
            cwd=ROOT,
            env=self._environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def done(self, verb: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """As `run`, for a command that must succeed."""
        result = self.run(verb, *arguments, **env)
        assert result.returncode == 0, result.stderr
        return result

    def start(self, verb: str, *arguments: str, **env: str) -> Running:
        process = subprocess.Popen(
            self._command(verb, *arguments),
            cwd=ROOT,
            env=self._environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Running(process)

    def calls(self, tool: str) -> list[list[str]]:
        """The arguments of each call of a stand-in, in order."""
        if not self.calls_log.exists():
            return []
        lines = [json.loads(line) for line in self.calls_log.read_text().splitlines()]
        return [line["argv"] for line in lines if line["tool"] == tool]

    def copy(self, name: str, **env: str) -> Project:
        """A workspace of its own with the same artifacts."""
        workspace = self.workspace.with_name(name)
        shutil.copytree(self.workspace, workspace, ignore=shutil.ignore_patterns("run", ".lock*"))
        return Project(deployment=self.deployment, workspace=workspace, env=env)

    def manifest(self, artifact: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.workspace / artifact / "manifest.json").read_text())
        return content

    def _command(self, verb: str, *arguments: str) -> Sequence[str]:
        return [*SLIPSTREAM, verb, str(self.deployment), "--out", str(self.workspace), *arguments]

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        return tool_environment({"OMP_NUM_THREADS": "1", "FAKE_TOOLS_LOG": str(self.calls_log), **self.env, **env})


class Running:
    """A command that has been started, and all the processes that it started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.family: list[psutil.Process] = []

    def wait_for(self, text: str) -> None:
        """Return when the command has said `text`; AssertionError with all that it said, if it ends before."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if text in line:
                break
        else:
            raise AssertionError("".join(said))
        me = psutil.Process(self.process.pid)
        self.family = [me, *me.children(recursive=True)]
        # Keep the pipe flowing, or the command blocks on its own progress lines.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def gather(self, program: str, *, count: int) -> None:
        """Wait until `count` processes of `program` run under the command."""
        me, deadline = psutil.Process(self.process.pid), time.monotonic() + 30
        while [one.name() for one in self.family].count(program) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            self.family = [me, *me.children(recursive=True)]

    def servers(self) -> list[psutil.Process]:
        """The stand-ins of tritonserver."""
        return [one for one in self.family if any(word.endswith("bin/tritonserver") for word in one.cmdline())]

    def interrupt(self, how: signal.Signals) -> int:
        if how is signal.SIGINT:
            os.killpg(self.process.pid, how)  # a terminal signals the whole foreground group
        else:
            self.process.send_signal(how)
        return self.process.wait(60)

    def survivors(self) -> list[psutil.Process]:
        _, alive = psutil.wait_procs(self.family, timeout=30)
        return alive

    def end(self) -> None:
        """Whatever the test came to, nothing of it stays."""
        for one in [*self.family, psutil.Process(self.process.pid)] if self.process.poll() is None else self.family:
            if one.is_running():
                one.kill()
        self.process.wait()


def write_deployment(path: Path, model: Path, *, draft: Path | None = None, checkpoint: Path | None = None) -> Path:
    """A deployment of `model`; with `draft` it speculates, with `checkpoint` it compiles that one."""
    spec: dict[str, Any] = {"name": path.stem, "model": {"source": str(model)}}
    spec |= {group: dict(settings) for group, settings in SPEC.items()}
    if draft is not None:
        spec["engine"] |= {"tp_size": 2, "draft": {**DRAFT["engine"]["draft"], "model": {"source": str(draft)}}}
        spec["runtime"] |= DRAFT["runtime"]
    if checkpoint is not None:
        spec["engine"]["checkpoint_dir"] = str(checkpoint)
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path

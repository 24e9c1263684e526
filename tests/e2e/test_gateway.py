"""The gateway as `up` serves it: OpenAI's chat, back after a kill, new settings under a stream, gone with `down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipstream.gateway_config import CONFIG_FILE, read_outcome
from slipstream.serve.ports import free_gateway_port
from slipstream.serve.state import ServingState, read_state
from tests.conftest import DEFAULT, ROOT, SLIPSTREAM, copy_artifacts, run_slipstream

NAME = "through-the-gateway"
RECOVERY_LIMIT_S = 60  # generous: the machine is shared


@dataclass(frozen=True, kw_only=True)
class Detached:
    """A deployment that serves in the background, from a file that a test may change."""

    file: Path
    workspace: Path
    url: str

    @property
    def state(self) -> ServingState:
        state = read_state(self.workspace / "run")
        assert state is not None
        return state

    @property
    def gateway_pid(self) -> int:
        outcome = read_outcome(self.workspace / "run" / CONFIG_FILE)
        assert outcome is not None
        return outcome.pid

    def write(self, gateway: str = "") -> None:
        text = (ROOT / "deployments" / f"{DEFAULT}.yaml").read_text().replace(f"name: {DEFAULT}", f"name: {NAME}")
        self.file.write_text(text + gateway)

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_slipstream(verb, str(self.file), "--out", str(self.workspace), *arguments)


@pytest.fixture(scope="module")
def detached(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detached]:
    file = tmp_path_factory.mktemp("gateway") / f"{NAME}.yaml"
    one = Detached(file=file, workspace=copy_artifacts(artifacts, NAME), url="")
    one.write()
    started = one.run("up", "--set", "runtime.ports=auto", "--detach", "--json")
    assert started.returncode == 0, started.stderr
    try:
        yield Detached(file=file, workspace=one.workspace, url=json.loads(started.stdout)["gateway"])
    finally:
        one.run("down")


def chat(url: str, **changes: Any) -> HTTPResponse:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 20,
        "temperature": 0,
        **changes,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=60)
    return answer


def answered(url: str) -> str:
    with chat(url) as answer:
        content: str = json.loads(answer.read())["choices"][0]["message"]["content"]
    return content


def test_up_serves_openai_chat(detached: Detached) -> None:
    assert "Paris" in answered(detached.url)
    with chat(detached.url, stream=True) as stream:
        events = stream.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert "Paris" in "".join(
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content", "") for event in events[:-2]
    )
    assert detached.state.gateway == detached.url


def test_no_secret_reaches_its_command_line_or_environment(detached: Detached) -> None:
    gateway = psutil.Process(detached.gateway_pid)
    assert gateway.cmdline()[1:] == ["-P", "-m", "slipstream.gateway", str(detached.workspace / "run" / CONFIG_FILE)]
    assert not [name for name in gateway.environ() if "TOKEN" in name.split("_")]


def test_a_killed_gateway_comes_back_and_triton_serves_on(detached: Detached) -> None:
    before = detached.gateway_pid
    [triton] = [child for child in psutil.Process(detached.state.pid).children() if child.name() == "tritonserver"]
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while True:
        try:
            assert "Paris" in answered(detached.url)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert detached.gateway_pid != before
    assert triton.is_running()


def test_a_reload_drops_no_stream_and_serves_new_requests_with_the_new_settings(detached: Detached) -> None:
    process = detached.gateway_pid
    with chat(detached.url, stream=True, max_tokens=400, ignore_eos=True) as stream:
        assert stream.readline().startswith(b"data: ")
        detached.write("\ngateway:\n  max_body_bytes: 1024\n")
        reloaded = detached.run("reload")
        assert reloaded.returncode == 0, reloaded.stderr
        with pytest.raises(urllib.error.HTTPError) as refused:
            chat(detached.url, messages=[{"role": "user", "content": "long " * 300}])
        assert refused.value.code == 413
        rest = stream.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"finish_reason":"length"' in rest
    assert detached.gateway_pid == process


@pytest.mark.parametrize(
    ("settings", "code", "text"),
    [
        ("  max_body_bytes: -1", 2, "gateway.max_body_bytes: "),
        ("  host: 0.0.0.0", 2, "without keys it must be a loopback address"),
        ("  security: {keys_file: nowhere.json}", 1, "nowhere.json: cannot be read"),
    ],
    ids=["spec", "address", "keys"],
)
def test_bad_new_settings_are_one_message_and_the_old_ones_stay(
    detached: Detached, settings: str, code: int, text: str
) -> None:
    detached.write(f"\ngateway:\n{settings}\n")
    refused = detached.run("reload")
    assert refused.returncode == code
    assert text in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "Paris" in answered(detached.url)
    detached.write()
    assert detached.run("reload").returncode == 0


def test_a_gateway_alone_serves_a_triton_that_runs_elsewhere(detached: Detached, artifacts: Path) -> None:
    workspace, port = copy_artifacts(artifacts, "gateway-alone"), free_gateway_port("auto")
    triton = {NAME: {"backends": [{"grpc": detached.state.triton_grpc}]}}
    command = [*SLIPSTREAM, "gateway", str(detached.file), "--out", str(workspace), "--json"]
    command += ["--set", f"gateway.upstreams={json.dumps(triton)}", "--set", f"runtime.ports={{gateway: {port}}}"]
    alone = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert alone.stdout is not None
        said = json.loads(alone.stdout.readline())
        assert said == {"gateway": f"http://127.0.0.1:{port}", "models": {NAME: [detached.state.triton_grpc]}}
        deadline = time.monotonic() + RECOVERY_LIMIT_S
        while read_outcome(workspace / "run" / CONFIG_FILE) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "Paris" in answered(said["gateway"])
        stopped = run_slipstream("down", str(detached.file), "--out", str(workspace), "--json")
        assert json.loads(stopped.stdout)["stopped"] is True
        assert alone.wait(30) == 0
    finally:
        alone.kill()
    assert [path.name for path in (workspace / "run").iterdir() if "gateway" in path.name] == []


def test_down_frees_the_port_and_leaves_no_file(detached: Detached) -> None:
    family = [psutil.Process(detached.state.pid), *psutil.Process(detached.state.pid).children(recursive=True)]
    assert detached.run("down").returncode == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    with pytest.raises(OSError, match="refused"):
        answered(detached.url)
    left = sorted(path.name for path in (detached.workspace / "run").iterdir() if "gateway" in path.name)
    assert left == ["gateway.log", "gateway.log.1"]  # of the one that was killed

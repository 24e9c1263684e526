"""The stand-in for `tritonserver` refuses options, ranks, repositories and engines that the real one refuses."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from slipstream.serve.ports import resolve_ports
from tests.fakes.gpu_tools import BIN, run_tool, tool_environment

FLAGS = json.loads((BIN.parent / "gpu" / "tritonserver_flags.json").read_text())
# What the C++ backend and the builder would say of an engine, as far as the server looks at it.
BUILD_CONFIG = {
    "max_batch_size": 8,
    "max_beam_width": 1,
    "kv_cache_type": "paged",
    "speculative_decoding_mode": 1,
    "plugin_config": {"remove_input_padding": True, "gpt_attention_plugin": "auto", "use_paged_context_fmha": True},
}
PARAMETERS = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "gpt_model_type": "inflight_fused_batching",
    "gpt_model_path": "",
    "tokenizer_dir": "",
    "guided_decoding_backend": "",
    "xgrammar_tokenizer_info_path": "",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
}


def config(name: str, kind: str, parameters: Mapping[str, str], more: str = "") -> str:
    pairs = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
    )
    return f'name: "{name}"\n{kind}\nmax_batch_size: 8\n{pairs}{more}'


class Repository:
    """A model repository that loads, of which a test changes one thing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "model_repository"
        self.engine = directory / "engine"
        self.tokenizer = directory / "model"
        self.parameters = PARAMETERS | {"gpt_model_path": str(self.engine), "tokenizer_dir": str(self.tokenizer)}
        self.tokenizer.mkdir()
        (self.tokenizer / "tokenizer.json").write_text("{}")
        self.write_engine()
        for name in ("preprocessing", "postprocessing"):
            self.add(name, 'backend: "python"', {"tokenizer_dir": str(self.tokenizer)})
            (self.directory / name / "1" / "model.py").touch()
        self.add("tensorrt_llm", 'backend: "tensorrtllm"', self.parameters)
        step = 'ensemble_scheduling { step { model_name: "tensorrt_llm" model_version: -1 } }'
        self.add("ensemble", 'platform: "ensemble"', {}, step)

    def add(self, name: str, kind: str, parameters: Mapping[str, str], more: str = "") -> None:
        (self.directory / name / "1").mkdir(parents=True, exist_ok=True)
        (self.directory / name / "config.pbtxt").write_text(config(name, kind, parameters, more))

    def set(self, **parameters: str) -> None:
        """Parameters of the engine's model."""
        self.add("tensorrt_llm", 'backend: "tensorrtllm"', {**self.parameters, **parameters})

    def write_engine(self, *, tp_size: int = 1, sm: int = 90, version: str = "1.2.1", **build_config: Any) -> None:
        self.engine.mkdir(exist_ok=True)
        mapping = {"tp_size": tp_size, "pp_size": 1}
        whole = {"version": version, "pretrained_config": {"mapping": mapping, "logits_dtype": "float32"}}
        (self.engine / "config.json").write_text(json.dumps(whole | {"build_config": BUILD_CONFIG | build_config}))
        for rank in range(tp_size):
            (self.engine / f"rank{rank}.engine").write_text(json.dumps({"rank": rank, "sm": sm}))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def options(repository: Repository, *more: str) -> list[str]:
    return [f"--model-repository={repository.directory}", "--disable-auto-complete-config", *more]


def test_the_options_are_those_of_the_embedded_server() -> None:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        pytest.skip("nvidia-pytriton is not installed")
    package = Path(spec.origin).parent
    libraries = {"LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs")}
    server = package / "tritonserver" / "bin" / "tritonserver"
    done = subprocess.run([server, "--help"], env=os.environ | libraries, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    kinds = {name: kind or "none" for name, kind in re.findall(r"^  --([a-z0-9-]+)(?: <(.*)>)?$", text, re.MULTILINE)}
    assert kinds.keys() == {*FLAGS["flags"], *FLAGS["deprecated"], "help"}
    assert all(kinds[name] == kind for name, kind in FLAGS["flags"].items())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--disable_auxstream"], "unrecognized option"),
        (["--exit_on_error=true"], "unrecognized option"),
        (["--strict-model-config=true"], "(deprecated)"),
        (["--http-port=http"], "Expects value: <integer>"),
        (["--http-port"], "requires an argument"),
        (["--log-info=maybe"], "Expects value: <boolean>"),
        (["--disable-auto-complete-config=true"], "doesn't allow an argument"),
        (["--model-control-mode=manual"], "Expects value: <string>"),
        (["--cuda-memory-pool-byte-size=0"], "Expects value: <<integer>:<integer>>"),
        (["--http-restricted-api=trace,logging"], "Expects value: <<string>:<string>=<string>>"),
        (["--http-restricted-api=tracing:key=value"], "unknown restricted protocol 'tracing'"),
        (["--load-model=tensorrt_llm"], "requires setting '--model-control-mode=explicit'"),
        (["--http-port=9000", "--grpc-port=9000"], "at the same address and port"),
        (["model_repository"], "Unexpected argument"),
    ],
)
def test_the_server_refuses_options_it_does_not_know(arguments: Sequence[str], text: str) -> None:
    done = run_tool("tritonserver", "--model-repository=/tmp", *arguments)
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr


def test_the_server_wants_a_repository() -> None:
    assert "Must specify at least one --model-repository" in run_tool("tritonserver", "--http-port=9000").stderr


PBTXT = "tensorrt_llm/config.pbtxt"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda it: it.set(gpt_model_type="continuous"), "gpt_model_type is 'continuous'"),
        (lambda it: it.set(worker_path="/opt/worker"), "the backend knows no parameter worker_path"),
        (lambda it: it.set(enable_kv_cache_reuse="yes"), "enable_kv_cache_reuse is 'yes'"),
        (lambda it: it.set(kv_cache_free_gpu_mem_fraction="most"), "kv_cache_free_gpu_mem_fraction is 'most'"),
        (lambda it: it.set(gpt_model_path="/nowhere"), "/nowhere/config.json does not exist"),
        (lambda it: it.set(executor_worker_path="/opt/worker"), "executor_worker_path is '/opt/worker'"),
        (lambda it: it.set(sink_token_length="4"), "StreamingLLM is no longer supported"),
        (lambda it: it.set(kv_cache_onboard_blocks="false"), "kv_cache_onboard_blocks"),
        (lambda it: it.set(max_beam_width="2"), "max_beam_width 2 exceeds the engine's 1"),
        (lambda it: it.set(gpu_device_ids="8"), "invalid device ordinal"),
        (lambda it: it.parameters.pop("tokenizer_dir") and it.set(), "tokenizer_dir: Cannot find parameter"),
        (lambda it: it.write_engine(version="1.2.0"), "engine version 1.2.0, runtime 1.2.1"),
        (lambda it: it.write_engine(sm=89), "expecting compute 9.0 got compute 8.9"),
        (lambda it: it.write_engine(max_batch_size=4), "max_batch_size 8 exceeds the engine's 4"),
        (lambda it: it.write_engine(kv_cache_type="CONTINUOUS"), "inflight batching needs"),
        (lambda it: it.write_engine(tp_size=2), "expected to be equal to tp*pp"),
        (
            lambda it: it.write_engine(plugin_config=BUILD_CONFIG["plugin_config"] | {"use_paged_context_fmha": False}),
            "enable_kv_cache_reuse needs an engine with use_paged_context_fmha",
        ),
        (lambda it: (it.engine / "rank0.engine").unlink(), "Error opening engine file"),
        (lambda it: (it.engine / "rank0.engine").write_text("half"), "Failed to deserialize cuda engine"),
        (lambda it: (it.tokenizer / "tokenizer.json").unlink(), "no tokenizer in"),
        (lambda it: (it.directory / "preprocessing" / "1" / "model.py").unlink(), "model.py does not exist"),
        (
            lambda it: (it.directory / "preprocessing" / "1").rename(it.directory / "x"),
            "at least one version must be available",
        ),
        (lambda it: (it.directory / PBTXT).write_text('name: "tensorrt_llm" backend: ${b}'), "a placeholder was left"),
        (lambda it: (it.directory / PBTXT).write_text("max_batch_size: many"), "failed to read text proto"),
        (lambda it: (it.directory / PBTXT).write_text('name: "llm"'), "names the model 'llm'"),
        (lambda it: shutil.rmtree(it.directory / "tensorrt_llm"), "models that are not available: tensorrt_llm"),
    ],
)
def test_the_server_refuses_a_repository_that_would_not_load(
    repository: Repository, change: Callable[[Repository], object], text: str
) -> None:
    change(repository)
    done = run_tool("tritonserver", *options(repository))
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr
    assert done.stderr.splitlines()[-1] == "error: creating server: Internal - failed to load all models"


def speculate(repository: Repository, *, mode: int = 2, **draft: str) -> None:
    """A draft model beside the target, in the same engine directory but for the mode."""
    model, pairs = repository.engine.with_name("draft-engine"), repository.parameters | draft
    repository.write_engine()
    shutil.copytree(repository.engine, model)
    repository.write_engine(speculative_decoding_mode=mode)
    repository.add("draft", 'backend: "tensorrtllm"', {**pairs, "gpt_model_path": str(model)})
    repository.add("bls", 'backend: "python"', {"tensorrt_llm_draft_model_name": "draft"})
    (repository.directory / "bls" / "1" / "model.py").touch()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda it: speculate(it, mode=1), "tensorrt_llm: the engine's speculative_decoding_mode is not 2"),
        (lambda it: speculate(it, exclude_input_in_output="true"), "draft: exclude_input_in_output is true"),
        (lambda it: speculate(it, enable_kv_cache_reuse="false"), "draft: speculation needs enable_kv_cache_reuse"),
        (
            lambda it: (
                speculate(it),
                it.add(
                    "tensorrt_llm",
                    'backend: "tensorrtllm"',
                    it.parameters,
                    "model_transaction_policy {decoupled: true}",
                ),
            ),
            "tensorrt_llm is decoupled",
        ),
        (
            lambda it: it.add(
                "tensorrt_llm",
                'backend: "tensorrtllm"',
                it.parameters,
                'output { name: "context_logits" data_type: TYPE_FP16 dims: -1 }',
            ),
            "context_logits is TYPE_FP16, the engine's logits are float32",
        ),
    ],
)
def test_the_server_refuses_engines_and_settings_that_cannot_speculate(
    repository: Repository, change: Callable[[Repository], object], text: str
) -> None:
    change(repository)
    done = run_tool("tritonserver", *options(repository))
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr


RANK_1 = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
SPAWNING = {"TRTLLM_ORCHESTRATOR": "1"}
WAITING = {**RANK_1, "TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "0"}
PREFIX = "--backend-config=python,shm-region-prefix-name=a"
EXPLICIT = (PREFIX, "--model-control-mode=explicit")


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        ((), RANK_1, "every rank has its own shm-region-prefix-name"),
        ((PREFIX,), RANK_1, "rank 1 needs --model-control-mode=explicit"),
        (EXPLICIT, RANK_1, "ranks above 0 load ['tensorrt_llm'] and nothing else"),
        ((*EXPLICIT, "--load-model=*"), RANK_1, "ranks above 0 load ['tensorrt_llm'] and nothing else"),
        ((*EXPLICIT, "--load-model=tensorrt_llm"), RANK_1, "expected to be equal to tp*pp"),
        ((*EXPLICIT, "--load-model=tensorrt_llm"), WAITING, "participant_ids is mandatory"),
        ((), SPAWNING, "--pinned-memory-pool-byte-size=0"),
        (("--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"), SPAWNING, "--cuda-memory-pool-byte-size"),
    ],
)
def test_the_server_holds_ranks_to_the_launch_rules(
    repository: Repository, arguments: Sequence[str], env: Mapping[str, str], text: str
) -> None:
    done = run_tool("tritonserver", *options(repository, *arguments), env=env)
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr


@pytest.fixture
def started(repository: Repository) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """A running server and its HTTP and metrics addresses."""
    ports = resolve_ports("auto")
    numbers = [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    addresses = [f"--{service}-address=127.0.0.1" for service in ("http", "grpc", "metrics")]
    command = [str(BIN / "tritonserver"), *options(repository, *numbers, *addresses)]
    process = subprocess.Popen(command, env=tool_environment(), stderr=subprocess.DEVNULL)
    yield process, f"127.0.0.1:{ports.http}", f"127.0.0.1:{ports.metrics}"
    process.kill()
    process.wait()


def ask(address: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
    deadline = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            connection.close()


def test_the_server_is_ready_answers_and_ends_in_good_order(started: tuple[subprocess.Popen[bytes], str, str]) -> None:
    process, address, metrics = started
    prompt = {"text_input": "Hello", "max_tokens": 1}
    assert ask(address, "/v2/health/ready") == (200, "")
    assert ask(address, "/v2/models/llm/generate", prompt)[0] == 404
    assert ask(address, "/v2/models/ensemble/generate", {"text_input": "Hello"})[0] == 400
    assert '"text_output": "5 characters"' in ask(address, "/v2/models/ensemble/generate", prompt)[1]
    assert 'general_type="iteration_counter"} 1' in ask(metrics, "/metrics")[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0

"""The GPU path as a user types it, on a machine whose TensorRT-LLM, MPI, Triton and driver are strict stand-ins."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.gpu_project import TWO_RANKS, Project, Running, write_deployment
from tests.fakes.checkpoints import TinyModel, write_checkpoint

READY = "ready, a token came out"


def engine_files(project: Project, artifact: str = "engine") -> list[str]:
    return sorted(path.name for path in (project.workspace / artifact).iterdir())


def partial(project: Project) -> list[Path]:
    return [path for pattern in (".*.partial", ".*.old") for path in project.workspace.rglob(pattern)]


def test_one_rank_is_built_once_and_runtime_settings_build_nothing_again(
    one_rank: Project, own: Callable[..., Project]
) -> None:
    project = own(one_rank)
    first = json.loads(project.done("build", "--json").stdout)
    assert first["reused"] is False
    assert engine_files(project) == ["config.json", "manifest.json", "rank0.engine"]
    assert project.manifest("engine")["facts"]["gpu"]["sm"] == 90
    assert project.manifest("engine")["depends_on"]["tools"]["tensorrt_llm"] == "1.2.1"
    runtime = ("runtime.kv_cache_free_gpu_mem_fraction=0.5", "runtime.max_queue_size=7", "runtime.bls_instances=3")
    sets = [word for setting in runtime for word in ("--set", setting)]
    assert json.loads(project.done("build", "--json", *sets).stdout)["reused"] is True
    project.done("render")
    assert json.loads(project.done("render", "--json", *sets).stdout)["reused"] is False
    assert len(project.calls("trtllm-build")) == 1
    assert json.loads(project.done("build", "--json", "--set", "engine.max_batch_size=9").stdout)["reused"] is False
    assert len(project.calls("trtllm-build")) == 2


def test_two_ranks_are_built_side_by_side(two_ranks: Project, own: Callable[..., Project]) -> None:
    project = own(two_ranks)
    project.done("build", *TWO_RANKS)
    assert engine_files(project) == ["config.json", "manifest.json", "rank0.engine", "rank1.engine"]
    [command] = project.calls("trtllm-build")
    assert command[command.index("--workers") + 1] == "2"


def test_a_draft_gets_an_engine_of_its_own_and_the_target_verifies(pair: Project, own: Callable[..., Project]) -> None:
    project = own(pair)
    project.done("build")
    target, draft = project.calls("trtllm-build")
    assert target[target.index("--speculative_decoding_mode") + 1] == "draft_tokens_external"
    assert "--speculative_decoding_mode" not in draft
    for artifact, tokens in (("engine", 133), ("draft/engine", 128)):
        assert engine_files(project, artifact) == ["config.json", "manifest.json", "rank0.engine", "rank1.engine"]
        config = json.loads((project.workspace / artifact / "config.json").read_text())
        assert config["build_config"]["max_seq_len"] == tokens  # the builder adds the draft's tokens
        assert config["pretrained_config"]["mapping"]["tp_size"] == 2
    project.done("render")
    rendered = (project.workspace / "model_repository" / "tensorrt_llm_draft" / "config.pbtxt").read_text()
    assert str(project.workspace / "draft" / "engine") in rendered


def test_speculation_settings_of_the_memory_build_nothing_again(pair: Project, own: Callable[..., Project]) -> None:
    project = own(pair)
    project.done("build")
    again = project.done("build", "--json", "--set", "engine.draft.kv_cache_free_gpu_mem_fraction=0.15")
    assert json.loads(again.stdout)["reused"] is True
    assert len(project.calls("trtllm-build")) == 2


@pytest.mark.parametrize(
    ("wish", "workers", "text"),
    [
        ("oom", 2, "the GPU has too little free memory"),
        ("sm", 2, "does not run the quantization"),
        ("killed", 1, "the machine has too little memory"),
        ("killed", 2, "the machine has too little memory"),
        ("version", 2, "the checkpoint and this TensorRT-LLM do not fit"),
        ("disk", 2, "no room left on the disk"),
    ],
)
def test_a_build_that_fails_is_explained_and_leaves_its_log_and_nothing_else(
    two_ranks: Project, own: Callable[..., Project], wish: str, workers: int, text: str
) -> None:
    project = own(two_ranks)
    sets = (*TWO_RANKS, "--set", f"engine.trtllm_build.workers={workers}")
    failed = project.run("build", *sets, FAKE_TRTLLM_FAIL=wish)
    assert failed.returncode == 1
    assert text in failed.stderr
    assert "mend: " in failed.stderr
    assert "Traceback" not in failed.stderr
    log = project.workspace / "logs" / "trtllm-build.log"
    assert str(log) in failed.stderr
    assert "TensorRT LLM version: 1.2.1" in log.read_text()
    assert not (project.workspace / "engine").exists()
    assert partial(project) == []


def test_a_build_that_fails_keeps_the_engine_before(one_rank: Project, own: Callable[..., Project]) -> None:
    project = own(one_rank)
    project.done("build")
    before = project.manifest("engine")["digest"]
    assert project.run("build", "--set", "engine.max_batch_size=9", FAKE_TRTLLM_FAIL="disk").returncode == 1
    assert project.manifest("engine")["digest"] == before
    assert partial(project) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupted_build_leaves_no_process_and_no_engine(
    two_ranks: Project, own: Callable[..., Project], started: Callable[..., Running], how: signal.Signals
) -> None:
    project = own(two_ranks)
    running = started(project, "build", *TWO_RANKS, FAKE_TRTLLM_SECONDS="60")
    running.wait_for("choosing kernels")
    running.gather("sleep", count=2)  # the workers
    assert running.interrupt(how) == 130
    assert running.survivors() == []
    assert not (project.workspace / "engine").exists()
    assert partial(project) == []


def test_a_checkpoint_of_another_tool_is_compiled_as_it_is(models: Path) -> None:
    formats = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "tp_size": 2, "pp_size": 2}
    checkpoint = write_checkpoint(models / "fp8", TinyModel(), **formats)
    deployment = write_deployment(models / "given.yaml", models / "target", checkpoint=checkpoint)
    project = Project(deployment=deployment, workspace=models / "ws-given")
    sets = (*TWO_RANKS, "--set", "engine.pp_size=2")
    project.done("quantize", *sets)
    project.done("build", *sets)
    assert len(list((project.workspace / "engine").glob("rank*.engine"))) == 4
    plugins = json.loads((project.workspace / "engine" / "config.json").read_text())["build_config"]["plugin_config"]
    assert plugins["use_paged_context_fmha"]
    assert plugins["use_fp8_context_fmha"]
    assert plugins["gemm_plugin"] in {"fp8", None}


def test_another_gpu_than_the_deployment_names_does_not_build(one_rank: Project, own: Callable[..., Project]) -> None:
    refused = own(one_rank).run("build", FAKE_GPU_SM="80", FAKE_GPU_NAME="NVIDIA A100-SXM4-80GB")
    assert refused.returncode == 2
    assert "this machine has NVIDIA A100-SXM4-80GB, sm_80" in refused.stderr


def test_a_machine_without_tensorrt_llm_says_where_to_run(one_rank: Project) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for verb in ("build", "up", "serve"):
        refused = one_rank.run(verb, PATH=path)
        assert refused.returncode == 1
        assert "trtllm-build, which comes with TensorRT-LLM, is not on this machine's PATH" in refused.stderr


def edit_manifest(project: Project, artifact: str, tool: str, version: str) -> None:
    manifest = project.manifest(artifact)
    manifest["depends_on"]["tools"][tool] = version
    (project.workspace / artifact / "manifest.json").write_text(json.dumps(manifest))


def test_an_engine_of_another_version_or_gpu_is_not_served(one_rank: Project, own: Callable[..., Project]) -> None:
    project = own(one_rank)
    project.done("build")
    project.done("render")
    other_gpu = project.run("serve", "--set", "hardware.gpu=H200")
    assert other_gpu.returncode == 3
    assert "hardware.gpu" in other_gpu.stderr
    edit_manifest(project, "engine", "tensorrt_llm", "1.1.0")
    other_version = project.run("serve")
    assert other_version.returncode == 3
    assert "tensorrt_llm" in other_version.stderr
    assert "1.1.0" in other_version.stderr
    assert project.calls("tritonserver") == []


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"FAKE_TRTLLM_VERSION": "1.2.0"}, "engine version 1.2.1, runtime 1.2.0"),
        ({"FAKE_GPU_SM": "89"}, "expecting compute 8.9 got compute 9.0"),
    ],
    ids=["version", "gpu"],
)
def test_a_server_that_refuses_the_engine_is_quoted(
    one_rank: Project, own: Callable[..., Project], env: dict[str, str], text: str
) -> None:
    project = own(one_rank)
    project.done("build")
    failed = project.run("up", **env)
    assert failed.returncode == 1
    assert text in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (project.workspace / "run" / "state.json").exists()


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"FAKE_GPUS": "1"}, "1 GPUs are visible"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "1 GPUs are visible"),
        ({"FAKE_SMI_FAIL": "driver"}, "nvidia-smi shows no GPU"),
    ],
    ids=["gpus", "visible", "driver"],
)
def test_ranks_without_their_gpus_are_not_started(
    two_ranks: Project, own: Callable[..., Project], env: dict[str, str], text: str
) -> None:
    project = own(two_ranks)
    project.done("build", *TWO_RANKS)
    project.done("render", *TWO_RANKS)
    refused = project.run("serve", *TWO_RANKS, **env)
    assert refused.returncode == 1
    assert text in refused.stderr
    assert project.calls("mpirun") == []


def test_the_doctor_reads_the_engine_and_names_what_would_stop_it(
    two_ranks: Project, own: Callable[..., Project]
) -> None:
    project = own(two_ranks)
    project.done("build", *TWO_RANKS)
    project.done("render", *TWO_RANKS)
    assert json.loads(project.done("doctor", "--json", *TWO_RANKS).stdout)["verdict"] != "blocked"
    elsewhere = project.run("doctor", "--json", *TWO_RANKS, FAKE_GPU_SM="80", FAKE_GPU_NAME="NVIDIA A100-SXM4-80GB")
    assert elsewhere.returncode == 1
    findings = {finding["id"]: finding for finding in json.loads(elsewhere.stdout)["findings"]}
    assert "built on sm_90 (NVIDIA H100 80GB HBM3), the GPU here is sm_80" in findings["engine-gpu"]["what"]


def assert_gone(project: Project, running: Running) -> None:
    assert running.survivors() == []
    assert not (project.workspace / "run" / "state.json").exists()
    assert partial(project) == []


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A project, what is overridden, and the processes that it is served by."""

    project: str  # name of a fixture
    settings: tuple[str, ...] = ()
    servers: int = 1
    has_mpirun: bool = True

    @property
    def sets(self) -> list[str]:
        return [word for setting in self.settings for word in ("--set", setting)]


ORCHESTRATED = "runtime.launch_mode=orchestrator"
SHAPES = {
    "one-rank": Shape(project="one_rank", has_mpirun=False),
    "leader": Shape(project="two_ranks", settings=("engine.tp_size=2",), servers=2),
    "draft": Shape(project="pair"),
    "instances": Shape(
        project="one_rank",
        settings=(ORCHESTRATED, "runtime.engine_instances=2", "runtime.tensorrt_llm.gpu_device_ids=0;1"),
    ),
}


@pytest.mark.parametrize(
    ("shape", "how"),
    [*((shape, signal.SIGTERM) for shape in SHAPES), ("one-rank", signal.SIGINT), ("leader", signal.SIGINT)],
)
def test_up_serves_every_shape_and_an_interruption_ends_all_ranks(
    request: pytest.FixtureRequest,
    own: Callable[..., Project],
    started: Callable[..., Running],
    shape: str,
    how: signal.Signals,
) -> None:
    it = SHAPES[shape]
    project = own(request.getfixturevalue(it.project))
    running = started(project, "up", *it.sets)
    running.wait_for(READY)
    assert len(running.servers()) == it.servers
    assert len(project.calls("mpirun")) == it.has_mpirun
    assert running.interrupt(how) == 0
    assert_gone(project, running)


def test_the_ranks_end_when_the_supervisor_is_killed(
    two_ranks: Project, own: Callable[..., Project], started: Callable[..., Running]
) -> None:
    project = own(two_ranks)
    running = started(project, "up", *TWO_RANKS)
    running.wait_for(READY)
    running.process.kill()
    _, alive = psutil.wait_procs(running.family[1:], timeout=40)
    assert alive == []


@pytest.mark.parametrize("victim", ["tritonserver", "mpirun"])
def test_a_process_that_is_killed_brings_new_ranks(
    two_ranks: Project, own: Callable[..., Project], started: Callable[..., Running], victim: str
) -> None:
    project = own(two_ranks)
    running = started(project, "up", *TWO_RANKS)
    running.wait_for(READY)
    before = running.servers()
    killed = [one for one in running.family if any(word.endswith(f"bin/{victim}") for word in one.cmdline())]
    killed[-1].kill()
    deadline = time.monotonic() + 60
    while len(project.calls("mpirun")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # A rank that is left behind by mpirun would keep its GPU.
    _, alive = psutil.wait_procs(before, timeout=20)
    assert alive == []
    running.family += psutil.Process(running.process.pid).children(recursive=True)
    assert running.interrupt(signal.SIGTERM) == 0
    assert_gone(project, running)


@pytest.mark.parametrize(("wish", "text"), [("crash", "while starting"), ("mute", "no token within")])
def test_a_server_that_gives_no_token_is_stopped_and_the_reason_told(
    two_ranks: Project, own: Callable[..., Project], wish: str, text: str
) -> None:
    project = own(two_ranks)
    failed = project.run("up", *TWO_RANKS, "--set", "runtime.startup_timeout_s=3", FAKE_TRITON_FAIL=wish)
    assert failed.returncode == 1
    assert text in failed.stderr
    assert "-----" not in failed.stderr  # the frame around mpirun's own message is no reason
    assert str(project.workspace / "run" / "triton.log") in failed.stderr
    assert [
        one for one in psutil.process_iter(["cmdline"]) if f"--model-repository={project.workspace}" in str(one.info)
    ] == []


def test_a_detached_deployment_is_stopped_by_down(two_ranks: Project, own: Callable[..., Project]) -> None:
    project = own(two_ranks)
    state = json.loads(project.done("up", *TWO_RANKS, "--detach", "--json").stdout)
    family = [psutil.Process(state["pid"]), *psutil.Process(state["pid"]).children(recursive=True)]
    try:
        assert len([one for one in family if "tritonserver" in " ".join(one.cmdline())]) >= 2
        assert json.loads(project.done("down", "--json").stdout)["stopped"] is True
    finally:
        _, alive = psutil.wait_procs(family, timeout=30)
        for one in alive:
            one.kill()
    assert alive == []

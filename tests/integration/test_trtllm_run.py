"""Running trtllm-build: progress, an explained failure, nothing left running, and a look at what it made.

A small script stands in for trtllm-build; it obeys a file beside it.
"""

from __future__ import annotations

import json
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipstream.engine.trtllm import BuildPlan, EngineReport, Gpu, build_engine, query_gpus
from slipstream.engine.trtllm.failures import CAUSES
from slipstream.errors import RejectedArtifactError, SlipstreamError, SpecError
from slipstream.progress import silent
from tests.unit.trtllm_fixtures import IMAGE, a_checkpoint, a_plan, an_engine

STAND_IN = """#!{python}
import json, os, pathlib, subprocess, sys, time
orders = json.loads(pathlib.Path({orders!r}).read_text())
for line in orders.get("print", []):
    print(line, flush=True)
if orders.get("worker"):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {orders!r}])
sys.stdout.write(orders.get("end", ""))
sys.stdout.flush()
out = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
for name, text in orders.get("write", {{}}).items():
    (out / name).write_text(text)
time.sleep(orders.get("sleep", 0))
if orders.get("signal"):
    os.kill(os.getpid(), orders["signal"])
sys.exit(orders.get("exit", 0))
"""
SMI = """#!/bin/sh
printf '%s\\n' 'NVIDIA H100 80GB HBM3, 9.0, 590.44.01, 81559' 'NVIDIA H100 80GB HBM3, 9.0, 590.44.01, 81559'
"""


@dataclass(frozen=True)
class Builder:
    """The stand-in, and what it builds."""

    orders: Path
    out: Path
    log: Path
    bin: Path

    def obeys(self, **orders: Any) -> None:
        self.orders.write_text(json.dumps(orders))

    def plan(self, ranks: int = 1, **changes: Any) -> BuildPlan:
        engine = an_engine(tp_size=ranks, **changes)
        return a_plan(engine, a_checkpoint(tp_size=ranks), output_dir=str(self.out))

    def makes(self, plan: BuildPlan, **orders: Any) -> None:
        self.obeys(**{"write": engine_files(plan), **orders})

    def run(self, plan: BuildPlan | None = None, report: Callable[..., None] = silent) -> EngineReport:
        return build_engine(plan or self.plan(), self.out, report, log=self.log)

    def failure(self, plan: BuildPlan | None = None) -> SlipstreamError:
        with pytest.raises(SlipstreamError) as caught:
            self.run(plan)
        return caught.value


def engine_files(plan: BuildPlan) -> dict[str, str]:
    config = {"version": "1.2.1", "pretrained_config": {}, "build_config": dict(plan.expected)}
    ranks = {f"rank{rank}.engine": "e" * (rank + 1) for rank in range(plan.world_size)}
    return {"config.json": json.dumps(config), **ranks}


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    """A PATH on which only the stand-in is found."""
    directory, orders = tmp_path / "bin", tmp_path / "orders.json"
    directory.mkdir()
    out = tmp_path / "workspace" / ".engine.partial"
    out.mkdir(parents=True)
    executable(directory / "trtllm-build", STAND_IN.format(python=sys.executable, orders=str(orders)))
    monkeypatch.setenv("PATH", str(directory))
    return Builder(orders=orders, out=out, log=tmp_path / "logs" / "build.log", bin=directory)


def test_a_build_reports_version_time_and_sizes(builder: Builder) -> None:
    plan = builder.plan(ranks=3)
    builder.makes(plan)
    made = builder.run(plan)
    assert (made.role, made.tensorrt_llm, made.gpu, made.rank_bytes) == ("target", "1.2.1", None, (1, 2, 3))
    assert made.seconds > 0
    assert made.command == plan.command.shell_text
    json.dumps(asdict(made))  # it goes into the manifest
    assert sorted(path.name for path in builder.out.iterdir()) == sorted(engine_files(plan))


def test_the_gpu_is_in_the_report(builder: Builder) -> None:
    executable(builder.bin / "nvidia-smi", SMI)
    builder.makes(builder.plan())
    assert builder.run().gpu == Gpu(name="NVIDIA H100 80GB HBM3", sm=90, driver="590.44.01", memory_mib=81559)
    assert len(query_gpus()) == 2


@pytest.mark.parametrize(
    "text",
    ["exit 9", "echo Failed to initialize NVML", "echo 'A, [N/A], 1, 2'", "echo 'A, B'", "echo 'A, 9.0, 1, 2'; exit 9"],
)
def test_a_driver_that_does_not_answer_is_no_gpu(text: str, builder: Builder) -> None:
    executable(builder.bin / "nvidia-smi", f"#!/bin/sh\n{text}\n")
    assert query_gpus() == ()


def test_an_engine_is_not_built_on_another_kind_of_gpu(builder: Builder) -> None:
    executable(builder.bin / "nvidia-smi", SMI)
    builder.makes(builder.plan())
    with pytest.raises(SpecError, match=r"hardware\.gpu is an sm_80, this machine has NVIDIA H100 80GB HBM3, sm_90"):
        builder.run(replace(builder.plan(), sm=80))
    assert not builder.log.exists()


def test_the_log_keeps_the_command_and_all_that_was_printed(builder: Builder) -> None:
    plan = builder.plan()
    builder.makes(plan, print=["one", "two\rthree"])
    builder.run(plan)
    assert builder.log.read_bytes().decode() == f"$ {plan.command.shell_text}\none\ntwo\rthree\n"


RANK = [
    "[TRT-LLM] [I] Total time of constructing network from module object 2.7 seconds",
    "[TRT-LLM] [I] Build TensorRT engine Unnamed Network 0",
    "[TRT-LLM] [I] Total time of building Unnamed Network 0: 00:00:36",
    "[TRT-LLM] [I] Engine serialized. Total time: 00:00:02",
]


@pytest.mark.parametrize("order", [RANK * 2, [line for line in RANK for _ in range(2)]], ids=["in turn", "at once"])
def test_progress_counts_the_marks_of_all_ranks(order: list[str], builder: Builder) -> None:
    told: list[tuple[str, float]] = []
    plan = builder.plan(ranks=2)
    builder.makes(plan, print=[*order, "[TRT-LLM] [I] Total time of building all engines: 00:01:59"])
    builder.run(plan, lambda message, fraction=None: told.append((message, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, pytest.approx(1))
    assert len(told) == 1 + len(order)
    assert told[0][0] == "0 of 2 engines, loading TensorRT-LLM and the checkpoint"
    assert told[-1][0] == "2 of 2 engines, written"
    assert any("choosing kernels" in message for message, _ in told)


def test_a_log_that_repeats_itself_does_not_pass_the_end(builder: Builder) -> None:
    told: list[tuple[str, float]] = []
    builder.makes(builder.plan(), print=RANK * 5)
    builder.run(report=lambda message, fraction=None: told.append((message, fraction)))
    assert told[-1] == ("1 of 1 engine, written", pytest.approx(1))
    assert len(told) == 1 + len(RANK)


FAILURES = [
    (2, "trtllm-build: error: unrecognized arguments: --user_buffer", "does not know the command's flags", "container"),
    (1, "OSError: [Errno 28] No space left on device", "no room left on the disk", "--out"),
    (1, "ModuleNotFoundError: No module named 'tensorrt_llm'", "cannot be imported", "TRITON_TRTLLM_IMAGE"),
    (1, "RuntimeError: Found no NVIDIA driver on your system.", "no GPU is to be seen", "--gpus all"),
    (1, "ValueError: max_workers must be greater than 0", "no GPU is to be seen", "--gpus all"),
    (1, "RuntimeError: SmoothQuant is not supported on SM>=100.", "does not run the quantization", "recipe"),
    (1, "NotImplementedError: gemm_swiglu_plugin=fp8 is not supported on SM 100.", "does not run", "GPUs that serve"),
    (
        1,
        "[TRT] [E] 9: Internal Error (Networks with FP8 precision require hardware with FP8 support.)",
        "does not run the quantization",
        "recipe",
    ),
    (
        1,
        "Assertion failed: FP8 FMHA cannot be enabled except on Ada or Hopper or Blackwell Arch.",
        "does not",
        "recipe",
    ),
    (1, "TypeError: QuantConfig.__init__() got an unexpected keyword argument 'x'", "do not fit", "quantize again"),
    (1, "KeyError: 'Qwen3ForCausalLM'", "do not fit", "quantize again"),
    (1, "AssertionError: Unsupported model architecture: FooForCausalLM", "do not fit", "quantize again"),
    (1, "RuntimeError: Required but not provided tensors:{'lm_head.weight'}", "do not fit", "quantize again"),
    (1, "    assert cache is not None and isinstance(cache, trt.ITimingCache)", "timing cache is damaged", "delete"),
    (
        1,
        "concurrent.futures.process.BrokenProcessPool: A process was terminated abruptly",
        "too little memory for so many",
        "workers",
    ),
    (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory", "too little memory for so many ranks", "workers"),
    (1, "[TRT] [E] 2: [x.cpp::y::140] Error Code 2: OutOfMemory (no further information)", "GPU has too", "nvidia-smi"),
    (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "too little free memory", "tp_size"),
    (1, "Error Code 10: Could not find any implementation for node {ForeignNode}", "found no kernel", "max_num_tokens"),
]


@pytest.mark.parametrize(("code", "line", "what", "mend"), FAILURES)
def test_a_failure_is_explained(code: int, line: str, what: str, mend: str, builder: Builder) -> None:
    builder.obeys(print=["[TRT-LLM] [I] before", line, "[TRT-LLM] [E] after"], exit=code)
    error = builder.failure()
    assert error.message.startswith("trtllm-build failed: ")
    assert what in error.message
    assert line.strip() in error.message
    assert mend in error.mend
    assert str(builder.log) in error.mend
    assert line in builder.log.read_text()


def test_every_cause_is_in_the_test() -> None:
    for cause in CAUSES:
        assert any(cause.pattern.search(line) for _, line, _, _ in FAILURES), cause.what


@pytest.mark.parametrize("orders", [{"signal": int(signal.SIGKILL)}, {"exit": 137}])
def test_a_build_that_the_system_killed_had_too_little_memory(orders: dict[str, int], builder: Builder) -> None:
    builder.obeys(**orders)
    assert "too little memory for so many ranks" in builder.failure().message


def test_the_last_line_counts_without_its_end(builder: Builder) -> None:
    builder.obeys(end="loading  10 %\rOSError: [Errno 28] No space left on device", exit=1)
    assert "no room left on the disk (OSError: [Errno 28]" in builder.failure().message


def test_the_first_line_that_shows_the_cause_is_quoted(builder: Builder) -> None:
    builder.obeys(print=["CUDA out of memory: rank 3", "CUDA out of memory: the end of all ranks"], exit=1)
    assert "rank 3" in builder.failure().message


def test_a_warning_about_memory_does_not_hide_the_cause(builder: Builder) -> None:
    lines = ["[TRT] [E] Error Code 2: OutOfMemory (skipped tactic)", "OSError: [Errno 28] No space left on device"]
    builder.obeys(print=lines, exit=1)
    assert "no room left" in builder.failure().message


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ({"print": ["ValueError: odd", "  at the end"], "exit": 3}, "ended with exit code 3: ValueError: odd"),
        ({"print": ["calm words"], "exit": 1}, "ended with exit code 1: calm words"),
        ({"signal": int(signal.SIGSEGV)}, "was ended by SIGSEGV"),
        ({"signal": int(signal.SIGRTMIN) + 1}, f"was ended by signal {int(signal.SIGRTMIN) + 1}"),
    ],
)
def test_a_failure_without_a_known_cause_quotes_the_log(orders: dict[str, Any], said: str, builder: Builder) -> None:
    builder.obeys(**orders)
    assert said in builder.failure().message


def test_a_missing_trtllm_build_names_its_container(builder: Builder) -> None:
    (builder.bin / "trtllm-build").unlink()
    error = builder.failure()
    assert "there is no such command" in error.message
    assert IMAGE in error.mend


def test_too_small_a_disk_is_seen_before_the_build(builder: Builder) -> None:
    builder.obeys(print=["started"])
    error = builder.failure(replace(builder.plan(), engine_bytes=1 << 60))
    assert "the engine takes at least" in error.message
    assert not builder.log.exists()


@pytest.mark.parametrize(("algo", "share"), [("FP8", 0.9), ("W8A16", 0.45)])
def test_an_engine_is_about_as_large_as_its_checkpoint(algo: str, share: float) -> None:
    kv_cache = "FP8" if algo == "FP8" else None
    facts = a_checkpoint(quant_algo=algo, kv_cache_quant_algo=kv_cache, checkpoint_bytes=1000)
    assert a_plan(facts=facts).engine_bytes == 1000 * share


@pytest.mark.parametrize("missing", ["config.json", "rank1.engine"])
def test_a_build_that_ended_well_and_left_a_file_out_is_refused(missing: str, builder: Builder) -> None:
    plan = builder.plan(ranks=2)
    builder.makes(plan, write={name: text for name, text in engine_files(plan).items() if name != missing})
    assert missing in builder.failure(plan).message


def test_an_empty_engine_is_refused(builder: Builder) -> None:
    plan = builder.plan()
    builder.makes(plan, write={**engine_files(plan), "rank0.engine": ""})
    assert "rank0.engine: is missing or empty" in builder.failure(plan).message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "1.2.1"}'])
def test_a_config_that_is_no_engines_is_refused(text: str, builder: Builder) -> None:
    plan = builder.plan()
    builder.makes(plan, write={**engine_files(plan), "config.json": text})
    assert "config.json" in builder.failure(plan).message


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_seq_len", 4096, "build_config.max_seq_len is 4096, planned was 8192"),
        ("max_draft_len", None, "build_config.max_draft_len is None, planned was 0"),
        ("kv_cache_type", "CONTINUOUS", "planned was 'paged'"),
    ],
)
def test_an_engine_that_was_built_otherwise_is_refused(key: str, value: object, said: str, builder: Builder) -> None:
    plan = builder.plan()
    other = replace(plan, expected={**plan.expected, key: value})
    builder.makes(other)
    failure = builder.failure(plan)
    assert said in failure.message
    assert isinstance(failure, RejectedArtifactError)  # hours of work: it is kept aside
    assert "kept beside, as engine.rejected" in failure.message


def test_what_an_engine_does_not_say_of_itself_is_no_fault(builder: Builder) -> None:
    plan = builder.plan()
    builder.makes(replace(plan, expected={**plan.expected, "plugin_config": {}}))
    assert "build_config.plugin_config.remove_input_padding" in builder.run(plan).not_said


@pytest.mark.parametrize("written", ["PAGED", "paged"])
def test_the_name_of_the_cache_is_taken_in_either_spelling_of_tensorrt_llm(written: str, builder: Builder) -> None:
    plan = builder.plan()
    builder.makes(replace(plan, expected={**plan.expected, "kv_cache_type": written}))
    assert builder.run(plan).tensorrt_llm == "1.2.1"


def test_paged_attention_that_was_lost_is_seen(builder: Builder) -> None:
    plan = builder.plan()
    plugins = {**plan.expected["plugin_config"], "use_paged_context_fmha": False}
    builder.makes(replace(plan, expected={**plan.expected, "plugin_config": plugins}))
    assert "plugin_config.use_paged_context_fmha is False, planned was True" in builder.failure(plan).message


def test_a_plan_is_for_the_directory_it_names(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        build_engine(builder.plan(), tmp_path, silent, log=builder.log)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_ctrl_c_ends_every_process_of_the_build(builder: Builder) -> None:
    builder.obeys(sleep=600, worker=True, print=["started"])
    others, seen = children(), list[psutil.Process]()  # an earlier test may have left some

    def interrupt() -> None:
        while len(seen) < 2:
            seen[:] = [child for child in children() if child not in others]
            time.sleep(0.01)
        # To this thread: other tests load OpenVINO, whose leftovers end the process when the first one is signalled.
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        builder.run()
    thread.join()
    assert len(seen) == 2
    _, alive = psutil.wait_procs(seen, timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert "started" in builder.log.read_text()


def test_a_worker_that_outlives_its_parent_is_ended(builder: Builder) -> None:
    builder.obeys(worker=True, exit=1, sleep=0.5)
    builder.failure()
    left = [each for each in psutil.process_iter(["cmdline"]) if str(builder.orders) in (each.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(left, timeout=5)  # it was killed, and may take a moment to be gone
    assert not alive

"""The stand-ins refuse what the real tools refuse: one that accepts anything would prove nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes.checkpoints import TinyModel, write_checkpoint, write_config
from tests.fakes.gpu_tools import BIN, run_tool

CONTRACT = Path(__file__).resolve().parents[1] / "contract" / "trtllm-1.2.1"
FLAGS = json.loads((CONTRACT / "trtllm_build_flags.json").read_text())
FP8 = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
TARGET = ("--speculative_decoding_mode", "draft_tokens_external", "--max_draft_len", "5")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def write(architecture: str = "LlamaForCausalLM", **stored: Any) -> Path:
        return write_checkpoint(
            tmp_path / "checkpoint", TinyModel(architecture=architecture, intermediate_size=128), **stored
        )

    return write


def build(
    checkpoint: Path, *flags: str, env: Mapping[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """trtllm-build with small sizes, and its output directory."""
    out = checkpoint.parent / "engine"
    sizes = ("--max_batch_size", "8", "--max_seq_len", "256", "--max_input_len", "255", "--max_num_tokens", "512")
    arguments = ("--checkpoint_dir", str(checkpoint), "--output_dir", str(out), *sizes, *flags)
    return run_tool("trtllm-build", *arguments, env=env, cwd=checkpoint.parent), out


def built(checkpoint: Path, *flags: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The build_config of the engine that came out."""
    done, out = build(checkpoint, *flags, env=env)
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads((out / "config.json").read_text())["build_config"]
    return config


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            [name]
            for names in (FLAGS["removed_after_1_0"], FLAGS["removed_earlier"])
            for name in names
            if " " not in name
        ),
        ["--tp_size", "2"],
        ["--max_batch_size", "many"],
        ["--max_batch", "8"],
        ["--kv_cache_type", "ring"],
        ["--gemm_plugin", "fp4"],
        ["--use_paged_context_fmha", "true"],
        ["--logits_dtype", "bfloat16"],
        ["--lora_target_modules", "attn"],
        ["--strip_plan=yes"],
        ["stray"],
    ],
    ids=" ".join,
)
def test_the_builder_refuses_arguments_it_does_not_know(arguments: Sequence[str]) -> None:
    done = run_tool("trtllm-build", *arguments)
    assert done.returncode == 2
    assert "trtllm-build: error: " in done.stderr


@pytest.mark.parametrize(
    ("flags", "stored", "env", "text"),
    [
        (("--gather_context_logits", *TARGET), {}, {}, "RuntimeError: Gather context logits is not support"),
        (("--gather_all_token_logits", *TARGET), {}, {}, "RuntimeError: Gather context logits is not support"),
        (("--multiple_profiles", "enable", "--opt_num_tokens", "8"), {}, {}, "multiple_profiles is enabled, while"),
        (("--streamingllm", "enable"), {}, {}, "StreamingLLM is no longer supported"),
        (("--pp_reduce_scatter", "enable"), {}, {}, "only supported in the mixtral model"),
        (("--gemm_swiglu_plugin", "fp8", "--use_fused_mlp", "disable"), FP8, {}, "requires --use_fused_mlp"),
        (("--weight_streaming", "--gemm_plugin", "auto"), {}, {}, "Weight streaming is not supported"),
        (("--gemm_plugin", "fp8"), {}, {}, "gemm_plugin fp8 needs an FP8 checkpoint"),
        (("--max_draft_len", "5"), {}, {}, "speculative_decoding_mode and max_draft_len"),
        (("--speculative_decoding_mode", "eagle", "--max_draft_len", "8"), {}, {}, "num_eagle_layers"),
        ((), {"quant_algo": "W4A16_AWQ"}, {"FAKE_GPU_SM": "100"}, "INT8/INT4 quantization is not supported on SM>=100"),
        ((), {"kv_cache_quant_algo": "INT8"}, {"FAKE_GPU_SM": "103"}, "INT8/INT4 quantization is not supported"),
        ((), {"quant_algo": "W8A8_SQ_PER_CHANNEL"}, {"FAKE_GPU_SM": "100"}, "SmoothQuant is not supported"),
        (("--low_latency_gemm_plugin", "fp8"), FP8, {"FAKE_GPU_SM": "100"}, "NotImplementedError: low_latency_gemm"),
        ((), FP8, {"FAKE_GPU_SM": "80"}, "Engine building failed, please check the error log."),
        (("--workers", "2"), {}, {"FAKE_GPUS": "0"}, "ValueError: max_workers must be greater than 0"),
        (("--max_batch_size", "0"), {}, {}, "max_batch_size must be positive"),
    ],
)
def test_the_builder_refuses_what_does_not_go_together(
    checkpoint: Callable[..., Path], flags: Sequence[str], stored: Mapping[str, Any], env: Mapping[str, str], text: str
) -> None:
    done, out = build(checkpoint(**stored), *flags, env=env)
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]
    assert not list(out.glob("*.engine"))


@pytest.mark.parametrize(
    ("flags", "stored", "env", "changed"),
    [
        ((), FP8, {}, {"use_paged_context_fmha": True, "use_fp8_context_fmha": True}),
        (("--use_fp8_context_fmha", "disable"), FP8, {}, {"use_fp8_context_fmha": True}),
        ((), {"quant_algo": "FP8"}, {}, {"use_paged_context_fmha": True, "use_fp8_context_fmha": False}),
        ((), {"kv_cache_quant_algo": "FP8"}, {}, {"use_paged_context_fmha": False, "use_fp8_context_fmha": False}),
        ((), {"kv_cache_quant_algo": "INT8"}, {}, {"use_paged_context_fmha": False}),
        (("--context_fmha", "disable"), {}, {}, {"use_paged_context_fmha": False, "use_fp8_context_fmha": False}),
        (("--reduce_fusion", "enable"), {}, {}, {"reduce_fusion": False}),
        (("--reduce_fusion", "enable"), {"tp_size": 2}, {}, {"reduce_fusion": True}),
        (("--user_buffer", "enable"), {"tp_size": 2}, {}, {"user_buffer": False}),
        ((), {"tp_size": 2}, {}, {"nccl_plugin": "float16"}),
        ((), {}, {}, {"nccl_plugin": None, "gemm_plugin": None, "use_fused_mlp": True, "paged_kv_cache": True}),
    ],
)
def test_the_builder_silently_changes_what_the_reference_says(
    checkpoint: Callable[..., Path],
    flags: Sequence[str],
    stored: Mapping[str, Any],
    env: Mapping[str, str],
    changed: Mapping[str, Any],
) -> None:
    plugins = built(checkpoint(**stored), *flags, env=env)["plugin_config"]
    assert {name: plugins[name] for name in changed} == changed


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ((), {"max_seq_len": 256, "max_num_tokens": 512, "opt_num_tokens": 8, "speculative_decoding_mode": 1}),
        (TARGET, {"max_seq_len": 261, "max_num_tokens": 512, "max_draft_len": 5, "speculative_decoding_mode": 2}),
        ((*TARGET, "--max_num_tokens", "32"), {"max_num_tokens": 48}),
        (("--max_num_tokens", "8192"), {"max_num_tokens": 2048}),
        (("--max_num_tokens", "16"), {"max_num_tokens": 32}),
        (("--max_decoder_seq_len", "128"), {"max_seq_len": 128, "max_input_len": 128}),
        (("--multiple_profiles", "enable"), {"opt_num_tokens": None}),
        (("--kv_cache_type", "continuous"), {"kv_cache_type": "continuous"}),
    ],
)
def test_the_builder_adjusts_sizes(
    checkpoint: Callable[..., Path], flags: Sequence[str], sizes: Mapping[str, Any]
) -> None:
    config = built(checkpoint(), *flags)
    assert {name: config[name] for name in sizes} == sizes


def change_config(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    write_config(directory, {key: value for key, value in (config | changes).items() if value != "gone"})


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: change_config(path, hidden_size="gone"), "missing 1 required keyword-only argument"),
        (lambda path: change_config(path, num_hidden_layers="2"), "num_hidden_layers is '2', not an integer"),
        (lambda path: change_config(path, dtype="int8"), "KeyError: 'int8'"),
        (lambda path: change_config(path, quantization={"bits": 4}), "unexpected keyword argument 'bits'"),
        (lambda path: change_config(path, quantization={"quant_algo": "FP9"}), "'FP9' is not a valid QuantAlgo"),
        (lambda path: change_config(path, mapping={"world_size": 3, "tp_size": 2}), "world_size must equal to"),
        (lambda path: change_config(path, mapping={"tp": 2}), "unexpected keyword argument 'tp'"),
        (lambda path: change_config(path, num_hidden_layers=3), "Required but not provided tensors"),
        (lambda path: change_config(path, intermediate_size=256), "not the same shape as the original"),
        (lambda path: change_config(path, quantization={"quant_algo": "FP8"}), "activation_scaling_factor"),
        (lambda path: change_config(path, quantization={"kv_cache_quant_algo": "FP8"}), "kv_cache_scaling_factor"),
        (lambda path: (path / "rank1.safetensors").unlink(), "No such file or directory"),
        (lambda path: os.truncate(path / "rank1.safetensors", 9000), "file not fully covered"),
    ],
)
def test_the_builder_refuses_a_checkpoint_that_is_wrong(
    checkpoint: Callable[..., Path], damage: Callable[[Path], None], text: str
) -> None:
    directory = checkpoint(tp_size=2)
    damage(directory)
    done, _ = build(directory)
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("algo", [None, "W8A16", "FP8", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ"])
@pytest.mark.parametrize(("tp_size", "pp_size"), [(1, 1), (2, 2)])
def test_the_builder_writes_an_engine_for_every_rank(
    checkpoint: Callable[..., Path], algo: str | None, tp_size: int, pp_size: int
) -> None:
    world_size = tp_size * pp_size
    done, out = build(checkpoint(quant_algo=algo, tp_size=tp_size, pp_size=pp_size), "--workers", "3")
    assert done.returncode == 0, done.stderr
    whole = json.loads((out / "config.json").read_text())
    assert whole["version"] == "1.2.1"
    assert whole["pretrained_config"]["mapping"]["world_size"] == world_size
    assert sorted(path.name for path in out.glob("*.engine")) == [f"rank{rank}.engine" for rank in range(world_size)]
    assert [line for line in done.stdout.splitlines() if "Serializing engine" in line][-1].endswith(
        f"[TRT-LLM] [I] Serializing engine to {out}/rank{world_size - 1}.engine..."
    )
    assert "Total time of building all engines: " in done.stdout.splitlines()[-1]


def test_workers_are_capped_by_the_visible_cards(checkpoint: Callable[..., Path]) -> None:
    together = {"FAKE_GPUS": "8", "FAKE_TRTLLM_FAIL": "killed"}
    directory = checkpoint(tp_size=2)
    done, _ = build(directory, "--workers", "2", env=together)
    assert (done.returncode, "BrokenProcessPool" in done.stderr) == (1, True)
    done, _ = build(directory, "--workers", "2", env={**together, "CUDA_VISIBLE_DEVICES": "3"})
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ("oom", "Error Code 2: OutOfMemory (Requested size was"),
        ("sm", "Unsupported Arch"),
        ("version", "TypeError: QuantConfig.__init__() got an unexpected keyword argument"),
        ("disk", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_the_builder_fails_on_demand_in_the_words_of_the_real_one(
    checkpoint: Callable[..., Path], wish: str, text: str
) -> None:
    done, _ = build(checkpoint(), env={"FAKE_TRTLLM_FAIL": wish})
    assert done.returncode == 1
    assert text in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--query-gpu=name,compute_cap", "--format=csv,noheader"], 0, "NVIDIA H100 80GB HBM3, 9.0\n"),
        (["--query-gpu=memory.total", "--format=csv,noheader,nounits"], 0, "81559\n"),
        (["--query-gpu=index,memory.total", "--format=csv"], 0, "index, memory.total [MiB]\n0, 81559 MiB\n"),
        (["-L"], 0, "GPU 0: NVIDIA H100"),
        (["--query-gpu=sm", "--format=csv"], 2, 'Field "sm" is not a valid field to query.'),
        (["--query-gpu=name"], 2, "is not a valid format"),
        (["--query-gpu=name", "--format=csv,noheaders"], 2, "is not a valid format"),
        (["--query"], 2, "Invalid combination of input arguments"),
    ],
)
def test_nvidia_smi_answers_queries_it_knows(arguments: Sequence[str], code: int, text: str) -> None:
    done = run_tool("nvidia-smi", *arguments, env={"FAKE_GPUS": "1"})
    assert (done.returncode, text in done.stdout) == (code, True)


def test_nvidia_smi_says_that_there_is_no_card_or_no_driver() -> None:
    query = ("--query-gpu=name", "--format=csv")
    assert run_tool("nvidia-smi", *query, env={"FAKE_GPUS": "0"}).returncode == 6
    assert run_tool("nvidia-smi", *query, env={"FAKE_SMI_FAIL": "driver"}).returncode == 9


def server(prefix: str) -> list[str]:
    return ["-n", "1", "tritonserver", f"--backend-config=python,shm-region-prefix-name={prefix}"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-n", "1", "true"], "attempt to run as root"),
        (["--allow-run-as-root", "--quiet", "-n", "1", "true"], 'unknown option "--quiet"'),
        (["--allow-run-as-root", "-n", "1"], "could not find anything to do"),
        (["--allow-run-as-root", "-n", "0", "true"], "needs a positive number"),
        (["--allow-run-as-root", "true"], "No -n was given"),
        (["--allow-run-as-root", "-n", "1", "true", ":", "--oversubscribe", "-n", "1", "true"], "is global"),
        (["--allow-run-as-root", "-n", "1", "no-such-program"], "unable to find the specified executable"),
        (["--allow-run-as-root", "--mca", "plm_rsh_agent"], "did not have enough parameters"),
        (["--allow-run-as-root", *server("a"), ":", *server("a")], "share a shm-region-prefix-name"),
        (["--allow-run-as-root", *server("a"), ":", "-n", "1", "tritonserver"], "for every tritonserver"),
        (["--allow-run-as-root", "-n", "65", "true"], "not enough slots"),
        (["--allow-run-as-root", "--host", "a:2,b:2", "-n", "5", "true"], "not enough slots"),
        (
            ["--allow-run-as-root", "-mca", "plm_rsh_agent", "no-such-agent", "-n", "1", "true"],
            "rsh agent no-such-agent",
        ),
    ],
)
def test_mpirun_refuses_a_wrong_command_line(arguments: Sequence[str], text: str) -> None:
    if text == "attempt to run as root" and os.geteuid() != 0:
        pytest.skip("only root is refused")
    done = run_tool("mpirun", *arguments)
    assert (done.returncode, text in done.stderr) == (1, True), done.stderr


def test_mpirun_gives_every_rank_its_number(tmp_path: Path) -> None:
    script = "echo $OMPI_COMM_WORLD_RANK/$OMPI_COMM_WORLD_SIZE $COLOUR > $0"
    rank = ["-n", "1", "-x", "COLOUR=red", "sh", "-c", script]
    done = run_tool("mpirun", "--allow-run-as-root", *rank, str(tmp_path / "a"), ":", *rank, str(tmp_path / "b"), ":")
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / name).read_text() for name in "ab"] == ["0/2 red\n", "1/2 red\n"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mpi=pmi2", "--nodes=1", "--ntasks-per-node=1", "true"],
        ["--mpi=pmix", "--nodes=1", "true"],
        ["--mpi=pmix", "--nodes=1", "--ntasks-per-node=1", "--gpus=8", "true"],
        ["--mpi=pmix", "--nodes=1", "--ntasks-per-node=1", "no-such-program"],
        ["--mpi=pmix", "--nodes=1", "--ntasks-per-node=1"],
    ],
)
def test_srun_refuses_a_wrong_command_line(arguments: Sequence[str]) -> None:
    done = run_tool("srun", *arguments)
    assert (done.returncode, done.stderr.startswith("srun: ")) == (1, True)


def test_srun_gives_every_task_its_number(tmp_path: Path) -> None:
    script = "touch $0/$SLURM_PROCID-of-$SLURM_NTASKS-on-$SLURM_JOB_NUM_NODES"
    tasks = ("--mpi=pmix", "--nodes=2", "--ntasks-per-node=2", "sh", "-c", script, str(tmp_path))
    assert run_tool("srun", *tasks).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{rank}-of-4-on-2" for rank in range(4)]


def test_a_rank_that_fails_ends_the_job() -> None:
    started = time.monotonic()
    done = run_tool("mpirun", "--allow-run-as-root", "-n", "1", "sleep", "60", ":", "-n", "1", "sh", "-c", "exit 3")
    assert (done.returncode, "Process name: [[40526,1],1]" in done.stderr) == (3, True)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(("how", "survivors"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 2)])
def test_a_signal_to_mpirun_ends_the_ranks_but_a_kill_of_its_group_leaves_them(how: int, survivors: int) -> None:
    command = [str(BIN / "mpirun"), "--allow-run-as-root", "-n", "1", "sleep", "60", ":", "-n", "1", "sleep", "60"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        ranks = wait_for(lambda: psutil.Process(process.pid).children(), 2)
        os.killpg(process.pid, how)
        process.wait(20)
        _, alive = psutil.wait_procs(ranks, timeout=0.5 if survivors else 10)
        assert len(alive) == survivors
    finally:
        for rank in ranks:
            if rank.is_running():
                rank.kill()


def wait_for(look: Callable[[], list[psutil.Process]], count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while len(found := look()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found

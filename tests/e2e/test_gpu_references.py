"""What `slipstream up --dry-run --json` prints for the committed deployments, run as it stands against the stand-ins.

A tiny checkpoint of the same architecture, format and ranks stands in for each model; sizes, options, files and launch
are those of the deployment. Paths under /models become the test's own, fixed ports become free ones.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipstream.serve.ports import resolve_ports
from tests.conftest import ROOT, run_slipstream
from tests.fakes.checkpoints import TinyModel, write_checkpoint
from tests.fakes.gpu_tools import tool_environment

DEPLOYMENTS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "deployments").glob("*.yaml"))}
ENGINES = [name for name, spec in DEPLOYMENTS.items() if spec["engine"]["target"] == "tensorrt_llm"]
SERVED = [name for name, spec in DEPLOYMENTS.items() if spec["engine"]["target"] != "openvino"]
# Name of the card → compute capability x 10; what nvidia-smi says of them is not looked at here.
CARDS = {"H100 80GB SXM": "90", "A100 80GB SXM": "80", "B200": "100"}
FORMATS = {"fp8": "FP8", "int8_sq": "W8A8_SQ_PER_CHANNEL", "none": None}
# Enough heads and columns for eight ranks.
TINY = {"num_heads": 16, "num_kv_heads": 8, "head_size": 16, "hidden_size": 128, "intermediate_size": 256}


@dataclass(frozen=True)
class Plan:
    """One dry run, its paths moved into `directory`."""

    directory: Path
    commands: list[dict[str, Any]]
    files: Mapping[str, str]
    http: str
    card: Mapping[str, str]

    def environment(self, command: Mapping[str, Any]) -> dict[str, str]:
        return tool_environment({**self.card, **command["env"]})

    def builds(self) -> list[dict[str, Any]]:
        return [command for command in self.commands if command["argv"][0] == "trtllm-build"]

    def launches(self) -> list[dict[str, Any]]:
        return [command for command in self.commands if command["argv"][0] not in {"slipstream", "trtllm-build"}]


def plan_of(name: str, directory: Path, *settings: str) -> Plan:
    sets = [word for setting in settings for word in ("--set", setting)]
    printed = run_slipstream("up", name, "--dry-run", "--json", *sets)
    assert printed.returncode == 0, printed.stderr
    ports = resolve_ports("auto")
    text = printed.stdout.replace(f"/models/{name}", str(directory))
    for service in ("http", "grpc", "metrics"):
        text = re.sub(rf"--{service}-port=\d+", f"--{service}-port={getattr(ports, service)}", text)
    made = json.loads(text)
    sm = CARDS[DEPLOYMENTS[name]["hardware"]["gpu"]]
    return Plan(directory, made["commands"], made["files"], f"127.0.0.1:{ports.http}", {"FAKE_GPU_SM": sm})


def write_inputs(name: str, plan: Plan, **stored: Any) -> None:
    """The checkpoints, tokenizers and files that the commands find; `stored` is what differs from the deployment."""
    spec = DEPLOYMENTS[name]
    engine = spec["engine"]
    models = {plan.directory: spec, **({plan.directory / "draft": engine["draft"]} if "draft" in engine else {})}
    architecture = "MixtralForCausalLM" if "mixtral" in name else "LlamaForCausalLM"
    for directory, it in models.items():
        (directory / "model").mkdir(parents=True)
        (directory / "model" / "tokenizer.json").write_text("{}")
        if engine["target"] == "tensorrt_llm":
            formats = stored_formats(it.get("quantization", {}))
            ranks = {key: engine.get(key, 1) for key in ("tp_size", "pp_size")}
            model = TinyModel(
                architecture=architecture, dtype=it["model"]["dtype"], max_position_embeddings=131072, **TINY
            )
            write_checkpoint(directory / "checkpoint", model, **{**formats, **ranks, **stored})
    for path, text in plan.files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)


def stored_formats(quantization: Mapping[str, str]) -> dict[str, str | None]:
    kv_cache = quantization.get("kv_cache", "auto")
    return {
        "quant_algo": FORMATS[quantization.get("recipe", "none")],
        "kv_cache_quant_algo": None if kv_cache == "auto" else kv_cache.upper(),
    }


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def build_all(plan: Plan) -> None:
    for command in plan.builds():
        done = subprocess.run(
            command["argv"], env=plan.environment(command), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr


def answers(address: str, process: subprocess.Popen[str]) -> bool:
    """Whether a token comes before the launch ends."""
    body = json.dumps({"text_input": "Hello", "max_tokens": 1, "stream": False})
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("POST", "/v2/models/ensemble/generate", body)
            return "text_output" in connection.getresponse().read().decode()
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    return False


def serve_all(plan: Plan, running: list[subprocess.Popen[str]]) -> int:
    """Start each launch of the plan, one after the other; each must give a token. How many did."""
    for command in plan.launches():
        pods = {"LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "pod-0.pods"} if command["argv"][0] == "bash" else {}
        log = plan.directory.with_suffix(".log")
        with log.open("w") as stream:
            environment = {**plan.environment(command), **pods}
            process = subprocess.Popen(command["argv"], env=environment, stdout=stream, stderr=stream, text=True)
        running.append(process)
        assert answers(plan.http, process), log.read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    return len(plan.launches())


@pytest.mark.parametrize("name", ENGINES)
def test_the_printed_commands_build_and_serve(name: str, tmp_path: Path, running: list[subprocess.Popen[str]]) -> None:
    plan = plan_of(name, tmp_path / name)
    write_inputs(name, plan)
    build_all(plan)
    # Over several machines there is a line for Slurm and one for a LeaderWorkerSet.
    assert serve_all(plan, running) == (2 if DEPLOYMENTS[name]["hardware"].get("nodes", 1) > 1 else 1)


@pytest.mark.parametrize(
    ("name", "settings", "ranks"),
    [
        ("llama-3.3-70b-fp8-tp4-draft", ["runtime.tensorrt_llm.participant_ids=5,6,7,8"], 9),
        (
            "llama-3.1-8b-fp8-h100",
            ["runtime.engine_instances=2", "runtime.tensorrt_llm.gpu_device_ids=0;1", "hardware.gpus_per_node=2"],
            1,
        ),
    ],
    ids=["participants", "instances"],
)
def test_an_orchestrator_serves(
    name: str, settings: list[str], ranks: int, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    plan = plan_of(name, tmp_path / name, "runtime.launch_mode=orchestrator", *settings)
    [command] = plan.launches()
    assert command["argv"].count("tritonserver") == ranks
    write_inputs(name, plan)
    build_all(plan)
    assert serve_all(plan, running) == 1


@pytest.mark.parametrize(
    ("settings", "flags", "parameters"),
    [
        (["engine.trtllm_build.multiple_profiles=true"], ["--multiple_profiles enable"], {}),
        (
            ["engine.trtllm_build.opt_num_tokens=64", "engine.trtllm_build.tokens_per_block=64"],
            ["--opt_num_tokens 64", "--tokens_per_block 64"],
            {},
        ),
        (["engine.trtllm_build.low_latency_gemm_plugin=true"], ["--low_latency_gemm_plugin fp8"], {}),
        (["engine.trtllm_build.gemm_swiglu_plugin=true"], ["--gemm_swiglu_plugin fp8"], {}),
        (
            ["engine.trtllm_build.gemm_plugin=disable", "engine.trtllm_build.max_prompt_embedding_table_size=128"],
            ["--gemm_plugin disable", "--max_prompt_embedding_table_size 128"],
            {},
        ),
        (
            ["engine.trtllm_build.weight_streaming=true", "runtime.tensorrt_llm.gpu_weights_percent=0.5"],
            ["--weight_streaming"],
            {"gpu_weights_percent": "0.5"},
        ),
        (["engine.trtllm_build.gather_context_logits=true"], ["--gather_context_logits"], {}),
        (
            ["engine.max_beam_width=4", "runtime.tensorrt_llm.decoding_mode=beam_search"],
            ["--max_beam_width 4"],
            {"max_beam_width": "4", "decoding_mode": "beam_search"},
        ),
        (
            ["engine.lora={target_modules: [attn_q, attn_v], max_lora_rank: 8}"],
            ["--lora_plugin auto", "--lora_target_modules attn_q attn_v", "--max_lora_rank 8"],
            {"lora_cache_max_adapter_size": "8"},
        ),
        (
            [
                "engine.speculation={mode: lookahead, max_draft_len: 111, "
                + ", ".join(f"lookahead_{size}: 8" for size in ("window_size", "ngram_size", "verification_set_size"))
                + "}"
            ],
            ["--speculative_decoding_mode lookahead_decoding", "--max_draft_len 111"],
            {"decoding_mode": "lookahead", "lookahead_window_size": "8", "lookahead_ngram_size": "8"},
        ),
        (
            ["quantization.kv_cache=auto", "runtime.tensorrt_llm.max_attention_window_size='4096'"],
            [],
            {"max_attention_window_size": "4096"},
        ),
        (
            [
                "runtime.tensorrt_llm.kv_cache_host_memory_bytes=1073741824",
                "runtime.tensorrt_llm.cuda_graph_mode=true",
                "runtime.tensorrt_llm.cuda_graph_cache_size=64",
                "runtime.batch_scheduler_policy=max_utilization",
            ],
            [],
            {
                "kv_cache_host_memory_bytes": "1073741824",
                "cuda_graph_mode": "true",
                "cuda_graph_cache_size": "64",
                "batch_scheduler_policy": "max_utilization",
            },
        ),
        (
            ["runtime.max_queue_size=256", "runtime.default_queue_timeout_microseconds=1000000"],
            [],
            {},
        ),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) and value else "",
)
def test_an_option_reaches_an_engine_that_serves(
    settings: list[str],
    flags: list[str],
    parameters: dict[str, str],
    tmp_path: Path,
    running: list[subprocess.Popen[str]],
) -> None:
    name = "llama-3.1-8b-fp8-h100"
    plan = plan_of(name, tmp_path / name, *settings)
    [build] = plan.builds()
    config = read_model_config(plan.files[str(plan.directory / "model_repository" / "tensorrt_llm" / "config.pbtxt")])
    assert [flag for flag in flags if flag not in " ".join(build["argv"])] == []
    assert {key: config.parameters[key].string_value for key in parameters} == parameters
    if "runtime.max_queue_size=256" in settings:
        policy = config.dynamic_batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (256, 1000000)
    write_inputs(name, plan, kv_cache_quant_algo=None if "quantization.kv_cache=auto" in settings else "FP8")
    build_all(plan)
    assert serve_all(plan, running) == 1


def read_model_config(text: str) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize("name", ENGINES)
def test_the_engines_keep_what_the_runtime_asks_for(name: str, tmp_path: Path) -> None:
    """Nothing is switched off silently: what the spec says is what config.json says."""
    plan = plan_of(name, tmp_path / name)
    write_inputs(name, plan)
    build_all(plan)
    spec = DEPLOYMENTS[name]["engine"]
    built = json.loads((plan.directory / "engine" / "config.json").read_text())["build_config"]
    draft_tokens = spec.get("draft", {}).get("max_draft_len", 0)
    assert built["max_seq_len"] == spec["max_seq_len"] + draft_tokens
    assert {key: built[key] for key in ("max_batch_size", "max_num_tokens", "max_input_len")} == {
        key: spec[key] for key in ("max_batch_size", "max_num_tokens", "max_input_len")
    }
    assert built["kv_cache_type"] == "paged"
    assert built["plugin_config"]["use_paged_context_fmha"]


def test_every_gpu_deployment_is_looked_at() -> None:
    assert len(ENGINES) >= 4
    assert {DEPLOYMENTS[name]["hardware"]["gpu"] for name in SERVED} <= CARDS.keys()


@pytest.mark.parametrize("name", sorted(set(SERVED) - set(ENGINES)))
def test_the_llm_api_is_launched_by_options_that_tritonserver_has(name: str, tmp_path: Path) -> None:
    """Its model needs TensorRT-LLM itself: here it is enough that everything but that is right."""
    plan = plan_of(name, tmp_path / name)
    write_inputs(name, plan)
    [command] = plan.launches()
    process = subprocess.Popen(command["argv"], env=plan.environment(command), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "Started HTTPService" in line:
                break
        assert "successfully loaded 'tensorrt_llm'" in said, said
    finally:
        process.terminate()
        process.wait(30)

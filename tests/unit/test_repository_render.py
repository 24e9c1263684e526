"""Renderings of the reference deployments, held to the packaged contract without the renderer's own types."""

from __future__ import annotations

import ast
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import SlipstreamError
from slipstream.progress import silent
from slipstream.repository.models import Locations
from slipstream.repository.pbtxt import read_config
from slipstream.repository.references import neutral_locations
from slipstream.repository.render import render_repository
from tests.unit.repository_fixtures import DEFAULT, DEPLOYMENTS, DRAFT_GPU, STREAMING_GPU, a_deployment, a_repository

FIVE = {"preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls"}
TYPES = {
    "${logits_datatype}": "TYPE_FP32",
    "${encoder_input_features_data_type}": "TYPE_FP16",
    "${prompt_embedding_table_data_type}": "TYPE_FP16",
}


def the_contract(model: str) -> Any:
    text = files("slipstream.repository.contract").joinpath("triton_models.json").read_text(encoding="utf-8")
    return json.loads(text)["models"][model.removesuffix("_draft")]


def render(root: Path, out: Path, name: str, *overrides: str) -> dict[str, Any]:
    """Every configuration of a fresh rendering, by model."""
    repository = a_repository(out, a_deployment(root, name, *overrides))
    return {model.name: read_config(model / "config.pbtxt") for model in repository.iterdir()}


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def declared(entry: Any) -> dict[str, Any]:
    from tritonclient.grpc.model_config_pb2 import DataType

    return {
        "name": entry.name,
        "data_type": DataType.Name(entry.data_type),
        "dims": list(entry.dims),
        "optional": getattr(entry, "optional", False),
        "allow_ragged_batch": getattr(entry, "allow_ragged_batch", False),
        "reshape_to_scalar": entry.HasField("reshape"),
        "shape": list(entry.reshape.shape),
    }


def wanted(row: dict[str, Any]) -> dict[str, Any]:
    absent = {"optional": False, "allow_ragged_batch": False, "reshape_to_scalar": False, "shape": []}
    return {**absent, **row, "data_type": TYPES.get(row["data_type"], row["data_type"])}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_tensor_of_every_model_is_the_contracts(root: Path, tmp_path: Path, name: str) -> None:
    for model, config in render(root, tmp_path, name).items():
        rules = the_contract(model)
        assert [declared(entry) for entry in config.input] == [wanted(row) for row in rules["inputs"]]
        assert [declared(entry) for entry in config.output] == [wanted(row) for row in rules["outputs"]]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_ensemble_is_wired_as_the_contract_says(root: Path, tmp_path: Path, name: str) -> None:
    config = render(root, tmp_path, name)["ensemble"]
    steps = [
        {
            "model_name": step.model_name,
            "model_version": step.model_version,
            "input_map": dict(step.input_map),
            "output_map": dict(step.output_map),
        }
        for step in config.ensemble_scheduling.step
    ]
    watch = config.ensemble_scheduling.step[3:]
    assert steps[:3] == the_contract("ensemble")["ensemble_scheduling"]
    assert [step.model_name for step in watch] == (["tensorrt_llm", "postprocessing"] if name == DEFAULT else [])
    outputs = {entry.name for entry in config.output}
    assert not any(outputs & set(step.output_map.values()) for step in watch)
    assert config.platform == "ensemble"
    assert not config.HasField("model_transaction_policy")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_required_keys_are_there_and_every_key_is_known(root: Path, tmp_path: Path, name: str) -> None:
    for model, config in render(root, tmp_path, name).items():
        rows = the_contract(model)["parameters"]
        added = {"tokenizer_dir", "add_special_tokens", "skip_special_tokens"} if model == "tensorrt_llm_bls" else set()
        upstreams = {key for key in config.parameters if not key.startswith("slipstream_")} - added
        assert {row["name"] for row in rows if row.get("required")} <= upstreams <= {row["name"] for row in rows}


def test_the_embedded_engine_fills_the_slot_through_the_python_backend(root: Path, tmp_path: Path) -> None:
    configs = render(
        root, tmp_path, DEFAULT, "runtime.kv_cache_gib=3", "runtime.execution=accuracy", "runtime.stream_interval=4"
    )
    assert set(configs) == FIVE
    assert configs["tensorrt_llm"].backend == "python"
    assert parameters(configs["tensorrt_llm"]) == {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": "/models/smollm2-135m-cpu/engine",
        "tokenizer_dir": "/models/smollm2-135m-cpu/model",
        "guided_decoding_backend": "",
        "xgrammar_tokenizer_info_path": "",
        "max_beam_width": "16",
        "batch_scheduler_policy": "guaranteed_no_evict",
        "enable_kv_cache_reuse": "true",
        "enable_chunked_context": "true",
        "exclude_input_in_output": "true",
        "cancellation_check_period_ms": "10",
        "stats_check_period_ms": "100",
        "slipstream_execution": "accuracy",
        "slipstream_kv_cache_gib": "3",
        "slipstream_max_batch_size": "32",
        "slipstream_max_queue_size": "0",
        "slipstream_max_num_tokens": "2048",
        "slipstream_max_seq_len": "2048",
        "slipstream_max_input_len": "2047",
        "slipstream_stream_interval": "4",
        "slipstream_stream_interval_adapts": "false",
        "slipstream_prefill_chunk_tokens": "256",
        "slipstream_request_timeout_s": "0",
        "slipstream_step_timeout_s": "30",
    }


def test_the_embedded_engine_fills_both_slots_of_a_pair(root: Path, tmp_path: Path) -> None:
    configs = render(root, tmp_path, "smollm2-135m-cpu-draft", "engine.draft.max_draft_len=7")
    assert set(configs) == FIVE | {"tensorrt_llm_draft"}
    target, draft = (parameters(configs[name]) for name in ("tensorrt_llm", "tensorrt_llm_draft"))
    assert target["slipstream_max_draft_len"] == "7"
    own = {"gpt_model_path": "/models/smollm2-135m-cpu-draft/draft/engine"}
    assert draft == {**target, **own, "tokenizer_dir": "/models/smollm2-135m-cpu-draft/draft/model"}
    assert configs["tensorrt_llm_draft"].backend == "python"
    assert parameters(configs["tensorrt_llm_bls"])["tensorrt_llm_draft_model_name"] == "tensorrt_llm_draft"


def test_the_gpu_target_loads_the_compiled_engine(root: Path, tmp_path: Path) -> None:
    configs = render(root, tmp_path, STREAMING_GPU)
    found = parameters(configs["tensorrt_llm"])
    assert set(configs) == FIVE
    assert configs["tensorrt_llm"].backend == "tensorrtllm"
    assert not [key for key in found if key.startswith("slipstream_")]
    assert found["FORCE_CPU_ONLY_INPUT_TENSORS"] == "no"
    assert found["executor_worker_path"] == "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
    assert found["kv_cache_free_gpu_mem_fraction"] == "0.9"
    assert configs["preprocessing"].instance_group[0].count == 4


def test_settings_of_the_spec_reach_batching_and_instances(root: Path, tmp_path: Path) -> None:
    configs = render(
        root,
        tmp_path,
        STREAMING_GPU,
        "runtime.triton_max_batch_size=16",
        "runtime.max_queue_size=7",
        "runtime.max_queue_delay_microseconds=250",
        "runtime.default_queue_timeout_microseconds=5000000",
        "runtime.queue_timeout_action=DELAY",
        "runtime.allow_queue_timeout_override=true",
        "runtime.bls_instances=3",
        "runtime.engine_instances=2",
        "runtime.kv_cache_free_gpu_mem_fraction=0.4",
    )
    for model in ("preprocessing", "tensorrt_llm"):
        batching = configs[model].dynamic_batching
        assert list(batching.preferred_batch_size) == [16]
        assert batching.max_queue_delay_microseconds == 250
        queue = batching.default_queue_policy
        assert (queue.max_queue_size, queue.default_timeout_microseconds) == (7, 5_000_000)
        assert (queue.timeout_action, queue.allow_timeout_override) == (1, True)  # 1: DELAY
    assert {config.max_batch_size for config in configs.values()} == {16}
    assert configs["tensorrt_llm_bls"].instance_group[0].count == 3
    assert configs["tensorrt_llm"].instance_group[0].count == 2
    assert not configs["tensorrt_llm_bls"].HasField("dynamic_batching")


def test_without_limits_there_is_no_queue_policy(root: Path, tmp_path: Path) -> None:
    for config in render(root, tmp_path, STREAMING_GPU).values():
        assert not config.dynamic_batching.HasField("default_queue_policy")


@pytest.mark.parametrize("model", ["postprocessing", "tensorrt_llm"])
def test_the_batcher_before_a_step_that_may_be_cancelled_is_upstreams_on_the_gpu_and_absent_on_the_cpu(
    root: Path, tmp_path: Path, model: str
) -> None:
    for name, batches in ((STREAMING_GPU, True), (DEFAULT, False)):
        out = tmp_path / name
        out.mkdir()
        assert render(root, out, name)[model].HasField("dynamic_batching") == batches


def test_an_adaptive_stream_interval_is_a_limit_and_a_flag(root: Path, tmp_path: Path) -> None:
    found = parameters(render(root, tmp_path, DEFAULT, "runtime.stream_interval=auto")["tensorrt_llm"])
    assert (found["slipstream_stream_interval"], found["slipstream_stream_interval_adapts"]) == ("8", "true")


def test_with_one_response_a_request_the_ensemble_has_no_watch(root: Path, tmp_path: Path) -> None:
    config = render(root, tmp_path, DEFAULT, "runtime.decoupled=false")["ensemble"]
    assert len(config.ensemble_scheduling.step) == 3


def test_the_draft_profile_is_what_upstreams_speculation_needs(root: Path, tmp_path: Path) -> None:
    configs = render(root, tmp_path, DRAFT_GPU)
    assert set(configs) == {*FIVE, "tensorrt_llm_draft"}
    for model in ("tensorrt_llm", "tensorrt_llm_draft"):
        found = parameters(configs[model])
        assert found["exclude_input_in_output"] == "false"
        assert found["enable_kv_cache_reuse"] == "true"
        assert "decoding_mode" not in found
    for model in ("tensorrt_llm", "tensorrt_llm_draft", "tensorrt_llm_bls"):
        assert configs[model].HasField("model_transaction_policy")
        assert not configs[model].model_transaction_policy.decoupled
    draft = parameters(configs["tensorrt_llm_draft"])
    assert draft["gpt_model_path"] == "/models/llama-3.3-70b-fp8-tp4-draft/draft/engine"
    assert draft["kv_cache_free_gpu_mem_fraction"] == "0.1"
    assert parameters(configs["tensorrt_llm_bls"]) == {
        "tokenizer_dir": "/models/llama-3.3-70b-fp8-tp4-draft/model",
        "add_special_tokens": "true",
        "skip_special_tokens": "true",
        "accumulate_tokens": "false",
        "tensorrt_llm_model_name": "tensorrt_llm",
        "tensorrt_llm_draft_model_name": "tensorrt_llm_draft",
        "slipstream_max_seq_len": "8192",
    }


def test_the_streaming_profile_is_decoupled(root: Path, tmp_path: Path) -> None:
    configs = render(root, tmp_path, DEFAULT)
    assert configs["tensorrt_llm"].model_transaction_policy.decoupled
    assert configs["tensorrt_llm_bls"].model_transaction_policy.decoupled
    assert "tensorrt_llm_draft_model_name" not in configs["tensorrt_llm_bls"].parameters
    assert "slipstream_max_seq_len" not in configs["tensorrt_llm_bls"].parameters


def test_a_relative_engine_directory_is_refused(root: Path, tmp_path: Path) -> None:
    locations = Locations(engine_dir="build/engine", tokenizer_dir="/models/model")
    with pytest.raises(SlipstreamError, match="gpt_model_path is 'build/engine', expected an absolute path"):
        render_repository(a_deployment(root), locations, tmp_path, silent)


def test_the_same_spec_renders_the_same_bytes(root: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        out.mkdir()
        a_repository(out, a_deployment(root))
    for path in (first / "model_repository").rglob("*.*"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_entry_points_are_short_and_import_the_backend_only(root: Path, tmp_path: Path, name: str) -> None:
    repository = a_repository(tmp_path, a_deployment(root, name))
    sources = {path.parents[1].name: path.read_text() for path in repository.glob("*/1/model.py")}
    engines = {DEFAULT: {"tensorrt_llm"}, "smollm2-135m-cpu-draft": {"tensorrt_llm", "tensorrt_llm_draft"}}
    assert set(sources) == {"preprocessing", "postprocessing", "tensorrt_llm_bls"} | engines.get(name, set())
    for source in sources.values():
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom | ast.Import)]
        modules = [node.module or "" for node in imports if isinstance(node, ast.ImportFrom)]
        assert len(modules) == len(imports) == 1
        assert modules[0].startswith("slipstream.backend.")
        assert "TritonPythonModel" in source
        assert len(source.splitlines()) <= 40


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_model_has_a_version_that_git_keeps(root: Path, tmp_path: Path, name: str) -> None:
    for model in a_repository(tmp_path, a_deployment(root, name)).iterdir():
        assert [path for path in (model / "1").iterdir() if path.is_file()]


def test_the_report_says_what_was_rendered(root: Path, tmp_path: Path) -> None:
    spec = a_deployment(root, DRAFT_GPU)
    said: list[str] = []

    def report(message: str, fraction: float | None = None) -> None:
        said.append(message)

    made = render_repository(spec, neutral_locations(spec), tmp_path, report)
    assert set(made.models) == {*FIVE, "tensorrt_llm_draft"}
    assert (made.engine_backend, made.decoupled) == ("tensorrtllm", False)
    assert "rendering tensorrt_llm_draft" in said

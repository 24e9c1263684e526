"""The model repository of target llmapi, held to the contract's files and to the names that `LLM` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from slipstream.errors import SlipstreamError, SpecError
from slipstream.repository.llmapi import is_llmapi, plan_llmapi, verify_llmapi, write_llmapi
from slipstream.repository.model_plan import Locations
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import load_deployment

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = json.loads((ROOT / "tests/contract/trtllm-1.2.1/triton_models.json").read_text())["llmapi"]
NAME = "llama-3.1-8b-nvfp4-llmapi-b200"
PLACES = Locations(
    engine_dir=f"/models/{NAME}/checkpoint",
    tokenizer_dir=f"/models/{NAME}/model",
    draft_engine_dir=f"/models/{NAME}/draft/checkpoint",
)
DRAFT = {"model": {"source": "org/draft", "dtype": "bfloat16"}, "max_draft_len": 4}

# What each group of the arguments of `LLM` takes; it refuses every other name.
LLM_ARGUMENTS = json.loads((ROOT / "tests/contract/trtllm-1.2.1/llm_args.json").read_text())


def a_spec(**changes: Any) -> DeploymentSpec:
    dump = load_deployment(NAME, root=ROOT).model_dump(exclude_defaults=True)
    for field, value in changes.items():
        *groups, last = field.split(".")
        place = dump
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return DeploymentSpec.model_validate(dump)


def arguments_of(spec: DeploymentSpec) -> dict[str, Any]:
    return dict(plan_llmapi(spec, PLACES).arguments)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_llmapi(plan_llmapi(a_spec(), PLACES), tmp_path)
    return tmp_path


def config_of(repository: Path) -> ModelConfig:
    return text_format.Parse((repository / "tensorrt_llm" / "config.pbtxt").read_text(), ModelConfig())


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1))


# The contract


def test_the_tensors_are_the_contracts(repository: Path) -> None:
    config = config_of(repository)
    declared = [f"{entry.name} {DataType.Name(entry.data_type).removeprefix('TYPE_')}" for entry in config.input]
    assert declared == [row.replace("STRING[", "STRING [").partition(" [")[0] for row in CONTRACT["inputs"]]
    open_ended = {row.split(" ", 1)[0] for row in CONTRACT["inputs"] if row.endswith("[-1]")}
    assert {entry.name for entry in config.input if list(entry.dims) == [-1]} == open_ended
    assert [entry.name for entry in config.input if not entry.optional] == ["text_input"]
    assert [entry.name for entry in config.output] == CONTRACT["outputs"]


def test_the_model_has_no_batch_dimension_and_one_process(repository: Path) -> None:
    config = config_of(repository)
    assert (config.name, config.backend, config.max_batch_size) == ("tensorrt_llm", "python", 0)
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 2)]
    assert not config.HasField("dynamic_batching")
    assert [path.name for path in repository.iterdir()] == ["tensorrt_llm"]


def test_the_profile_stands_in_both_files(tmp_path: Path) -> None:
    for decoupled in (True, False):
        out = tmp_path / str(decoupled)
        out.mkdir()
        write_llmapi(plan_llmapi(a_spec(**{"runtime.decoupled": decoupled}), PLACES), out)
        config = config_of(out)
        assert config.HasField("model_transaction_policy")
        assert config.model_transaction_policy.decoupled == decoupled
        written = yaml.safe_load((out / "tensorrt_llm" / "1" / "model.yaml").read_text())
        assert (written["triton_config"]["max_batch_size"], written["triton_config"]["decoupled"]) == (0, decoupled)


def test_the_reference_deployment_says_what_it_means() -> None:
    assert arguments_of(a_spec()) == {
        "model": f"/models/{NAME}/checkpoint",
        "backend": "pytorch",
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "max_batch_size": 256,
        "max_num_tokens": 8192,
        "max_seq_len": 16384,
        "max_input_len": 16383,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.9, "enable_block_reuse": True, "dtype": "fp8"},
        "enable_chunked_prefill": True,
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "cuda_graph_config": {"max_batch_size": 256, "enable_padding": True},
        "disable_overlap_scheduler": False,
        "triton_config": {
            "max_batch_size": 0,
            "decoupled": True,
            "cancellation_check_period_ms": 10,
            "max_queue_size": 0,
            "add_special_tokens": True,
            "skip_special_tokens": True,
            "exclude_input_in_output": True,
            "accumulate_tokens": False,
        },
    }


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"engine.tp_size": 4, "hardware.gpus_per_node": 4}, "tensor_parallel_size", 4),
        ({"engine.pp_size": 2, "hardware.gpus_per_node": 2}, "pipeline_parallel_size", 2),
        (
            {"engine.tp_size": 8, "engine.moe_ep_size": 4, "hardware.gpus_per_node": 8},
            "moe_expert_parallel_size",
            4,
        ),
        (
            {"engine.tp_size": 8, "engine.moe_ep_size": 4, "hardware.gpus_per_node": 8},
            "moe_tensor_parallel_size",
            2,
        ),
        ({"quantization.kv_cache": "auto"}, "kv_cache_config.dtype", "auto"),
        ({"runtime.enable_kv_cache_reuse": False}, "kv_cache_config.enable_block_reuse", False),
        ({"runtime.kv_cache_free_gpu_mem_fraction": 0.5}, "kv_cache_config.free_gpu_memory_fraction", 0.5),
        ({"runtime.enable_chunked_context": False}, "enable_chunked_prefill", False),
        ({"runtime.llmapi": {"enable_chunked_prefill": False}}, "enable_chunked_prefill", False),
        (
            {"runtime.batch_scheduler_policy": "max_utilization"},
            "scheduler_config.capacity_scheduler_policy",
            "MAX_UTILIZATION",
        ),
        ({"runtime.llmapi": {"cuda_graph": False}}, "cuda_graph_config", None),
        ({"runtime.llmapi": {"disable_overlap_scheduler": True}}, "disable_overlap_scheduler", True),
        ({"runtime.llmapi": {"trust_remote_code": True}}, "trust_remote_code", True),
        ({"engine.draft": DRAFT}, "speculative_config.decoding_type", "Draft_Target"),
        ({"engine.draft": DRAFT}, "speculative_config.max_draft_len", 4),
        ({"engine.draft": DRAFT}, "speculative_config.speculative_model", f"/models/{NAME}/draft/checkpoint"),
        (
            {"engine.speculation": {"mode": "ngram", "max_draft_len": 6}},
            "speculative_config",
            {"decoding_type": "NGram", "max_draft_len": 6, "max_matching_ngram_size": 2},
        ),
        (
            {"engine.speculation": {"mode": "eagle3", "max_draft_len": 3, "speculative_model": "org/heads"}},
            "speculative_config",
            {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "org/heads"},
        ),
        ({"runtime.max_queue_size": 7}, "triton_config.max_queue_size", 7),
        ({"runtime.accumulate_tokens": True}, "triton_config.accumulate_tokens", True),
        ({"runtime.add_special_tokens": False}, "triton_config.add_special_tokens", False),
        ({"runtime.skip_special_tokens": False}, "triton_config.skip_special_tokens", False),
        ({"runtime.exclude_input_in_output": False}, "triton_config.exclude_input_in_output", False),
        ({"runtime.cancellation_check_period_ms": 25}, "triton_config.cancellation_check_period_ms", 25),
    ],
)
def test_a_setting_reaches_its_argument(changes: dict[str, Any], path: str, expected: object) -> None:
    found: Any = arguments_of(a_spec(**changes))
    for name in path.split("."):
        found = found[name]
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 4096),
    fraction=st.floats(0.05, 0.95),
    kv_cache=st.sampled_from(["auto", "fp8"]),
    flags=st.tuples(*[st.booleans()] * 6),
    speculation=st.sampled_from([None, "draft", "ngram", "eagle3"]),
    policy=st.sampled_from(["guaranteed_no_evict", "max_utilization"]),
)
def test_no_deployment_gives_a_name_that_llm_does_not_take(
    tmp_path_factory: pytest.TempPathFactory,
    tp: int,
    batch: int,
    fraction: float,
    kv_cache: str,
    flags: tuple[bool, ...],
    speculation: str | None,
    policy: str,
) -> None:
    changes: dict[str, Any] = {
        "engine.tp_size": tp,
        "hardware.gpus_per_node": tp,
        "engine.max_batch_size": batch,
        "quantization.kv_cache": kv_cache,
        "runtime.kv_cache_free_gpu_mem_fraction": fraction,
        "runtime.batch_scheduler_policy": policy,
        "runtime.decoupled": flags[0],
        "runtime.enable_kv_cache_reuse": flags[1],
        "runtime.accumulate_tokens": flags[2],
        "runtime.llmapi": {"cuda_graph": flags[3], "trust_remote_code": flags[4], "enable_chunked_prefill": flags[5]},
    }
    if speculation == "draft":
        changes["engine.draft"] = DRAFT
    elif speculation is not None:
        heads = {"speculative_model": "org/heads"} if speculation == "eagle3" else {}
        changes["engine.speculation"] = {"mode": speculation, "max_draft_len": 3, **heads}
    out = tmp_path_factory.mktemp("repository")
    write_llmapi(plan_llmapi(a_spec(**changes), PLACES), out)
    verify_llmapi(out)
    text = (out / "tensorrt_llm" / "1" / "model.yaml").read_text()
    assert "${" not in text
    written = yaml.safe_load(text)
    assert unknown_arguments(written) == []
    if speculation in {"draft", "eagle3"}:
        kinds = CONTRACT["speculative_config_example_keys"]["decoding_type"]
        assert written["speculative_config"]["decoding_type"] in kinds


def unknown_arguments(written: dict[str, Any]) -> list[str]:
    """Names and values of a model.yaml that `LLM(...)` does not take."""
    arguments = {name: value for name, value in written.items() if name != "triton_config"}
    found = sorted(set(arguments) - set(LLM_ARGUMENTS["LLM"]))
    for name, known in LLM_ARGUMENTS["groups"].items():
        found += [f"{name}.{key}" for key in sorted(set(arguments.get(name) or {}) - set(known))]
    for path, values in LLM_ARGUMENTS["values"].items():
        group, _, name = path.rpartition(".")
        holder = arguments.get(group, {}) if group else arguments
        if holder.get(name, values[0]) not in values:
            found.append(path)
    return found


def test_an_argument_that_llm_does_not_take_is_seen() -> None:
    """The check above can fail."""
    assert unknown_arguments({"model": "x", "kv_cache": 1, "kv_cache_config": {"fraction": 1}}) == [
        "kv_cache",
        "kv_cache_config.fraction",
    ]


# What this target cannot do


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"engine.lora": {"max_lora_rank": 8}}, r"engine\.lora is given"),
        ({"runtime.engine_instances": 2}, r"runtime\.engine_instances is 2"),
        ({"runtime.default_queue_timeout_microseconds": 5}, "default_queue_timeout_microseconds is 5"),
        ({"runtime.allow_queue_timeout_override": True}, "allow_queue_timeout_override true"),
        ({"quantization.kv_cache": "int8"}, "has no INT8 KV cache"),
    ],
)
def test_a_setting_without_a_word_for_it_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        plan_llmapi(a_spec(**changes), PLACES)


# Verification


def test_a_rendered_repository_is_in_order(repository: Path) -> None:
    assert is_llmapi(repository)
    verify_llmapi(repository)


def test_equal_deployments_give_equal_files(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_llmapi(plan_llmapi(a_spec(), PLACES), other)
    for path in (file for file in repository.rglob("*") if file.is_file()):
        assert path.read_bytes() == (other / path.relative_to(repository)).read_bytes()


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("config.pbtxt", 'name: "streaming"', 'name: "stream"', r"input is not as it should be \(stream, streaming\)"),
        ("config.pbtxt", "TYPE_FP32", "TYPE_FP64", "input sampling_param_temperature: data_type is TYPE_FP64"),
        ("config.pbtxt", 'backend: "python"', 'backend: "tensorrtllm"', "backend is tensorrtllm, expected python"),
        ("config.pbtxt", "count: 1", "count: 2", "instance_group is"),
        ("config.pbtxt", 'name: "tensorrt_llm"', 'name: "tensorrt"', "name is tensorrt, expected tensorrt_llm"),
        ("config.pbtxt", 'name: "tensorrt_llm"', 'name: "tensorrt_llm" max_batch_size: 4', "max_batch_size is 4"),
        ("config.pbtxt", "decoupled: true", "decoupled: false", r"triton_config\.decoupled is True, expected False"),
        ("1/model.yaml", "backend:", "backendd:", "backend is absent"),
        ("1/model.yaml", "disable_overlap_scheduler", "disable_overlap", "no such argument"),
        ("1/model.yaml", "enable_block_reuse", "enable_block_reuze", "did you mean enable_block_reuse"),
        ("1/model.yaml", "max_batch_size: 0", "max_batch_size: 8", r"triton_config\.max_batch_size is 8"),
        ("1/model.yaml", "pytorch", "${backend}", "an unfilled placeholder"),
        ("1/model.yaml", "backend:", "- backend:", "not valid YAML"),
    ],
)
def test_a_change_of_a_file_is_found(repository: Path, file: str, old: str, new: str, complaint: str) -> None:
    change(repository / "tensorrt_llm" / file, old, new)
    with pytest.raises(SlipstreamError, match=complaint):
        verify_llmapi(repository)


def test_a_file_that_is_missing_is_named(repository: Path) -> None:
    (repository / "tensorrt_llm" / "1" / "model.py").unlink()
    with pytest.raises(SlipstreamError, match=r"model\.py: no such file"):
        verify_llmapi(repository)
    (repository / "tensorrt_llm" / "1" / "model.yaml").unlink()
    with pytest.raises(SlipstreamError, match=r"model\.yaml: cannot be read"):
        verify_llmapi(repository)
    assert not is_llmapi(repository)


def test_a_model_that_does_not_belong_is_named(repository: Path) -> None:
    (repository / "ensemble").mkdir()
    with pytest.raises(SlipstreamError, match="has one model, tensorrt_llm"):
        verify_llmapi(repository)

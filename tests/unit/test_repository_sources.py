"""Every parameter of the contract: settable, derived, or listed with the reason why not, and a setting arrives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from slipstream.repository.engine_slot import TARGET_ONLY
from slipstream.repository.parameters import EMBEDDED_PARAMETERS
from slipstream.repository.sources import DERIVED, FROM_SPEC, NOT_SETTABLE
from slipstream.spec import DeploymentSpec, TensorrtLlmSpec
from tests.unit.repository_fixtures import DRAFT_GPU, STREAMING_GPU, a_deployment, rendered_parameters

# What our own BLS reads besides, because it tokenizes in process.
BLS_ADDS = {"tokenizer_dir", "add_special_tokens", "skip_special_tokens"}


def upstream_parameters(root: Path, model: str) -> set[str]:
    text = (root / "tests/contract/trtllm-1.2.1/triton_models.json").read_text(encoding="utf-8")
    rules = json.loads(text)["models"][model]
    return {*rules.get("parameters", {}), *rules.get("extra_parameters", {})}


@pytest.mark.parametrize("model", ["preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls"])
def test_each_parameter_of_the_contract_has_one_source(root: Path, model: str) -> None:
    settable, derived, never = (set(table.get(model, {})) for table in (FROM_SPEC, DERIVED, NOT_SETTABLE))
    assert not settable & derived
    assert not settable & never
    assert not derived & never
    added = BLS_ADDS if model == "tensorrt_llm_bls" else set()
    assert settable | derived | never == upstream_parameters(root, model) | added


def test_each_reason_is_a_sentence() -> None:
    assert all(
        len(reason) > 10 for table in (DERIVED, NOT_SETTABLE) for rows in table.values() for reason in rows.values()
    )


def test_no_parameter_of_the_embedded_engine_is_upstreams(root: Path) -> None:
    assert not {row.name for row in EMBEDDED_PARAMETERS} & upstream_parameters(root, "tensorrt_llm")


def test_the_draft_takes_or_leaves_every_setting_of_the_target() -> None:
    assert set(TARGET_ONLY) < set(FROM_SPEC["tensorrt_llm"])


# Parameter → overrides that set it, and the text that must then be in `tensorrt_llm/config.pbtxt`.
SETTINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "max_beam_width": (("engine.max_beam_width=4",), "4"),
    "batch_scheduler_policy": (("runtime.batch_scheduler_policy=max_utilization",), "max_utilization"),
    "kv_cache_free_gpu_mem_fraction": (("runtime.kv_cache_free_gpu_mem_fraction=0.55",), "0.55"),
    "enable_kv_cache_reuse": (("runtime.enable_kv_cache_reuse=false",), "false"),
    "enable_chunked_context": (("runtime.enable_chunked_context=false",), "false"),
    "exclude_input_in_output": (("runtime.exclude_input_in_output=false",), "false"),
    "cancellation_check_period_ms": (("runtime.cancellation_check_period_ms=7",), "7"),
    "stats_check_period_ms": (("runtime.stats_check_period_ms=77",), "77"),
    "max_tokens_in_paged_kv_cache": (("runtime.tensorrt_llm.max_tokens_in_paged_kv_cache=65536",), "65536"),
    "max_attention_window_size": (("runtime.tensorrt_llm.max_attention_window_size='512,4096'",), "512,4096"),
    "kv_cache_host_memory_bytes": (("runtime.tensorrt_llm.kv_cache_host_memory_bytes=8589934592",), "8589934592"),
    "kv_cache_onboard_blocks": (("runtime.tensorrt_llm.kv_cache_onboard_blocks=true",), "true"),
    "normalize_log_probs": (("runtime.tensorrt_llm.normalize_log_probs=false",), "false"),
    "gpu_device_ids": (("runtime.tensorrt_llm.gpu_device_ids='0'",), "0"),
    "participant_ids": (
        ("runtime.launch_mode=orchestrator", "runtime.tensorrt_llm.participant_ids='1'"),
        "1",
    ),
    "num_nodes": (("runtime.tensorrt_llm.num_nodes=1",), "1"),
    "lora_cache_optimal_adapter_size": (
        ("engine.lora={}", "runtime.tensorrt_llm.lora_cache_optimal_adapter_size=16"),
        "16",
    ),
    "lora_cache_max_adapter_size": (("engine.lora={}", "runtime.tensorrt_llm.lora_cache_max_adapter_size=96"), "96"),
    "lora_cache_gpu_memory_fraction": (
        ("engine.lora={}", "runtime.tensorrt_llm.lora_cache_gpu_memory_fraction=0.1"),
        "0.1",
    ),
    "lora_cache_host_memory_bytes": (
        ("engine.lora={}", "runtime.tensorrt_llm.lora_cache_host_memory_bytes=1024"),
        "1024",
    ),
    "lora_prefetch_dir": (("engine.lora={}", "runtime.tensorrt_llm.lora_prefetch_dir=/lora"), "/lora"),
    "decoding_mode": (("runtime.tensorrt_llm.decoding_mode=top_p",), "top_p"),
    "guided_decoding_backend": (("runtime.tensorrt_llm.guided_decoding_backend=xgrammar",), "xgrammar"),
    "gpu_weights_percent": (
        ("engine.trtllm_build.weight_streaming=true", "runtime.tensorrt_llm.gpu_weights_percent=0.5"),
        "0.5",
    ),
    "enable_context_fmha_fp32_acc": (("runtime.tensorrt_llm.enable_context_fmha_fp32_acc=true",), "true"),
    "multi_block_mode": (("runtime.tensorrt_llm.multi_block_mode=false",), "false"),
    "cuda_graph_mode": (("runtime.tensorrt_llm.cuda_graph_mode=true",), "true"),
    "cuda_graph_cache_size": (
        ("runtime.tensorrt_llm.cuda_graph_mode=true", "runtime.tensorrt_llm.cuda_graph_cache_size=8"),
        "8",
    ),
    "iter_stats_max_iterations": (("runtime.tensorrt_llm.iter_stats_max_iterations=50",), "50"),
    "request_stats_max_iterations": (("runtime.tensorrt_llm.request_stats_max_iterations=5",), "5"),
    "recv_poll_period_ms": (("runtime.tensorrt_llm.recv_poll_period_ms=3",), "3"),
    "lookahead_window_size": (("engine.speculation={LOOKAHEAD}",), "4"),
    "lookahead_ngram_size": (("engine.speculation={LOOKAHEAD}",), "3"),
    "lookahead_verification_set_size": (("engine.speculation={LOOKAHEAD}",), "2"),
    "medusa_choices": (
        (
            "engine.speculation={mode: medusa, max_draft_len: 3, medusa_choices: '{0},{0,0},{1}'}",
            "engine.checkpoint_dir=/c",
        ),
        "{0},{0,0},{1}",
    ),
    "eagle_choices": (
        ("engine.speculation={mode: eagle, max_draft_len: 3, eagle_choices: '{0},{1}'}", "engine.checkpoint_dir=/c"),
        "{0},{1}",
    ),
}
LOOKAHEAD = (
    "mode: lookahead, max_draft_len: 20, lookahead_window_size: 4, lookahead_ngram_size: 3,"
    " lookahead_verification_set_size: 2"
)


def target_parameters(root: Path, tmp_path: Path, *overrides: str, name: str = STREAMING_GPU) -> dict[str, str]:
    given = [override.replace("LOOKAHEAD", LOOKAHEAD) for override in overrides]
    return rendered_parameters(tmp_path, a_deployment(root, name, *given))["tensorrt_llm"]


def test_a_case_stands_for_every_parameter_that_the_spec_sets() -> None:
    # Fast logits need a draft: below.
    assert set(SETTINGS) | {"speculative_decoding_fast_logits"} == set(FROM_SPEC["tensorrt_llm"])
    assert set(TensorrtLlmSpec.model_fields) <= set(SETTINGS) | {"speculative_decoding_fast_logits"}


@pytest.fixture(scope="module")
def without(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The parameters where nothing is set."""
    return target_parameters(root, tmp_path_factory.mktemp("without"))


@pytest.mark.parametrize("parameter", sorted(SETTINGS))
def test_a_setting_arrives_and_only_where_it_is_made(
    root: Path, tmp_path: Path, without: dict[str, str], parameter: str
) -> None:
    overrides, text = SETTINGS[parameter]
    assert target_parameters(root, tmp_path / "with", *overrides)[parameter] == text
    assert without.get(parameter) != text


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("lookahead", LOOKAHEAD),
        ("medusa", "mode: medusa, max_draft_len: 3"),
        ("eagle", "mode: eagle, max_draft_len: 3"),
    ],
)
def test_speculation_sets_the_decoding_mode(root: Path, tmp_path: Path, mode: str, more: str) -> None:
    checkpoint = () if mode == "lookahead" else ("engine.checkpoint_dir=/c",)
    found = target_parameters(root, tmp_path, f"engine.speculation={{{more}}}", *checkpoint)
    assert found["decoding_mode"] == mode


def test_larger_adapters_than_the_backends_default_get_larger_pages(root: Path, tmp_path: Path) -> None:
    found = target_parameters(root, tmp_path, "engine.lora={max_lora_rank: 128}")
    assert found["lora_cache_max_adapter_size"] == "128"


def test_the_nodes_of_the_hardware_are_told(root: Path, tmp_path: Path) -> None:
    assert target_parameters(root, tmp_path, name="llama-3.1-405b-fp8-tp8-pp2-h100")["num_nodes"] == "2"


def test_guided_decoding_names_the_file_beside_the_models(root: Path, tmp_path: Path) -> None:
    found = target_parameters(root, tmp_path, "runtime.tensorrt_llm.guided_decoding_backend=xgrammar")
    home = "/models/llama-3.1-8b-fp8-h100/model_repository"
    assert found["xgrammar_tokenizer_info_path"] == f"{home}/xgrammar_tokenizer_info.json"


FAST = (
    "runtime.launch_mode=orchestrator",
    "runtime.tensorrt_llm.participant_ids='5,6,7,8'",
    "runtime.tensorrt_llm.gpu_device_ids='0,1,2,3'",
    "runtime.tensorrt_llm.speculative_decoding_fast_logits=true",
)


def test_fast_logits_are_on_in_both_engines_and_their_ranks_are_apart(root: Path, tmp_path: Path) -> None:
    found = rendered_parameters(tmp_path, a_deployment(root, DRAFT_GPU, *FAST))
    target, draft = found["tensorrt_llm"], found["tensorrt_llm_draft"]
    assert target["speculative_decoding_fast_logits"] == draft["speculative_decoding_fast_logits"] == "true"
    assert (draft["participant_ids"], target["participant_ids"]) == ("1,2,3,4", "5,6,7,8")
    assert draft["gpu_device_ids"] == target["gpu_device_ids"] == "0,1,2,3"


def test_what_belongs_to_the_target_does_not_reach_the_draft(root: Path, tmp_path: Path) -> None:
    spec = a_deployment(
        root,
        DRAFT_GPU,
        "engine.lora={}",
        "runtime.tensorrt_llm.max_tokens_in_paged_kv_cache=4096",
        "runtime.tensorrt_llm.max_attention_window_size='4096'",
        "runtime.tensorrt_llm.kv_cache_host_memory_bytes=1024",
        "runtime.tensorrt_llm.cuda_graph_mode=true",
    )
    found = rendered_parameters(tmp_path, spec)
    gone = set(found["tensorrt_llm"]) - set(found["tensorrt_llm_draft"])
    assert gone == {
        "max_tokens_in_paged_kv_cache",
        "max_attention_window_size",
        "kv_cache_host_memory_bytes",
        "lora_cache_max_adapter_size",
    }
    assert found["tensorrt_llm_draft"]["cuda_graph_mode"] == "true"


def test_the_text_models_follow_the_spec(root: Path, tmp_path: Path) -> None:
    spec = a_deployment(
        root,
        STREAMING_GPU,
        "runtime.skip_special_tokens=false",
        "runtime.add_special_tokens=false",
        "runtime.accumulate_tokens=true",
    )
    found = rendered_parameters(tmp_path, spec)
    assert found["preprocessing"]["add_special_tokens"] == "false"
    assert found["postprocessing"]["skip_special_tokens"] == "false"
    bls = found["tensorrt_llm_bls"]
    assert (bls["add_special_tokens"], bls["skip_special_tokens"], bls["accumulate_tokens"]) == (
        "false",
        "false",
        "true",
    )


def test_each_field_named_as_a_source_is_one() -> None:
    for paths in FROM_SPEC.values():
        for path in paths.values():
            group: Any = DeploymentSpec
            for name in path.split("."):
                assert name in group.model_fields, path
                kind = group.model_fields[name].annotation
                group = next((one for one in (kind, *get_args(kind)) if hasattr(one, "model_fields")), None)

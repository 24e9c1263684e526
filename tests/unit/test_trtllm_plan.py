"""The command that builds an engine: each value that the spec left open, and the reason that is printed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slipstream.spec import EngineSpec
from slipstream.spec_file import load_deployment
from tests.unit.trtllm_fixtures import DRAFT, IMAGE, a_checkpoint, a_plan, an_engine, contract, flags, reasons


def test_the_sets_of_the_reference_are_all_there() -> None:
    sets = contract("trtllm_build_flags")["relevant_sets"]
    target, draft = flags(a_plan(an_engine(draft=DRAFT))), flags(a_plan(an_engine(draft=DRAFT), role="draft"))
    for wanted in [*sets["inflight_batching"], *sets["kv_reuse_chunked_context"]]:
        name, value = wanted.split(" ")
        assert (target[name], draft[name]) == (value, value), wanted
    assert (target["speculative_decoding_mode"], target["max_draft_len"]) == ("draft_tokens_external", "5")
    assert "speculative_decoding_mode" not in draft
    assert draft["max_draft_len"] == "0"
    assert (target["gemm_plugin"], target["use_fp8_context_fmha"]) == ("fp8", "enable")


def test_all_sizes_are_explicit() -> None:
    found = flags(a_plan())
    assert {name: found[name] for name in found if name.startswith(("max_", "opt_"))} == {
        "max_batch_size": "64",
        "max_input_len": "8191",
        "max_seq_len": "8192",
        "max_beam_width": "1",
        "max_num_tokens": "8192",
        "opt_num_tokens": "64",
        "max_prompt_embedding_table_size": "0",
        "max_draft_len": "0",
    }
    assert found["logits_dtype"] == "float32"


def test_the_command_runs_in_its_container_without_a_shell() -> None:
    command = a_plan().command
    assert command.container == IMAGE
    assert command.argv[:5] == (
        "trtllm-build",
        "--checkpoint_dir",
        "/models/llama/checkpoint",
        "--output_dir",
        "/models/llama/engine",
    )


@pytest.mark.parametrize(
    ("facts", "plugin"),
    [
        ({}, "fp8"),
        ({"quant_algo": None, "kv_cache_quant_algo": None}, "auto"),
        ({"quant_algo": "W8A16", "kv_cache_quant_algo": None}, "auto"),
        ({"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None}, "auto"),
        ({"quant_algo": "W8A8_SQ_PER_CHANNEL", "kv_cache_quant_algo": None}, "auto"),
        ({"quant_algo": "W4A8_AWQ"}, "auto"),
    ],
)
def test_the_gemm_plugin_follows_the_weights(facts: dict[str, Any], plugin: str) -> None:
    plan = a_plan(facts=a_checkpoint(**facts))
    assert flags(plan)["gemm_plugin"] == plugin
    assert reasons(plan)["gemm_plugin", plugin]


def test_nvfp4_has_its_own_gemm_plugin() -> None:
    assert flags(a_plan(facts=a_checkpoint(quant_algo="NVFP4"), sm=100))["gemm_plugin"] == "nvfp4"


@pytest.mark.parametrize("option", ["low_latency_gemm_plugin", "weight_streaming"])
def test_what_takes_the_gemm_plugins_place_switches_it_off(option: str) -> None:
    plan = a_plan(an_engine(trtllm_build={option: True}))
    assert flags(plan)["gemm_plugin"] == "disable"
    assert option in reasons(plan)["gemm_plugin", "disable"]


@pytest.mark.parametrize(
    ("architecture", "tp_size", "fused"),
    [
        ("LlamaForCausalLM", 4, "enable"),
        ("Gemma2ForCausalLM", 2, "enable"),
        ("LlamaForCausalLM", 1, "disable"),
        ("Qwen2ForCausalLM", 4, "disable"),
        ("MistralForCausalLM", 4, "disable"),
    ],
)
def test_reduce_fusion_follows_family_and_tensor_parallelism(architecture: str, tp_size: int, fused: str) -> None:
    plan = a_plan(an_engine(tp_size=tp_size), a_checkpoint(architecture=architecture, tp_size=tp_size))
    assert flags(plan)["reduce_fusion"] == fused
    assert reasons(plan)["reduce_fusion", fused]
    assert plan.expected["plugin_config"]["reduce_fusion"] == (fused == "enable")


def test_the_builder_lengthens_a_target_and_says_why() -> None:
    plan = a_plan(an_engine(max_num_tokens=300, max_input_len=100, draft=DRAFT))
    assert flags(plan)["max_seq_len"] == "8192"
    assert (plan.expected["max_seq_len"], plan.expected["max_num_tokens"]) == (8197, 384)
    assert "max_draft_len" in reasons(plan)["max_seq_len", "8197"]
    assert "64 x 6" in reasons(plan)["max_num_tokens", "384"]


def test_eagle_also_adds_its_layers() -> None:
    engine = an_engine(speculation={"mode": "eagle", "max_draft_len": 63}, checkpoint_dir="/heads")
    facts = a_checkpoint(architecture="EagleForCausalLM", max_draft_len=63, num_eagle_layers=4, is_read=True)
    assert a_plan(engine, facts).expected["max_seq_len"] == 8192 + 63 + 4


def test_max_num_tokens_is_what_the_builder_would_make_of_it() -> None:
    few = an_engine(max_batch_size=2, max_seq_len=512, max_input_len=511, max_num_tokens=8192)
    assert flags(a_plan(few))["max_num_tokens"] == "1024"
    assert "max_batch_size x max_seq_len" in reasons(a_plan(few))["max_num_tokens", "1024"]
    tiny = an_engine(max_num_tokens=16)
    assert flags(a_plan(tiny))["max_num_tokens"] == "32"
    assert "block" in reasons(a_plan(tiny))["max_num_tokens", "32"]


def test_several_profiles_have_no_optimum() -> None:
    plan = a_plan(an_engine(trtllm_build={"multiple_profiles": True}))
    assert "opt_num_tokens" not in flags(plan)
    assert plan.expected["opt_num_tokens"] is None


def test_beams_are_in_the_optimum() -> None:
    assert flags(a_plan(an_engine(max_beam_width=4)))["opt_num_tokens"] == "256"


def test_adapters_are_the_targets_alone() -> None:
    lora = {"target_modules": ["attn_qkv", "mlp_gate"], "max_lora_rank": 16, "lora_dirs": ["/a/one", "/a/two"]}
    engine = an_engine(draft=DRAFT, lora=lora)
    target, draft = flags(a_plan(engine)), flags(a_plan(engine, role="draft"))
    assert target["lora_target_modules"] == "attn_qkv mlp_gate"
    assert target["lora_dir"] == "/a/one /a/two"
    assert (target["lora_plugin"], target["max_lora_rank"], target["lora_ckpt_source"]) == ("auto", "16", "hf")
    assert not [name for name in draft if name.startswith(("lora", "max_lora"))]


def test_what_is_tuned_for_the_target_is_not_forced_on_the_draft() -> None:
    options = {"gemm_plugin": "fp8", "low_latency_gemm_plugin": False, "max_prompt_embedding_table_size": 9}
    engine = an_engine(draft=DRAFT, trtllm_build={**options, "tokens_per_block": 64})
    draft = flags(a_plan(engine, a_checkpoint(quant_algo=None, kv_cache_quant_algo=None), role="draft"))
    assert (draft["gemm_plugin"], draft["max_prompt_embedding_table_size"]) == ("auto", "0")
    assert draft["tokens_per_block"] == "64"


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [("opt_num_tokens", 7, "7"), ("multiple_profiles", True, "enable"), ("workers", 1, "1")],
)
def test_how_engines_are_compiled_holds_for_the_draft_too(option: str, value: int, text: str) -> None:
    engine = an_engine(tp_size=2, draft=DRAFT, trtllm_build={option: value})
    assert flags(a_plan(engine, a_checkpoint(tp_size=2), role="draft"))[option] == text


@pytest.mark.parametrize(
    ("asked", "gpus", "workers"), [(None, 8, 4), (None, 2, 2), (None, None, 4), (2, 8, 2), (8, 8, 4), (8, 1, 1)]
)
def test_there_are_no_more_workers_than_ranks_or_gpus(asked: int | None, gpus: int | None, workers: int) -> None:
    engine = an_engine(tp_size=4, trtllm_build={"workers": asked})
    assert flags(a_plan(engine, a_checkpoint(tp_size=4), gpus=gpus))["workers"] == str(workers)


@pytest.mark.parametrize(("sm", "name"), [(90, "timing-sm90.cache"), (None, "timing.cache")])
def test_the_timing_cache_lies_beside_the_engine_for_one_kind_of_gpu(sm: int | None, name: str) -> None:
    plan = a_plan(sm=sm)
    assert plan.timing_cache == f"/models/llama/{name}"
    found = flags(plan)
    assert found["input_timing_cache"] == found["output_timing_cache"] == plan.timing_cache


def test_every_derived_value_has_a_reason() -> None:
    for plan in (a_plan(), a_plan(an_engine(draft=DRAFT)), a_plan(an_engine(draft=DRAFT), role="draft")):
        assert all(derived.flag and derived.value and derived.reason for derived in plan.derived)
        known = set(flags(plan))
        assert {derived.flag for derived in plan.derived} <= known


def test_a_format_that_takes_paged_attention_away_is_a_note_where_nothing_needs_it(root: Path) -> None:
    runtime = load_deployment(
        "llama-3.1-8b-fp8-h100",
        ["runtime.enable_kv_cache_reuse=false", "runtime.enable_chunked_context=false"],
        root=root,
    ).runtime
    facts = a_checkpoint(quant_algo="W4A16_AWQ", kv_cache_quant_algo="FP8")
    plan = a_plan(facts=facts, runtime=runtime, engine=an_engine(max_num_tokens=8192))
    assert flags(plan)["use_paged_context_fmha"] == "disable"
    assert "FP8 attention" in reasons(plan)["use_paged_context_fmha", "disable"]
    assert plan.expected["plugin_config"]["use_paged_context_fmha"] is False


def test_an_engine_of_another_target_has_no_plan() -> None:
    with pytest.raises(AssertionError):
        a_plan(EngineSpec.model_validate({"target": "llmapi"}))

"""Every command that builds an engine is one of the contract's, and nothing in it is changed silently by the builder.

The parser and the builder's rules below are written from tests/contract/trtllm-1.2.1/trtllm_build_flags.json alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slipstream.engine.trtllm import BuildPlan, CheckpointFacts
from slipstream.errors import SpecError
from slipstream.spec_file import load_deployment
from tests.unit.trtllm_fixtures import DRAFT, a_plan, an_engine, contract, reasons

REFERENCE = contract("trtllm_build_flags")
FP8_FAMILY = ("FP8", "W4A8_AWQ", "NVFP4")


class RefusedError(Exception):
    """What trtllm-build would not take."""


class Once(argparse.Action):
    """A flag with a value that may not be given twice."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, f"has_{self.dest}", False):
            raise RefusedError(f"{option_string} is given twice")
        setattr(namespace, f"has_{self.dest}", True)
        setattr(namespace, self.dest, values)


class StrictParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RefusedError(message)


def a_parser() -> StrictParser:
    parser = StrictParser(allow_abbrev=False, add_help=False)
    for entry in (entry for group in REFERENCE["groups"].values() for entry in group):
        names = [entry["flag"], *entry.get("aliases", [])]
        if entry["type"] == "store_true":
            parser.add_argument(*names, action="store_true")
            continue
        kind: dict[str, Any] = {"type": int if entry["type"] == "int" else str, "choices": entry.get("choices")}
        if entry["type"].startswith("list"):
            kind["nargs"] = "+"
        default = entry["default"] if not str(entry["default"]).startswith("(") else None
        parser.add_argument(*names, action=Once, default=default, **kind)
    return parser


def parsed(plan: BuildPlan) -> argparse.Namespace:
    program, *arguments = plan.command.argv
    assert program == "trtllm-build"
    assert all(isinstance(word, str) and word for word in arguments)
    found = a_parser().parse_args(arguments)
    refuse_pairs(found)
    return found


def refuse_pairs(found: argparse.Namespace) -> None:
    """The rules of the reference that end the run."""
    if found.gather_context_logits and found.max_draft_len > 0:
        raise RefusedError("gather_context_logits + max_draft_len>0")
    if found.multiple_profiles == "enable" and found.opt_num_tokens is not None:
        raise RefusedError("multiple_profiles=enable + opt_num_tokens set")
    if found.weight_streaming and found.gemm_plugin not in {None, "disable"}:
        raise RefusedError("weight_streaming not with gemm_plugin")
    if found.user_buffer == "enable" and found.reduce_fusion != "enable":
        raise RefusedError("user_buffer needs reduce_fusion")
    if found.speculative_decoding_mode == "eagle" and (found.max_batch_size > 512 or found.max_draft_len > 256):
        raise RefusedError("EAGLE: max_batch_size<=512, max_draft_len<=256")


def silent_changes(found: argparse.Namespace, facts: CheckpointFacts, sm: int) -> list[str]:
    """The rules of the reference that change a value without a word on the command line."""
    algo, most = facts.quant_algo, found.max_batch_size * found.max_seq_len
    fuses = facts.tp_size > 1 and re.match("Llama|Gemma2|Medusa", facts.architecture)
    changes = changes_of_attention(found, facts, sm)
    if found.reduce_fusion == "enable" and not fuses:
        changes.append("reduce_fusion auto-off")
    if found.use_fused_mlp == "enable" and algo not in {None, "FP8", "MIXED_PRECISION"}:
        changes.append("use_fused_mlp auto-off")
    # `check_max_num_tokens` of tensorrt_llm/_common.py
    if max(min(found.max_num_tokens, most), found.tokens_per_block) != found.max_num_tokens:
        changes.append("max_num_tokens cut or raised")
    return changes


def changes_of_attention(found: argparse.Namespace, facts: CheckpointFacts, sm: int) -> list[str]:
    algo, kv_cache = facts.quant_algo, facts.kv_cache_quant_algo
    paged, fp8 = found.use_paged_context_fmha == "enable", found.use_fp8_context_fmha == "enable"
    changes = []
    if found.context_fmha == "disable" and (paged or fp8):
        changes.append("context_fmha off -> paged/fp8 context FMHA off")
    if algo not in FP8_FAMILY or sm < 89:
        if fp8:
            changes.append("fp8 context FMHA off")
        if paged and kv_cache == "FP8":
            changes.append("paged context FMHA off: KV is FP8")
    elif paged and fp8 != (kv_cache == "FP8"):
        changes.append("fp8 context FMHA off without FP8 KV, or forced on with it")
    if kv_cache == "INT8" and paged:
        changes.append("KV INT8 -> paged context FMHA off")
    return changes


def rejected_on_blackwell(facts: CheckpointFacts, sm: int) -> bool:
    integers = facts.quant_algo in {"W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ"} or facts.kv_cache_quant_algo == "INT8"
    scaled = "SQ" in str(facts.quant_algo) or "PER_" in str(facts.quant_algo)
    return 100 <= sm < 120 and (integers or scaled)


SIZES = st.fixed_dictionaries(
    {
        "max_batch_size": st.integers(1, 512),
        "max_num_tokens": st.integers(1, 16384),
        "max_seq_len": st.integers(2, 32768),
        "max_input_len": st.just(1),
    }
)
PARALLELISM = st.fixed_dictionaries({"tp_size": st.sampled_from([1, 2, 4, 8]), "pp_size": st.sampled_from([1, 2])})
LORA = st.fixed_dictionaries(
    {
        "target_modules": st.lists(st.sampled_from(["attn_qkv", "mlp_gate", "attn_dense"]), min_size=1, unique=True),
        "max_lora_rank": st.integers(1, 512),
        "lora_dirs": st.lists(st.sampled_from(["/adapters/a", "/adapters/b"]), unique=True),
    }
)
SPECULATION = st.sampled_from(
    [
        {},
        {"draft": DRAFT},
        {
            "speculation": {
                "mode": "lookahead",
                "max_draft_len": 83,
                "lookahead_window_size": 7,
                "lookahead_ngram_size": 7,
                "lookahead_verification_set_size": 7,
            }
        },
        {"speculation": {"mode": "medusa", "max_draft_len": 63}, "checkpoint_dir": "/heads"},
        {"speculation": {"mode": "eagle", "max_draft_len": 63}, "checkpoint_dir": "/heads"},
    ]
)
CALM_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "multiple_profiles": st.booleans(),
        "tokens_per_block": st.sampled_from([8, 16, 32, 64, 128]),
        "workers": st.integers(1, 64),
        "max_prompt_embedding_table_size": st.integers(0, 4096),
        "use_fused_mlp": st.booleans(),
        "weight_streaming": st.booleans(),
    },
)
WILD_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "opt_num_tokens": st.integers(1, 20000),
        "multiple_profiles": st.booleans(),
        "tokens_per_block": st.sampled_from([8, 128]),
        "use_paged_context_fmha": st.booleans(),
        "use_fp8_context_fmha": st.booleans(),
        "gemm_plugin": st.sampled_from(["auto", "float16", "bfloat16", "float32", "fp8", "nvfp4", "disable"]),
        "low_latency_gemm_plugin": st.booleans(),
        "gemm_swiglu_plugin": st.booleans(),
        "reduce_fusion": st.booleans(),
        "user_buffer": st.booleans(),
        "use_fused_mlp": st.booleans(),
        "pp_reduce_scatter": st.booleans(),
        "gather_context_logits": st.booleans(),
        "weight_streaming": st.booleans(),
    },
)
ARCHITECTURES = ["LlamaForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM", "Gemma2ForCausalLM", "PhiForCausalLM"]
# Weights, KV cache and a GPU that go together, and keep what a draft needs.
CALM_FORMATS = [("FP8", "FP8", 90), ("FP8", None, 89), (None, None, 80), ("FP8", "FP8", 100), (None, None, 120)]


def facts_for(
    sizes: Mapping[str, int], architecture: str, dtype: str, algo: str | None, kv_cache: str | None
) -> CheckpointFacts:
    return CheckpointFacts(
        architecture=architecture, dtype=dtype, quant_algo=algo, kv_cache_quant_algo=kv_cache, **sizes
    )


@settings(max_examples=300, deadline=None)
@given(
    sizes=SIZES,
    parallelism=PARALLELISM,
    speculation=SPECULATION,
    lora=st.none() | LORA,
    options=CALM_OPTIONS,
    formats=st.sampled_from(CALM_FORMATS),
    architecture=st.sampled_from(ARCHITECTURES),
    dtype=st.sampled_from(["float16", "bfloat16"]),
    role=st.sampled_from(["target", "draft"]),
    gpus=st.none() | st.integers(1, 8),
)
def test_a_spec_that_fits_is_built_by_a_command_of_the_contract(
    sizes: dict[str, int],
    parallelism: dict[str, int],
    speculation: dict[str, Any],
    lora: dict[str, Any] | None,
    options: dict[str, Any],
    formats: tuple[str | None, str | None, int],
    architecture: str,
    dtype: str,
    role: str,
    gpus: int | None,
) -> None:
    assume(role == "target" or "draft" in speculation)
    engine = an_engine(**sizes, **parallelism, **speculation, lora=lora, trtllm_build=options)
    algo, kv_cache, sm = formats
    facts = facts_for(parallelism, architecture, dtype, algo, kv_cache)
    plan = a_plan(engine, facts, role=role, sm=sm, gpus=gpus)
    found = parsed(plan)
    assert silent_changes(found, facts, sm) == []
    assert (found.max_batch_size, found.max_seq_len) == (engine.max_batch_size, engine.max_seq_len)
    assert found.workers <= min(facts.world_size, gpus or 64)
    assert plan.world_size == facts.world_size
    check_growth(plan, found)


@settings(max_examples=400, deadline=None)
@given(
    parallelism=PARALLELISM,
    options=WILD_OPTIONS,
    beams=st.sampled_from([1, 4]),
    algo=st.none() | st.sampled_from(contract("checkpoint_format")["quant_algos"][:-1]),
    kv_cache=st.sampled_from([None, "FP8", "INT8"]),
    architecture=st.sampled_from(ARCHITECTURES),
    dtype=st.sampled_from(["float16", "bfloat16"]),
    sm=st.sampled_from([80, 86, 89, 90, 100, 103, 120]),
)
def test_whatever_is_asked_for_is_refused_or_built_as_it_was_asked(
    parallelism: dict[str, int],
    options: dict[str, Any],
    beams: int,
    algo: str | None,
    kv_cache: str | None,
    architecture: str,
    dtype: str,
    sm: int,
) -> None:
    facts = facts_for(parallelism, architecture, dtype, algo, kv_cache)
    try:
        engine = an_engine(**parallelism, max_beam_width=beams, trtllm_build=options)
        plan = a_plan(engine, facts, sm=sm)
    except (ValidationError, SpecError) as error:
        event(type(error).__name__)
        return
    event("built")
    found = parsed(plan)
    assert silent_changes(found, facts, sm) == []
    assert not rejected_on_blackwell(facts, sm)
    for name, value in options.items():
        asked = {True: "enable", False: "disable"}.get(value, value) if isinstance(value, bool) else value
        if name in {"use_paged_context_fmha", "use_fp8_context_fmha", "reduce_fusion", "user_buffer", "gemm_plugin"}:
            assert getattr(found, name) == asked, name
    if found.gemm_plugin in {"fp8", "nvfp4"}:
        assert str(algo).lower() == found.gemm_plugin
    if "fp8" in {found.low_latency_gemm_plugin, found.gemm_swiglu_plugin}:
        assert algo == "FP8"


def check_growth(plan: BuildPlan, found: argparse.Namespace) -> None:
    """By the rule of the reference for draft_tokens_external, which the builder has for every mode."""
    draft = found.max_draft_len if found.speculative_decoding_mode else 0
    assert plan.expected["max_draft_len"] == draft
    assert plan.expected["max_seq_len"] == found.max_seq_len + draft
    needed = found.max_batch_size * (draft + 1) if draft else 0
    assert plan.expected["max_num_tokens"] == max(found.max_num_tokens, needed)
    assert (("max_seq_len", str(found.max_seq_len + draft)) in reasons(plan)) == (draft > 0)


@pytest.mark.parametrize(
    ("name", "algo", "kv_cache", "architecture"),
    [
        ("llama-3.1-8b-fp8-h100", "FP8", "FP8", "LlamaForCausalLM"),
        ("llama-3.3-70b-fp8-tp4-draft", "FP8", "FP8", "LlamaForCausalLM"),
        ("llama-3.3-70b-int8-sq-tp8-a100", "W8A8_SQ_PER_CHANNEL", None, "LlamaForCausalLM"),
        ("mixtral-8x22b-fp16-tp8-a100", None, None, "MixtralForCausalLM"),
    ],
)
def test_every_reference_deployment_is_built_by_a_command_of_the_contract(
    name: str, algo: str | None, kv_cache: str | None, architecture: str, root: Path
) -> None:
    spec = load_deployment(name, root=root)
    dtype, engine = spec.model.dtype, spec.engine
    sizes = {"tp_size": engine.tp_size, "pp_size": engine.pp_size}
    facts = facts_for(sizes, architecture, dtype, algo, kv_cache)
    sm = 80 if "a100" in name else 90
    for role in ("target", "draft") if engine.draft else ("target",):
        plan = a_plan(engine, facts, role=role, sm=sm, gpus=engine.world_size, runtime=spec.runtime)
        found = parsed(plan)
        assert silent_changes(found, facts, sm) == []
        assert found.use_paged_context_fmha == "enable"
        assert found.workers == engine.world_size


def test_the_contract_knows_no_flag_that_the_command_invents() -> None:
    removed = {
        word
        for text in REFERENCE["removed_after_1_0"] + REFERENCE["removed_earlier"]
        for word in re.findall(r"--\w+", text)
    }
    assert removed
    for plan in (a_plan(), a_plan(an_engine(draft=DRAFT))):
        assert removed.isdisjoint(plan.command.argv)


def test_the_test_parser_refuses_what_trtllm_build_refuses() -> None:
    good = list(a_plan().command.argv[1:])
    a_parser().parse_args(good)
    for wrong in (
        ["--max_output_len", "5"],
        ["--max_batch", "5"],
        ["--kv_cache_type", "paged"],
        ["--logits_dtype", "bfloat16"],
        ["--workers", "two"],
        ["stray"],
    ):
        with pytest.raises(RefusedError):
            a_parser().parse_args([*good, *wrong])

"""The table of formats: what runs where, what goes together, and what to try instead."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from slipstream.errors import SpecError
from slipstream.formats import (
    FORMATS,
    KvCache,
    Method,
    format_for,
    kv_effect,
    kv_problem,
    methods_for,
    next_recipe,
    refused_name,
    sm_problem,
)


def test_every_method_is_in_the_table_under_its_own_name() -> None:
    assert tuple(FORMATS) == get_args(Method)
    assert all(entry.name == name for name, entry in FORMATS.items())
    assert {entry.quant_algo for entry in FORMATS.values()} == {
        None,
        "W8A16",
        "W8A8_SQ_PER_CHANNEL",
        "FP8",
        "W4A16_AWQ",
        "W4A8_AWQ",
        "NVFP4",
    }


@pytest.mark.parametrize(
    ("sm", "methods"),
    [
        (80, {"none", "int8_wo", "int8_sq", "int4_awq"}),
        (89, {"none", "int8_wo", "int8_sq", "fp8", "int4_awq", "w4a8_awq"}),
        (90, {"none", "int8_wo", "int8_sq", "fp8", "int4_awq", "w4a8_awq"}),
        (100, {"none", "fp8", "nvfp4"}),
        (120, set(FORMATS)),
    ],
)
def test_a_gpu_runs_what_tensorrt_llm_has_kernels_for(sm: int, methods: set[str]) -> None:
    assert set(methods_for(sm)) == methods


@pytest.mark.parametrize(
    ("method", "sm", "kv_cache", "message"),
    [
        ("fp8", 86, "auto", "fp8 needs sm_89 or newer, the GPU is sm_86"),
        ("nvfp4", 90, "auto", "nvfp4 needs sm_100"),
        ("int8_wo", 100, "auto", "int8_wo is rejected by TensorRT-LLM on sm_100 to sm_119"),
        ("int8_wo", 86, "fp8", "an FP8 KV cache needs sm_89"),
        ("fp8", 100, "int8", "an INT8 KV cache is rejected"),
    ],
)
def test_what_a_gpu_cannot_do_is_said(method: str, sm: int, kv_cache: KvCache, message: str) -> None:
    assert message in (sm_problem(method, sm, kv_cache) or "")


@pytest.mark.parametrize("method", ["fp8", "w4a8_awq", "nvfp4"])
def test_an_fp8_kv_cache_costs_nothing_with_fp8_activations(method: str) -> None:
    assert kv_effect(method, "fp8").effect == "full"


@pytest.mark.parametrize(
    ("method", "kv_cache"),
    [("none", "fp8"), ("int8_wo", "fp8"), ("int8_sq", "fp8"), ("int4_awq", "fp8"), ("fp8", "int8"), ("none", "int8")],
)
def test_what_switches_off_paged_context_fmha_says_what_is_lost(method: str, kv_cache: KvCache) -> None:
    found = kv_effect(method, kv_cache)
    assert found.effect == "no_paged_context_fmha"
    assert "KV cache reuse, chunked prefill and draft-target" in found.reason
    assert kv_problem(method, kv_cache) is None


def test_nvfp4_has_no_gpu_for_an_int8_kv_cache() -> None:
    assert "sm_100" in (kv_problem("nvfp4", "int8") or "")


def test_every_method_has_a_more_accurate_one_that_ends_at_none() -> None:
    for name in FORMATS:
        step: str | None = name
        for _ in FORMATS:
            step = next_recipe(step) if step else None
        assert step is None, name


def test_the_next_recipe_runs_on_the_same_gpu() -> None:
    assert next_recipe("int8_sq") == "fp8"
    assert next_recipe("int8_sq", 86) == "int8_wo"
    assert next_recipe("fp8", 100) == "none"
    assert next_recipe("none") is None


def test_bits_per_weight_count_the_scales() -> None:
    assert [format_for(name).bits_per_weight for name in ("none", "int8_wo", "nvfp4")] == [16, 8, 4.5]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("gptq", "int4_awq"),
        ("W4A16-GPTQ", "int4_awq"),
        ("gguf", "model.source"),
        ("qat", "modelopt_state.pth"),
        ("bnb", "int8_wo"),
        ("nf4", "int4_awq"),
        ("int4", "int4_awq"),
        ("int8", "int8_sq"),
        ("fp4", "nvfp4"),
        ("w8a8", "fp8"),
        ("smoothquant", "int8_sq"),
        ("awq", "w4a8_awq"),
        ("bf16", "none"),
    ],
)
def test_a_name_that_people_try_is_answered_with_the_nearest_recipe(name: str, mend: str) -> None:
    refusal = refused_name(name)
    assert refusal is not None
    assert mend in refusal.mend
    with pytest.raises(SpecError) as caught:
        format_for(name)
    assert mend in caught.value.mend


def test_a_recipes_name_is_no_refused_name() -> None:
    assert refused_name("colour") is None
    with pytest.raises(SpecError, match="there is no quantization method 'colour'"):
        format_for("colour")


def test_the_table_needs_no_heavy_package() -> None:
    code = (
        "import sys, slipstream.formats; print([name for name in ('torch', 'pydantic', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What a run needs is told before it starts; one that the machine cannot hold is refused with the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.errors import SlipstreamError
from slipstream.formats import KvCache
from slipstream.quantize import memory
from slipstream.quantize.architectures import read_architecture
from slipstream.quantize.calibrate import remaining, remaining_time
from slipstream.quantize.checkpoint import write_checkpoint
from slipstream.quantize.memory import GIB, Work, available_bytes, check_memory, count_parameters, estimate
from slipstream.quantize.planning import estimate_run, plan_export
from slipstream.quantize.recipes import Recipe, load_recipe
from slipstream.quantize.sharding import ModelShape

RECIPES = Path(__file__).resolve().parents[2] / "quantize" / "recipes"
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
SMOLLM2 = ModelShape(
    attention_heads=9,
    kv_heads=3,
    head_size=64,
    hidden_size=576,
    intermediate_size=1536,
    layers=30,
    vocab_size=49152,
)


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 24 * GIB)


def said(shape: ModelShape) -> list[str]:
    messages: list[str] = []
    needed = estimate(shape, {}, work=(Work(what="calibration", quantized_tokens=2048),))
    check_memory(needed, lambda message, fraction=None: messages.append(message))
    return messages


@pytest.mark.usefixtures("small_machine")
def test_seventy_billion_parameters_are_refused_with_the_memory_they_need(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    with pytest.raises(
        SlipstreamError, match=r"5[23]\d\.\d GiB of memory of 24\.0 GiB available \(70\.55 billion"
    ) as caught:
        write_checkpoint(
            tmp_path,
            tmp_path / "out",
            recipe=load_recipe("fp8", RECIPES),
            kv_cache="fp8",
            tp_size=8,
            pp_size=1,
            dtype="bfloat16",
            report=lambda message, fraction=None: None,
        )
    assert "GiB of free memory" in caught.value.mend


@pytest.mark.usefixtures("small_machine")
def test_the_estimate_is_said_with_its_basis() -> None:
    (message,) = said(SMOLLM2)
    assert "0.16 billion parameters" in message
    assert "with the export's copies" in message
    assert "cores" in message


def test_parameters_are_counted_from_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    assert count_parameters(read_architecture(tmp_path).shape, tied=False) == pytest.approx(70.55e9, rel=1e-3)
    assert count_parameters(SMOLLM2, tied=True) == pytest.approx(134_515_008, rel=1e-3)
    experts = count_parameters(replace(SMOLLM2, experts=8), tied=True) - count_parameters(SMOLLM2, tied=True)
    assert experts == 7 * 30 * 3 * 576 * 1536


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B | sizes | heads | {"tie_word_embeddings": True}))
    return tmp_path


def work_of(model: Path, name: str, kv_cache: KvCache = "auto", **changes: object) -> dict[str, Work]:
    recipe = load_recipe(name, RECIPES)
    settings = recipe.settings.model_copy(update=changes)
    changed = Recipe(settings=settings, calibration_text=None, evaluation_text=None)
    plan = plan_export(model, recipe=changed, kv_cache=kv_cache, tp_size=1, pp_size=1, dtype="float16")
    return {work.what: work for work in estimate_run(plan, changed).work}


def test_awq_takes_longer_than_a_single_pass(smollm2: Path) -> None:
    fp8, awq = (work_of(smollm2, name)["calibration"].quantized_tokens for name in ("fp8", "int4_awq"))
    assert (fp8, awq) == (8 * 256, 3 * 8 * 256)


def test_searches_before_the_calibration_are_part_of_the_estimate(smollm2: Path) -> None:
    found = work_of(smollm2, "int8_sq")
    tokens, compared = 32 * 256, 8 * 256
    assert found["the search for outliers"].plain_tokens == tokens
    assert found["the search among 2 alphas"].quantized_tokens == 2 * (tokens + compared)
    assert found["the search among 2 alphas"].plain_tokens == 2 * compared
    found = work_of(smollm2, "int8_sq", exclude_outliers=None, alpha_search=None, alpha=0.8)
    assert list(found) == ["calibration", "evaluation"]


def test_questions_are_part_of_the_estimate_and_of_its_basis(smollm2: Path) -> None:
    evaluation = load_recipe("fp8", RECIPES).settings.evaluation
    assert evaluation is not None
    asked = work_of(smollm2, "fp8", evaluation=evaluation.model_copy(update={"choices": 500}))
    assert asked["500 questions"].plain_tokens == asked["500 questions"].quantized_tokens > 50_000
    basis = estimate(SMOLLM2, {}, work=tuple(asked.values())).time_basis
    for part in ("for calibration", "for evaluation", "for 500 questions", "billion parameters x tokens a second"):
        assert part in basis


def test_the_time_is_the_sum_of_its_parts() -> None:
    parts = (Work(what="a", quantized_tokens=1000), Work(what="b", plain_tokens=4000))
    one, other, both = (estimate(SMOLLM2, {}, work=work).cpu_s for work in (parts[:1], parts[1:], parts))
    assert both == one + other
    assert one == pytest.approx(other)  # a pass without quantizers takes a quarter


def test_nothing_is_measured_of_what_is_not_quantized(smollm2: Path) -> None:
    assert work_of(smollm2, "none") == {}
    assert list(work_of(smollm2, "none", "fp8")) == ["calibration", "evaluation"]


def test_the_limit_of_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"limit": tmp_path / "max", "used": tmp_path / "current", "statistics": tmp_path / "stat"}
    group = memory._ControlGroup(cache_key="inactive_file", **paths)
    paths["limit"].write_text(f"{300 << 20}\n")
    paths["used"].write_text(f"{250 << 20}\n")
    paths["statistics"].write_text(f"anon 1\ninactive_file {40 << 20}\n")
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", (group,))
    assert available_bytes() == 90 << 20
    paths["limit"].write_text("max\n")
    assert available_bytes() > 90 << 20


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_time_is_told_in_words(seconds: float, words: str) -> None:
    assert remaining_time(seconds) == words


def test_the_time_left_is_told_once_it_can_be() -> None:
    assert remaining(1, 0.01) == ""
    assert remaining(100, 0.25) == ", about 5 min left"

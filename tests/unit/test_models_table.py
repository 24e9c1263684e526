"""docs/models.md and the table behind it say what the stages do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipstream.engine.architecture import read_architecture as read_for_the_cpu_engine
from slipstream.errors import SlipstreamError, SpecError
from slipstream.formats import FORMATS
from slipstream.models_table import FAMILIES, TARGETS, Family, family_of, models_markdown
from slipstream.plan.catalogue import catalogue_data
from slipstream.quantize.architectures import DECODER_TYPES, read_architecture
from slipstream.quantize.sharding import ModelShape, Parallel, check_sharding
from slipstream.quantize.unified import check_unified
from tests.fakes.checkpoints import TinyModel, checkpoint_config

HF_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
}
NAMES = [(family, name) for family in FAMILIES for name in family.architectures]


def a_shape(family: Family) -> ModelShape:
    return ModelShape(
        attention_heads=4,
        kv_heads=4,
        head_size=32,
        hidden_size=128,
        intermediate_size=256,
        layers=2,
        vocab_size=128,
        experts=None if family.dense else 4,
    )


def is_taken(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except SlipstreamError:
        return False
    return True


@pytest.mark.parametrize(("family", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_family_is_quantized_here_exactly_when_the_stage_takes_it(tmp_path: Path, family: Family, name: str) -> None:
    config = {**HF_CONFIG, "architectures": [name], **({} if family.dense else {"num_local_experts": 4})}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert is_taken(read_architecture, tmp_path) == family.quantized_here


@pytest.mark.parametrize("name", DECODER_TYPES)
def test_every_architecture_that_the_stage_takes_has_a_row(name: str) -> None:
    found = family_of(name)
    assert found is not None
    assert found.quantized_here


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.quantized_here], ids=lambda f: f.name)
def test_recipes_for_an_engine_are_those_that_the_export_takes(family: Family) -> None:
    taken = set()
    for entry in FORMATS.values():
        group_size = entry.group_sizes[0] if entry.group_sizes else None
        if is_taken(check_sharding, a_shape(family), Parallel(tp_size=1), entry, group_size):
            taken.add(entry.name)
    assert set(family.recipes("tensorrt_llm")) == taken


@pytest.mark.parametrize("method", FORMATS)
def test_recipes_for_the_llm_api_are_those_that_the_unified_export_takes(method: str) -> None:
    plan = SimpleNamespace(
        format=FORMATS[method],
        quant_algo=FORMATS[method].quant_algo,
        kv_cache="auto",
        parallel=Parallel(tp_size=1),
    )
    llama = family_of("LlamaForCausalLM")
    assert llama is not None
    assert (method in llama.recipes("llmapi")) == is_taken(check_unified, plan)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.quantized_here], ids=lambda f: f.name)
def test_the_cpu_engine_takes_what_the_table_says(tmp_path: Path, family: Family) -> None:
    (name,) = family.architectures
    config = checkpoint_config(TinyModel(architecture=name), tp_size=1, pp_size=1)
    if not family.dense:
        config["moe"] = {"num_experts": 4, "top_k": 2, "normalization_mode": 1}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert is_taken(read_for_the_cpu_engine, path) == bool(family.recipes("openvino"))


def test_every_family_of_the_request_has_a_row() -> None:
    text = " ".join(family.name for family in FAMILIES)
    assert all(word in text for word in ("Llama 2", "3.3", "Mistral", "Mixtral", "Qwen2.5", "Qwen3", "Phi", "Gemma"))


def test_every_example_is_known_to_the_planner() -> None:
    known = {row["hub"] for row in catalogue_data("models.yaml")["models"]}
    examples = [name for family in FAMILIES for name in family.examples.split(", ") if "/" in name]
    assert len(examples) >= len(FAMILIES)
    assert set(examples) <= known


def test_a_refused_recipe_is_one_that_exists_and_says_why() -> None:
    for family in FAMILIES:
        assert set(family.refused) <= set(FORMATS)
        assert all(family.refused.values())


def test_what_is_not_quantized_here_has_no_recipe_for_any_target() -> None:
    for family in FAMILIES:
        assert family.quantized_here == any(family.recipes(target) for target in TARGETS)


def test_the_page_holds_the_table(root: Path) -> None:
    text = (root / "docs" / "models.md").read_text()
    between = text.partition("<!-- models: begin -->\n")[2].partition("<!-- models: end -->")[0]
    assert between == models_markdown(), "write the output of models_markdown() between the markers"


def test_a_mixture_of_experts_has_no_smoothquant() -> None:
    mixtral = family_of("MixtralForCausalLM")
    assert mixtral is not None
    with pytest.raises(SpecError, match="experts"):
        check_sharding(a_shape(mixtral), Parallel(tp_size=1), FORMATS["int8_sq"], None)
    assert "int8_sq" not in mixtral.recipes("tensorrt_llm")

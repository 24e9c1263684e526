"""Recipes are read into frozen values; what is wrong with one is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from slipstream.errors import SpecError
from slipstream.formats import FORMATS
from slipstream.quantize.recipes import Recipe, load_recipe, recipe_names

QUANTIZE = Path(__file__).resolve().parents[2] / "quantize"


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    return Path(shutil.copytree(QUANTIZE, tmp_path / "quantize")) / "recipes"


def changed(recipes: Path, **fields: Any) -> Recipe:
    path = recipes / "int8_wo.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))
    return load_recipe("int8_wo", recipes)


def test_every_recipe_of_the_project_can_be_read() -> None:
    assert recipe_names(QUANTIZE / "recipes") == sorted(FORMATS)
    for name in FORMATS:
        settings = load_recipe(name, QUANTIZE / "recipes").settings
        assert (settings.name, settings.method, settings.quant_algo) == (name, name, FORMATS[name].quant_algo)


def test_a_recipe_cannot_be_changed_once_read(recipes: Path) -> None:
    with pytest.raises(ValidationError):
        load_recipe("int8_wo", recipes).settings.name = "other"


def test_an_unknown_recipe_is_answered_with_the_nearest_and_the_list(recipes: Path) -> None:
    with pytest.raises(SpecError, match="did you mean int8_wo") as caught:
        load_recipe("int8_w0", recipes)
    assert "int8_wo, none" in caught.value.mend


def test_a_name_that_people_try_is_answered_with_what_to_do(recipes: Path) -> None:
    with pytest.raises(SpecError, match="'GPTQ' is no recipe") as caught:
        load_recipe("GPTQ", recipes)
    assert "int4_awq" in caught.value.mend


@pytest.mark.parametrize("name", ["fp9", "../recipes/none", ""])
def test_a_name_is_never_a_path(recipes: Path, name: str) -> None:
    with pytest.raises(SpecError, match="there is no recipe"):
        load_recipe(name, recipes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"method": "int3"}, "method"),
        ({"alpha": 0.5}, "alpha can be given for int8_sq alone"),
        ({"method": "int8_sq", "alpha": 0.5, "alpha_search": [0.5, 0.6]}, "give alpha, or alpha_search"),
        ({"method": "int8_sq"}, "give alpha, or alpha_search"),
        ({"method": "int8_sq", "alpha": 1.5}, "alpha"),
        ({"group_size": 64}, "its group size is not chosen"),
        ({"method": "int4_awq", "group_size": 32}, "group_size is 32, TensorRT-LLM has 64 and 128"),
        ({"method": "int4_awq"}, "group_size is None"),
        ({"method": "w4a8_awq", "group_size": 64}, "group_size is 64, TensorRT-LLM has 128"),
        ({"method": "fp8", "calibration": None}, "calibration is needed"),
        ({"method": "none", "exclude": ["model.layers.0.*"]}, "exclude must be left out"),
        ({"evaluation": None}, "limits are given"),
        ({"limits": {"max_kl": -1}}, "limits.max_kl"),
        ({"limits": {"min_top1_agreement": 2}}, "limits.min_top1_agreement"),
        ({"calibration": {"samples": 1, "tokens_per_sample": 8}}, "give one of text, jsonl and corpus, found none"),
        (
            {"calibration": {"text": "a", "corpus": "news", "samples": 1, "tokens_per_sample": 8}},
            "found text and corpus",
        ),
        ({"calibration": {"text": "a", "field": "x", "samples": 1, "tokens_per_sample": 8}}, "field belongs to jsonl"),
        ({"calibration": {"corpus": "poems", "samples": 1, "tokens_per_sample": 8}}, "calibration.corpus"),
        ({"name": "other"}, "name is 'other'"),
        ({"evaluation": {"text": "nowhere.txt", "samples": 1, "tokens_per_sample": 8}}, "nowhere.txt"),
        ({"calibration": {"text": "a", "samples": 0, "tokens_per_sample": 8}}, "calibration.samples"),
    ],
)
def test_a_wrong_field_is_named(recipes: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        changed(recipes, **fields)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method: fp8", "method is given twice"),
        ("alpha: 2026-99-99", "cannot be read as timestamp"),
        ("exclude: &a [*a]", "the alias"),
        ("exclude: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_yaml_reads_otherwise_than_it_looks_is_refused(recipes: Path, line: str, message: str) -> None:
    path = recipes / "int8_wo.yaml"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(SpecError, match=message):
        load_recipe("int8_wo", recipes)


def test_what_a_checkpoint_depends_on_holds_the_texts(recipes: Path) -> None:
    before = load_recipe("int8_wo", recipes).inputs()
    with (recipes.parent / "calibration" / "calibration.txt").open("a") as text:
        text.write("One more line.")
    after = load_recipe("int8_wo", recipes).inputs()
    assert {key for key in before if before[key] != after[key]} == {"calibration_text_sha256"}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("int8_sq", "alpha_search", [0.4, 0.6]),
        ("int4_awq", "group_size", 128),
        ("fp8", "exclude", ["model.layers.0.mlp.down_proj"]),
        ("fp8", "limits", {"max_kl": 0.5}),
    ],
)
def test_a_changed_setting_makes_another_checkpoint(recipes: Path, name: str, field: str, value: Any) -> None:
    before = load_recipe(name, recipes).inputs()
    path = recipes / f"{name}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {field: value}))
    after = load_recipe(name, recipes).inputs()
    assert {key for key in before if before[key] != after[key]} == {field}


def test_a_recipe_of_ones_own_may_use_any_method(recipes: Path) -> None:
    settings = yaml.safe_load((recipes / "fp8.yaml").read_text()) | {"name": "fp8_mine"}
    (recipes / "fp8_mine.yaml").write_text(yaml.safe_dump(settings))
    assert load_recipe("fp8_mine", recipes).settings.quant_algo == "FP8"


def test_the_two_texts_share_no_paragraph() -> None:
    calibration, held_out = (
        set((QUANTIZE / "calibration" / name).read_text().split("\n\n")) for name in ("calibration.txt", "held_out.txt")
    )
    assert len(calibration) > 10
    assert not calibration & held_out

"""Recipes are read into frozen values; what is wrong with one is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from slipstream.errors import SpecError
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
    assert recipe_names(QUANTIZE / "recipes") == ["int8_wo", "none"]
    assert [load_recipe(name, QUANTIZE / "recipes").name for name in ("int8_wo", "none")] == ["int8_wo", "none"]


def test_int8_weight_only_is_what_tensorrt_llm_calls_w8a16(recipes: Path) -> None:
    settings = load_recipe("int8_wo", recipes).settings
    assert (settings.quant_algo, settings.weights.bits, settings.weights.group_size) == ("W8A16", 8, None)


def test_a_recipe_cannot_be_changed_once_read(recipes: Path) -> None:
    with pytest.raises(ValidationError):
        load_recipe("int8_wo", recipes).settings.name = "other"


def test_an_unknown_recipe_is_answered_with_the_nearest_and_the_list(recipes: Path) -> None:
    with pytest.raises(SpecError, match="did you mean int8_wo") as caught:
        load_recipe("int8_w0", recipes)
    assert "int8_wo, none" in caught.value.mend


@pytest.mark.parametrize("name", ["fp8", "../recipes/none", ""])
def test_a_name_is_never_a_path(recipes: Path, name: str) -> None:
    with pytest.raises(SpecError, match="there is no recipe"):
        load_recipe(name, recipes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"weights": {"bits": 3}}, "weights.bits"),
        ({"weights": None}, "needs weights"),
        ({"weights": {"bits": 8, "group_size": 64}}, "group_size must be null"),
        ({"quant_algo": None}, "quant_algo is null"),
        ({"name": "other"}, "name is 'other'"),
        ({"evaluation": {"text": "nowhere.txt", "samples": 1, "tokens_per_sample": 8}}, "nowhere.txt"),
        ({"calibration": {"text": "a", "samples": 0, "tokens_per_sample": 8}}, "calibration.samples"),
    ],
)
def test_a_wrong_field_is_named(recipes: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        changed(recipes, **fields)


def test_what_a_checkpoint_depends_on_holds_the_texts(recipes: Path) -> None:
    before = load_recipe("int8_wo", recipes).inputs()
    with (recipes.parent / "calibration" / "calibration.txt").open("a") as text:
        text.write("One more line.")
    after = load_recipe("int8_wo", recipes).inputs()
    assert {key for key in before if before[key] != after[key]} == {"calibration_text_sha256"}


def test_the_two_texts_share_no_paragraph() -> None:
    calibration, held_out = (
        set((QUANTIZE / "calibration" / name).read_text().split("\n\n")) for name in ("calibration.txt", "held_out.txt")
    )
    assert len(calibration) > 10
    assert not calibration & held_out

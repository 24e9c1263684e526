"""A draft that is cut out of its target and taught: a short form, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.errors import SlipstreamError
from slipstream.progress import silent
from slipstream.quantize.distill import Distillation, DraftReport, distil_draft, kept_layers
from slipstream.quantize.draft import compare_tokenizers
from slipstream.quantize.hf_model import load_model
from slipstream.text.tokenizer import read_json
from tests.integration.tiny_models import a_recipe, save_model

SETTINGS = Distillation(layers=2, steps=60, stretches_per_step=8, tokens_per_stretch=16, learning_rate=5e-3)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("models") / "llama")


def a_draft(target: Path, out: Path, settings: Distillation = SETTINGS) -> DraftReport:
    out.mkdir()
    text = (a_recipe("none").calibration_text or "") * 4
    return distil_draft(target, out, text, text[::-1] * 2, settings, silent)


def test_the_draft_learns_what_its_target_says(target: Path, tmp_path: Path) -> None:
    made = a_draft(target, tmp_path / "draft")
    assert made.kept_layers == (0, 3)
    assert made.agreement_after > made.agreement_before + 0.05
    assert read_json(tmp_path / "draft" / "config.json")["num_hidden_layers"] == 2
    draft = load_model(tmp_path / "draft", "float32")
    assert draft.num_parameters() == made.parameters
    assert compare_tokenizers(target, tmp_path / "draft").renamed_special_tokens == {}


def test_the_same_seed_gives_the_same_draft(target: Path, tmp_path: Path) -> None:
    few = Distillation(layers=2, steps=2, stretches_per_step=2, tokens_per_stretch=16)
    for name in ("one", "two"):
        a_draft(target, tmp_path / name, few)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_first_and_the_last_layer_are_kept() -> None:
    assert kept_layers(30, 4) == (0, 10, 19, 29)
    assert kept_layers(30, 8)[0::7] == (0, 29)


@pytest.mark.parametrize("keep", [1, 4])
def test_a_draft_has_fewer_layers_than_its_target_and_two_at_least(target: Path, tmp_path: Path, keep: int) -> None:
    with pytest.raises(SlipstreamError, match=f"{keep} of 4 layers"):
        a_draft(target, tmp_path / "draft", Distillation(layers=keep, tokens_per_stretch=16))


def test_a_text_that_is_too_short_is_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match="the text has"):
        a_draft(target, tmp_path / "draft", Distillation(layers=2, tokens_per_stretch=100_000))

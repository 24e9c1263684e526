"""A draft and its target, from one deployment file: quantized, verified, and what speculation would gain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, run_slipstream
from tests.integration.tiny_models import a_recipe, save_model
from tests.unit.small_tokenizers import byte_fallback

DRAFT_LEN = 17  # more than the fewest tokens that are decoded of a text


def a_project(root: Path, target: Path, draft: Path, recipe_of_target: str = "fp8") -> Path:
    """A project with one deployment of a pair, in float and FP8."""
    (root / "quantize" / "recipes").mkdir(parents=True)
    (root / "deployments").mkdir()
    for name in ("none", "fp8"):
        recipe = yaml.safe_load((ROOT / "quantize" / "recipes" / f"{name}.yaml").read_text())
        recipe["calibration"] = {"text": "t.txt", "samples": 2, "tokens_per_sample": 32}
        for part in ("evaluation", "limits"):
            recipe.pop(part, None)
        (root / "quantize" / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    (root / "quantize" / "t.txt").write_text(a_recipe("fp8").calibration_text or "")
    held_out = root / "quantize" / "calibration" / "held_out.txt"
    held_out.parent.mkdir()
    held_out.write_text((a_recipe("fp8").calibration_text or "") * 4)
    pair: dict[str, Any] = yaml.safe_load((ROOT / "deployments" / "llama-3.3-70b-fp8-tp4-draft.yaml").read_text())
    pair |= {"name": "pair", "model": {"source": str(target)}, "quantization": {"recipe": recipe_of_target}}
    pair["engine"]["tp_size"] = 2
    pair["engine"]["draft"] |= {
        "model": {"source": str(draft)},
        "quantization": {"recipe": "none"},
        "max_draft_len": DRAFT_LEN,
    }
    (root / "deployments" / "pair.yaml").write_text(yaml.safe_dump(pair))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("models") / "llama")


def verified(project: Path) -> dict[str, Any]:
    done = run_slipstream("verify", "pair", "--json", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_pair_is_quantized_verified_and_its_acceptance_measured(model: Path, tmp_path: Path) -> None:
    project = a_project(tmp_path / "project", model, model, "none")
    done = run_slipstream("quantize", "pair", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    found = verified(project)
    assert (found["ok"], found["ranks"]) == (True, 2)
    assert (found["draft"]["ok"], found["draft"]["ranks"]) == (True, 2)
    acceptance = found["speculation"]["acceptance"]
    # The draft is the target: every token is accepted, and every step is as long as it can be.
    assert (acceptance["positions"], acceptance["agreement"]) == (8 * (DRAFT_LEN + 1), 1.0)
    assert acceptance["tokens_per_step"] == DRAFT_LEN + 1
    assert found["speculation"]["vocabularies"] is None


def test_a_draft_that_knows_nothing_gains_nothing(model: Path, tmp_path: Path) -> None:
    other = save_model("llama", tmp_path / "other", num_hidden_layers=2, hidden_size=32)
    project = a_project(tmp_path / "project", model, other)
    assert run_slipstream("quantize", "pair", cwd=project).returncode == 0
    found = verified(project)
    assert (found["algo"], found["draft"]["algo"]) == ("FP8", None)
    acceptance = found["speculation"]["acceptance"]
    assert acceptance["agreement_high"] < 0.3
    assert acceptance["tokens_per_step"] < 1.4
    shown = run_slipstream("verify", "pair", cwd=project)
    assert "greedy tokens are proposed by the draft" in shown.stdout


def test_another_tokenizer_is_refused_before_any_checkpoint(model: Path, tmp_path: Path) -> None:
    other = save_model("llama", tmp_path / "other")
    byte_fallback().fast.save(str(other / "tokenizer.json"))
    project = a_project(tmp_path / "project", model, other)
    done = run_slipstream("quantize", "pair", cwd=project)
    assert done.returncode == 1
    assert "mean another text to the target" in done.stderr
    assert not (project / "build" / "pair" / "checkpoint").exists()

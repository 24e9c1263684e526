"""Layers with outliers are found on the model, left out of the checkpoint, and the gate keeps a bad one aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from slipstream.errors import RejectedArtifactError
from slipstream.pipeline import CHECKPOINT, MODEL, Context, is_current, run_stage
from slipstream.progress import silent
from slipstream.project import Workspace
from slipstream.quantize.checkpoint import write_checkpoint
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.outliers import token_ratios
from slipstream.quantize.recipe_schema import Outliers
from slipstream.spec_file import load_deployment
from tests.conftest import ROOT
from tests.integration.tiny_models import a_recipe, save_model


def with_an_outlier(directory: Path) -> Path:
    """A tiny Llama whose second layer answers token 0 with a huge activation of its MLP."""
    model = save_model("llama", directory)
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][0] = 0
    weights["model.embed_tokens.weight"][0, 0] = 50
    for name in ("gate_proj", "up_proj"):
        weights[f"model.layers.1.mlp.{name}.weight"][:, 0] = 3
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    return model


def test_the_layer_with_the_outlier_stands_out(tmp_path: Path) -> None:
    model = load_model(with_an_outlier(tmp_path / "model"), "float16")
    numbers = torch.randint(1, 400, (4, 32), generator=torch.Generator().manual_seed(0)).tolist()
    samples = [[0, *sample] for sample in numbers]
    ratios = token_ratios(model, samples, silent)
    assert len(ratios) == 2 * model.config.num_hidden_layers
    assert max(ratios, key=lambda name: ratios[name]) == "model.layers.1.mlp.down_proj"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_left_out_is_stored_in_16_bits_and_named(tmp_path: Path) -> None:
    model = with_an_outlier(tmp_path / "model")
    recipe = a_recipe("int8_sq")
    settings = recipe.settings.model_copy(update={"exclude_outliers": Outliers(ratio=1, max_share=2 / 28)})
    out = tmp_path / "out"
    report = write_checkpoint(
        model,
        out,
        recipe=type(recipe)(
            settings=settings, calibration_text=recipe.calibration_text, evaluation_text=recipe.evaluation_text
        ),
        kv_cache="auto",
        tp_size=1,
        pp_size=2,
        dtype="float16",
        report=silent,
    )
    assert len(report.excluded) == 2  # the same layer of both stages
    config = json.loads((out / "config.json").read_text())
    (module,) = set(config["quantization"]["exclude_modules"]) - {"lm_head"}
    for rank in range(2):
        weights = load_file(out / f"rank{rank}.safetensors")
        assert weights[f"{module}.weight"].dtype == torch.float16
        assert f"{module}.weights_scaling_factor" not in weights


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a recipe whose limits nothing keeps to."""
    root = tmp_path / "project"
    (root / "quantize" / "recipes").mkdir(parents=True)
    (root / "deployments").mkdir()
    recipe: dict[str, Any] = {
        "name": "strict",
        "summary": "for tests",
        "method": "fp8",
        "calibration": {"text": "t.txt", "samples": 2, "tokens_per_sample": 32},
        "evaluation": {"text": "t.txt", "samples": 2, "tokens_per_sample": 32},
        "limits": {"max_kl": 0.0},
    }
    (root / "quantize" / "recipes" / "strict.yaml").write_text(yaml.safe_dump(recipe))
    (root / "quantize" / "t.txt").write_text(a_recipe("fp8").calibration_text or "")
    deployment = yaml.safe_load((ROOT / "deployments" / "smollm2-135m-cpu.yaml").read_text())
    deployment |= {"name": "tiny", "model": {"source": str(save_model("llama", tmp_path / "model"))}}
    deployment["quantization"] = {"recipe": "strict"}
    (root / "deployments" / "tiny.yaml").write_text(yaml.safe_dump(deployment))
    return root


def test_a_checkpoint_beyond_its_limits_is_kept_aside_and_not_used(project: Path, tmp_path: Path) -> None:
    spec = load_deployment("tiny", root=project)
    context = Context(spec=spec, root=project, workspace=Workspace(directory=tmp_path / "workspace"))
    run_stage(MODEL, context, silent)
    with pytest.raises(RejectedArtifactError, match=r"max_kl is 0, found .* on evaluation text") as caught:
        run_stage(CHECKPOINT, context, silent)
    assert "set quantization.recipe to int8_wo" in caught.value.mend
    assert not is_current(CHECKPOINT, context)
    aside = tmp_path / "workspace" / "checkpoint.rejected"
    assert str(aside) in caught.value.message
    report = json.loads((aside / "quantization_report.json").read_text())
    assert report["violations"][0]["measure"] == "max_kl"
    assert (aside / "rank0.safetensors").exists()

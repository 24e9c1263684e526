"""Accuracy of small models measured through their last hidden states, against what their logits say directly."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from slipstream.progress import silent
from slipstream.quantize.accuracy import build_items, judge, measure_against, measure_base
from slipstream.quantize.accuracy.answers import _scores, tokenize
from slipstream.quantize.accuracy.table import RecipeRow, RefusedRow
from slipstream.quantize.compare import PAGE, PLOT, RESULTS, Comparison, compare_recipes, write_results
from slipstream.quantize.corpora import packaged_text
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.modelopt_quantize import quantize_model
from slipstream.quantize.recipe_schema import Limits
from slipstream.text.tokenizer import Tokenizer
from tests.integration.tiny_models import a_recipe, save_model

SAMPLES = torch.randint(0, 432, (5, 40), generator=torch.Generator().manual_seed(1)).tolist()
TEXTS = {"random": SAMPLES}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("llama"))


def quantized(directory: Path) -> PreTrainedModel:
    model = load_model(directory, "float16")
    quantize_model(model, a_recipe("fp8").settings, "auto", SAMPLES, silent, dtype="float16")
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(SAMPLES)).logits[:, :-1].double().log_softmax(-1)


def loss(logs: torch.Tensor) -> float:
    return float(-logs.gather(-1, torch.tensor(SAMPLES)[:, 1:, None]).mean())


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "mixtral"])
def test_the_figures_are_those_of_the_logits(model_type: str, tmp_path: Path) -> None:
    directory = save_model(model_type, tmp_path)
    model = load_model(directory, "float16")
    base, before = measure_base(model, TEXTS, silent), logits(model)
    model = quantized(directory)
    (text,) = measure_against(base, model, silent).texts
    after = logits(model)
    kl = (before.exp() * (before - after)).sum(-1).numpy()
    assert text.tokens == 5 * 39
    assert text.perplexity_before == pytest.approx(math.exp(loss(before)), rel=1e-4)
    assert text.perplexity_after == pytest.approx(math.exp(loss(after)), rel=1e-4)
    assert text.kl_mean == pytest.approx(kl.mean(), rel=1e-3)
    assert text.kl_p99 == pytest.approx(np.percentile(kl, 99), rel=1e-3)
    assert text.top1_agreement == pytest.approx(float((before.argmax(-1) == after.argmax(-1)).double().mean()))
    assert text.kl_mean > 1e-5  # quantized indeed


def test_the_same_model_loses_nothing_and_keeps_its_answers(llama: Path) -> None:
    model = load_model(llama, "float16")
    questions = tokenize(build_items(packaged_text("news").held_out, 12), Tokenizer.load(llama))
    report = measure_against(measure_base(model, TEXTS, silent, questions), model, silent)
    (text,), choices = report.texts, report.choices
    assert (text.kl_mean, text.top1_agreement, text.perplexity_increase_percent) == (0, 1, 0)
    assert choices is not None
    assert (choices.items, choices.chance, choices.lost, choices.won, choices.p_value) == (12, 0.25, 0, 0, 1.0)
    json.dumps(report.document(), allow_nan=False)


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_options_side_by_side_score_as_each_does_alone(model_type: str, tmp_path: Path) -> None:
    directory = save_model(model_type, tmp_path, max_position_embeddings=2048)
    model, tokenizer = load_model(directory, "float16"), Tokenizer.load(directory)
    items = build_items(packaged_text("news").held_out, 4)
    for item, question in zip(items, tokenize(items, tokenizer), strict=True):
        context = tokenizer.encode(item.context, add_special_tokens=False)
        with torch.inference_mode():
            scores = _scores(model, question)
            for option, score in zip(item.options, scores, strict=True):
                ids = tokenizer.encode(option, add_special_tokens=False)
                logs = model(torch.tensor([context + ids])).logits[0].log_softmax(-1)
                alone = sum(float(logs[len(context) - 1 + place, token]) for place, token in enumerate(ids))
                assert score == pytest.approx(alone / len(option.encode()), rel=1e-4)


def test_a_model_that_lost_a_layer_does_not_pass_the_gate(llama: Path) -> None:
    model = load_model(llama, "float16")
    base = measure_base(model, TEXTS, silent)
    limits = Limits(max_perplexity_increase_percent=5, max_kl=0.1, min_top1_agreement=0.85)
    assert judge(measure_against(base, model, silent), limits) == []
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(-1)
    found = judge(measure_against(base, model, silent), limits)
    assert {"max_kl", "min_top1_agreement"} <= {violation.measure for violation in found}


def test_another_lm_head_is_noticed(llama: Path) -> None:
    model = load_model(llama, "float16")
    base = measure_base(model, TEXTS, silent)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    with pytest.raises(AssertionError, match="lm_head is not what it was"):
        measure_against(base, model, silent)


def test_a_measured_base_travels_between_processes(llama: Path) -> None:
    model = load_model(llama, "float16")
    base = measure_base(model, TEXTS, silent)
    assert measure_against(pickle.loads(pickle.dumps(base)), model, silent) == measure_against(base, model, silent)


def test_recipes_are_compared_each_in_its_own_process(llama: Path, root: Path, tmp_path: Path) -> None:
    comparison = Comparison(
        model_directory=llama,
        recipes_directory=root / "quantize" / "recipes",
        dtype="float16",
        samples=2,
        tokens_per_sample=64,
        choices=4,
    )
    none, fp8, refused = compare_recipes(comparison, ["none", "fp8", "w4a8_awq"], silent)
    assert isinstance(none, RecipeRow)
    assert isinstance(fp8, RecipeRow)
    assert none.accuracy.texts[0].kl_mean == 0
    assert fp8.accuracy.texts[0].kl_mean > 0
    assert (none.bits.in_file, fp8.linears) == (16, 28)
    assert 8 < fp8.bits.in_file < 8.1
    assert fp8.checkpoint_bytes < none.checkpoint_bytes
    assert fp8.cpu_s > 0
    assert fp8.peak_bytes > 2**27
    assert isinstance(refused, RefusedRow)
    for path in (RESULTS, PAGE):
        (tmp_path / path).parent.mkdir(parents=True)
    machine = {"date": "2026-01-01", "cores": 2}
    rows = [none, fp8, refused]
    write_results(tmp_path, comparison, rows, name="tiny", command="the command", machine=machine)
    assert [row["recipe"] for row in json.loads((tmp_path / RESULTS).read_text())["rows"]] == [
        "none",
        "fp8",
        "w4a8_awq",
    ]
    assert "- `w4a8_awq`: " in (tmp_path / PAGE).read_text()
    assert (tmp_path / PLOT).read_text().startswith("<?xml")

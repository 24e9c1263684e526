"""A deployment's checkpoint for the LLM API: written, measured, judged and refused as an engine's is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slipstream.errors import SpecError
from slipstream.formats import FORMATS, Method
from slipstream.progress import silent
from slipstream.quantize.checkpoint import CheckpointReport, write_checkpoint
from slipstream.quantize.unified_checkpoint import write_unified_checkpoint
from tests.integration.test_quantize_recipes import SIZES
from tests.integration.tiny_models import a_recipe, save_model

LLM_API = [name for name, entry in FORMATS.items() if entry.llm_api]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("unified") / "model", **SIZES)


def written(model: Path, out: Path, method: Method, **settings: Any) -> CheckpointReport:
    out.mkdir()
    recipe = a_recipe(method, **settings.pop("recipe", {}))
    chosen = {"kv_cache": "auto", "dtype": "bfloat16", "report": silent} | settings
    return write_unified_checkpoint(model, out, recipe=recipe, **chosen)


@pytest.mark.parametrize("method", LLM_API)
def test_a_directory_holds_all_that_the_llm_api_loads(llama: Path, tmp_path: Path, method: Method) -> None:
    out = tmp_path / "out"
    report = written(llama, out, method)
    files = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "quantization_report.json"} <= files
    assert not any(name.startswith("rank") for name in files)
    assert report.quant_algo == FORMATS[method].quant_algo
    assert report.checkpoint_bytes == (out / "model.safetensors").stat().st_size
    assert json.loads((out / "quantization_report.json").read_text())["recipe"]["method"] == method


def test_what_is_measured_is_what_an_engine_would_compute(llama: Path, tmp_path: Path) -> None:
    unified = written(llama, tmp_path / "unified", "fp8", dtype="float16")
    (tmp_path / "engine").mkdir()
    engine = write_checkpoint(
        llama,
        tmp_path / "engine",
        recipe=a_recipe("fp8"),
        kv_cache="auto",
        tp_size=1,
        pp_size=1,
        dtype="float16",
        report=silent,
    )
    assert unified.measurement is not None
    assert engine.measurement is not None
    assert unified.measurement.kl_mean > 0
    assert unified.measurement.kl_mean == pytest.approx(engine.measurement.kl_mean, rel=1e-6)
    assert unified.measurement.scales_sha256 == engine.measurement.scales_sha256


def test_the_weights_are_quantized_when_the_measuring_is_done(llama: Path, tmp_path: Path) -> None:
    written(llama, tmp_path / "out", "fp8")
    weight = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert weight.dtype == torch.float8_e4m3fn


def test_a_loss_above_the_recipes_limit_is_reported(llama: Path, tmp_path: Path) -> None:
    limits = {"limits": {"max_kl": 1e-9}}
    assert written(llama, tmp_path / "bad", "int4_awq", recipe=limits).violations
    assert not written(llama, tmp_path / "good", "int4_awq").violations


def test_what_the_llm_api_does_not_read_is_refused_before_anything_is_loaded(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no kernel"):
        written(llama, tmp_path / "out", "int8_sq")
    with pytest.raises(SpecError, match="no INT8 KV cache"):
        written(llama, tmp_path / "other", "fp8", kv_cache="int8")
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupted_calibration_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipstream.quantize.checkpoint.RESUMABLE_FROM_S", 0)  # else only what takes minutes
    model = save_model("llama", tmp_path / "model", **SIZES | {"num_hidden_layers": 4})
    whole = written(model, tmp_path / "whole", "fp8")

    def interrupt(message: str, fraction: float | None = None) -> None:
        if message.startswith("calibrating, pass 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(model, tmp_path / "broken", "fp8", resume_directory=tmp_path / "resume", report=interrupt)
    assert any((tmp_path / "resume").rglob("manifest.json"))
    resumed = written(model, tmp_path / "resumed", "fp8", resume_directory=tmp_path / "resume")
    assert resumed.measurement is not None
    assert whole.measurement is not None
    assert resumed.measurement.scales_sha256 == whole.measurement.scales_sha256

"""Stored bits counted in files, the page and the plot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from slipstream.quantize.accuracy.plot import draw
from slipstream.quantize.accuracy.report import AccuracyReport, TextAccuracy
from slipstream.quantize.accuracy.stored_bits import StoredBits, stored_bits
from slipstream.quantize.accuracy.table import RecipeRow, RefusedRow, markdown

FC = "transformer.layers.0.mlp.fc"
PROJ = "transformer.layers.0.mlp.proj"
MACHINE = {"date": "2026-01-01", "cores": 2}


def checkpoint(directory: Path, algo: str | None, tensors: dict[str, np.ndarray], *excluded: str) -> Path:
    others = {
        "lm_head.weight": np.zeros((9, 64), np.float16),
        FC.replace("mlp.fc", "input_layernorm") + ".weight": np.zeros(64, np.float16),
        FC.replace("mlp.fc", "attention") + ".kv_cache_scaling_factor": np.zeros(1),
    }
    save_file(tensors | others, directory / "rank0.safetensors")
    quantization = {"quant_algo": algo, "exclude_modules": list(excluded)}
    (directory / "config.json").write_text(json.dumps({"quantization": quantization}))
    return directory


def test_floats_take_sixteen_bits(tmp_path: Path) -> None:
    found = stored_bits(checkpoint(tmp_path, None, {f"{FC}.weight": np.zeros((32, 64), np.float16)}))
    assert (found.weights, found.in_file, found.in_engine) == (32 * 64, 16, 16)


def test_weights_quantized_at_load_take_sixteen_bits_in_the_file_and_eight_and_a_scale_in_the_engine(
    tmp_path: Path,
) -> None:
    weights = {f"{FC}.weight": np.zeros((32, 64), np.float16), f"{PROJ}.weight": np.zeros((32, 64), np.float16)}
    found = stored_bits(checkpoint(tmp_path, "W8A16", weights, "lm_head", PROJ))
    assert found.in_file == 16
    assert found.in_engine == pytest.approx((8 + 16 / 64 + 16) / 2)


def test_every_scale_of_smoothquant_is_counted(tmp_path: Path) -> None:
    tensors = {
        f"{FC}.weight": np.zeros((32, 64), np.int8),
        f"{FC}.weights_scaling_factor": np.zeros(32, np.float32),
        f"{FC}.prequant_scaling_factor": np.zeros(64, np.float16),
        f"{FC}.activation_scaling_factor": np.zeros(1, np.float32),
    }
    found = stored_bits(checkpoint(tmp_path, "W8A8_SQ_PER_CHANNEL", tensors))
    assert found.in_file == found.in_engine == pytest.approx(8 + (32 * 32 + 64 * 16 + 32) / (32 * 64))


def test_two_packed_weights_of_a_byte_are_counted_as_two(tmp_path: Path) -> None:
    tensors = {
        f"{FC}.weight": np.zeros((16, 128), np.int8),
        f"{FC}.weights_scaling_factor": np.zeros((32, 2), np.float32),
    }
    found = stored_bits(checkpoint(tmp_path, "W4A16_AWQ", tensors))
    assert found.weights == 32 * 128
    # TensorRT-LLM rounds the scales of groups, float32 in the file, to 16 bits.
    assert (found.in_file, found.in_engine) == (4 + 32 / 64, 4 + 16 / 64)


def a_row(recipe: str = "fp8", kl: float = 0.02, **changes: object) -> RecipeRow:
    text = TextAccuracy(
        text="news",
        tokens=1530,
        perplexity_before=20.0,
        perplexity_after=20.5,
        kl_mean=kl,
        kl_p99=0.3,
        top1_agreement=0.934,
    )
    values: dict[str, object] = {
        "recipe": recipe,
        "accuracy": AccuracyReport(texts=(text,)),
        "violations": (),
        "alpha": None,
        "linears": 210,
        "excluded_linears": 0,
        "checkpoint_bytes": 220_000_000,
        "bits": StoredBits(weights=1, in_file=8.0, in_engine=8.01),
        "peak_bytes": 2**31,
        "cpu_s": 27.4,
    }
    return RecipeRow(**values | changes)  # type: ignore[arg-type]


def page(*rows: RecipeRow | RefusedRow) -> str:
    return markdown("Title", rows, command="the command", plot="plot.svg", machine=MACHINE)


def test_the_page_has_lines_for_each_recipe_with_as_many_cells_as_headings() -> None:
    lines = [line for line in page(a_row(), a_row("int4_awq")).splitlines() if line.startswith("|")]
    kept, costs = lines[:4], lines[4:]
    assert len(costs) == 4
    assert [len({line.count("|") for line in table}) for table in (kept, costs)] == [1, 1]
    assert kept[2] == "| `fp8` | 8.01 | 20.50 (+2.50 %) | 0.0200 | 93.4 % | passed |"
    assert costs[2] == "| `fp8` | 220 | 0.300 | – | – | 2.00 | 27 |"


def test_the_page_says_what_was_refused_what_was_excluded_and_what_is_beyond_its_limits() -> None:
    text = page(
        a_row("int8_sq", alpha=0.9, excluded_linears=8, violations=("max_kl is 0.01, found 0.02 on news",)),
        RefusedRow(recipe="w4a8_awq", reason="it needs groups of 128"),
    )
    plain = " ".join(text.split())
    assert "`int8_sq` has alpha 0.9, leaves 8 of 210 linear layers in 16 bits, is beyond its limits: max_kl" in plain
    assert "kept aside" in text
    assert "- `w4a8_awq`: it needs groups of 128" in text


def test_the_plot_names_each_recipe_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [a_row(), a_row("int4_awq", kl=0.2), RefusedRow(recipe="w4a8_awq", reason="…")]
    draw(rows, tmp_path / "one.svg")
    draw(rows, tmp_path / "two.svg")
    one = (tmp_path / "one.svg").read_bytes()
    assert one == (tmp_path / "two.svg").read_bytes()
    assert re.findall(rb">(fp8|int4_awq|w4a8_awq)<", one) == [b"fp8", b"int4_awq"]

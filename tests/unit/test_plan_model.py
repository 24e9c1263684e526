"""The cost model, what is learnt beyond it, and predictions for rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from slipstream.cli import app
from slipstream.errors import SlipstreamError
from slipstream.plan.calibration import Calibration, calibration
from slipstream.plan.cases import Case, active_requests, columns
from slipstream.plan.catalogue import find_gpu, find_model
from slipstream.plan.cost import COEFFICIENTS, breakdown, step_seconds, tokens_per_second
from slipstream.plan.fit import fit_coefficients, foretold, group_indices, read_tables, samples
from slipstream.plan.formats import KV_FORMATS, WEIGHT_FORMATS
from slipstream.plan.learning import learn
from slipstream.plan.memory import Parallelism
from slipstream.plan.predict import predict_rows, read_rows
from slipstream.plan.residual import Kernel, Process, Traits, condition, covariance, traits
from slipstream.plan.rows import read_row

START = {name: coefficient.start for name, coefficient in COEFFICIENTS.items()}
ROW = {
    "version": "0.17",
    "model": "LLaMA v3.1 70B",
    "precision": "FP8",
    "gpu": "H100 80GB SXM",
    "n_gpus": "4",
    "tp": "4",
    "pp": "1",
    "isl": "500",
    "osl": "2000",
    "metric": "total_output_tok_s",
    "backend": "tensorrt-engine",
    "extra": "max load",
}


def a_case() -> Case:
    return Case(
        model=find_model("Llama 3.1 8B"),
        gpu=find_gpu("H100"),
        weights=WEIGHT_FORMATS["fp16"],
        kv=KV_FORMATS["auto"],
        split=Parallelism(),
        input_tokens=500,
        output_tokens=200,
        concurrency=32,
    )


def seconds(case: Case, replies: float = 32, prompts: float = 0) -> float:
    return float(step_seconds(columns([case]), START, np.array([replies]), np.array([prompts]))[0])


def tables(root: Path) -> list[Path]:
    return sorted((root / "perf" / "published").glob("*.csv"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: replace(c, gpu=replace(c.gpu, bandwidth_gb_s=2 * c.gpu.bandwidth_gb_s)), "more bandwidth"),
        (lambda c: replace(c, weights=WEIGHT_FORMATS["fp8"]), "fewer bytes"),
        (lambda c: replace(c, output_tokens=20), "shorter context"),
        (lambda c: replace(c, model=find_model("Llama 3.2 1B")), "a smaller model"),
    ],
)
def test_an_iteration_is_faster_with(change: Callable[[Case], Case], says: str) -> None:
    assert seconds(change(a_case())) < seconds(a_case()), says


def test_more_replies_and_prompts_take_longer() -> None:
    assert seconds(a_case(), 16) < seconds(a_case(), 32) < seconds(a_case(), 32, 1)


def test_pcie_is_slower_than_nvlink_once_ranks_talk() -> None:
    over_pcie = replace(a_case(), gpu=replace(a_case().gpu, link="pcie", link_gb_s=64))
    assert seconds(over_pcie) == seconds(a_case())
    split = Parallelism(tp=4)
    assert seconds(replace(over_pcie, split=split)) > seconds(replace(a_case(), split=split))


def test_a_pipeline_saves_memory_and_not_time() -> None:
    staged = replace(a_case(), split=Parallelism(pp=2), concurrency=None)
    assert active_requests(staged) > active_requests(replace(a_case(), concurrency=None))
    assert seconds(staged, 1) >= seconds(a_case(), 1)


def test_the_breakdown_adds_up_to_the_iteration() -> None:
    c = columns([a_case()])
    parts = breakdown(c, START, np.array([32.0]), np.array([0.5]))
    assert sum(float(part[0]) for part in parts.values()) == pytest.approx(seconds(a_case(), 32, 0.5))


def test_small_batches_read_weights_and_large_prompts_compute() -> None:
    c = columns([a_case()])
    few = breakdown(c, START, np.array([1.0]), np.array([0.0]))
    many = breakdown(c, START, np.array([1.0]), np.array([8.0]))
    assert max(few, key=lambda name: few[name][0]) == "reading weights"
    assert max(many, key=lambda name: many[name][0]) == "arithmetic of matrix products"


def test_the_kv_cache_cuts_the_batch() -> None:
    case = replace(a_case(), concurrency=4096, input_tokens=8000)
    assert 0 < active_requests(case) < 200


def test_the_fit_finds_the_coefficients_that_made_the_rows(root: Path) -> None:
    rows = read_tables(root / "perf" / "published" / f"trtllm_engine_v0.{n}.csv" for n in (12, 17))
    made = {**START, "mfu": 0.5, "weights": 0.7, "kv": 0.9, "layer_us": 60.0}
    data = samples(rows)
    sample = replace(data["throughput"], measured=np.log(tokens_per_second(data["throughput"].columns, made)))
    found = fit_coefficients({"throughput": sample})
    off = np.log(tokens_per_second(sample.columns, found)) - sample.measured
    start_off = np.log(tokens_per_second(sample.columns, START)) - sample.measured
    assert np.quantile(np.abs(off), 0.9) < 0.02 < np.median(np.abs(start_off))


def a_process() -> Process:
    kernel = Kernel(amplitude=0.2, scales=(1,) * 6, strangeness=(1,) * 6)
    return Process(kernels=(kernel,), noise=0.02)


def test_near_a_row_the_correction_is_its_error_and_far_away_nothing() -> None:
    near = traits([a_case()])
    residual = condition(a_process(), near, np.array([0.3]))
    assert residual.at(near).mean[0] == pytest.approx(0.3, rel=0.02)
    far = Traits(numbers=near.numbers + 100, words=near.words + 1)
    assert abs(residual.at(far).mean[0]) < 1e-6
    assert residual.at(far).deviation[0] > 5 * residual.at(near).deviation[0]


def test_leaving_out_in_closed_form_is_leaving_out(root: Path) -> None:
    sample = samples(read_tables([root / "perf" / "published" / "trtllm_engine_v0.17.csv"]))["throughput"]
    left = np.sin(np.arange(len(sample.rows)))
    groups = list(group_indices(sample, lambda row: row.case.gpu.name).values())
    mean, deviation = foretold(a_process(), sample, left, groups)
    kept = np.ones(len(left), dtype=bool)
    kept[groups[0]] = False
    residual = condition(a_process(), sample.where(kept).traits, left[kept])
    again = residual.at(sample.where(~kept).traits)
    assert mean[groups[0]] == pytest.approx(again.mean, abs=1e-8)
    assert deviation[groups[0]] == pytest.approx(again.deviation, abs=1e-8)


def test_a_covariance_is_largest_with_itself() -> None:
    known = traits([a_case(), replace(a_case(), gpu=find_gpu("L40S"))])
    found = covariance(a_process(), known, known)
    assert found[0, 0] == pytest.approx(0.04)
    assert found[0, 1] < found[0, 0]


def test_published_rows_are_met_by_the_shipped_calibration(root: Path) -> None:
    rows = read_rows(root / "perf" / "published" / "trtllm_engine_v0.17.csv")
    found = predict_rows(rows, calibration())
    off = [abs(p.interval.value / float(r["value"]) - 1) for p, r in zip(found, rows, strict=True) if p.interval]
    assert len(off) == len(rows)
    assert np.median(off) < 0.05
    inside = [
        p.interval.low <= float(r["value"]) <= p.interval.high for p, r in zip(found, rows, strict=True) if p.interval
    ]
    assert np.mean(inside) > 0.85


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "Llama 9 70B"}, "not in the catalogue"),
        ({"gpu": "MI300X"}, "not in the catalogue"),
        ({"precision": "FP4"}, "needs sm_100"),
        ({"precision": "FP7"}, "FP7"),
        ({"n_gpus": "1", "tp": "1", "precision": "FP16"}, "no room for a request"),
        ({"isl": ""}, "isl"),
        ({"isl": "nan"}, "isl"),
        ({"osl": "inf"}, "osl"),
        ({"n_gpus": "1e30"}, "n_gpus"),
        ({"extra": "concurrency=0"}, "concurrency"),
        ({"extra": "qps=-1"}, "rate"),
        ({"metric": "joules"}, "joules"),
    ],
)
def test_a_row_without_a_prediction_says_why(change: dict[str, str], reason: str) -> None:
    (found,) = predict_rows([{**ROW, **change}], calibration())
    assert found.interval is None
    assert reason in str(found.reason)


def test_metrics_of_one_row_agree() -> None:
    metrics = ["total_output_tok_s", "output_tok_s_per_gpu", "req_s", "total_tok_s"]
    values = [
        p.interval.value for p in predict_rows([{**ROW, "metric": m} for m in metrics], calibration()) if p.interval
    ]
    tokens, per_gpu, requests, total = values
    assert per_gpu == pytest.approx(tokens / 4)
    assert requests == pytest.approx(tokens / 2000)
    assert total == pytest.approx(tokens * 1.25)


def test_latency_grows_with_concurrency() -> None:
    rows = [{**ROW, "metric": "tpot_ms", "backend": "trtllm", "extra": f"concurrency={n}"} for n in (1, 16, 256)]
    values = [p.interval.value for p in predict_rows(rows, calibration()) if p.interval]
    assert values == sorted(values)
    assert len(values) == 3


def test_an_open_loop_is_simulated_and_queues_when_overrun() -> None:
    rows = [{**ROW, "metric": "mean_ttft_ms", "extra": f"qps={rate}"} for rate in ("1", "50")]
    calm, overrun = (p.interval for p in predict_rows(rows, calibration()))
    assert calm is not None
    assert overrun is not None
    assert overrun.value > 10 * calm.value


def test_own_measurements_pull_their_neighbours_and_leave_strangers_alone() -> None:
    def predicted(cells: dict[str, str], known: Calibration) -> float:
        (found,) = predict_rows([cells], known)
        assert found.interval is not None
        return found.interval.value

    shapes = [("128", "128"), ("1000", "1000"), ("2048", "2048")]
    own = [{**ROW, "version": "own", "isl": isl, "osl": osl} for isl, osl in shapes]
    slow = [{**cells, "value": str(0.7 * predicted(cells, calibration()))} for cells in own]
    learnt = learn(calibration(), slow)
    neighbour = {**ROW, "version": "own", "isl": "500", "osl": "2000"}
    assert predicted(neighbour, learnt) < 0.85 * predicted(neighbour, calibration())
    stranger = {**ROW, "model": "Llama 2 7B", "gpu": "L40S", "n_gpus": "1", "tp": "1", "version": "0.12.0"}
    assert predicted(stranger, learnt) == pytest.approx(predicted(stranger, calibration()), rel=0.03)


def test_a_measurement_without_a_value_is_refused() -> None:
    with pytest.raises(SlipstreamError, match="measured row 1"):
        learn(calibration(), [{**ROW, "value": ""}])


def test_attention_dp_rows_replicate_attention() -> None:
    cells = {**ROW, "model": "DeepSeek-R1", "gpu": "B200", "n_gpus": "8", "tp": "", "extra": "DEP8"}
    assert read_row(cells).case.split == Parallelism(tp=8, ep=8, attention_dp=True)


def test_the_command_answers_in_the_order_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROW))
        writer.writeheader()
        writer.writerows([ROW, {**ROW, "gpu": "abacus"}, {**ROW, "gpu": "H200 141GB"}])
    result = CliRunner().invoke(app, ["predict", str(path), "--json"])
    first, second, third = json.loads(result.stdout)["rows"]
    assert "abacus" in second["reason"]
    assert first["low"] < first["prediction"] < first["high"]
    assert third["prediction"] > first["prediction"]


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("model,gpu\nx,y\n")
    with pytest.raises(SlipstreamError, match="precision"):
        read_rows(tmp_path / "rows.csv")

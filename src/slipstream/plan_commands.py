"""The verbs of the planner: plan, predict, simulate."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.plan.inputs import read_plan_input
from slipstream.plan.reading import Reading, read_texts
from slipstream.plan.understanding import Understanding

if TYPE_CHECKING:
    from slipstream.plan.predict import Prediction

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Text = Annotated[str | None, typer.Option(metavar="TEXT")]


def register(app: typer.Typer) -> None:
    """Add the planner's verbs to the command line."""
    app.command()(plan)
    app.command()(predict)
    app.command()(simulate)


def plan(
    spec: Annotated[Path | None, typer.Argument(metavar="[SPEC.yaml]", help="Model, workload and hardware.")] = None,
    model: Text = None,
    workload: Text = None,
    hardware: Text = None,
    json: Json = False,
    document: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the design document here.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write document, deployment file, pareto.csv and plan.json.")
    ] = None,
    terse: Annotated[
        bool, typer.Option("--terse", help="Print decisions for an expert instead of the summary.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the models and GPUs of the catalogues.")] = False,
) -> None:
    """Design a deployment for a model, a workload and hardware, each in your own words or in a YAML file."""
    if list_:
        _list()
        return
    from slipstream.plan.calibration import calibration
    from slipstream.plan.document import document_text, terse_text
    from slipstream.plan.report import plan_json, write_outputs
    from slipstream.plan.search import make_plan

    reading = _reading(spec, model, workload, hardware)
    made = make_plan(reading.input, calibration())
    if out is not None:
        write_outputs(made, reading.notes, out)
    if document is not None:
        document.write_text(document_text(made, reading.notes), encoding="utf-8")
    if json:
        _print(plan_json(made, reading.notes))
    else:
        print(terse_text(made, reading.notes, with_notes=not terse), end="")


def predict(
    rows: Annotated[Path, typer.Argument(metavar="ROWS.csv", help="Rows with the columns of the published tables.")],
    json: Json = False,
    measured: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Your own measurements, with values, to learn from first.")
    ] = None,
) -> None:
    """Predict throughput or latency for each row of a table, with an interval that nine of ten should fall into."""
    from slipstream.plan.calibration import calibration
    from slipstream.plan.learning import learn
    from slipstream.plan.predict import predict_rows, read_rows

    table = read_rows(rows)
    known = calibration() if measured is None else learn(calibration(), read_rows(measured))
    found = predict_rows(table, known)
    if json:
        _print({"rows": [_prediction(one) for one in found]})
        return
    for row, one in zip(table, found, strict=True):
        what = f"{row['model']} {row['gpu']} {row['isl']}/{row['osl']} {row['metric']}"
        print(f"{what}: {_said(one)}")


def simulate(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="What is served, and what arrives.")],
    json: Json = False,
) -> None:
    """Simulate a cluster: routing, prefix reuse, failures and autoscaling, request by request."""
    from slipstream.plan.calibration import calibration
    from slipstream.plan.scenario import read_scenario
    from slipstream.plan.scenario import simulate as run

    outcome = run(read_scenario(scenario), calibration(), root=scenario.parent)
    if json:
        _print(asdict(outcome))
        return
    print(f"{outcome.requests} requests in {outcome.seconds:.1f} s: {outcome.requests_per_s:.2f} requests/s, ", end="")
    print(f"{outcome.output_tokens_per_s:.0f} tokens/s, utilization {100 * outcome.utilization:.0f} %")
    for name, values in (("TTFT", outcome.ttft_ms), ("ITL", outcome.itl_ms), ("E2E", outcome.e2e_ms)):
        print(f"{name:<5}" + "  ".join(f"{key} {value:.1f} ms" for key, value in values.items()))
    print(f"prefix hits {outcome.prefix_hits}, retries {outcome.retries}, replicas at most {outcome.replicas_most}")


def _reading(spec: Path | None, model: str | None, workload: str | None, hardware: str | None) -> Reading:
    texts = [text for text in (model, workload, hardware) if text is not None]
    if spec is not None:
        if texts:
            raise typer.BadParameter("give a file, or --model, --workload and --hardware, not both")
        return Reading(input=read_plan_input(spec), notes=Understanding())
    if model is None or workload is None or hardware is None:
        raise typer.BadParameter("give --model, --workload and --hardware, or a YAML file")
    return read_texts(model=model, workload=workload, hardware=hardware)


def _list() -> None:
    from slipstream.plan.catalogue import gpus, models

    for model in models():
        print(f"{model.name:<24} {model.shape.parameters / 1e9:8.2f} B  {model.source}")
    for gpu in gpus():
        print(f"{gpu.name:<24} {gpu.memory_gib:6.0f} GiB  {gpu.bandwidth_gb_s:6.0f} GB/s  SM {gpu.sm}")


def _prediction(one: Prediction) -> dict[str, Any]:
    if one.interval is None:
        return {"reason": one.reason}
    return {"prediction": one.interval.value, "low": one.interval.low, "high": one.interval.high}


def _said(one: Prediction) -> str:
    if one.interval is None:
        return f"no prediction: {one.reason}"
    return f"{one.interval.value:.4g} ({one.interval.low:.4g} to {one.interval.high:.4g})"


def _print(value: dict[str, Any]) -> None:
    print(json_module.dumps(value, sort_keys=True), flush=True)

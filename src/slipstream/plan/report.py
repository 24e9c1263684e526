"""What a plan leaves behind: one JSON object, and the files of `slipstream plan --out DIR`."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slipstream.plan.calibration import calibration
from slipstream.plan.candidates import Candidate
from slipstream.plan.deployment import deployment_name, deployment_yaml, settings
from slipstream.plan.document import document_text
from slipstream.plan.figures import data_digest, draft_advice, kv_requests, requests_per_s, targets
from slipstream.plan.search import Plan, label
from slipstream.plan.understanding import Understanding


def plan_json(plan: Plan, notes: Understanding) -> dict[str, Any]:
    """Everything about a plan, for machines."""
    advice = draft_advice(plan, calibration())
    return {
        "input": plan.input.model_dump(),
        "understood": [asdict(fact) for fact in notes.facts],
        "assumptions": notes.assumptions,
        "contradictions": notes.contradictions,
        "model": plan.model.name,
        "parameters": plan.model.shape.parameters,
        "gpu": plan.gpu.name,
        "chosen": _candidate(plan.chosen),
        "unmet": list(plan.unmet),
        "requests_per_s": asdict(requests_per_s(plan)),
        "kv_requests_per_replica": kv_requests(plan),
        "cost": asdict(plan.cost) if plan.cost else None,
        "autoscaling": asdict(targets(plan)),
        "speculation": asdict(advice) if advice else None,
        "settings": [asdict(setting) for setting in settings(plan)],
        "deployment": deployment_yaml(plan),
        "alternatives": [_candidate(other) for other in plan.alternatives],
        "other_formats": [_candidate(other) for other in plan.other_formats],
        "pareto": [_candidate(other) for other in plan.pareto],
        "searched": plan.searched,
        "data": data_digest(),
    }


def write_outputs(plan: Plan, notes: Understanding, out: Path) -> None:
    """Write the document, the deployment file, the Pareto front and the JSON into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "design.md").write_text(document_text(plan, notes), encoding="utf-8")
    (out / f"{deployment_name(plan)}.yaml").write_text(deployment_yaml(plan), encoding="utf-8")
    (out / "pareto.csv").write_text(pareto_csv(plan), encoding="utf-8")
    (out / "plan.json").write_text(json.dumps(plan_json(plan, notes), indent=2) + "\n", encoding="utf-8")


def pareto_csv(plan: Plan) -> str:
    """The Pareto front as a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["configuration", "gpus", "tokens_per_s_per_user", "tokens_per_s_per_gpu", "ttft_ms", "tpot_ms"])
    for one in plan.pareto:
        figures = (one.tokens_per_s_per_user, one.tokens_per_s_per_gpu, one.ttft_ms.value, one.tpot_ms.value)
        writer.writerow([label(one), one.gpus, *(f"{value:.4g}" for value in figures)])
    return text.getvalue()


def _candidate(one: Candidate) -> dict[str, Any]:
    split, memory = one.case.split, one.memory
    return {
        "configuration": label(one),
        "weights": one.case.weights.name,
        "kv_cache": one.case.kv.name,
        "tp_size": split.tp,
        "pp_size": split.pp,
        "replicas": one.replicas,
        "gpus": one.gpus,
        "max_batch_size": one.batch,
        "max_num_tokens": one.case.max_num_tokens,
        "tokens_per_s": asdict(one.tokens_per_s),
        "ttft_ms": asdict(one.ttft_ms),
        "tpot_ms": asdict(one.tpot_ms),
        "memory": {**asdict(memory), "free_bytes": memory.free_bytes, "kv_cache_bytes": memory.kv_cache_bytes},
        "time_shares": dict(one.limits),
    }

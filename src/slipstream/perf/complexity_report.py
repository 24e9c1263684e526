"""The figures of the choice by difficulty, as JSON and as the tables of its page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from slipstream.gateway.complexity import SIZES, judge
from slipstream.perf.complexity import (
    LabelledPrompt,
    accuracy,
    compare_policies,
    confusion,
    recall,
    under_routed,
)
from slipstream.perf.markdown import put_section

RESULTS = "perf/results/complexity_routing.json"
PAGE = "docs/gateway-complexity.md"
_ROUNDS = 20


def figures(prompts: Sequence[LabelledPrompt]) -> dict[str, Any]:
    """What the labels say of the rule; the same for the same prompts and the same rule."""
    held_out = [prompt for prompt in prompts if prompt.is_held_out]
    parts = {
        "tuning half": [prompt for prompt in prompts if not prompt.is_held_out],
        "held-out half": held_out,
        "held out, plain wording": [prompt for prompt in held_out if prompt.style == "plain"],
        "held out, casual wording": [prompt for prompt in held_out if prompt.style == "casual"],
        "held out, English": [prompt for prompt in held_out if prompt.language == "en"],
        "held out, other languages": [prompt for prompt in held_out if prompt.language != "en"],
    }
    return {
        "parts": {
            name: {"prompts": len(part), "accuracy": str(accuracy(part)), "under_routed": str(under_routed(part))}
            for name, part in parts.items()
        },
        "confusion": confusion(held_out),
        "recall": {label: str(recall(held_out, label)) for label in SIZES},
        "policies": {
            name: {what: round(value, 4) for what, value in row.items()}
            for name, row in compare_policies(held_out).items()
        },
    }


def judging_us(prompts: Sequence[LabelledPrompt]) -> float:
    """CPU time of one decision in microseconds: the median of rounds over all prompts."""
    asks = [prompt.ask for prompt in prompts]
    rounds = []
    for _ in range(_ROUNDS):
        begin = time.process_time()
        for ask in asks:
            judge(ask)
        rounds.append(time.process_time() - begin)
    return round(1e6 * median(rounds) / len(asks), 1)


def tables(result: Mapping[str, Any]) -> str:
    """The tables of the page."""
    parts = ["| prompts | | right class (95 %) | too small a class |", "|---|---:|---:|---:|"]
    parts += [
        f"| {name} | {part['prompts']} | {part['accuracy']} | {part['under_routed']} |"
        for name, part in result["parts"].items()
    ]
    heads = " | ".join(f"got {size}" for size in SIZES)
    rows = [f"| held-out half | {heads} | right (95 %) |", "|---|---:|---:|---:|---:|"]
    for label in SIZES:
        counts = " | ".join(str(result["confusion"][label][size]) for size in SIZES)
        rows.append(f"| needs {label} | {counts} | {result['recall'][label]} |")
    policies = ["| choice, held-out half | cost | prompts that get enough |", "|---|---:|---:|"]
    policies += [
        f"| {name} | {100 * row['cost']:.1f} % | {100 * row['enough']:.1f} % |"
        for name, row in result["policies"].items()
    ]
    return "\n".join([*parts, "", *rows, "", *policies])


def write_results(root: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON and the tables of the page."""
    (root / RESULTS).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    put_section(root / PAGE, "complexity_routing", tables(result))

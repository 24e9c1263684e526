"""One line about what a stage made, from the facts it reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipstream.pipeline import Outcome


def summarize(outcome: Outcome) -> str:
    """For example `int8_wo  perplexity 20.36 → 20.38`."""
    return _SUMMARIES[outcome.stage.removeprefix("draft/")](outcome.artifact.facts)


def _model(facts: Mapping[str, Any]) -> str:
    return f"{facts['name']}  {facts['layers']} layers, {facts['parameters'] / 1e6:.0f} M"


def _checkpoint(facts: Mapping[str, Any]) -> str:
    measured = facts["measurement"]
    if measured is None:
        return f"{facts['recipe']}  accuracy not measured" if facts["quant_algo"] else f"{facts['recipe']}  as it was"
    return f"{facts['recipe']}  perplexity {measured['perplexity_before']:.2f} → {measured['perplexity_after']:.2f}"


def _engine(facts: Mapping[str, Any]) -> str:
    if "rank_bytes" in facts:  # of trtllm-build
        ranks, gpu = facts["rank_bytes"], facts["gpu"]
        where = f"  sm_{gpu['sm']}" if gpu else ""
        return f"{facts['target']}{where}  {len(ranks)} ranks  {sum(ranks) / 1e6:.0f} MB"
    return f"{facts['target']}  {facts['quant_algo'] or 'not quantized'}  {facts['weight_bytes'] / 1e6:.0f} MB"


def _model_repository(facts: Mapping[str, Any]) -> str:
    return " ".join(name.removeprefix("tensorrt_llm_") for name in facts["models"])


_SUMMARIES = {
    "model": _model,
    "checkpoint": _checkpoint,
    "engine": _engine,
    "model_repository": _model_repository,
}

"""A quantized checkpoint in Hugging Face's layout and its report: what the LLM API loads, for every number of ranks."""

from __future__ import annotations

from pathlib import Path

from slipstream.formats import KvCache
from slipstream.progress import Reporter
from slipstream.quantize.checkpoint import (
    REPORT_NAME,
    CheckpointReport,
    Outcome,
    checked_run,
    quantize_and_export,
    report_document,
)
from slipstream.quantize.disk import writing_to
from slipstream.quantize.export import KV_ALGOS
from slipstream.quantize.planning import plan_export
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.unified import check_unified


def write_unified_checkpoint(
    model_directory: Path,
    out: Path,
    *,
    recipe: Recipe,
    kv_cache: KvCache,
    dtype: str,
    report: Reporter,
    resume_directory: Path | None = None,
) -> CheckpointReport:
    """Write config.json, *.safetensors, hf_quant_config.json, the tokenizer and quantization_report.json into `out`.

    What cannot work, or what the LLM API does not read, is refused before the model is loaded; accuracy is measured
    and judged, and an interrupted calibration goes on, as for an engine's checkpoint (`write_checkpoint`). The report
    is that one's, of one rank.
    """
    plan = plan_export(model_directory, recipe=recipe, kv_cache=kv_cache, tp_size=1, pp_size=1, dtype=dtype)
    check_unified(plan)
    run = checked_run(model_directory, out, plan, recipe, resume_directory, report, is_unified=True)
    with writing_to(out):
        result = _report(recipe, out, quantize_and_export(run, out))
        (out / REPORT_NAME).write_text(report_document(result, recipe), encoding="utf-8")
    return result


def _report(recipe: Recipe, out: Path, outcome: Outcome) -> CheckpointReport:
    plan = outcome.plan
    vocab_size = plan.architecture.shape.vocab_size
    return CheckpointReport(
        recipe=recipe.name,
        quant_algo=plan.quant_algo,
        kv_cache_quant_algo=KV_ALGOS[plan.kv_cache],
        architecture=plan.architecture.name,
        ranks=1,
        checkpoint_bytes=sum(path.stat().st_size for path in out.glob("*.safetensors")),
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        notes=(),
        excluded=tuple(sorted(plan.excluded)),
        alpha_search=outcome.search,
        measurement=outcome.measurement,
        violations=outcome.violations,
    )

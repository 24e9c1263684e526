"""The quantize stage: a Hugging Face checkpoint and a recipe become a TensorRT-LLM checkpoint and its report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from slipstream.errors import SpecError
from slipstream.progress import Reporter
from slipstream.quantize.architectures import read_architecture
from slipstream.quantize.disk import writing_to
from slipstream.quantize.export import ExportPlan, export_checkpoint
from slipstream.quantize.hf_model import ExportDtype, load_model
from slipstream.quantize.measure import Measurement, quantize_and_measure, recipe_samples
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.safetensors_files import check_weights
from slipstream.quantize.sharding import check_sharding
from slipstream.text.tokenizer import Tokenizer

KvCacheFormat = Literal["auto", "fp8", "int8"]
REPORT_NAME = "quantization_report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """What was written, and what quantization did to the model."""

    recipe: str
    quant_algo: str | None
    architecture: str
    ranks: int
    checkpoint_bytes: int
    measurement: Measurement | None  # None: the recipe changes nothing


def write_checkpoint(
    model_directory: Path,
    out: Path,
    *,
    recipe: Recipe,
    kv_cache: KvCacheFormat,
    tp_size: int,
    pp_size: int,
    dtype: str,
    report: Reporter,
) -> CheckpointReport:
    """Write config.json, rank{N}.safetensors and quantization_report.json into `out`.

    What cannot work is refused before the model is loaded.
    """
    plan = plan_export(model_directory, recipe=recipe, kv_cache=kv_cache, tp_size=tp_size, pp_size=pp_size, dtype=dtype)
    check_weights(model_directory)
    samples = recipe_samples(recipe, Tokenizer.load(model_directory))
    report("loading the model")
    model = load_model(model_directory, plan.dtype)
    with writing_to(out):
        report("exporting the checkpoint")
        export_checkpoint(model, plan, out)
        measurement = quantize_and_measure(model, samples, report) if plan.quant_algo else None
        result = _report(plan, recipe, out, measurement)
        (out / REPORT_NAME).write_text(_document(result, recipe), encoding="utf-8")
    return result


def plan_export(
    model_directory: Path, *, recipe: Recipe, kv_cache: KvCacheFormat, tp_size: int, pp_size: int, dtype: str
) -> ExportPlan:
    """What `write_checkpoint` would export; refuses what ModelOpt would do wrongly or not at all."""
    if dtype not in ("float16", "bfloat16"):
        raise SpecError(
            f"model.dtype is {dtype}: TensorRT-LLM checkpoints are exported in 16 bits (float32 would become float16)",
            mend="set model.dtype to float16 or bfloat16",
        )
    if kv_cache != "auto":
        raise SpecError(
            f"quantization.kv_cache is {kv_cache} with recipe {recipe.name}: on weights that are not FP8 it switches"
            " off paged context FMHA, and with it KV reuse, chunked prefill and draft-target",
            mend="set quantization.kv_cache to auto",
        )
    architecture = read_architecture(model_directory)
    check_sharding(architecture.shape, tp_size=tp_size, pp_size=pp_size)
    return ExportPlan(
        architecture=architecture,
        quant_algo=recipe.settings.quant_algo,
        dtype=cast("ExportDtype", dtype),
        tp_size=tp_size,
        pp_size=pp_size,
    )


def _report(plan: ExportPlan, recipe: Recipe, out: Path, measurement: Measurement | None) -> CheckpointReport:
    return CheckpointReport(
        recipe=recipe.name,
        quant_algo=plan.quant_algo,
        architecture=plan.architecture.name,
        ranks=plan.tp_size * plan.pp_size,
        checkpoint_bytes=sum(path.stat().st_size for path in out.glob("rank*.safetensors")),
        measurement=measurement,
    )


def _document(result: CheckpointReport, recipe: Recipe) -> str:
    """The report as JSON, with the whole recipe: it must say what was done without the repository at hand."""
    measurement = None
    if result.measurement is not None:
        measurement = asdict(result.measurement) | {"perplexity_change": result.measurement.perplexity_change}
    document = asdict(result) | {"recipe": recipe.inputs(), "measurement": measurement}
    return json.dumps(document, indent=2) + "\n"

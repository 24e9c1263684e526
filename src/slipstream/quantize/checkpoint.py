"""The quantize stage: a Hugging Face checkpoint and a recipe become a TensorRT-LLM checkpoint and its report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.formats import KvCache, kv_effect
from slipstream.progress import Reporter
from slipstream.quantize.accuracy import BaseMeasurement, Violation, judge, measure_against
from slipstream.quantize.alpha_search import AlphaSearch
from slipstream.quantize.disk import writing_to
from slipstream.quantize.disk_space import check_disk
from slipstream.quantize.export import ExportPlan, export_checkpoint
from slipstream.quantize.fused_scales import unite_scales
from slipstream.quantize.hf_model import load_model
from slipstream.quantize.measure import Measurement, RecipeSamples, measure_before, recipe_samples, summarize
from slipstream.quantize.memory import check_memory
from slipstream.quantize.modelopt_quantize import quantize_model, unquantized
from slipstream.quantize.planning import calibrates, changes_model, checkpoint_need, estimate_run, plan_export
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.resume import Resume
from slipstream.quantize.safetensors_files import check_weights
from slipstream.quantize.sharding import padding_notes
from slipstream.quantize.trained import is_trained, load_trained
from slipstream.quantize.tuning import Tuned, tune
from slipstream.quantize.unified import export_unified
from slipstream.quantize.verify.logits import REFERENCE_NAME
from slipstream.quantize.verify.recording import write_reference
from slipstream.text.tokenizer import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REPORT_NAME = "quantization_report.json"
RESUMABLE_FROM_S = 600  # a shorter calibration is sooner done again than kept


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """What was written, and what quantization did to the model."""

    recipe: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    architecture: str
    ranks: int
    checkpoint_bytes: int
    vocab_size: int  # the model's
    padded_vocab_size: int  # rows of the embedding over all ranks
    notes: tuple[str, ...]  # what an engine of this checkpoint will lack or pad
    excluded: tuple[str, ...]  # linear layers that stay in 16 bits
    alpha_search: AlphaSearch | None  # None: the recipe names alpha, or has none
    measurement: Measurement | None  # None: the recipe changes nothing, or has no text to measure on
    violations: tuple[Violation, ...]  # limits of the recipe that it does not keep to: it must not be used


def write_checkpoint(
    model_directory: Path,
    out: Path,
    *,
    recipe: Recipe,
    kv_cache: KvCache,
    tp_size: int,
    pp_size: int,
    dtype: str,
    report: Reporter,
    moe_ep_size: int = 1,
    resume_directory: Path | None = None,
) -> CheckpointReport:
    """Write config.json, rank{N}.safetensors, quantization_report.json and reference_logits.safetensors into `out`.

    What cannot work is refused before the model is loaded. A long calibration leaves its finished layers under
    `resume_directory`, from which the same call goes on after an interruption.
    """
    plan = plan_export(
        model_directory,
        recipe=recipe,
        kv_cache=kv_cache,
        tp_size=tp_size,
        pp_size=pp_size,
        dtype=dtype,
        moe_ep_size=moe_ep_size,
    )
    run = checked_run(model_directory, out, plan, recipe, resume_directory, report)
    with writing_to(out):
        result = _report(recipe, out, quantize_and_export(run, out))
        (out / REPORT_NAME).write_text(report_document(result, recipe), encoding="utf-8")
    return result


def checked_run(
    model_directory: Path,
    out: Path,
    plan: ExportPlan,
    recipe: Recipe,
    resume_directory: Path | None,
    report: Reporter,
    *,
    is_unified: bool = False,
) -> Run:
    """The run, where memory, disk, weights and texts suffice for it."""
    needed = estimate_run(plan, recipe)
    check_memory(needed, report)
    check_disk([checkpoint_need(plan, recipe, out)])
    check_weights(model_directory)
    resume = None
    if resume_directory is not None and needed.cpu_s / needed.cores > RESUMABLE_FROM_S:
        resume = Resume.of(resume_directory, model_directory, recipe, plan)
    return Run(
        model_directory=model_directory,
        plan=plan,
        recipe=recipe,
        samples=recipe_samples(recipe, model_directory, calibrates=calibrates(plan), evaluates=changes_model(plan)),
        resume=resume,
        report=report,
        is_unified=is_unified,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One quantization, all of it checked to be possible."""

    model_directory: Path
    plan: ExportPlan
    recipe: Recipe
    samples: RecipeSamples
    resume: Resume | None
    report: Reporter
    is_unified: bool  # for the LLM API: Hugging Face's layout in place of TensorRT-LLM's


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was exported, and what that does to the model."""

    plan: ExportPlan
    search: AlphaSearch | None
    measurement: Measurement | None
    violations: tuple[Violation, ...]


def quantize_and_export(run: Run, out: Path) -> Outcome:
    """Quantize the model of `run`, write it into `out` and measure what that did to it."""
    if is_trained(run.model_directory):
        return _export_trained(run, out)
    load = partial(load_model, run.model_directory, run.plan.dtype)
    tuned = tune(load, run.plan, run.recipe.settings, run.samples.calibration, run.report)
    run.report("loading the model")
    model = load()
    base = measure_before(model, run.recipe, run.samples, run.model_directory, run.report)
    quantize_model(
        model,
        tuned.settings,
        run.plan.kv_cache,
        run.samples.calibration,
        run.report,
        dtype=run.plan.dtype,
        resume_directory=run.resume.directory if run.resume and calibrates(run.plan) else None,
    )
    outcome = _export_and_measure(model, run, tuned, base, out)
    if run.resume is not None:
        run.resume.forget()
    return outcome


def _export_trained(run: Run, out: Path) -> Outcome:
    run.report("loading the trained model")
    model = load_trained(run.model_directory, run.plan.format.name, run.plan.kv_cache)
    with unquantized(model):
        base = measure_before(model, run.recipe, run.samples, run.model_directory, run.report)
    unite_scales(model, run.plan.format.name, run.plan.kv_cache, run.plan.dtype)
    as_it_stands = Tuned(settings=run.recipe.settings, plan=run.plan, search=None)
    return _export_and_measure(model, run, as_it_stands, base, out)


def _export_and_measure(
    model: PreTrainedModel, run: Run, tuned: Tuned, base: BaseMeasurement | None, out: Path
) -> Outcome:
    if not run.is_unified:
        run.report("exporting the checkpoint")
        export_checkpoint(model, tuned.plan, out)
        # After the export, in which ModelOpt unites the scales of layers that are fused.
        write_reference(model, run.recipe.name, out / REFERENCE_NAME)
    accuracy = measure_against(base, model, run.report) if base else None
    outcome = Outcome(
        plan=tuned.plan,
        search=tuned.search,
        measurement=summarize(model, accuracy, run.samples) if accuracy else None,
        violations=tuple(judge(accuracy, run.recipe.settings.limits)) if accuracy else (),
    )
    if run.is_unified:  # last: it packs the weights within the model, which computes nothing after that
        run.report("exporting the checkpoint")
        export_unified(model, tuned.plan, run.model_directory, out)
    return outcome


def _report(recipe: Recipe, out: Path, outcome: Outcome) -> CheckpointReport:
    plan = outcome.plan
    shape = plan.architecture.shape
    effect = kv_effect(plan.format.name, plan.kv_cache)
    notes = (f"kv_cache {plan.kv_cache}: {effect.reason}",) if effect.reason else ()
    config = read_json(out / "config.json")
    per_rank = -(-int(config["vocab_size"]) // plan.tp_size)
    return CheckpointReport(
        recipe=recipe.name,
        quant_algo=plan.quant_algo,
        kv_cache_quant_algo=config["quantization"]["kv_cache_quant_algo"],
        architecture=plan.architecture.name,
        ranks=plan.tp_size * plan.pp_size,
        checkpoint_bytes=sum(path.stat().st_size for path in out.glob("rank*.safetensors")),
        vocab_size=shape.vocab_size,
        padded_vocab_size=per_rank * plan.tp_size,
        notes=notes + padding_notes(shape, plan.tp_size, plan.format),
        excluded=tuple(sorted(plan.excluded)),
        alpha_search=outcome.search,
        measurement=outcome.measurement,
        violations=outcome.violations,
    )


def report_document(result: CheckpointReport, recipe: Recipe) -> str:
    """The report as JSON, with the whole recipe: it must say what was done without the repository at hand."""
    measurement = None
    if result.measurement is not None:
        measurement = asdict(result.measurement) | {"perplexity_change": result.measurement.perplexity_change}
    document = asdict(result) | {"recipe": recipe.inputs(), "measurement": measurement}
    return json.dumps(document, indent=2) + "\n"

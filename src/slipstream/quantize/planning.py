"""What a quantization would do and need, told from the model's config and the recipe before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from slipstream.errors import SpecError
from slipstream.formats import KvCache, kv_problem
from slipstream.quantize.alpha_search import COMPARED_SAMPLES
from slipstream.quantize.architectures import Architecture, read_architecture
from slipstream.quantize.disk_space import FREE_SPACE, DiskNeed, checkpoint_bytes
from slipstream.quantize.exclusions import check_exclusions
from slipstream.quantize.export import ExportPlan
from slipstream.quantize.hf_model import ExportDtype
from slipstream.quantize.memory import FORWARDS, QUESTION_TOKENS, Estimate, Work, estimate
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.sharding import Parallel, check_sharding


def plan_export(
    model_directory: Path,
    *,
    recipe: Recipe,
    kv_cache: KvCache,
    tp_size: int,
    pp_size: int,
    dtype: str,
    moe_ep_size: int = 1,
) -> ExportPlan:
    """What would be exported of the model in `model_directory`; see `plan_for`."""
    parallel = Parallel(tp_size=tp_size, pp_size=pp_size, moe_ep_size=moe_ep_size)
    return plan_for(
        read_architecture(model_directory), recipe=recipe, kv_cache=kv_cache, parallel=parallel, dtype=dtype
    )


def plan_for(
    architecture: Architecture, *, recipe: Recipe, kv_cache: KvCache, parallel: Parallel, dtype: str
) -> ExportPlan:
    """What would be exported of a model; refuses what ModelOpt would do wrongly or not at all."""
    settings, shape = recipe.settings, architecture.shape
    _check_settings(recipe, kv_cache, dtype)
    check_sharding(shape, parallel, settings.format, settings.group_size)
    excluded = check_exclusions(settings.exclude, layers=shape.layers, experts=shape.experts, pp_size=parallel.pp_size)
    return ExportPlan(
        architecture=architecture,
        format=settings.format,
        kv_cache=kv_cache,
        dtype=cast("ExportDtype", dtype),
        parallel=parallel,
        excluded=excluded,
    )


def estimate_run(plan: ExportPlan, recipe: Recipe) -> Estimate:
    """Memory and time that quantizing, exporting and measuring will take."""
    parts = (recipe.settings.calibration, recipe.settings.evaluation)
    return estimate(
        plan.architecture.shape,
        plan.architecture.hf_config,
        work=tuple(_work(plan, recipe)),
        tokens_per_sample=max((part.tokens_per_sample for part in parts if part), default=1),
    )


def checkpoint_need(plan: ExportPlan, recipe: Recipe, directory: Path) -> DiskNeed:
    """Room for the checkpoint, which is written into `directory`."""
    size = checkpoint_bytes(plan.architecture.shape, plan.format, recipe.settings.group_size)
    return DiskNeed(what="the checkpoint", directory=directory, size_bytes=size, mend=FREE_SPACE)


def calibrates(plan: ExportPlan) -> bool:
    """Whether samples have to run through the model to find scales."""
    return plan.format.needs_calibration or plan.kv_cache != "auto"


def changes_model(plan: ExportPlan) -> bool:
    """Whether the checkpoint computes anything else than the model, so that there is a loss to measure."""
    return plan.quant_algo is not None or plan.kv_cache != "auto"


def _work(plan: ExportPlan, recipe: Recipe) -> Iterator[Work]:
    settings = recipe.settings
    calibration, evaluation = settings.calibration, settings.evaluation
    if calibration and calibrates(plan):
        tokens, alphas = calibration.samples * calibration.tokens_per_sample, len(settings.alpha_search or ())
        if settings.exclude_outliers is not None:
            yield Work(what="the search for outliers", plain_tokens=tokens)
        if alphas:
            compared = min(calibration.samples, COMPARED_SAMPLES) * calibration.tokens_per_sample
            yield Work(
                what=f"the search among {alphas} alphas",
                quantized_tokens=alphas * (tokens + compared),
                plain_tokens=alphas * compared,
            )
        yield Work(what="calibration", quantized_tokens=FORWARDS[settings.method] * tokens)
    if evaluation and changes_model(plan):  # each token before and after
        tokens, questions = evaluation.samples * evaluation.tokens_per_sample, evaluation.choices * QUESTION_TOKENS
        yield Work(what="evaluation", quantized_tokens=tokens, plain_tokens=tokens)
        if questions:
            yield Work(what=f"{evaluation.choices} questions", quantized_tokens=questions, plain_tokens=questions)


def _check_settings(recipe: Recipe, kv_cache: KvCache, dtype: str) -> None:
    if dtype not in ("float16", "bfloat16"):
        raise SpecError(
            f"model.dtype is {dtype}: checkpoints are exported in 16 bits (float32 would become float16, and a unified"
            " export would keep its embeddings in float32)",
            mend="set model.dtype to float16 or bfloat16",
        )
    settings = recipe.settings
    problem = kv_problem(settings.method, kv_cache)
    if problem is not None:
        raise SpecError(
            f"quantization.kv_cache is {kv_cache} with recipe {recipe.name}: {problem}",
            mend="set quantization.kv_cache to auto or fp8",
        )
    if kv_cache != "auto" and settings.calibration is None:
        raise SpecError(
            f"quantization.kv_cache is {kv_cache}: its scales depend on activations, and recipe {recipe.name} has no"
            " calibration",
            mend="add a calibration to the recipe, or set quantization.kv_cache to auto",
        )

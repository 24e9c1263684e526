"""The stages that prepare a model and write its checkpoint, for the target and for the draft beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream import artifacts
from slipstream.errors import SpecError
from slipstream.formats import Method, kv_effect, methods_for, sm_problem
from slipstream.pipeline.hardware import the_gpu
from slipstream.pipeline.stage import Context, Stage, packages
from slipstream.progress import Reporter
from slipstream.project import Workspace, recipes_directory
from slipstream.spec import DeploymentSpec, ModelSpec, QuantizationSpec

if TYPE_CHECKING:
    from slipstream.plan.catalogue import Gpu
    from slipstream.quantize.checkpoint import CheckpointReport
    from slipstream.quantize.recipes import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantized:
    """A model of a deployment that is quantized, and where its artifacts lie."""

    field: str  # of the spec: "" for the target, "engine.draft." for the draft
    model: ModelSpec
    quantization: QuantizationSpec
    workspace: Workspace


def _target(context: Context) -> _Quantized:
    spec = context.spec
    return _Quantized(field="", model=spec.model, quantization=spec.quantization, workspace=context.workspace)


def _draft(context: Context) -> _Quantized:
    spec, draft, speculation = context.spec, context.spec.engine.draft, context.spec.engine.speculation
    if draft is None:  # the one inside the CPU engine is quantized as its target
        assert speculation is not None, "its stages are run only where there is a draft"
        assert speculation.speculative_model is not None, "draft_target needs it"
        model = ModelSpec(source=speculation.speculative_model, dtype=spec.model.dtype)
        return _Quantized(
            field="engine.speculation.",
            model=model,
            quantization=spec.quantization,
            workspace=context.workspace.draft,
        )
    return _Quantized(
        field="engine.draft.", model=draft.model, quantization=draft.quantization, workspace=context.workspace.draft
    )


def _model_stage(name: str, chosen: Callable[[Context], _Quantized], target: Stage | None = None) -> Stage:
    """The model stage of the target, or of the draft that must fit `target`."""

    def fields(context: Context) -> Mapping[str, Any]:
        it = chosen(context)
        return {f"{it.field}model.source": it.model.source, f"{it.field}model.dtype": it.model.dtype}

    def source(context: Context) -> Mapping[str, str]:
        from slipstream.quantize.identity import source_identity

        return {"model source": source_identity(chosen(context).model.source) or artifacts.NOT_INSTALLED}

    def make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
        from slipstream.quantize.model import prepare_model

        model = chosen(context).model
        _refuse_early(context, chosen(context), report)
        made = asdict(prepare_model(model.source, model.dtype, out, report))
        if target is not None:
            from slipstream.quantize.draft import compare_tokenizers

            made |= asdict(compare_tokenizers(target.path(context), out))
        return made

    return Stage(name=name, verb="quantize", fields=fields, tools=source, make=make, parent=target)


def _refuse_early(context: Context, it: _Quantized, report: Reporter) -> None:
    """Refuse what the checkpoint's stage would refuse, before hours of fetching and dequantizing the model."""
    from slipstream.quantize.early import refuse_early

    engine = context.spec.engine
    if engine.checkpoint_dir is not None and not it.field:
        return  # its model is read for the tokenizer alone
    is_cut = engine.target != "llmapi"  # which cuts a checkpoint when it loads it
    refuse_early(
        it.model.source,
        recipe=_recipe(context, it),
        kv_cache=it.quantization.kv_cache,
        dtype=it.model.dtype,
        tp_size=engine.tp_size if is_cut else 1,
        pp_size=engine.pp_size if is_cut else 1,
        moe_ep_size=engine.moe_ep_size if is_cut else 1,
        workspace=it.workspace.directory,
        report=report,
    )


def _checkpoint_stage(name: str, chosen: Callable[[Context], _Quantized], parent: Stage) -> Stage:
    def fields(context: Context) -> Mapping[str, Any]:
        it, engine = chosen(context), context.spec.engine
        _refuse_lost_reuse(context.spec, it, _recipe(context, it).settings.method)
        _refuse_on_gpu(the_gpu(context.spec), it, _recipe(context, it).settings.method)
        return {
            f"{it.field}quantization.recipe": it.quantization.recipe,
            f"{it.field}quantization.kv_cache": it.quantization.kv_cache,
            **{f"engine.{name}": getattr(engine, name) for name in ("tp_size", "pp_size", "moe_ep_size")},
            "recipe": _recipe(context, it).inputs(),
        }

    def make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
        from slipstream.quantize.checkpoint import write_checkpoint

        it, engine = chosen(context), context.spec.engine
        recipe = _recipe(context, it)
        made = write_checkpoint(
            it.workspace.model,
            out,
            recipe=recipe,
            kv_cache=it.quantization.kv_cache,
            tp_size=engine.tp_size,
            pp_size=engine.pp_size,
            moe_ep_size=engine.moe_ep_size,
            dtype=it.model.dtype,
            report=report,
            resume_directory=it.workspace.directory / ".calibration",
        )
        _refuse_rejected(made, recipe, it, the_gpu(context.spec))
        return asdict(made)

    return Stage(name=name, verb="quantize", fields=fields, tools=_TOOLS, make=make, parent=parent)


_TOOLS = packages("nvidia-modelopt", "transformers", "torch")


def _recipe(context: Context, it: _Quantized) -> Recipe:
    from slipstream.quantize.recipes import load_recipe

    return load_recipe(it.quantization.recipe, recipes_directory(context.root))


def _refuse_rejected(made: CheckpointReport, recipe: Recipe, it: _Quantized, gpu: Gpu | None) -> None:
    """Raise for a checkpoint that does not keep to its recipe's limits: it is kept aside and not used."""
    from slipstream.quantize.accuracy import rejection

    if made.violations:
        raise rejection(
            made.recipe,
            recipe.settings.method,
            made.violations,
            artifacts.rejected(it.workspace.checkpoint),
            sm=gpu.sm if gpu else None,
            kv_cache=it.quantization.kv_cache,
        )


def _refuse_on_gpu(gpu: Gpu | None, it: _Quantized, method: Method) -> None:
    """Refuse a format that the GPU of `hardware` has no kernels for, before hours of quantizing for it."""
    problem = sm_problem(method, gpu.sm, it.quantization.kv_cache) if gpu else None
    if gpu and problem:
        fitting = ", ".join(methods_for(gpu.sm))
        raise SpecError(
            f"{it.field}quantization on hardware.gpu {gpu.name}: {problem}",
            mend=f"choose a recipe that runs there ({fitting}), kv_cache auto, or another hardware.gpu",
        )


def _refuse_lost_reuse(spec: DeploymentSpec, it: _Quantized, method: Method) -> None:
    """Refuse a KV cache with which TensorRT-LLM silently switches off what `runtime` asks for."""
    effect = kv_effect(method, it.quantization.kv_cache)
    wanted = [
        name
        for name, is_wanted in (
            ("runtime.enable_kv_cache_reuse", spec.runtime.enable_kv_cache_reuse),
            ("runtime.enable_chunked_context", spec.runtime.enable_chunked_context),
        )
        if is_wanted
    ]
    if spec.engine.target == "tensorrt_llm" and effect.effect == "no_paged_context_fmha" and wanted:
        raise SpecError(
            f"{it.field}quantization.kv_cache is {it.quantization.kv_cache} with recipe {it.quantization.recipe}, and"
            f" {' and '.join(wanted)} true: {effect.reason}",
            mend=f"set {it.field}quantization.kv_cache to auto, or these to false",
        )


def _unified_stage(name: str, chosen: Callable[[Context], _Quantized], parent: Stage) -> Stage:
    """A checkpoint in Hugging Face's layout, which TensorRT-LLM's LLM API cuts over ranks when it loads it."""

    def fields(context: Context) -> Mapping[str, Any]:
        it = chosen(context)
        _refuse_on_gpu(the_gpu(context.spec), it, _recipe(context, it).settings.method)
        return {
            "engine.target": context.spec.engine.target,
            f"{it.field}quantization.recipe": it.quantization.recipe,
            f"{it.field}quantization.kv_cache": it.quantization.kv_cache,
            "recipe": _recipe(context, it).inputs(),
        }

    def make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
        from slipstream.quantize.unified_checkpoint import write_unified_checkpoint

        it, recipe = chosen(context), _recipe(context, chosen(context))
        made = write_unified_checkpoint(
            it.workspace.model,
            out,
            recipe=recipe,
            kv_cache=it.quantization.kv_cache,
            dtype=it.model.dtype,
            report=report,
            resume_directory=it.workspace.directory / ".calibration",
        )
        _refuse_rejected(made, recipe, it, the_gpu(context.spec))
        return asdict(made)

    return Stage(name=name, verb="quantize", fields=fields, tools=_TOOLS, make=make, parent=parent)


MODEL = _model_stage("model", _target)
CHECKPOINT = _checkpoint_stage("checkpoint", _target, MODEL)
UNIFIED = _unified_stage("checkpoint", _target, MODEL)
DRAFT_MODEL = _model_stage("draft/model", _draft, MODEL)
DRAFT_CHECKPOINT = _checkpoint_stage("draft/checkpoint", _draft, DRAFT_MODEL)
DRAFT_UNIFIED = _unified_stage("draft/checkpoint", _draft, DRAFT_MODEL)

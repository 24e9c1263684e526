"""The stages in order, and what each one's artifact depends on.

=================  ==========  ==================================================================
artifact           verb        made from
=================  ==========  ==================================================================
model              quantize    `model.source`, `model.dtype`
checkpoint         quantize    the model, `quantization`, the recipe and its texts, tp and pp
engine             build       the checkpoint, `engine.target`, `engine.max_seq_len`
model_repository   render      the engine, the rest of `engine` and what of `runtime` models read
draft/model …      quantize    the same two for `engine.draft`, where there is one
=================  ==========  ==================================================================

Changing a port or a timeout makes nothing again; changing a recipe makes everything after the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream import __version__, artifacts
from slipstream.artifacts import Artifact, Dependencies
from slipstream.errors import SlipstreamError, SpecError, StaleArtifactError
from slipstream.formats import Method, kv_effect
from slipstream.progress import Reporter
from slipstream.project import Workspace, recipes_directory
from slipstream.spec import DeploymentSpec, ModelSpec, QuantizationSpec

if TYPE_CHECKING:
    from slipstream.quantize.recipes import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One deployment in one project."""

    spec: DeploymentSpec
    root: Path  # of the project: recipes are found from here
    workspace: Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One artifact: how it is made and what it is made from."""

    name: str
    verb: str  # of the command line, that makes it
    fields: Callable[[Context], Mapping[str, Any]]
    tools: Callable[[Context], Mapping[str, str]]  # what decides the content from outside the spec → its version
    make: Callable[[Context, Path, Reporter], Mapping[str, Any]]
    parent: Stage | None = None

    def path(self, context: Context) -> Path:
        return context.workspace.directory / self.name

    def dependencies(self, context: Context) -> Dependencies:
        """What the artifact would be made from now."""
        parent = self.parent
        return Dependencies(
            stage=self.name,
            fields=self.fields(context),
            parents={parent.name: parent.digest(context)} if parent else {},
            tools={"slipstream": __version__, **self.tools(context)},
        )

    def digest(self, context: Context) -> str:
        """Of the artifact on disk if it is up to date, else of the one that would be made."""
        found = _current(self, context)
        return found.digest if found else self.dependencies(context).digest

    def mend(self, context: Context) -> str:
        return f"slipstream {self.verb} {context.spec.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What running a stage came to."""

    stage: str
    artifact: Artifact
    reused: bool


def run_stage(stage: Stage, context: Context, report: Reporter) -> Outcome:
    """Make the artifact of `stage`, or reuse it if nothing that it depends on has changed.

    Its parents must be there and up to date: StaleArtifactError names the first one that is not.
    """
    found = _current(stage, context)
    if found is not None:
        return Outcome(stage=stage.name, artifact=found, reused=True)
    require(stage.parent, context, deep=True)
    made = artifacts.write(
        stage.path(context), stage.dependencies(context), lambda out: stage.make(context, out, report)
    )
    return Outcome(stage=stage.name, artifact=made, reused=False)


def is_current(stage: Stage, context: Context) -> bool:
    """Whether the artifact of `stage` is whole and made from what the spec says now."""
    return _current(stage, context) is not None


def require(stage: Stage | None, context: Context, *, deep: bool = False) -> None:
    """Check that the artifact of `stage` and all before it are whole and up to date; content, too, where `deep`."""
    if stage is None:
        return
    require(stage.parent, context)
    artifacts.read(stage.path(context), stage.dependencies(context), mend=stage.mend(context), deep=deep)


def stages_for(spec: DeploymentSpec) -> tuple[Stage, ...]:
    """The stages of a deployment, in order."""
    # Both models before the first checkpoint: a pair that does not fit is refused before hours of work.
    quantized = (MODEL, DRAFT_MODEL, CHECKPOINT, DRAFT_CHECKPOINT) if spec.engine.draft else (MODEL, CHECKPOINT)
    return (*quantized, ENGINE, REPOSITORY if spec.engine.target == "openvino" else GPU_REPOSITORY)


def refuse_unbuildable(spec: DeploymentSpec) -> None:
    """Raise for a target whose engine is not built, or served, from here."""
    if spec.engine.target != "openvino":
        raise SlipstreamError(
            f"engine.target is {spec.engine.target}: it is built and served in the GPU container, which this version"
            " does not drive yet",
            mend=f"slipstream render {spec.name} writes its model repository",
        )


def _current(stage: Stage, context: Context) -> Artifact | None:
    try:
        return artifacts.read(stage.path(context), stage.dependencies(context), mend=stage.mend(context))
    except StaleArtifactError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return artifacts.NOT_INSTALLED


def _packages(*names: str) -> Callable[[Context], Mapping[str, str]]:
    """The installed versions of packages."""
    return lambda _context: {name: _version(name) for name in names}


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
    draft = context.spec.engine.draft
    assert draft is not None, "its stages are run only where there is a draft"
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
        made = asdict(prepare_model(model.source, model.dtype, out, report))
        if target is not None:
            from slipstream.quantize.draft import compare_tokenizers

            made |= asdict(compare_tokenizers(target.path(context), out))
        return made

    return Stage(name=name, verb="quantize", fields=fields, tools=source, make=make, parent=target)


def _checkpoint_stage(name: str, chosen: Callable[[Context], _Quantized], parent: Stage) -> Stage:
    def recipe(context: Context) -> Recipe:
        from slipstream.quantize.recipes import load_recipe

        return load_recipe(chosen(context).quantization.recipe, recipes_directory(context.root))

    def fields(context: Context) -> Mapping[str, Any]:
        it, engine = chosen(context), context.spec.engine
        _refuse_lost_reuse(context.spec, it, recipe(context).settings.method)
        return {
            f"{it.field}quantization.recipe": it.quantization.recipe,
            f"{it.field}quantization.kv_cache": it.quantization.kv_cache,
            **{f"engine.{name}": getattr(engine, name) for name in ("tp_size", "pp_size", "moe_ep_size")},
            "recipe": recipe(context).inputs(),
        }

    def make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
        from slipstream.quantize.accuracy import rejection
        from slipstream.quantize.checkpoint import write_checkpoint

        it, engine, chosen_recipe = chosen(context), context.spec.engine, recipe(context)
        made = write_checkpoint(
            it.workspace.model,
            out,
            recipe=chosen_recipe,
            kv_cache=it.quantization.kv_cache,
            tp_size=engine.tp_size,
            pp_size=engine.pp_size,
            moe_ep_size=engine.moe_ep_size,
            dtype=it.model.dtype,
            report=report,
            resume_directory=it.workspace.directory / ".calibration",
        )
        if made.violations:
            method, kept_at = chosen_recipe.settings.method, artifacts.rejected(it.workspace.checkpoint)
            raise rejection(made.recipe, method, made.violations, kept_at)
        return asdict(made)

    tools = _packages("nvidia-modelopt", "transformers", "torch")
    return Stage(name=name, verb="quantize", fields=fields, tools=tools, make=make, parent=parent)


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


def _engine_fields(context: Context) -> Mapping[str, Any]:
    engine = context.spec.engine
    return {"engine.target": engine.target, "engine.max_seq_len": engine.max_seq_len}


def _make_engine(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
    spec = context.spec
    refuse_unbuildable(spec)
    from slipstream.engine.openvino import build_engine

    workspace = context.workspace
    made = build_engine(
        workspace.checkpoint,
        out,
        max_seq_len=spec.engine.max_seq_len,
        tokenizer_dir=workspace.model,
        report=report,
    )
    return {"target": spec.engine.target, **asdict(made)}


# What of `runtime` concerns the process and its ports, not what the models read.
_PROCESS_FIELDS = {"ports", "startup_timeout_s", "probe_period_s"}


def _repository_fields(context: Context) -> Mapping[str, Any]:
    spec = context.spec
    runtime = spec.runtime.model_dump(exclude=_PROCESS_FIELDS)
    return {
        "name": spec.name,
        "directory": str(context.workspace.directory),
        **{f"engine.{name}": value for name, value in spec.engine.model_dump().items()},
        **{f"runtime.{name}": value for name, value in runtime.items()},
    }


def _make_repository(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
    from slipstream.repository.render import Locations, render_repository

    workspace = context.workspace
    draft = workspace.draft if context.spec.engine.draft else None
    locations = Locations(
        engine_dir=str(workspace.engine),
        tokenizer_dir=str(workspace.model),
        draft_engine_dir=str(draft.engine) if draft else None,
        draft_tokenizer_dir=str(draft.model) if draft else None,
    )
    return asdict(render_repository(context.spec, locations, out, report))


MODEL = _model_stage("model", _target)
CHECKPOINT = _checkpoint_stage("checkpoint", _target, MODEL)
DRAFT_MODEL = _model_stage("draft/model", _draft, MODEL)
DRAFT_CHECKPOINT = _checkpoint_stage("draft/checkpoint", _draft, DRAFT_MODEL)
ENGINE = Stage(
    name="engine",
    verb="build",
    fields=_engine_fields,
    tools=_packages("openvino", "openvino-genai"),
    make=_make_engine,
    parent=CHECKPOINT,
)
REPOSITORY = Stage(
    name="model_repository",
    verb="render",
    fields=_repository_fields,
    tools=_packages(),
    make=_make_repository,
    parent=ENGINE,
)
# Rendering for a GPU needs no engine at hand: it may be built elsewhere, in the container.
GPU_REPOSITORY = Stage(
    name="model_repository",
    verb="render",
    fields=_repository_fields,
    tools=_packages(),
    make=_make_repository,
)

"""Renders a deployment's Triton model repository: one `config.pbtxt` a model, and `model.py` for the Python models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slipstream.progress import Reporter
from slipstream.repository.entry_points import model_py
from slipstream.repository.llmapi import plan_llmapi, write_llmapi
from slipstream.repository.model_plan import Locations, ModelPlan
from slipstream.repository.models import plan_models
from slipstream.repository.pbtxt import model_config, to_text
from slipstream.repository.verify import verify_repository
from slipstream.spec import DeploymentSpec

__all__ = ["Locations", "RepositoryReport", "render_repository"]

# Triton wants a version directory in every model; git does not keep an empty one.
KEEP_FILE = ".gitkeep"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryReport:
    """What a model repository holds."""

    models: tuple[str, ...]
    engine_backend: str  # in the `tensorrt_llm` slot
    decoupled: bool


def render_repository(spec: DeploymentSpec, locations: Locations, out: Path, report: Reporter) -> RepositoryReport:
    """Write the model repository of `spec` into the existing directory `out`, and verify it.

    Equal arguments give equal files. Raises SlipstreamError for a setting that no backend could parse, and SpecError
    for one with which the engine would not load.
    """
    if spec.engine.target == "llmapi":
        return _render_llmapi(spec, locations, out, report)
    plans = plan_models(spec, locations)
    for done, plan in enumerate(plans):
        report(f"rendering {plan.name}", done / len(plans))
        _write_model(plan, out / plan.name)
    report("verifying against the contract")
    verify_repository(out)
    return _summary(plans)


def _render_llmapi(spec: DeploymentSpec, locations: Locations, out: Path, report: Reporter) -> RepositoryReport:
    """One Python model and its `model.yaml` in place of the five."""
    report("rendering tensorrt_llm")
    write_llmapi(plan_llmapi(spec, locations), out)
    report("verifying against the contract")
    verify_repository(out)
    return RepositoryReport(models=("tensorrt_llm",), engine_backend="python", decoupled=spec.runtime.decoupled)


def _write_model(plan: ModelPlan, directory: Path) -> None:
    version = directory / "1"
    version.mkdir(parents=True)
    (directory / "config.pbtxt").write_text(to_text(model_config(plan)), encoding="utf-8")
    if plan.backend == "python":
        (version / "model.py").write_text(model_py(plan.name), encoding="utf-8")
    else:
        (version / KEEP_FILE).touch()


def _summary(plans: tuple[ModelPlan, ...]) -> RepositoryReport:
    engine = next(plan for plan in plans if plan.name == "tensorrt_llm")
    assert engine.backend is not None, engine
    assert engine.decoupled is not None, engine
    return RepositoryReport(
        models=tuple(plan.name for plan in plans),
        engine_backend=engine.backend,
        decoupled=engine.decoupled,
    )

"""The stage that renders what Triton loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.pipeline.engines import ENGINE
from slipstream.pipeline.stage import Context, Stage, packages
from slipstream.progress import Reporter
from slipstream.project import Workspace
from slipstream.spec import DeploymentSpec

if TYPE_CHECKING:
    from slipstream.repository.render import Locations

# What of `runtime` concerns the process and its ports, not what the models read.
_PROCESS_FIELDS = {"ports", "startup_timeout_s", "probe_period_s", "container_image"}


def locations_in(workspace: Workspace, spec: DeploymentSpec) -> Locations:
    """Where a server that sees `workspace` finds the artifacts of `spec`."""
    from slipstream.repository.render import Locations
    from slipstream.repository.xgrammar_info import XGRAMMAR_INFO

    is_guided = spec.runtime.tensorrt_llm.guided_decoding_backend is not None
    draft = workspace.draft if spec.engine.has_draft_model else None
    return Locations(
        engine_dir=str(workspace.checkpoint if spec.engine.target == "llmapi" else workspace.engine),
        tokenizer_dir=str(workspace.model),
        draft_engine_dir=str(draft.checkpoint if spec.engine.target == "llmapi" else draft.engine) if draft else None,
        draft_tokenizer_dir=str(draft.model) if draft else None,
        xgrammar_info=str(workspace.model_repository / XGRAMMAR_INFO) if is_guided else None,
    )


def _fields(context: Context) -> Mapping[str, Any]:
    spec = context.spec
    runtime = spec.runtime.model_dump(exclude=_PROCESS_FIELDS)
    return {
        "name": spec.name,
        "directory": str(context.workspace.directory),
        **{f"engine.{name}": value for name, value in spec.engine.model_dump().items()},
        **{f"runtime.{name}": value for name, value in runtime.items()},
        "hardware": spec.hardware.model_dump() if spec.hardware else None,
        **({"quantization.kv_cache": spec.quantization.kv_cache} if spec.engine.target == "llmapi" else {}),
    }


def _make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
    from slipstream.repository.render import render_repository
    from slipstream.repository.xgrammar_info import XGRAMMAR_INFO, write_xgrammar_info

    locations = locations_in(context.workspace, context.spec)
    made = asdict(render_repository(context.spec, locations, out, report))
    if locations.xgrammar_info is not None:
        write_xgrammar_info(context.workspace.model, out / XGRAMMAR_INFO)
    return made


REPOSITORY = Stage(name="model_repository", verb="render", fields=_fields, tools=packages(), make=_make, parent=ENGINE)
# Rendering for a GPU needs no engine at hand: it may be built elsewhere, in the container.
GPU_REPOSITORY = Stage(name="model_repository", verb="render", fields=_fields, tools=packages(), make=_make)

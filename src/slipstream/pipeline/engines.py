"""The stages that make engines: a graph for the CPU engine, or `trtllm-build`, for the target and for the draft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.pipeline.checkpoints import CHECKPOINT, DRAFT_CHECKPOINT, MODEL
from slipstream.pipeline.hardware import the_gpu
from slipstream.pipeline.stage import Context, Stage, packages
from slipstream.progress import Reporter
from slipstream.project import Workspace, pinned
from slipstream.spec import EngineSpec

if TYPE_CHECKING:
    from slipstream.engine.trtllm.rules import Role

BUILD_LOG = "trtllm-build.log"

# What of `engine` decides something else than the engine: how the draft is made and how much memory it takes.
_OF_THE_DRAFT = {"model", "quantization", "kv_cache_free_gpu_mem_fraction", "use_draft_logits"}
# What the draft's engine does not have.
_TARGET_ONLY = {"draft", "speculation", "lora", "checkpoint_dir"}


def _openvino_stage(name: str, role: Role, parent: Stage) -> Stage:
    def make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
        from slipstream.engine.openvino import build_engine

        spec, workspace = context.spec, _workspace(context, role)
        made = build_engine(
            workspace.checkpoint,
            out,
            max_seq_len=spec.engine.max_seq_len,
            tokenizer_dir=workspace.model,
            report=report,
        )
        return {"target": spec.engine.target, **asdict(made)}

    return Stage(
        name=name,
        verb="build",
        fields=_openvino_fields,
        tools=packages("openvino", "openvino-genai"),
        make=make,
        parent=parent,
    )


def _openvino_fields(context: Context) -> Mapping[str, Any]:
    engine = context.spec.engine
    return {"engine.target": engine.target, "engine.max_seq_len": engine.max_seq_len}


def _trtllm_stage(name: str, role: Role, parent: Stage) -> Stage:
    def fields(context: Context) -> Mapping[str, Any]:
        excluded: dict[str, Any] = dict.fromkeys(_TARGET_ONLY, True) if role == "draft" else {"draft": _OF_THE_DRAFT}
        engine = context.spec.engine.model_dump(exclude=excluded)
        gpu = the_gpu(context.spec)
        return {
            **{f"engine.{name}": value for name, value in engine.items()},
            "hardware.gpu": gpu.name if gpu else None,  # an engine runs on the kind of GPU it was built on
        }

    def make(context: Context, out: Path, report: Reporter) -> Mapping[str, Any]:
        from slipstream.engine.trtllm import build_engine, plan_build, query_gpus, read_facts

        spec, workspace = context.spec, _workspace(context, role)
        checkpoint = checkpoint_of(spec.engine, workspace, role)
        facts, gpu = read_facts(checkpoint), the_gpu(spec)
        _check_pair(context)
        plan = plan_build(
            spec.engine,
            facts,
            role=role,
            checkpoint_dir=str(checkpoint),
            output_dir=str(out),
            sm=gpu.sm if gpu else None,
            gpus=len(query_gpus()) or None,
            container=pinned(context.root, "TRITON_TRTLLM_IMAGE"),
            runtime=spec.runtime,
        )
        made = build_engine(plan, out, report, log=workspace.directory / "logs" / BUILD_LOG)
        return {"target": spec.engine.target, **asdict(made)}

    return Stage(name=name, verb="build", fields=fields, tools=_container_tools, make=make, parent=parent)


def _check_pair(context: Context) -> None:
    """Refuse two checkpoints that do not fit before the first of their engines is compiled."""
    from slipstream.engine.trtllm import check_pair, read_facts

    engine = context.spec.engine
    if engine.draft is not None:
        target = read_facts(checkpoint_of(engine, context.workspace, "target"))
        draft = read_facts(checkpoint_of(engine, context.workspace.draft, "draft"))
        check_pair(target, draft, use_draft_logits=engine.draft.use_draft_logits)


def checkpoint_of(engine: EngineSpec, workspace: Workspace, role: Role) -> Path:
    """The checkpoint that an engine is compiled from: the one made here, or that of `engine.checkpoint_dir`."""
    if role == "target" and engine.checkpoint_dir is not None:
        path = Path(engine.checkpoint_dir)
        if not (path / "config.json").is_file():
            raise SlipstreamError(
                f"engine.checkpoint_dir: {path} has no config.json",
                mend="give a TensorRT-LLM checkpoint, as convert_checkpoint.py writes it",
            )
        return path
    return workspace.checkpoint


def _workspace(context: Context, role: Role) -> Workspace:
    return context.workspace.draft if role == "draft" else context.workspace


def _container_tools(context: Context) -> Mapping[str, str]:
    """What the pinned image compiles with: an engine loads in the TensorRT-LLM that it was built with, and no other."""
    names = {"tensorrt_llm": "TENSORRT_LLM_VERSION", "tensorrt": "TENSORRT_VERSION"}
    return {tool: pinned(context.root, name) for tool, name in names.items()}


def trtllm_stages(engine: EngineSpec) -> tuple[Stage, ...]:
    """The engines of one deployment with target `tensorrt_llm`."""
    target = TRTLLM_ENGINE if engine.checkpoint_dir is None else GIVEN_ENGINE
    return (target, DRAFT_ENGINE) if engine.draft else (target,)


ENGINE = _openvino_stage("engine", "target", CHECKPOINT)
OPENVINO_DRAFT_ENGINE = _openvino_stage("draft/engine", "draft", DRAFT_CHECKPOINT)
TRTLLM_ENGINE = _trtllm_stage("engine", "target", CHECKPOINT)
GIVEN_ENGINE = _trtllm_stage("engine", "target", MODEL)  # of a checkpoint that was made elsewhere
DRAFT_ENGINE = _trtllm_stage("draft/engine", "draft", DRAFT_CHECKPOINT)

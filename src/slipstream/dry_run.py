"""What `up` would do on a GPU machine, without doing it: every command, every file, the memory of each GPU.

Nothing is fetched and nothing is written. Where the model has not been prepared, its dimensions come from the planner's
catalogue.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.command_line import Command
from slipstream.dry_run_models import (
    architecture_of,
    known_model_of,
    method_of,
    recipe_of,
    refuse_split,
    refuse_unreadable_by_llm_api,
)
from slipstream.pipeline import Context, checkpoint_of, locations_in, the_gpu
from slipstream.progress import silent
from slipstream.project import Workspace, pinned
from slipstream.spec import DeploymentSpec, PortsSpec

if TYPE_CHECKING:
    from slipstream.engine.trtllm import BuildPlan, CheckpointFacts
    from slipstream.engine.trtllm.rules import Role
    from slipstream.plan.memory_table import MemoryTable


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """A deployment as it would be made and served; paths are those inside the containers."""

    commands: tuple[Command, ...]
    builds: tuple[BuildPlan, ...]
    files: Mapping[str, str]  # path → text
    memory: MemoryTable | None  # None: a deployment on the CPU

    def as_json(self) -> dict[str, Any]:
        return {
            "commands": [command.as_json() for command in self.commands],
            "files": dict(self.files),
            "memory": self.memory.as_json() if self.memory else [],
            "derived": {
                build.role: [{"flag": d.flag, "value": d.value, "reason": d.reason} for d in build.derived]
                for build in self.builds
            },
        }


def dry_run(context: Context, reference: str, sets: Sequence[str]) -> DryRun:
    """What `slipstream up` does for `context`, which was opened as `reference` with the overrides `sets`."""
    spec = context.spec
    inside = Workspace(directory=Path("/models") / spec.name)
    if spec.engine.target == "llmapi":
        refuse_unreadable_by_llm_api(context)
    builds = tuple(_builds(context, inside)) if spec.engine.target == "tensorrt_llm" else ()
    return DryRun(
        commands=(_quantize(reference, sets, inside), *(build.command for build in builds), *_launch(context, inside)),
        builds=builds,
        files=_rendered(context, inside),
        memory=memory_of(context),
    )


def memory_of(context: Context) -> MemoryTable | None:
    """The memory of each GPU; None for a deployment on the CPU."""
    from slipstream.plan.memory_table import deployment_memory

    draft, workspace = context.spec.engine.draft, context.workspace
    return deployment_memory(
        context.spec,
        method=method_of(context, context.spec.quantization),
        draft_method=method_of(context, draft.quantization) if draft else None,
        model_directory=workspace.model,
        draft_model_directory=workspace.draft.model if draft else None,
    )


def _quantize(reference: str, sets: Sequence[str], inside: Workspace) -> Command:
    overrides = [word for override in sets for word in ("--set", override)]
    argv = ("slipstream", "quantize", reference, "--out", str(inside.directory), *overrides)
    return Command(purpose="quantize: the model and its checkpoint", argv=argv)


def _builds(context: Context, inside: Workspace) -> list[BuildPlan]:
    from slipstream.engine.trtllm import check_pair, plan_build

    spec = context.spec
    draft, hardware, gpu = spec.engine.draft, spec.hardware, the_gpu(spec)
    plans = []
    roles: tuple[Role, ...] = ("target", "draft") if draft else ("target",)
    if draft:
        check_pair(_facts(context, "target"), _facts(context, "draft"), use_draft_logits=draft.use_draft_logits)
    for role in roles:
        workspace = inside.draft if role == "draft" else inside
        plans.append(
            plan_build(
                spec.engine,
                _facts(context, role),
                role=role,
                checkpoint_dir=_checkpoint_inside(spec, workspace, role),
                output_dir=str(workspace.engine),
                sm=gpu.sm if gpu else None,
                gpus=hardware.gpus_per_node if hardware else None,
                container=pinned(context.root, "TRITON_TRTLLM_IMAGE"),
                runtime=spec.runtime,
            )
        )
    return plans


def _facts(context: Context, role: Role) -> CheckpointFacts:
    """Of the checkpoint that is there, or of the one that will be made."""
    from slipstream.engine.trtllm import planned_facts, read_facts

    spec = context.spec
    draft = spec.engine.draft
    workspace = context.workspace.draft if role == "draft" else context.workspace
    if role == "target" and spec.engine.checkpoint_dir is not None:
        return read_facts(checkpoint_of(spec.engine, workspace, "target"))
    it = draft if draft is not None and role == "draft" else spec
    known = known_model_of(it.model, workspace, field="engine.draft.model" if it is draft else "model")
    recipe = recipe_of(context, it.quantization)
    architecture = architecture_of(known, "tensorrt_llm", recipe.settings.method)
    refuse_split(known.shape, spec.engine, recipe)
    return planned_facts(
        architecture=architecture,
        dtype=it.model.dtype,
        method=recipe.settings.method,
        kv_cache=it.quantization.kv_cache,
        tp_size=spec.engine.tp_size,
        pp_size=spec.engine.pp_size,
        num_hidden_layers=known.shape.layers,
        vocab_size=known.shape.vocab,
        context_tokens=known.shape.max_context,
    )


def _checkpoint_inside(spec: DeploymentSpec, workspace: Workspace, role: Role) -> str:
    given = spec.engine.checkpoint_dir if role == "target" else None
    return given or str(workspace.checkpoint)


def _rendered(context: Context, inside: Workspace) -> dict[str, str]:
    from slipstream.repository.render import render_repository

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        render_repository(context.spec, locations_in(inside, context.spec), out, silent)
        return {
            str(inside.model_repository / path.relative_to(out)): path.read_text(encoding="utf-8")
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }


def _launch(context: Context, inside: Workspace) -> tuple[Command, ...]:
    """On one machine as it is; over several, one way under Slurm and one in Kubernetes."""
    from slipstream.serve.launch import LaunchTarget, launch_plan

    spec = context.spec
    if spec.engine.target == "openvino":
        argv = ("slipstream", "serve", spec.name, "--out", str(inside.directory))
        return (Command(purpose=f"serve {spec.name}: the embedded server", argv=argv),)
    per_node = spec.hardware.gpus_per_node if spec.hardware else spec.engine.world_size
    ways: tuple[LaunchTarget, ...] = ("local",) if spec.engine.world_size <= per_node else ("slurm", "lws")
    return tuple(
        command
        for way in ways
        for command in launch_plan(
            spec,
            repository=str(inside.model_repository),
            container=spec.runtime.container_image or pinned(context.root, "TRITON_TRTLLM_IMAGE"),
            ports=_ports(spec),
            for_=way,
        )
    )


def _ports(spec: DeploymentSpec) -> PortsSpec:
    return PortsSpec() if spec.runtime.ports == "auto" else spec.runtime.ports

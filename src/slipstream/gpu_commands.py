"""The verbs around a GPU deployment: what it would run, whether it can run here, and where it goes when engines end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from slipstream import artifacts
from slipstream.commands import Request, open_context, print_json
from slipstream.dry_run import DryRun, dry_run, memory_of
from slipstream.dry_run_models import method_of
from slipstream.errors import SlipstreamError, SpecError, StaleArtifactError
from slipstream.pipeline import Context, stages_for, the_gpu
from slipstream.project import find_root

if TYPE_CHECKING:
    from slipstream.doctor import Methods


def show_dry_run(request: Request) -> None:
    """Print every command, file and byte of a deployment; nothing is run and nothing is written."""
    made = dry_run(open_context(request), request.deployment, request.sets)
    if request.as_json:
        print_json(made.as_json())
    else:
        typer.echo(_text(made), nl=False)


def _text(made: DryRun) -> str:
    from slipstream.plan.memory_table import memory_text

    parts = []
    for command in made.commands:
        where = command.container or "any environment with Slipstream"
        parts.append(f"# {command.purpose}\n# in {where}\n{command.shell_text}\n")
    for build in made.builds:
        reasons = "".join(f"  {d.flag} {d.value}: {d.reason}\n" for d in build.derived)
        parts.append(f"why these options, {build.role}:\n{reasons}")
    if made.memory is not None:
        parts.append(memory_text(made.memory))
    parts += [f"--- {path}\n{text}" for path, text in made.files.items()]
    return "\n".join(parts)


def doctor(request: Request | None, *, as_json: bool, everything: bool) -> int:
    """Examine this machine and, if one is named, a deployment; the exit code."""
    from slipstream.doctor import examine, gather_facts, report_text

    if request is None:
        facts = gather_facts(root=find_root(Path.cwd()))
    else:
        context = open_context(request)
        gpu = the_gpu(context.spec)
        facts = gather_facts(
            root=context.root,
            spec=context.spec,
            workspace=context.workspace,
            methods=_methods(context),
            hardware_sm=gpu.sm if gpu else None,
            memory=memory_of(context),
            stale=_stale(context),
        )
    report = examine(facts)
    if as_json:
        print_json(report.as_json())
    else:
        typer.echo(report_text(report, every=everything), nl=False)
    return report.exit_code


def migrate(request: Request, file: Path | None) -> None:
    """Write the deployment that serves the same model through the LLM API, and say what changes."""
    from slipstream.migrate import migrate as migrated
    from slipstream.migrate import write_migration

    context = open_context(request)
    gpu = the_gpu(context.spec)
    made = migrated(context.spec, name=file.stem if file else None, sm=gpu.sm if gpu else None)
    path = file or context.root / "deployments" / f"{made.spec.name}.yaml"
    write_migration(made, path)
    if request.as_json:
        print_json(made.as_json() | {"path": str(path)})
    else:
        typer.echo(f"{made.as_text()}\nwritten: {path}")


def _methods(context: Context) -> Methods:
    from slipstream.doctor import Methods

    draft = context.spec.engine.draft
    return Methods(
        target=method_of(context, context.spec.quantization),
        draft=method_of(context, draft.quantization) if draft else None,
    )


def _stale(context: Context) -> list[SlipstreamError]:
    """Of the artifacts that are there: what no longer fits the spec."""
    found: list[SlipstreamError] = []
    for stage in stages_for(context.spec):
        if stage.path(context).is_dir():
            try:
                artifacts.read(stage.path(context), stage.dependencies(context), mend=stage.mend(context))
            except StaleArtifactError as error:
                found.append(error)
            except SpecError:
                continue  # a format that does not go with the rest of the spec: the doctor has its own checks of it
    return found

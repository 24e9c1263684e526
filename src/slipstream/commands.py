"""The verbs that make artifacts or show what there is."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipstream import artifacts
from slipstream.errors import SlipstreamError
from slipstream.pipeline import Context, Outcome, Stage, is_current, run_stage, stages_for
from slipstream.progress import finished, reporting
from slipstream.project import Workspace, find_root
from slipstream.serve.state import already_served, read_state
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import deployment_names, load_deployment, schema_text
from slipstream.summaries import summarize

_PLAIN_PATH = re.compile(r"[\w./+@%=:,-]+")


@dataclass(frozen=True, slots=True)
class Request:
    """What every verb is given."""

    deployment: str
    sets: list[str]
    out: Path | None
    as_json: bool


def make(request: Request, verb: str) -> None:
    """Run the stages of one verb."""
    context = open_context(request)
    stages = [stage for stage in stages_for(context.spec) if stage.verb == verb]
    if verb == "build" and stages:
        refuse_without_tools(context.spec)
    for stage in stages:
        stage.dependencies(context)  # a recipe that does not exist is refused before a model is fetched
    if not stages:
        finished(verb, f"target {context.spec.engine.target} has nothing to {verb}", None)
    with artifacts.locked(context.workspace.lock):
        outcomes = [run_and_tell(stage, context) for stage in stages]
    if request.as_json:
        made = {outcome.stage: _as_json(outcome) for outcome in outcomes}
        # What the verb is for; of a pair, the target's, with the draft's beside it.
        name = {"quantize": "checkpoint", "build": "engine", "render": "model_repository"}[verb]
        result = made.get(name) or next(reversed(made.values()), {"stage": name, "path": None})
        draft = made.get(f"draft/{name}")
        print_json(result | ({"draft": draft} if draft else {}))


def status(*, as_json: bool) -> None:
    """Deployments of this project, what is built and where it is served."""
    root = find_root(Path.cwd())
    rows = [_status_row(name, open_workspace(None, root, name)) for name in deployment_names(root)]
    if as_json:
        print_json({"deployments": rows})
        return
    for row in rows:
        serving = row["serving"]
        print(f"{row['deployment']:<32} {_where(serving) if serving else 'not served'}")


def _where(serving: dict[str, Any]) -> str:
    places = {
        "OpenAI": f"{serving['gateway']}/v1" if serving["gateway"] else None,
        "gRPC": serving["triton_grpc"],
        "HTTP": serving["triton_http"],
    }
    starting = "" if serving["is_ready"] else "  (starting)"
    return "  ".join(f"{name} {place}" for name, place in places.items() if place) + starting


def references(*, check: bool) -> None:
    """Write, or compare with a fresh one, the committed renderings of the reference deployments."""
    from slipstream.repository.references import check_references, render_references

    root = find_root(Path.cwd())
    (check_references if check else render_references)(root)
    print("the committed renderings are fresh" if check else "the committed renderings are written")


def schema() -> None:
    print(schema_text(), end="")


def open_context(request: Request) -> Context:
    """The deployment that a request names, in the project around the current directory."""
    root = find_root(Path.cwd())
    spec = load_deployment(request.deployment, request.sets, root=root)
    return Context(spec=spec, root=root, workspace=open_workspace(request.out, root, spec.name))


def refuse_without_tools(spec: DeploymentSpec) -> None:
    """Raise, before anything is fetched, where this machine cannot compile or serve what `spec` targets."""
    target = spec.engine.target
    needed = {"tensorrt_llm": "trtllm-build", "llmapi": "trtllm-llmapi-launch"}.get(target)
    if needed is not None and shutil.which(needed) is None:
        raise SlipstreamError(
            f"engine.target is {target}: {needed}, which comes with TensorRT-LLM, is not on this machine's PATH",
            mend=f"run it in the container (docker/README.md); slipstream up {spec.name} --dry-run shows every command",
        )


def open_workspace(out: Path | None, root: Path, name: str) -> Workspace:
    directory = (out.expanduser() if out else root / "build" / name).absolute()
    if not _PLAIN_PATH.fullmatch(str(directory)):
        raise SlipstreamError(
            f"{directory}: a space or special character in the path; Triton starts its processes through a shell",
            mend="use letters, digits and . _ - + @ % = : , only, or give another directory with --out",
        )
    return Workspace(directory=directory)


def named(request: Request) -> tuple[str, Workspace]:
    """Name and workspace of a deployment that may no longer be a file."""
    name = Path(request.deployment).stem if request.deployment.endswith((".yaml", ".yml")) else request.deployment
    root = find_root(Path.cwd())
    workspace = open_workspace(request.out, root, name)
    if not workspace.directory.is_dir():
        load_deployment(request.deployment, root=root)  # a name that was mistyped is refused with the known ones
    return name, workspace


def run_and_tell(stage: Stage, context: Context) -> Outcome:
    run = context.workspace.run
    if read_state(run) is not None and not is_current(stage, context):
        # A served artifact must not be replaced under the server: a reload would mix old and new.
        raise already_served(run, context.spec.name)
    with reporting(stage.name) as report:
        outcome = run_stage(stage, context, report)
    text = f"reused {outcome.artifact.digest[:8]}" if outcome.reused else summarize(outcome)
    finished(stage.name, text, None if outcome.reused else outcome.artifact.seconds)
    return outcome


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=None, sort_keys=True), flush=True)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    artifact = outcome.artifact
    return {
        **artifact.facts,
        "stage": outcome.stage,
        "path": str(artifact.path),
        "digest": artifact.digest,
        "reused": outcome.reused,
        "seconds": artifact.seconds,
    }


def _status_row(name: str, workspace: Workspace) -> dict[str, Any]:
    state = read_state(workspace.run)
    built = [path.name for path in (workspace.model, workspace.checkpoint, workspace.engine) if path.is_dir()]
    return {"deployment": name, "built": built, "serving": asdict(state) if state else None}

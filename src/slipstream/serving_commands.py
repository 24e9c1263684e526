"""The verbs that serve a deployment, stop it, and talk to it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from slipstream import artifacts
from slipstream.commands import Request, open_context, open_workspace, print_json, run_and_tell
from slipstream.detach import serve_detached
from slipstream.errors import SlipstreamError
from slipstream.pipeline import ENGINE, REPOSITORY, Context, refuse_unbuildable, require, stages_for
from slipstream.progress import finished, reporting
from slipstream.project import Workspace, find_root
from slipstream.serve.state import ServingState, already_served, read_state, serving
from slipstream.serve.supervise import served, stop_served, supervise
from slipstream.spec_file import load_deployment


def serve(request: Request) -> None:
    """Serve what has been built; nothing is made."""
    context = open_context(request)
    refuse_unbuildable(context.spec)
    _serve_until_told(context, request, question=None)


def up(request: Request, *, detach: bool, question: str | None) -> None:
    """Run every stage that is due, then serve."""
    context = open_context(request)
    refuse_unbuildable(context.spec)
    if read_state(context.workspace.run) is not None:
        raise already_served(context.workspace.run, context.spec.name)
    with artifacts.locked(context.workspace.lock):
        for stage in stages_for(context.spec):
            run_and_tell(stage, context)
    if detach:
        with reporting("triton") as report:
            state = serve_detached(context.workspace, request.deployment, request.sets, report)
        _announce(state, request)
        if question is not None:
            _talk(context.workspace, state.triton_grpc, question, max_tokens=128)
    else:
        _serve_until_told(context, request, question)


def down(request: Request) -> None:
    """Stop a served deployment; that there is none is no failure."""
    name, workspace = _named(request)
    stopped = stop_served(workspace.run)
    if request.as_json:
        print_json({"deployment": name, "stopped": stopped})
    else:
        print(f"{name}: {'stopped' if stopped else 'was not served'}")


def chat(request: Request, message: str | None, max_tokens: int) -> None:
    """Talk to a served deployment: one question, or a conversation."""
    name, workspace = _named(request)
    state = read_state(workspace.run)
    if state is None or not state.is_ready:
        raise SlipstreamError(f"{name} is not served", mend=f"start it: slipstream up {name} --detach")
    _talk(workspace, state.triton_grpc, message, max_tokens)


def _serve_until_told(context: Context, request: Request, question: str | None) -> None:
    spec, workspace = context.spec, context.workspace
    started = time.monotonic()
    with ExitStack() as stack:
        with artifacts.locked(workspace.lock):
            require(REPOSITORY, context, deep=True)
            require(ENGINE, context, deep=True)
            # Before the lock on the artifacts is let go: nobody may replace them under a server that is starting.
            stack.enter_context(serving(workspace.run, spec.name))
        with reporting("triton") as report:
            deployment = stack.enter_context(served(spec, workspace.model_repository, workspace.run, report))
        with suppress(KeyboardInterrupt):  # from the first token on, being told to stop is the normal end
            grpc = deployment.server.endpoints.grpc
            finished("triton", f"ready, a token came out  gRPC {grpc}", time.monotonic() - started)
            if question is not None:
                print(f"› {question}", file=sys.stderr, flush=True)
                _talk(workspace, grpc, question, max_tokens=128)
                if not _has_terminal():
                    return
            state = read_state(workspace.run)
            if state is not None:
                _announce(state, request)
            supervise(deployment, _log)


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _talk(workspace: Workspace, grpc: str, message: str | None, max_tokens: int) -> None:
    from slipstream.client import TritonClient
    from slipstream.client.terminal import ContextLimit, ask, converse
    from slipstream.text.chat_template import ChatTemplate
    from slipstream.text.tokenizer import Tokenizer

    template, tokenizer = ChatTemplate.load(workspace.model), Tokenizer.load(workspace.model)
    limit = ContextLimit(tokens=_context_tokens(workspace), count_tokens=lambda text: len(tokenizer.encode(text)))
    with TritonClient(grpc) as client:
        if message is None:
            converse(client, template.render, max_tokens, sys.stdin, sys.stdout, limit=limit)
        else:
            ask(client, template.render([{"role": "user", "content": message}]), max_tokens, sys.stdout)


def _context_tokens(workspace: Workspace) -> int:
    """Prompt and output together, as the engine was built."""
    return int(json.loads((workspace.engine / "engine.json").read_text())["context_tokens"])


def _announce(state: ServingState, request: Request) -> None:
    if request.as_json:
        facts = asdict(state)
        print_json({key: facts[key] for key in ("pid", "triton_http", "triton_grpc", "triton_metrics", "gateway")})
    else:
        where = f"Triton gRPC {state.triton_grpc}, HTTP {state.triton_http}, metrics {state.triton_metrics}"
        print(f"Serving {state.deployment}: {where}.", flush=True)
        print(f"slipstream down {state.deployment} stops it.", flush=True)


def _log(message: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), message, file=sys.stderr, flush=True)


def _named(request: Request) -> tuple[str, Workspace]:
    name = Path(request.deployment).stem if request.deployment.endswith((".yaml", ".yml")) else request.deployment
    root = find_root(Path.cwd())
    workspace = open_workspace(request.out, root, name)
    if not workspace.directory.is_dir():
        load_deployment(request.deployment, root=root)  # a name that was mistyped is refused with the known ones
    return name, workspace

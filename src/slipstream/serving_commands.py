"""The verbs that serve a deployment, stop it, and talk to it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass

from slipstream import artifacts
from slipstream.commands import (
    Request,
    named,
    open_context,
    print_json,
    refuse_without_tools,
    run_and_tell,
)
from slipstream.detach import serve_detached
from slipstream.errors import SlipstreamError, StaleArtifactError
from slipstream.pipeline import Context, require, stages_for
from slipstream.progress import finished, reporting
from slipstream.project import Workspace
from slipstream.serve.ports import LOOPBACK, Address
from slipstream.serve.state import ServingState, already_served, read_state, serving
from slipstream.serve.supervise import ServedDeployment, served, stop_served, supervise
from slipstream.upstreams import gateway_of, why_no_gateway

_REPLY_TOKENS = 128


def serve(request: Request, address: Address) -> None:
    """Serve what has been built on `address`; nothing is made."""
    context = open_context(request)
    refuse_without_tools(context.spec)
    _refuse_open_address(context, address)
    _serve_until_told(context, request, address, question=None)


def up(request: Request, address: Address, *, detach: bool, question: str | None) -> None:
    """Run every stage that is due, then serve."""
    context = open_context(request)
    if question is not None:
        _refuse_mute(context.spec.name, context.spec.engine.target, decoupled=context.spec.runtime.decoupled)
    refuse_without_tools(context.spec)
    _refuse_open_address(context, address)
    if read_state(context.workspace.run) is not None:
        raise already_served(context.workspace.run, context.spec.name)
    with artifacts.locked(context.workspace.lock):
        for stage in stages_for(context.spec):
            run_and_tell(stage, context)
    if detach:
        with reporting("triton") as report:
            state = serve_detached(context.workspace, request.deployment, request.sets, address, report)
        _announce(state, request, f"slipstream down {state.deployment} stops it.")
        if question is not None:
            _ask(context.workspace, state, question)
    else:
        _serve_until_told(context, request, address, question)


def down(request: Request) -> None:
    """Stop a served deployment; that there is none is no failure."""
    name, workspace = named(request)
    stopped = stop_served(workspace.run)
    if request.as_json:
        print_json({"deployment": name, "stopped": stopped})
    else:
        print(f"{name}: {'stopped' if stopped else 'was not served'}")


def chat(request: Request, message: str | None, max_tokens: int) -> None:
    """Talk to a served deployment: one question, or a conversation."""
    name, workspace = named(request)
    state = read_state(workspace.run)
    if state is None or not state.is_ready:
        raise SlipstreamError(f"{name} is not served", mend=f"start it: slipstream up {name} --detach")
    _talk(workspace, state.triton_grpc, message, max_tokens)


def _refuse_open_address(context: Context, address: Address) -> None:
    if address != LOOPBACK and context.spec.engine.target == "openvino":
        raise SlipstreamError(
            f"--address {address}: the embedded Triton has vulnerabilities that no wheel mends, it stays on {LOOPBACK}",
            mend="leave --address out; 0.0.0.0 is for a GPU container, whose ports are published on loopback",
        )


def _serve_until_told(context: Context, request: Request, address: Address, question: str | None) -> None:
    spec, workspace = context.spec, context.workspace
    started = time.monotonic()
    with ExitStack() as stack:
        with artifacts.locked(workspace.lock):
            for stage in stages_for(spec):
                if stage.verb != "quantize" or spec.engine.target == "llmapi":  # which loads the checkpoint itself
                    require(stage, context, deep=True)
            # Before the lock on the artifacts is let go: nobody may replace them under a server that is starting.
            stack.enter_context(serving(workspace.run, spec.name))
        with reporting("triton") as report:
            repository, run = workspace.model_repository, workspace.run
            gateway = gateway_of(spec, root=context.root, model_dir=workspace.model)
            deployment = stack.enter_context(
                served(spec, repository, run, report, address=address, gateway=gateway, sets=request.sets)
            )
        with suppress(KeyboardInterrupt):  # from the first token on, being told to stop is the normal end
            _tell_ready(deployment, why_no_gateway(spec), started)
            state = read_state(workspace.run)
            assert state is not None, "this process has just written it"
            if question is not None:
                print(f"› {question}", file=sys.stderr, flush=True)
                _ask(workspace, state, question)
                if not _has_terminal():
                    return
            _announce(state, request, "Ctrl-C stops.")
            supervise(deployment, _log)


def _tell_ready(deployment: ServedDeployment, no_gateway: str | None, started: float) -> None:
    grpc, gateway = deployment.server.endpoints.grpc, deployment.gateway
    finished("triton", f"ready, a token came out  gRPC {grpc}", time.monotonic() - started)
    if gateway is not None:
        finished("gateway", f"ready, a token came through  {gateway.config.url}/v1")
    elif deployment.spec.gateway.enabled:
        finished("gateway", f"none: {no_gateway}")


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _ask(workspace: Workspace, state: ServingState, question: str) -> None:
    """Stream one reply: through the gateway, unless there is none or it wants a key, which this process has not."""
    from slipstream.client.gateway_chat import KeyNeededError, ask_gateway

    if state.gateway is not None:
        messages = [{"role": "user", "content": question}]
        try:
            ask_gateway(state.gateway, state.deployment, messages, _REPLY_TOKENS, sys.stdout)
        except KeyNeededError:
            print("  the gateway wants a key: asking Triton", file=sys.stderr, flush=True)
        else:
            return
    _talk(workspace, state.triton_grpc, question, _REPLY_TOKENS)


def _talk(workspace: Workspace, grpc: str, message: str | None, max_tokens: int) -> None:
    from slipstream.client import TritonClient
    from slipstream.client.terminal import ContextLimit, ask, converse
    from slipstream.text.chat_template import ChatTemplate
    from slipstream.text.tokenizer import Tokenizer

    rendered = _rendered(workspace)
    _refuse_mute(rendered.name, rendered.target, decoupled=rendered.decoupled)
    template, tokenizer = ChatTemplate.load(workspace.model), Tokenizer.load(workspace.model)
    limit = ContextLimit(tokens=rendered.context_tokens, count_tokens=lambda text: len(tokenizer.encode(text)))
    with TritonClient(grpc) as client:
        if message is None:
            converse(client, template.render, max_tokens, sys.stdin, sys.stdout, limit=limit)
        else:
            ask(client, template.render([{"role": "user", "content": message}]), max_tokens, sys.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """What the served models were rendered from, as their repository's manifest says it."""

    name: str
    target: str
    decoupled: bool
    context_tokens: int  # prompt and output together


def _rendered(workspace: Workspace) -> _Rendered:
    path = workspace.model_repository / artifacts.MANIFEST
    try:
        fields = json.loads(path.read_bytes())["depends_on"]["fields"]
        return _Rendered(
            name=fields["name"],
            target=fields["engine.target"],
            decoupled=fields["runtime.decoupled"],
            context_tokens=int(fields["engine.max_seq_len"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StaleArtifactError(
            f"{path}: unreadable, the model repository is damaged", mend="stop the server and render it again"
        ) from error


def _refuse_mute(name: str, target: str, *, decoupled: bool) -> None:
    """Refuse to chat with what has no model that streams text under the tensors of the ensemble."""
    if target == "llmapi":
        why, model, tokens = "the LLM API has no model `ensemble`", "tensorrt_llm", "sampling_param_max_tokens"
    elif target == "tensorrt_llm" and not decoupled:
        why, model, tokens = "runtime.decoupled is false, no reply is streamed", "tensorrt_llm_bls", "max_tokens"
    else:
        return
    raise SlipstreamError(
        f"{name}: {why}: chat and --ask need it",
        mend=f'POST {{"text_input": "…", "{tokens}": 64}} to Triton\'s HTTP port, /v2/models/{model}/generate',
    )


def _announce(state: ServingState, request: Request, how_to_stop: str) -> None:
    if request.as_json:
        facts = asdict(state)
        print_json({key: facts[key] for key in ("pid", "triton_http", "triton_grpc", "triton_metrics", "gateway")})
        return
    gateway = f"{state.gateway}/v1 (OpenAI), " if state.gateway else ""
    print(f"Serving {gateway}Triton gRPC {state.triton_grpc}, HTTP {state.triton_http}. {how_to_stop}", flush=True)


def _log(message: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), message, file=sys.stderr, flush=True)

"""The verbs of the gateway alone: run it before Tritons that run elsewhere, and give a running one new settings."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from slipstream.commands import Request, named, open_context, print_json
from slipstream.errors import SlipstreamError
from slipstream.gateway_config import (
    CONFIG_FILE,
    GatewayConfig,
    Outcome,
    read_config,
    read_outcome,
    write_config,
)
from slipstream.progress import Reporter, reporting
from slipstream.project import find_root
from slipstream.serve.ports import free_gateway_port
from slipstream.serve.state import ServingState, read_state, serving, this_process, write_state
from slipstream.spec import BackendSpec
from slipstream.spec_file import load_deployment
from slipstream.upstreams import gateway_config

_LOOK_PERIOD_S = 0.05
_READ_TIMEOUT_S = 30.0  # beside the time that new backends may take


def run_gateway(request: Request) -> None:
    """Serve the upstreams of a deployment until told to end; nothing else of the deployment is started here."""
    context = open_context(request)
    spec, run = context.spec, context.workspace.run
    port = free_gateway_port(spec.runtime.ports)
    config = gateway_config(spec, root=context.root, model_dir=context.workspace.model, port=port, own=None)
    with serving(run, spec.name):
        path = run / CONFIG_FILE
        write_config(path, config)
        write_state(run, _state(spec.name, config, request))
        try:
            _tell(config, request)
            _serve(path)
        finally:
            path.unlink(missing_ok=True)


def reload(request: Request) -> None:
    """Give the gateway of a served deployment the settings that its file now says, with the same overrides."""
    name, workspace = named(request)
    run = workspace.run
    state, outcome = read_state(run), read_outcome(run / CONFIG_FILE)
    if state is None or outcome is None:
        raise SlipstreamError(f"{name}: no gateway of it runs here", mend=f"start it: slipstream up {name} --detach")
    root = find_root(Path.cwd())
    spec = load_deployment(request.deployment, state.sets, root=root)
    before = read_config(run / CONFIG_FILE)
    own = None if state.triton_http is None else BackendSpec(grpc=state.triton_grpc, metrics=state.triton_metrics)
    config = gateway_config(spec, root=root, model_dir=workspace.model, port=before.port, own=own)
    if own is not None:
        config = _with_limits_of(before, spec.name, config)
    with reporting("gateway") as report:
        _send(run / CONFIG_FILE, before, config, outcome, report)
    write_state(run, replace(state, drain_s=config.stop_within_s))
    if request.as_json:
        print_json({"deployment": name, "gateway": config.url, "models": [one.name for one in config.upstreams]})
    else:
        print(f"{name}: new requests are served with the new settings")


def _serve(path: Path) -> None:
    import uvloop

    from slipstream.gateway.redaction import redact_logs
    from slipstream.gateway.server import GatewayServer

    redact_logs()
    uvloop.run(GatewayServer(path).serve())


def _tell(config: GatewayConfig, request: Request) -> None:
    models = {one.name: [backend.grpc for backend in one.backends] for one in config.upstreams}
    if request.as_json:
        print_json({"gateway": config.url, "models": models})
        return
    for model, addresses in models.items():
        print(f"{model}: Triton gRPC {', '.join(addresses)}")
    print(f"Serving {config.url}/v1 (OpenAI). Ctrl-C stops.", flush=True)


def _state(name: str, config: GatewayConfig, request: Request) -> ServingState:
    pid, created = this_process()
    return ServingState(
        deployment=name,
        pid=pid,
        created=created,
        triton_http=None,
        triton_grpc=config.upstreams[0].backends[0].grpc,
        triton_metrics=None,
        gateway=config.url,
        drain_s=config.stop_within_s,
        sets=tuple(request.sets),
        is_ready=True,
    )


def _with_limits_of(before: GatewayConfig, name: str, config: GatewayConfig) -> GatewayConfig:
    """The model that is served beside keeps the limits that it was started with, whatever the file now says."""
    [old] = [one for one in before.upstreams if one.name == name]
    limits = {"max_input_tokens": old.max_input_tokens, "context_tokens": old.context_tokens}
    upstreams = [one.model_copy(update=limits) if one.name == name else one for one in config.upstreams]
    return config.model_copy(update={"upstreams": tuple(upstreams)})


def _send(path: Path, before: GatewayConfig, config: GatewayConfig, last: Outcome, report: Reporter) -> None:
    """Write `config` and wait until the gateway serves it; if it refuses, the file is again what it was."""
    write_config(path, config)
    os.kill(last.pid, signal.SIGHUP)
    try:
        outcome = _answer(path, last, config.settings.routing.join_timeout_s + _READ_TIMEOUT_S, report)
        if outcome.message:
            raise SlipstreamError(
                f"the gateway goes on as it was, it refuses the new settings: {outcome.message}", mend=outcome.mend
            )
    except BaseException:
        write_config(path, before)
        raise


def _answer(path: Path, last: Outcome, timeout_s: float, report: Reporter) -> Outcome:
    started = time.monotonic()
    while (waited_s := time.monotonic() - started) < timeout_s:
        outcome = read_outcome(path)
        if outcome is not None and outcome.loads > last.loads:
            return outcome
        report(f"waiting for the gateway ({waited_s:.0f} s)")
        time.sleep(_LOOK_PERIOD_S)
    raise SlipstreamError(
        f"the gateway has not answered within {timeout_s:g} s", mend=f"read {path.with_name('gateway.log')}"
    )

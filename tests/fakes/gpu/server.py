"""`tritonserver`: checks its options and its models; then rank 0 answers health, metrics and requests until SIGTERM.

It generates no text: `generate` answers with the prompt's length and gRPC with one token, enough for a probe.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gpu.machine import Machine, record, this_machine
from gpu.server_flags import Options, UsageError, parse_options
from gpu.server_models import LoadError, Model, Ranks, load, read_models, wanted

from tests.fakes.triton import FakeTriton, Script


def main(argv: Sequence[str]) -> int:
    record("tritonserver", argv)
    try:
        options = parse_options(argv)
    except UsageError as error:
        print(f"{error}\nUsage: tritonserver [options]", file=sys.stderr)
        return 1
    ranks, stop = Ranks.of_environment(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        models = _load_all(options, this_machine(), ranks)
    except LoadError as error:
        _log("E", f"model_lifecycle.cc:654] {json.dumps(str(error))}")
        print("error: creating server: Internal - failed to load all models", file=sys.stderr)
        return 1
    if os.environ.get("FAKE_TRITON_FAIL") == "crash":
        return 139
    return _serve(options, models, ranks, stop)


def _load_all(options: Options, machine: Machine, ranks: Ranks) -> Mapping[str, Model]:
    _check_rank_rules(options, machine, ranks)
    repository = Path((*options.all("model-repository"), *options.all("model-store"))[0])
    models = read_models(repository)
    names = wanted(models, options.last("model-control-mode", "none"), options.all("load-model"))
    engines = {model.name for model in models.values() if model.is_engine}
    if ranks.rank > 0 and set(names) != engines:
        raise LoadError(
            f"rank {ranks.rank} loads {sorted(names)}: ranks above 0 load {sorted(engines)} and nothing else"
        )
    for name in names:
        _log("I", f'model_lifecycle.cc:472] "loading: {name}:1"')
        try:
            load(models[name], models, machine, ranks)
        except LoadError as error:
            raise LoadError(f"failed to load '{name}' version 1: Internal: {error}") from error
        _log("I", f"model_lifecycle.cc:839] \"successfully loaded '{name}'\"")
    return {name: models[name] for name in names}


def _check_rank_rules(options: Options, machine: Machine, ranks: Ranks) -> None:
    """`rank_rules` and `multi_model` of launch.json."""
    if not options.all("disable-auto-complete-config"):
        raise LoadError("launch.json: every server has --disable-auto-complete-config")
    if ranks.size > 1 and options.prefix is None:
        raise LoadError("launch.json: every rank has its own shm-region-prefix-name")
    if ranks.rank > 0 and options.last("model-control-mode", "none") != "explicit":
        raise LoadError(f"rank {ranks.rank} needs --model-control-mode=explicit and --load-model")
    if ranks.spawns:
        pools = {f"{gpu}:0" for gpu in machine.visible_gpus}
        given = set(options.all("cuda-memory-pool-byte-size"))
        if options.last("pinned-memory-pool-byte-size", "") != "0" or options.flag("enable-peer-access", default=True):
            raise LoadError("a spawning orchestrator needs --pinned-memory-pool-byte-size=0 --enable-peer-access=false")
        if not given or not given <= pools:
            raise LoadError("a spawning orchestrator needs --cuda-memory-pool-byte-size=j:0 for its GPUs")


def _serve(options: Options, models: Mapping[str, Model], ranks: Ranks, stop: threading.Event) -> int:
    servers: list[ThreadingHTTPServer] = []
    grpc = contextlib.ExitStack()
    try:
        if ranks.rank == 0:  # the others never return from loading the engine
            _serve_grpc(options, grpc)
            servers = _listen_http(options, models)
    except (OSError, RuntimeError) as error:  # gRPC's own for a port that is taken is a RuntimeError
        print(f"error: failed to start a service: Unavailable - Socket '{error}' already in use", file=sys.stderr)
        return 1
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    while not stop.wait(0.1):
        pass
    _log("I", 'server.cc:305] "Waiting for in-flight requests to complete."')
    for server in servers:
        server.shutdown()
    grpc.close()
    return 0


def _serve_grpc(options: Options, stack: contextlib.ExitStack) -> None:
    """On loopback, the protocol; on another address, a port that is taken."""
    if not options.flag("allow-grpc", default=True):
        return
    host, port = options.last("grpc-address", "0.0.0.0"), int(options.last("grpc-port", "8001"))
    stack.enter_context(socket.create_server((host, port)))
    if host == "127.0.0.1":
        stack.close()  # it was free
        stack.enter_context(FakeTriton({"tensorrt_llm": Script(pieces=[[1]], is_final_with_last_piece=True)}, port))
    _log("I", f'grpc_server.cc:2558] "Started GRPCInferenceService at {host}:{port}"')


def _listen_http(options: Options, models: Mapping[str, Model]) -> list[ThreadingHTTPServer]:
    servers = []
    handler = _handler(models)
    for service, port, name in (("http", "8000", "HTTPService"), ("metrics", "8002", "Metrics Service")):
        if options.flag(f"allow-{service}", default=True):
            where = (options.last(f"{service}-address", "0.0.0.0"), int(options.last(f"{service}-port", port)))
            servers.append(ThreadingHTTPServer(where, handler))
            _log("I", f'http_server.cc:4713] "Started {name} at {where[0]}:{where[1]}"')
    return servers


def _handler(models: Mapping[str, Model]) -> type[BaseHTTPRequestHandler]:
    iterations = [0]

    class Handler(BaseHTTPRequestHandler):
        """What a launch and a watchdog ask of Triton."""

        def do_GET(self) -> None:
            if self.path in {"/v2/health/ready", "/v2/health/live", *(f"/v2/models/{name}/ready" for name in models)}:
                self._answer(200, "")
            elif self.path == "/metrics":
                label = 'model="tensorrt_llm",version="1",general_type="iteration_counter"'
                self._answer(200, f"nv_trt_llm_general_metrics{{{label}}} {iterations[0]}\n")
            else:
                self._answer(404, json.dumps({"error": f"unknown path {self.path}"}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = self.path.removeprefix("/v2/models/").removesuffix("/generate")
            if name not in models or not self.path.endswith("/generate"):
                self._answer(404, json.dumps({"error": f"Request for unknown model: '{name}' is not found"}))
            elif not {"text_input", "max_tokens"} <= body.keys():
                self._answer(400, json.dumps({"error": "expected input text_input and max_tokens"}))
            elif os.environ.get("FAKE_TRITON_FAIL") == "mute":
                self._answer(500, json.dumps({"error": "Executor worker is not available"}))
            else:
                iterations[0] += 1
                text = f"{len(body['text_input'])} characters"
                self._answer(200, json.dumps({"model_name": name, "model_version": "1", "text_output": text}))

        def _answer(self, status: int, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet, as Triton is."""

    return Handler


def _log(severity: str, text: str) -> None:
    print(f"{severity}{datetime.now(UTC):%m%d %H:%M:%S.%f} {os.getpid()} {text}", file=sys.stderr, flush=True)

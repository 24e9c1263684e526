"""The gateway's process: one event loop, uvicorn in front, gRPC to Triton behind."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from slipstream.errors import SlipstreamError
from slipstream.gateway.app import create_app
from slipstream.gateway.listening import uvicorn_config
from slipstream.gateway.redaction import redact_logs
from slipstream.gateway.routing import Backends
from slipstream.gateway.security import Security, refuse_open_host
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A deployment that is served: where its Triton is, and where its model's tokenizer is."""

    name: str
    triton_grpc: str
    model_dir: Path
    max_input_tokens: int
    context_tokens: int


async def serve_gateway(
    upstreams: list[Upstream], spec: GatewaySpec, *, host: str, port: int, root: Path | None = None
) -> None:
    """Serve until this process is told to end; running answers are finished first. Files are relative to `root`."""
    redact_logs()
    root = root or Path.cwd()
    security = Security.open(spec.security, root=root)
    refuse_open_host(host, security)
    async with contextlib.AsyncExitStack() as stack:
        models = [await _open(upstream, spec, stack) for upstream in upstreams]
        app = create_app(Services(spec=spec, models=Models(models), security=security))
        config = uvicorn_config(app, spec, host=host, port=port, root=root)
        await uvicorn.Server(config).serve()


async def _open(upstream: Upstream, spec: GatewaySpec, stack: contextlib.AsyncExitStack) -> ServedModel:
    try:
        template = ChatTemplate.load(upstream.model_dir)
    except SlipstreamError:  # a base model has none
        template = None
    backends = Backends([upstream.triton_grpc], spec.routing)
    stack.push_async_callback(backends.close)
    return ServedModel(
        name=upstream.name,
        tokenizer=Tokenizer.load(upstream.model_dir),
        template=template,
        max_input_tokens=upstream.max_input_tokens,
        context_tokens=upstream.context_tokens,
        backends=backends,
    )

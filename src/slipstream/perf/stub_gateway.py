"""The gateway's own process before a stub, with keys, limits and metrics on."""

from __future__ import annotations

import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from slipstream.gateway.keys import Grant, KeyFile
from slipstream.gateway_config import GatewayConfig, UpstreamConfig, write_config
from slipstream.spec import BackendSpec, GatewaySpec, SecuritySpec
from slipstream.spec.gateway_limits import GatewayLimitsSpec

MODEL = "stub"
_NEVER_REACHED = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class StubGateway:
    """How to start it, where it will listen, and the key that it takes."""

    command: list[str]
    port: int
    key: str


def prepare_gateway(directory: Path, *, triton_grpc: str, model_dir: Path) -> StubGateway:
    """Write its files into `directory`; tokenizer and chat template are those of `model_dir`."""
    key = KeyFile(directory / "keys.json").add("bench", Grant())
    port = free_port()
    settings = GatewaySpec(
        security=SecuritySpec(keys_file="keys.json"),
        limits=GatewayLimitsSpec(requests_per_minute=_NEVER_REACHED, tokens_per_minute=_NEVER_REACHED),
    )
    upstream = UpstreamConfig(
        name=MODEL,
        backends=(BackendSpec(grpc=triton_grpc),),
        model_dir=model_dir,
        max_input_tokens=4096,
        context_tokens=8192,
    )
    config = GatewayConfig(root=directory, port=port, upstreams=(upstream,), settings=settings)
    write_config(directory / "gateway.json", config)
    command = [sys.executable, "-m", "slipstream.gateway", str(directory / "gateway.json")]
    return StubGateway(command=command, port=port, key=key.text)


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

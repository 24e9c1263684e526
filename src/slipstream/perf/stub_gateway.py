"""The gateway in a process of its own, before a stub. Run: python -m slipstream.perf.stub_gateway SETTINGS (JSON)."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from slipstream.gateway.server import GatewayServer
from slipstream.gateway_config import CONFIG_FILE, GatewayConfig, UpstreamConfig, write_config
from slipstream.spec import BackendSpec, GatewaySpec

MODEL = "stub"


@dataclass(frozen=True, slots=True, kw_only=True)
class StubGateway:
    """What the process is told."""

    triton_grpc: str
    model_dir: str  # whose tokenizer and chat template it uses
    port: int
    spec: dict[str, object]  # of the gateway

    def command(self) -> list[str]:
        """How the process is started."""
        return [sys.executable, "-m", __name__, json.dumps(asdict(self))]

    async def serve(self) -> None:
        """Until it is ended."""
        upstream = UpstreamConfig(
            name=MODEL,
            backends=(BackendSpec(grpc=self.triton_grpc),),
            model_dir=Path(self.model_dir),
            max_input_tokens=4096,
            context_tokens=8192,
        )
        settings = GatewaySpec.model_validate(self.spec)
        with tempfile.TemporaryDirectory() as directory:
            config = GatewayConfig(root=Path(directory), port=self.port, upstreams=(upstream,), settings=settings)
            file = Path(directory) / CONFIG_FILE
            write_config(file, config)
            await GatewayServer(file).serve()


if __name__ == "__main__":
    import uvloop

    from slipstream.perf.stub_gateway import StubGateway as Settings  # under its own name, for `command`

    uvloop.run(Settings(**json.loads(sys.argv[1])).serve())

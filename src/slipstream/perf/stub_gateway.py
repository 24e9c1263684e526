"""The gateway in a process of its own, before a stub. Run: python -m slipstream.perf.stub_gateway SETTINGS (JSON)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from slipstream.gateway.server import Upstream, serve_gateway
from slipstream.spec import GatewaySpec

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
        upstream = Upstream(
            name=MODEL,
            triton_grpc=self.triton_grpc,
            model_dir=Path(self.model_dir),
            max_input_tokens=4096,
            context_tokens=8192,
        )
        await serve_gateway([upstream], GatewaySpec.model_validate(self.spec), host="127.0.0.1", port=self.port)


if __name__ == "__main__":
    import uvloop

    from slipstream.perf.stub_gateway import StubGateway as Settings  # under its own name, for `command`

    uvloop.run(Settings(**json.loads(sys.argv[1])).serve())

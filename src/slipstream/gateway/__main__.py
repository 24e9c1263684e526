"""`python -m slipstream.gateway CONFIG.json`: one gateway, as `slipstream serve` starts it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import uvloop

from slipstream.errors import SlipstreamError
from slipstream.gateway.redaction import redact_logs
from slipstream.gateway.server import GatewayServer


def main(arguments: list[str]) -> int:
    """Serve until told to end; the exit code."""
    redact_logs()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if len(arguments) != 1:
        print("usage: python -m slipstream.gateway CONFIG.json", file=sys.stderr)
        return 2
    return serve_gateway(Path(arguments[0]))


def serve_gateway(config_file: Path) -> int:
    """Serve what `config_file` says until told to end; the exit code."""
    try:
        uvloop.run(_serve(config_file))
    except SlipstreamError as error:
        print(f"gateway: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


async def _serve(config_file: Path) -> None:
    await GatewayServer(config_file).serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

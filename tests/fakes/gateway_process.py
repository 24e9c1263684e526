"""A gateway in a process of its own: `python -m tests.fakes.gateway_process TRITON SPEC`, SPEC as JSON.

It counts limits where SPEC says, prints its URL, and serves until its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipstream.gateway.admission import Admission
from slipstream.gateway.limits.open_store import open_store
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec
from tests.fakes.gateway import a_model, gateway

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def gateway_processes(
    count: int, triton_grpc: str, spec: dict[str, Any], environ: dict[str, str]
) -> Iterator[list[str]]:
    """Serve until left; gives the base URLs."""
    command = [sys.executable, "-m", "tests.fakes.gateway_process", triton_grpc, json.dumps(spec)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **environ},
                    stdin=subprocess.PIPE,  # closed when the processes are left
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(count)
        ]
        yield [process.stdout.readline().strip() for process in processes if process.stdout is not None]


def main() -> None:
    triton_grpc, spec = sys.argv[1], GatewaySpec.model_validate_json(sys.argv[2])

    def services() -> Services:
        admission = Admission(spec, store=open_store(spec.limits, os.environ))
        return Services(spec=spec, models=Models([a_model(triton_grpc)]), admission=admission)

    with gateway(services) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

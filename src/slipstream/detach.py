"""Serves in the background: a process of its own that outlives the command which started it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.project import Workspace
from slipstream.serve.ports import Address
from slipstream.serve.state import ServingState, read_state


def serve_detached(
    workspace: Workspace, deployment: str, sets: Sequence[str], address: Address, report: Reporter
) -> ServingState:
    """Start `slipstream serve` in a session of its own; return when it serves, raise with its reason if it ends."""
    workspace.run.mkdir(parents=True, exist_ok=True)
    log = workspace.run / "serve.log"
    command = [sys.executable, "-P", "-m", "slipstream", "serve", deployment, "--out", str(workspace.directory)]
    command += ["--address", address]
    for override in sets:
        command += ["--set", override]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    started = time.monotonic()
    try:
        while process.poll() is None:
            state = read_state(workspace.run)
            if state is not None and state.pid == process.pid and state.is_ready:
                return state
            report(f"starting ({time.monotonic() - started:.0f} s)")
            time.sleep(0.2)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    raise SlipstreamError(
        f"the server ended with code {process.returncode} while starting:\n{_tail(log.read_text(errors='replace'))}",
        mend=f"read {log}",
    )


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-6:])

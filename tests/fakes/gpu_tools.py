"""Calls the stand-ins of tests/fakes/bin as a shell would: by their names, through the PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BIN = Path(__file__).resolve().parent / "bin"


def tool_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a pretended GPU machine: the stand-ins first on the PATH, nothing left of other tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FAKE_", "CUDA_", "OMPI_"))}
    return {**kept, "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}", **(env or {})}


def run_tool(
    tool: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / tool), *arguments],
        env=tool_environment(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

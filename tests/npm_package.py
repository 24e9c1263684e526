"""Packages that only npm carries, for tests: fetched once, in a pinned version, without running anything of theirs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_CACHE = Path(__file__).parent.parent / "build" / "npm"


def npm_package(name: str, version: str) -> Path:
    """The directory of the unpacked package; skips the test where npm is missing or cannot get it."""
    target = _CACHE / f"{name.replace('/', '+')}-{version}"
    if not target.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as partial:
            packed = subprocess.run(
                [npm, "pack", "--silent", f"{name}@{version}"],
                check=False,
                cwd=partial,
                capture_output=True,
                text=True,
                timeout=120,
            )
            if packed.returncode:
                pytest.skip(f"npm cannot fetch {name}@{version}: {packed.stderr.strip()[-200:]}")
            shutil.unpack_archive(Path(partial) / packed.stdout.strip(), partial, filter="data")
            (Path(partial) / "package").rename(target)
    return target

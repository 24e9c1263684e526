"""The `tritonserver` inside the nvidia-pytriton wheel, arranged as a Triton installation.

The wheel keeps the Python backend and its stubs apart; Triton wants one `backends/python/` directory with the stub that
fits the interpreter. numpy must be below 2 there: with 2.x the first BYTES input kills the stub (Triton 2.51).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError

PYTHON_VERSIONS = ((3, 11), (3, 12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Paths and environment that `tritonserver` is started with."""

    tritonserver: Path
    backend_directory: Path
    cache_directory: Path
    environment: dict[str, str]


def arrange_installation(directory: Path) -> Installation:
    """Lay out a backend directory of links under `directory` and say how to start the server with it."""
    wheel = _wheel()
    backends = directory / "backends"
    shutil.rmtree(backends, ignore_errors=True)
    (backends / "python").mkdir(parents=True)
    stub = wheel / "python_backend_stubs" / _python_version() / "triton_python_backend_stub"
    for file in [*(wheel / "backends" / "python").iterdir(), stub]:
        (backends / "python" / file.name).symlink_to(file)
    return Installation(
        tritonserver=wheel / "bin" / "tritonserver",
        backend_directory=backends,
        cache_directory=wheel / "caches",
        environment=_environment(wheel),
    )


def _wheel() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise SlipstreamError(
            "the package nvidia-pytriton, which carries tritonserver, is not installed",
            mend="install the locked requirements: make setup",
        )
    return Path(spec.origin).parent / "tritonserver"


def _python_version() -> str:
    if sys.version_info[:2] not in PYTHON_VERSIONS:
        raise SlipstreamError(
            f"Python {sys.version_info.major}.{sys.version_info.minor}: the embedded Triton serves with 3.11 or 3.12",
            mend="make the environment with Python 3.11 or 3.12",
        )
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _environment(wheel: Path) -> dict[str, str]:
    """A small environment: what the server needs and nothing of the caller's (which may hold secrets)."""
    libraries = wheel.parents[1] / "nvidia_pytriton.libs"
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ") if name in os.environ}
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "VIRTUAL_ENV": sys.prefix,
        "LD_LIBRARY_PATH": os.pathsep.join([str(libraries), str(_libpython())]),
        # Read by the processes that a stub starts. The stub itself (pybind11 2.10 in Triton 2.51) is isolated and finds
        # Slipstream as an installed package.
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a yaml.py in the current directory is not the yaml that is meant
        "PYTHONDONTWRITEBYTECODE": "1",  # a model repository is an artifact: nothing is added to it
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def _libpython() -> Path:
    """The directory of the shared libpython that the stub is linked to."""
    name = f"libpython{_python_version()}.so.1.0"
    places = [Path(str(sysconfig.get_config_var(key))) for key in ("LIBDIR", "LIBPL") if sysconfig.get_config_var(key)]
    places += [Path(sys.base_prefix) / "lib", *Path("/usr/lib").glob("*-linux-gnu")]
    for place in places:
        if (place / name).exists():
            return place
    raise SlipstreamError(
        f"{name} was not found (looked in {', '.join(map(str, places))}): Triton's Python backend links to it",
        mend=f"install it (Debian: libpython{_python_version()}), or use a Python built with --enable-shared",
    )

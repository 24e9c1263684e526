"""The GPUs of this machine, as `nvidia-smi` names them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

_FIELDS = ("name", "compute_cap", "driver_version", "memory.total")
_TIMEOUT_S = 20  # a driver that hangs must not hang the build's report


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU."""

    name: str
    sm: int  # compute capability x 10, as 90
    driver: str
    memory_mib: int


def query_gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine, whatever CUDA_VISIBLE_DEVICES says; none where there is no working driver."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"],  # noqa: S607 - PATH
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = (_gpu(line) for line in answer.stdout.splitlines())
    return tuple(gpu for gpu in found if gpu is not None)


def _gpu(line: str) -> Gpu | None:
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_FIELDS):
        return None
    name, capability, driver, memory = values
    digits = capability.replace(".", "", 1)
    if not digits.isdecimal() or not memory.isdecimal():
        return None
    return Gpu(name=name, sm=int(digits), driver=driver, memory_mib=int(memory))

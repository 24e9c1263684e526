"""The shared-memory regions of Triton's Python backend: named after their owner, so that only our own are swept."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_SHM = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
_OWNED = re.compile(r"slipstream_(\d+)_")


def region_prefix(owner_pid: int) -> str:
    """Prefix of the region names of the server that process `owner_pid` starts."""
    return f"slipstream_{owner_pid}_"


def sweep(prefix: str) -> None:
    """Remove the regions of one ended server (killed stubs leak theirs)."""
    for region in _SHM.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.unlink()


def sweep_orphans() -> None:
    """Remove the regions of owners that no longer run."""
    for region in _SHM.glob("slipstream_*"):
        owner = _OWNED.match(region.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            with contextlib.suppress(OSError):
                region.unlink()

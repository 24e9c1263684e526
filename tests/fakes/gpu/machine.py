"""The machine that the stand-ins pretend to run on, and the record of what was called on it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONTRACT = Path(__file__).resolve().parents[2] / "contract" / "trtllm-1.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cards, all alike."""

    gpus: int
    sm: int  # compute capability x 10
    name: str
    memory_mib: int
    driver: str
    trtllm: str  # version

    @property
    def visible_gpus(self) -> tuple[int, ...]:
        """Cards that a CUDA program sees."""
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return tuple(range(self.gpus))
        ids = [text.strip() for text in chosen.split(",")]
        return tuple(int(text) for text in ids if text.isdigit() and int(text) < self.gpus)


def this_machine() -> Machine:
    return Machine(
        gpus=int(os.environ.get("FAKE_GPUS", "8")),
        sm=int(os.environ.get("FAKE_GPU_SM", "90")),
        name=os.environ.get("FAKE_GPU_NAME", "NVIDIA H100 80GB HBM3"),
        memory_mib=int(os.environ.get("FAKE_GPU_MEMORY_MIB", "81559")),
        driver=os.environ.get("FAKE_DRIVER", "590.44.01"),
        trtllm=os.environ.get("FAKE_TRTLLM_VERSION", "1.2.1"),
    )


def contract(name: str) -> dict[str, Any]:
    """One file of the contract."""
    content: dict[str, Any] = json.loads((_CONTRACT / f"{name}.json").read_text())
    return content


def record(tool: str, argv: Sequence[str]) -> None:
    """Add this call to the log of calls, where one is wanted."""
    log = os.environ.get("FAKE_TOOLS_LOG")
    if log:
        line = {
            "tool": tool,
            "argv": list(argv),
            "rank": os.environ.get("OMPI_COMM_WORLD_RANK"),
            "cwd": str(Path.cwd()),
        }
        with Path(log).open("a") as stream:
            stream.write(json.dumps(line) + "\n")

"""Where a long calibration keeps its finished layers, so that it goes on after an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from slipstream.quantize.export import ExportPlan
from slipstream.quantize.recipes import Recipe

PREFIX = "calibration-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The layers of one calibration; another model, recipe or KV cache has another directory."""

    directory: Path

    @classmethod
    def of(cls, parent: Path, model_directory: Path, recipe: Recipe, plan: ExportPlan) -> Resume:
        """The directory of this calibration below `parent`; what is left there of others is removed."""
        directory = parent / f"{PREFIX}{_digest(model_directory, recipe, plan)}"
        for other in parent.glob(f"{PREFIX}*"):
            if other != directory:
                shutil.rmtree(other)
        directory.mkdir(parents=True, exist_ok=True)
        return cls(directory=directory)

    def forget(self) -> None:
        """Remove the layers, once the checkpoint is written."""
        shutil.rmtree(self.directory)


def _digest(model_directory: Path, recipe: Recipe, plan: ExportPlan) -> str:
    weights = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(model_directory.glob("*.safetensors"))
    ]
    facts = [
        weights,
        plan.architecture.hf_config,
        plan.dtype,
        plan.kv_cache,
        recipe.inputs(),
        version("nvidia-modelopt"),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

"""From a deployment of TensorRT engines to one of the LLM API: the new file, and what changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from slipstream.errors import SpecError
from slipstream.migrate.changes import Change, Kind, changes_between
from slipstream.migrate.deployment import new_settings
from slipstream.spec import DeploymentSpec

SUFFIX = "-llmapi"
_TITLES: Mapping[Kind, str] = {
    "recipe": "quantization",
    "parameter": "settings of this deployment",
    "feature": "features",
    "model": "models in Triton",
    "tensor": "tensors of the text model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The new deployment and its differences from the old one."""

    source: str  # the old deployment's name
    spec: DeploymentSpec
    spec_yaml: str
    changes: tuple[Change, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "deployment": self.spec.name,
            "from": self.source,
            "yaml": self.spec_yaml,
            "changes": [asdict(change) for change in self.changes],
        }

    def as_text(self) -> str:
        """The changes by kind, a line each: what was → what is, and why."""
        lines = [f"{self.source} → {self.spec.name}"]
        for kind, title in _TITLES.items():
            chosen = [change for change in self.changes if change.kind == kind]
            if chosen:
                lines += ["", f"{title}:", *(f"  {_line(change)}" for change in chosen)]
        return "\n".join(lines) + "\n"


def migrate(spec: DeploymentSpec, *, name: str | None = None, sm: int | None = None) -> Migration:
    """The LLM API deployment that serves what `spec` serves, as far as that API can.

    `name` is the new deployment's, by default the old one's with `-llmapi`; `sm` is the compute capability of its GPU,
    as 90, where it is known: it decides what replaces a format that the LLM API does not read.
    """
    if spec.engine.target != "tensorrt_llm":
        raise SpecError(
            f"{spec.name}: engine.target is {spec.engine.target}, only tensorrt_llm is migrated to llmapi",
            mend="name a deployment with engine.target tensorrt_llm",
        )
    settings = new_settings(spec, name=name or f"{spec.name}{SUFFIX}", sm=sm)
    try:
        new = DeploymentSpec.model_validate(settings)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise SpecError(f"{settings['name']}: {problems}", mend="give another name by --out") from error
    header = f"# Made by `slipstream migrate {spec.name}`: the same model behind TensorRT-LLM's LLM API.\n"
    text = header + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    return Migration(source=spec.name, spec=new, spec_yaml=text, changes=changes_between(spec, new))


def write_migration(migration: Migration, path: Path) -> None:
    """Write the new deployment file, whole or not at all; SpecError where there is a file, or the name does not fit."""
    if path.name != f"{migration.spec.name}.yaml":
        raise SpecError(
            f"{path}: the deployment is called {migration.spec.name}",
            mend=f"write it to {path.with_name(migration.spec.name + '.yaml')}",
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(migration.spec_yaml, encoding="utf-8")
        path.hardlink_to(temporary)  # a rename would replace a file that is there
    except FileExistsError as error:
        raise SpecError(f"{path}: there is a file already", mend="remove it, or give another by --out") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error}", mend="give a directory that you can write") from error
    finally:
        temporary.unlink(missing_ok=True)


def _line(change: Change) -> str:
    new = "gone" if change.new is None else change.new
    before = f"{change.old} → " if change.old else "new: "
    return f"{before}{new}" + (f"  ({change.note})" if change.note else "")

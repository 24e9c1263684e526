"""Where things of a project lie on disk: its root, its deployments, the artifacts of one deployment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError

# src/slipstream/project.py → the checkout, for an editable install.
_CHECKOUT = Path(__file__).resolve().parents[2]


def find_root(start: Path) -> Path:
    """The nearest directory at or above `start` that holds `deployments/` and `quantize/recipes/`."""
    for directory in (start, *start.parents, _CHECKOUT):
        if (directory / "deployments").is_dir() and recipes_directory(directory).is_dir():
            return directory
    raise SlipstreamError(
        f"{start}: no Slipstream project here or above (looked for deployments/ and quantize/recipes/)",
        mend="run the command inside a clone of the repository",
    )


def recipes_directory(root: Path) -> Path:
    return root / "quantize" / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The directory that holds every artifact and all run-time state of one deployment."""

    directory: Path

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def checkpoint(self) -> Path:
        return self.directory / "checkpoint"

    @property
    def engine(self) -> Path:
        return self.directory / "engine"

    @property
    def model_repository(self) -> Path:
        return self.directory / "model_repository"

    @property
    def draft(self) -> Workspace:
        """The artifacts of the draft model of this deployment."""
        return Workspace(directory=self.directory / "draft")

    @property
    def run(self) -> Path:
        """Logs and state of a serving deployment."""
        return self.directory / "run"

    @property
    def lock(self) -> Path:
        return self.directory / ".lock"

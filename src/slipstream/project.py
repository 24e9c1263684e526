"""Where things of a project lie on disk: its root, its deployments, the artifacts of one deployment."""

from __future__ import annotations

from collections.abc import Mapping
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


def pinned(root: Path, name: str) -> str:
    """What `docker/versions.env` says `name` is."""
    pins = pinned_versions(root)
    if name not in pins:
        raise SlipstreamError(f"{_pins_file(root)}: {name} is missing", mend=_TAKE_PINS)
    return pins[name]


def pinned_versions(root: Path) -> Mapping[str, str]:
    """`docker/versions.env`: every image and version that the GPU path is written for."""
    path = _pins_file(root)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SlipstreamError(f"{path}: cannot be read: {error}", mend=_TAKE_PINS) from error
    pins = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not value.strip():
            raise SlipstreamError(f"{path}:{number}: {line!r}, expected NAME=VALUE", mend="correct the line")
        pins[name.strip()] = value.strip()
    return pins


_TAKE_PINS = "take docker/versions.env from the repository"


def _pins_file(root: Path) -> Path:
    return root / "docker" / "versions.env"

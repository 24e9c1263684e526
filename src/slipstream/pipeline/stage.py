"""What a stage is: one artifact, how it is made, and from what; running one, or finding that it need not run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slipstream import __version__, artifacts
from slipstream.artifacts import Artifact, Dependencies
from slipstream.errors import StaleArtifactError
from slipstream.progress import Reporter
from slipstream.project import Workspace
from slipstream.spec import DeploymentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One deployment in one project."""

    spec: DeploymentSpec
    root: Path  # of the project: recipes are found from here
    workspace: Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One artifact: how it is made and what it is made from."""

    name: str
    verb: str  # of the command line, that makes it
    fields: Callable[[Context], Mapping[str, Any]]
    tools: Callable[[Context], Mapping[str, str]]  # what decides the content from outside the spec → its version
    make: Callable[[Context, Path, Reporter], Mapping[str, Any]]
    parent: Stage | None = None

    def path(self, context: Context) -> Path:
        return context.workspace.directory / self.name

    def dependencies(self, context: Context) -> Dependencies:
        """What the artifact would be made from now."""
        parent = self.parent
        return Dependencies(
            stage=self.name,
            fields=self.fields(context),
            parents={parent.name: parent.digest(context)} if parent else {},
            tools={"slipstream": __version__, **self.tools(context)},
        )

    def digest(self, context: Context) -> str:
        """Of the artifact on disk if it is up to date, else of the one that would be made."""
        found = _current(self, context)
        return found.digest if found else self.dependencies(context).digest

    def mend(self, context: Context) -> str:
        return f"slipstream {self.verb} {context.spec.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What running a stage came to."""

    stage: str
    artifact: Artifact
    reused: bool


def run_stage(stage: Stage, context: Context, report: Reporter) -> Outcome:
    """Make the artifact of `stage`, or reuse it if nothing that it depends on has changed.

    Its parents must be there and up to date: StaleArtifactError names the first one that is not.
    """
    found = _current(stage, context)
    if found is not None:
        return Outcome(stage=stage.name, artifact=found, reused=True)
    require(stage.parent, context, deep=True)
    made = artifacts.write(
        stage.path(context), stage.dependencies(context), lambda out: stage.make(context, out, report)
    )
    return Outcome(stage=stage.name, artifact=made, reused=False)


def is_current(stage: Stage, context: Context) -> bool:
    """Whether the artifact of `stage` is whole and made from what the spec says now."""
    return _current(stage, context) is not None


def require(stage: Stage | None, context: Context, *, deep: bool = False) -> None:
    """Check that the artifact of `stage` and all before it are whole and up to date; content, too, where `deep`."""
    if stage is None:
        return
    require(stage.parent, context)
    artifacts.read(stage.path(context), stage.dependencies(context), mend=stage.mend(context), deep=deep)


def packages(*names: str) -> Callable[[Context], Mapping[str, str]]:
    """The installed versions of packages."""
    return lambda _context: {name: _version(name) for name in names}


def _current(stage: Stage, context: Context) -> Artifact | None:
    try:
        return artifacts.read(stage.path(context), stage.dependencies(context), mend=stage.mend(context))
    except StaleArtifactError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return artifacts.NOT_INSTALLED

"""Deployments and renderings that the repository tests start from."""

from __future__ import annotations

from pathlib import Path

from slipstream.progress import silent
from slipstream.repository.references import REFERENCES, neutral_locations
from slipstream.repository.render import render_repository
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import load_deployment

DEFAULT = "smollm2-135m-cpu"
STREAMING_GPU = "llama-3.1-8b-fp8-h100"
DRAFT_GPU = "llama-3.3-70b-fp8-tp4-draft"
DEPLOYMENTS = sorted(REFERENCES)


def a_deployment(root: Path, name: str = DEFAULT, *overrides: str) -> DeploymentSpec:
    return load_deployment(name, overrides, root=root)


def a_repository(out: Path, spec: DeploymentSpec) -> Path:
    """A rendering of `spec` in a new directory under `out`."""
    repository = out / "model_repository"
    repository.mkdir()
    render_repository(spec, neutral_locations(spec), repository, silent)
    return repository

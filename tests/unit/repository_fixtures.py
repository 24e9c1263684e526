"""Deployments and renderings that the repository tests start from."""

from __future__ import annotations

from pathlib import Path

from slipstream.progress import silent
from slipstream.repository.pbtxt import read_config
from slipstream.repository.references import REFERENCES, neutral_locations
from slipstream.repository.render import render_repository
from slipstream.spec import DeploymentSpec
from slipstream.spec_file import load_deployment

DEFAULT = "smollm2-135m-cpu"
STREAMING_GPU = "llama-3.1-8b-fp8-h100"
DRAFT_GPU = "llama-3.3-70b-fp8-tp4-draft"
LLM_API = "llama-3.1-8b-nvfp4-llmapi-b200"
DEPLOYMENTS = sorted(set(REFERENCES) - {LLM_API})  # those with the contract's five models


def a_deployment(root: Path, name: str = DEFAULT, *overrides: str) -> DeploymentSpec:
    return load_deployment(name, overrides, root=root)


def rendered_parameters(out: Path, spec: DeploymentSpec) -> dict[str, dict[str, str]]:
    """Model → parameter → text, of a rendering of `spec` under `out`."""
    out.mkdir(exist_ok=True)
    configs = {model.name: read_config(model / "config.pbtxt") for model in a_repository(out, spec).iterdir()}
    return {
        name: {key: value.string_value for key, value in config.parameters.items()} for name, config in configs.items()
    }


def a_repository(out: Path, spec: DeploymentSpec) -> Path:
    """A rendering of `spec` in a new directory under `out`."""
    repository = out / "model_repository"
    repository.mkdir()
    render_repository(spec, neutral_locations(spec), repository, silent)
    return repository

"""The real tritonserver loads what was rendered, and understands it as it was meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from slipstream.progress import silent
from slipstream.project import Workspace
from slipstream.repository.pbtxt import read_config
from slipstream.repository.render import Locations, render_repository
from slipstream.serve.supervise import served as serving
from slipstream.spec_file import load_deployment
from tests.conftest import DEFAULT, Served

FIVE = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")


def loaded_config(grpc: str, model: str) -> Any:
    """The configuration that the server works with."""
    from tritonclient.grpc import InferenceServerClient

    return InferenceServerClient(grpc).get_model_config(model).config


@pytest.mark.parametrize("model", FIVE)
def test_the_server_has_each_model_as_it_was_rendered(served: Served, model: str) -> None:
    rendered = read_config(served.workspace.model_repository / model / "config.pbtxt")
    loaded = loaded_config(served.grpc, model)
    assert list(loaded.input) == list(rendered.input)
    assert list(loaded.output) == list(rendered.output)
    assert dict(loaded.parameters) == dict(rendered.parameters)
    assert loaded.ensemble_scheduling == rendered.ensemble_scheduling
    assert loaded.HasField("dynamic_batching") == rendered.HasField("dynamic_batching")
    assert loaded.max_batch_size == rendered.max_batch_size


@pytest.mark.parametrize("model", ["tensorrt_llm", "tensorrt_llm_bls", "ensemble"])
def test_what_streams_is_decoupled(served: Served, model: str) -> None:
    # Rendered for the first two; the ensemble has no policy of its own, Triton takes it from its steps.
    assert loaded_config(served.grpc, model).model_transaction_policy.decoupled


def test_the_gpu_rendering_serves_with_the_embedded_engine_in_the_engines_slot(
    artifacts: Path, root: Path, tmp_path: Path
) -> None:
    made = Workspace(directory=artifacts)
    embedded = load_deployment(DEFAULT, ["runtime.ports=auto"], root=root)
    # Triton refuses an ensemble that takes larger batches than one of its models.
    batch = f"runtime.triton_max_batch_size={embedded.runtime.triton_max_batch_size}"
    spec = load_deployment("llama-3.1-8b-fp8-h100", [batch], root=root)
    locations = Locations(engine_dir=str(made.engine), tokenizer_dir=str(made.model))
    repository = tmp_path / "model_repository"
    repository.mkdir()
    render_repository(spec, locations, repository, silent)
    shutil.rmtree(repository / "tensorrt_llm")
    shutil.copytree(made.model_repository / "tensorrt_llm", repository / "tensorrt_llm")

    # Ready means that the ensemble gave a token: both renderings fit together.
    with serving(embedded, repository, tmp_path / "run", silent) as deployment:
        assert loaded_config(deployment.server.endpoints.grpc, "preprocessing").instance_group[0].count == 4

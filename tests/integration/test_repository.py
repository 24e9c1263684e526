"""The real tritonserver loads what was rendered, and understands it as it was meant."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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
from tests.integration.triton_calls import PROMPT, ask, text

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


@pytest.fixture(scope="module")
def gpu_served(artifacts: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A GPU deployment's rendering, with the embedded engine in the slot that the compiled engine has."""
    made, directory = Workspace(directory=artifacts), tmp_path_factory.mktemp("gpu")
    embedded = load_deployment(DEFAULT, ["runtime.ports=auto"], root=root)
    # Triton refuses an ensemble that takes larger batches than one of its models.
    batch = f"runtime.triton_max_batch_size={embedded.runtime.triton_max_batch_size}"
    spec = load_deployment("llama-3.1-8b-fp8-h100", [batch], root=root)
    locations = Locations(engine_dir=str(made.engine), tokenizer_dir=str(made.model))
    for name in ("model_repository", "rendered"):
        (directory / name).mkdir()
        render_repository(spec, locations, directory / name, silent)
    repository = directory / "model_repository"
    shutil.rmtree(repository / "tensorrt_llm")
    shutil.copytree(made.model_repository / "tensorrt_llm", repository / "tensorrt_llm")
    with serving(embedded, repository, directory / "run", silent) as deployment:
        where = deployment.server.endpoints
        workspace = Workspace(directory=directory)
        yield Served(where.http, where.grpc, where.metrics, workspace, deployment.server.process.pid)


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing", "ensemble", "tensorrt_llm_bls"])
def test_the_server_has_each_model_of_the_gpu_rendering_as_it_was_rendered(gpu_served: Served, model: str) -> None:
    rendered = read_config(gpu_served.workspace.directory / "rendered" / model / "config.pbtxt")
    loaded = loaded_config(gpu_served.grpc, model)
    assert list(loaded.input) == list(rendered.input)
    assert list(loaded.output) == list(rendered.output)
    assert dict(loaded.parameters) == dict(rendered.parameters)
    assert loaded.ensemble_scheduling == rendered.ensemble_scheduling
    assert loaded.HasField("dynamic_batching") == rendered.HasField("dynamic_batching")
    assert [group.count for group in loaded.instance_group] == [group.count for group in rendered.instance_group]


def test_both_engines_have_the_same_tensors_and_the_parameters_of_one_are_the_others(gpu_served: Served) -> None:
    rendered = read_config(gpu_served.workspace.directory / "rendered" / "tensorrt_llm" / "config.pbtxt")
    loaded = loaded_config(gpu_served.grpc, "tensorrt_llm")
    assert (rendered.backend, loaded.backend) == ("tensorrtllm", "python")
    assert list(loaded.input) == list(rendered.input)
    assert list(loaded.output) == list(rendered.output)
    of_both = {key for key in loaded.parameters if not key.startswith("slipstream_")}
    only_gpu = {"FORCE_CPU_ONLY_INPUT_TENSORS", "executor_worker_path", "kv_cache_free_gpu_mem_fraction"}
    assert of_both == set(rendered.parameters) - only_gpu
    same = of_both - {"max_beam_width"}  # nothing is compiled for beams on the CPU: it allows some by default
    assert {key: loaded.parameters[key] for key in same} == {key: rendered.parameters[key] for key in same}


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_text_goes_through_the_gpu_rendering(gpu_served: Served, model: str) -> None:
    assert "Paris" in text(ask(gpu_served, model, text_input=PROMPT, max_tokens=8, stream=True))

"""What the LLM API model reads from its own model.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.backend.llmapi_settings import check_ranks, read_settings
from slipstream.errors import SlipstreamError

UPSTREAMS = "model: org/model\nbackend: pytorch\ntriton_config:\n  max_batch_size: 0\n  decoupled: false\n"


def written(directory: Path, text: str) -> Path:
    (directory / "model.yaml").write_text(text)
    return directory


def test_upstreams_own_file_is_read_with_upstreams_defaults(tmp_path: Path) -> None:
    found = read_settings(written(tmp_path, UPSTREAMS))
    assert found.arguments == {"model": "org/model", "backend": "pytorch"}
    assert (found.decoupled, found.cancellation_check_period_ms, found.exclude_input_in_output) == (False, 100, False)
    assert found.max_requests is None


def test_the_queue_comes_on_top_of_what_runs(tmp_path: Path) -> None:
    text = UPSTREAMS.replace("backend:", "max_batch_size: 8\nbackend:") + "  max_queue_size: 3\n"
    assert read_settings(written(tmp_path, text)).max_requests == 11


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("triton_config:", "triton:", "triton_config is missing"),
        ("max_batch_size: 0", "max_batch_size: 4", r"triton_config\.max_batch_size must be 0"),
        ("decoupled: false", "decoupeled: false", "decoupeled"),
        ("model: org", "model: [org", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_fails_the_load(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(SlipstreamError, match=complaint):
        read_settings(written(tmp_path, UPSTREAMS.replace(old, new)))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlipstreamError, match=r"model\.yaml: cannot be read"):
        read_settings(tmp_path)


def test_several_servers_under_mpirun_are_refused() -> None:
    with pytest.raises(SlipstreamError, match="runs 4 times under mpirun"):
        check_ranks({"OMPI_COMM_WORLD_SIZE": "4"})


@pytest.mark.parametrize(
    "environment",
    [{}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"OMPI_COMM_WORLD_SIZE": "4", "TLLM_SPAWN_PROXY_PROCESS": "1"}],
)
def test_one_server_is_taken_with_the_llm_apis_own_launcher_too(environment: dict[str, str]) -> None:
    check_ranks(environment)

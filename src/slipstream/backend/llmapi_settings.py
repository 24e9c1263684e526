"""What the LLM API model reads from the `model.yaml` beside its `model.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slipstream.errors import SlipstreamError

FILE_NAME = "model.yaml"
_MEND = "render the model repository again"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmApiSettings:
    """The arguments of `LLM(...)`, and how this model serves it; the defaults are those of upstream's model."""

    arguments: Mapping[str, Any]
    decoupled: bool
    cancellation_check_period_ms: int = 100
    max_queue_size: int = 0  # requests that wait for the engine before one is refused; 0: no limit
    add_special_tokens: bool = True
    skip_special_tokens: bool = True
    exclude_input_in_output: bool = False  # of a response that is not streamed, unless the request says otherwise
    accumulate_tokens: bool = False  # a stream's responses hold all text so far

    @property
    def max_requests(self) -> int | None:
        """Requests in flight, running and waiting; None: no limit."""
        return int(self.arguments.get("max_batch_size", 0)) + self.max_queue_size if self.max_queue_size else None


def read_settings(directory: Path) -> LlmApiSettings:
    """The settings in `directory`/model.yaml; SlipstreamError says what is wrong with it."""
    path = directory / FILE_NAME
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SlipstreamError(f"{path}: cannot be read: {error}", mend=_MEND) from error
    if not isinstance(contents, dict) or not isinstance(contents.get("triton_config"), dict):
        raise SlipstreamError(f"{path}: triton_config is missing", mend=_MEND)
    triton = dict(contents.pop("triton_config"))
    if triton.pop("max_batch_size", 0) != 0:
        raise SlipstreamError(f"{path}: triton_config.max_batch_size must be 0: requests come one by one", mend=_MEND)
    try:
        return LlmApiSettings(arguments=contents, **triton)
    except TypeError as error:
        raise SlipstreamError(f"{path}: triton_config: {error}", mend=_MEND) from error


def check_ranks(environment: Mapping[str, str]) -> None:
    """Refuse servers that mpirun started side by side: the LLM API starts its ranks itself, and each would start all.

    Under `trtllm-llmapi-launch` the ranks are there already, and one server reaches them through its proxy.
    """
    ranks = int(environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    if ranks > 1 and environment.get("TLLM_SPAWN_PROXY_PROCESS") != "1":
        raise SlipstreamError(
            f"tritonserver runs {ranks} times under mpirun: the LLM API's model runs in one server",
            mend="start one tritonserver; over several nodes, by trtllm-llmapi-launch",
        )

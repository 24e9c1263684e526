"""The `tensorrt_llm` model of target `llmapi`: TensorRT-LLM's LLM API behind the tensors of its own Triton model.

It runs where `tensorrt_llm` is installed, which is imported when the model is loaded. What it calls is read from
NVIDIA/TensorRT-LLM: triton_backend/all_models/llmapi/tensorrt_llm/1/model.py, tensorrt_llm/llmapi/llm_args.py
(update_llm_args_with_extra_dict), tensorrt_llm/executor/result.py (GenerationResult.abort, CompletionOutput).
It differs from upstream's model where that one is at odds with its own declaration or with a user's need: a stream
brings what is new (`accumulate_tokens` brings all text so far), never the beginning of a stop string or of a character;
outputs have their declared types; a request that is stopped still gets what it has; what cannot work is one sentence.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from slipstream.backend.llmapi_engine import LlmApiEngine
from slipstream.backend.llmapi_guard import Guard
from slipstream.backend.llmapi_reply import LlmApiReply
from slipstream.backend.llmapi_request import read_llmapi_request
from slipstream.backend.llmapi_settings import LlmApiSettings, check_ranks, read_settings
from slipstream.backend.orphan import end_with_server
from slipstream.backend.parameters import ModelConfig
from slipstream.backend.tensors import RequestRefusedError, flag
from slipstream.backend.triton import input_tensors
from slipstream.backend.watch import Watch
from slipstream.errors import SlipstreamError


class LlmApiModel:
    """What Triton calls; `execute` returns at once and responses follow from the engine's event loop."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the model; an error here fails its load."""
        self._server_process_id = os.getppid()
        end_with_server()
        self._guard = Guard()
        check_ranks(os.environ)
        config = ModelConfig.of(args["model_config"])
        self._settings = read_settings(Path(args["model_repository"]) / str(args["model_version"]))
        _check_profile(config, self._settings)
        changed = threading.Event()
        self._engine = _open_engine(self._settings, changed)
        self._watch = Watch(
            self._engine.checks,
            lambda: None,
            changed,
            check_period_s=self._settings.cancellation_check_period_ms / 1000,
            refresh_period_s=float("inf"),
        )
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand every request to the engine; each is answered by its own response sender."""
        for request in requests:
            reply = LlmApiReply(request)
            try:
                self._take(request, reply)
            except RequestRefusedError as error:
                reply.refuse(str(error))

    def finalize(self) -> None:
        """End what is in flight, and the engine's processes."""
        if os.getppid() != self._server_process_id:
            return  # killed or crashed: whoever sends to it now waits for ever
        self._watch.close()
        self._engine.close()
        self._guard.close()

    def _take(self, request: Any, reply: LlmApiReply) -> None:
        tensors = input_tensors(request)
        request_id = request.request_id()
        if not flag(tensors, "stop"):
            self._engine.submit(read_llmapi_request(tensors, request_id=request_id, settings=self._settings), reply)
            return
        if not request_id:
            raise RequestRefusedError("stop is true, but the request has no id: give the id of the request to stop")
        self._engine.cancel_request(request_id)
        reply.close(decoupled=self._settings.decoupled)


def _check_profile(config: ModelConfig, settings: LlmApiSettings) -> None:
    if config.decoupled != settings.decoupled:
        raise SlipstreamError(
            f"{config.name}: decoupled is {config.decoupled} in config.pbtxt and {settings.decoupled} in model.yaml",
            mend="render the model repository again",
        )


def _open_engine(settings: LlmApiSettings, changed: threading.Event) -> LlmApiEngine:
    try:
        from tensorrt_llm import LLM, SamplingParams  # type: ignore[import-not-found]
        from tensorrt_llm.executor import RequestError  # type: ignore[import-not-found]
        from tensorrt_llm.llmapi.llm_utils import update_llm_args_with_extra_dict  # type: ignore[import-not-found]
    except ImportError as error:
        raise SlipstreamError(
            f"tensorrt_llm cannot be imported: {error}",
            mend="serve this deployment in the container that docker/versions.env names",
        ) from error
    return LlmApiEngine(
        LLM(**update_llm_args_with_extra_dict({}, dict(settings.arguments))),
        SamplingParams,
        clients_faults=(ValueError, TypeError, RequestError),
        max_requests=settings.max_requests,
        changed=changed,
    )

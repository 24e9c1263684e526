"""Outputs of the LLM API as the tensors of a response; the model has no batch dimension, so every shape is [1].

Attributes read: NVIDIA/TensorRT-LLM, tensorrt_llm/executor/result.py (CompletionOutput) and the executor's
RequestPerfMetrics, as its own Triton model reads them. The tensors have the types that config.pbtxt declares.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.llmapi_request import LlmApiRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmApiPiece:
    """One response: its text, and why it is the last one."""

    text: str
    is_last: bool
    finish_reason: str = ""  # empty before the end
    stop_reason: str = ""  # the stop string, or the id of the token, that ended the output; empty for neither


def response_tensors(
    request: LlmApiRequest, piece: LlmApiPiece, completion: Any | None, requested: Collection[str]
) -> dict[str, NDArray[Any]]:
    """The outputs that `request` asks for, of those in `requested`.

    `completion` is the engine's CompletionOutput; None when the request ended before it gave one.
    """
    tensors: dict[str, NDArray[Any]] = {"text_output": _texts(piece.text)}
    if request.finish_reason:
        tensors["finish_reason"] = _texts(piece.finish_reason)
    if request.stop_reason:
        tensors["stop_reason"] = _texts(piece.stop_reason)
    if completion is not None:
        tensors |= _logprob(request, completion)
        metrics = getattr(completion, "request_perf_metrics", None)
        if piece.is_last and metrics is not None and "return_perf_metrics" in request.sampling:
            tensors |= _perf_tensors(metrics)
    return {name: tensor for name, tensor in tensors.items() if name in requested}


def _texts(text: str) -> NDArray[np.object_]:
    return np.array([text.encode()], np.object_)


def _logprob(request: LlmApiRequest, completion: Any) -> dict[str, NDArray[Any]]:
    """Nothing where the engine knows none: a made-up number would look like one."""
    value = getattr(completion, "cumulative_logprob", None)
    if not request.cumulative_logprob or value is None:
        return {}
    return {"cumulative_logprob": np.array([value], np.float32)}


def _perf_tensors(metrics: Any) -> dict[str, NDArray[Any]]:
    cache, timing, speculation = metrics.kv_cache_metrics, metrics.timing_metrics, metrics.speculative_decoding
    return {
        "kv_cache_reused_block": np.array([cache.num_reused_blocks], np.int32),
        "kv_cache_missed_block": np.array([cache.num_missed_blocks], np.int32),
        "kv_cache_alloc_new_blocks": np.array([cache.num_new_allocated_blocks], np.int32),
        "kv_cache_alloc_total_blocks": np.array([cache.num_total_allocated_blocks], np.int32),
        "kv_cache_hit_rate": np.array([cache.kv_cache_hit_rate], np.float32),
        "arrival_time_ns": _nanoseconds(timing.arrival_time),
        "first_scheduled_time_ns": _nanoseconds(timing.first_scheduled_time),
        "first_token_time_ns": _nanoseconds(timing.first_token_time),
        "last_token_time_ns": _nanoseconds(timing.last_token_time),
        "acceptance_rate": np.array([speculation.acceptance_rate], np.float32),
        "total_accepted_draft_tokens": np.array([speculation.total_accepted_draft_tokens], np.int32),
        "total_draft_tokens": np.array([speculation.total_draft_tokens], np.int32),
    }


def _nanoseconds(moment: timedelta) -> NDArray[np.int64]:
    """A moment on the engine's steady clock, as whole numbers: a float would lose its last digits."""
    return np.array([moment // timedelta(microseconds=1) * 1000], np.int64)

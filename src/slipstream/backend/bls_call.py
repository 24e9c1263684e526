"""A call of the engine's model from the BLS model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.deadlines import Deadline
from slipstream.backend.kept_responses import KEPT
from slipstream.backend.requests import ALONE, Place
from slipstream.backend.stop_request import stop_request_id
from slipstream.backend.tensors import Tensors, integer
from slipstream.backend.trailer import read_trailer

# Outputs of the engine that clients of a text model may ask for.
PASSED_OUTPUTS = frozenset(
    {
        "cum_log_probs",
        "output_log_probs",
        "context_logits",
        "generation_logits",
        "batch_index",
        "sequence_index",
        "kv_cache_alloc_new_blocks",
        "kv_cache_reused_blocks",
        "kv_cache_alloc_total_blocks",
        "arrival_time_ns",
        "first_scheduled_time_ns",
        "first_token_time_ns",
        "last_token_time_ns",
        "acceptance_rate",
        "total_accepted_draft_tokens",
        "total_draft_tokens",
        "num_input_tokens",
        "num_output_tokens",
    }
)

# What tells the responses of one generation from those of another.
_PLACES = frozenset({"batch_index", "sequence_index"})


@dataclass(frozen=True, slots=True)
class Part:
    """One response of the engine."""

    ids: list[int]
    is_last: bool  # of its generation, or its engine does not say
    others: dict[str, NDArray[Any]]
    other_beams: list[list[int]] = field(default_factory=list)  # behind the best, which is `ids`
    place: Place = ALONE


class EngineFailedError(Exception):
    """The engine answered with an error; the text is for the client."""


class EngineCall:
    """One generation in progress. Its request id is our own, so that it alone can be stopped."""

    def __init__(
        self,
        model: str,
        *,
        request_id: str,
        is_abandoned: Callable[[], bool],
        decoupled: bool = True,
        timeout_us: int = 0,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self._model = model
        self._request_id = request_id
        self._is_abandoned = is_abandoned
        self._decoupled = decoupled
        self._parameters = dict(parameters or {})
        self._is_stopped = False
        self._timeout_us = timeout_us
        self._deadline = Deadline.of(timeout_us=timeout_us, default_us=0)
        self._tokens = 0

    def parts(self, tensors: Tensors, requested: frozenset[str], *, generations: int = 1) -> Iterator[Part]:
        """The engine's responses as they come, of all `generations` of the request.

        To be read to the end even when nobody wants them any more: an iterator that is left blocks the unloading of
        the model. `stop_if_abandoned` makes the end come soon.
        """
        failure = "the engine ended the output in the middle: it failed, send the request again, or its time was up"
        num_ended = 0
        for response in self._execute(tensors, (requested & PASSED_OUTPUTS) | _PLACES):
            if response.has_error():
                failure = response.error().message()
            elif outputs := response.output_tensors():
                part = _part(outputs, requested)
                self._tokens += len(part.ids)
                # Only our own engine marks its last part. Another's end is Triton's, and its errors come as errors.
                num_ended += part.is_last
                if num_ended >= generations:
                    failure = ""
                if not self._is_stopped:
                    yield part
        if failure and not self._is_stopped:
            if self._tokens and self._deadline is not None and self._deadline.has_passed:
                failure = self._deadline.failure(has_begun=True, tokens_generated=self._tokens)
            raise EngineFailedError(failure)

    def stop_if_abandoned(self) -> None:
        """End the generation, once, when its client has gone away."""
        if not self._is_stopped and self._is_abandoned():
            self._is_stopped = True
            stop_request_id(self._model, self._request_id)

    def _execute(self, tensors: Tensors, outputs: frozenset[str]) -> Iterator[Any]:
        import triton_python_backend_utils as pb_utils

        request = pb_utils.InferenceRequest(
            request_id=self._request_id,
            model_name=self._model,
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(tensor)) for name, tensor in tensors.items()],
            requested_output_names=["output_ids", "sequence_length", *sorted(outputs)],
            timeout=self._timeout_us,
            parameters=self._parameters,
        )
        if not self._decoupled:
            return iter([request.exec(decoupled=False)])
        return _kept(request.exec(decoupled=True))


def _kept(responses: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from responses
    finally:
        KEPT.keep(responses)


def _part(outputs: list[Any], requested: frozenset[str]) -> Part:
    arrays = {tensor.name(): tensor.as_numpy() for tensor in outputs}
    lengths: list[int] = arrays.pop("sequence_length").reshape(-1).tolist()
    rows: list[list[int]] = arrays.pop("output_ids").reshape(len(lengths), -1).tolist()
    trailer = read_trailer(rows[0], lengths[0])
    best, *others = (row[:length] for row, length in zip(rows, lengths, strict=True))
    return Part(
        best,
        trailer is None or trailer.is_last,
        {name: array for name, array in arrays.items() if name in requested},
        others,
        Place(batch_index=integer(arrays, "batch_index"), sequence_index=integer(arrays, "sequence_index")),
    )

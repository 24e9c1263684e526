"""A `stop` request to the engine's model from another model of the repository."""

from __future__ import annotations

import numpy as np

from slipstream.backend.kept_responses import KEPT
from slipstream.backend.trailer import stop_ids


def stop_request_id(model: str, request_id: str) -> None:
    """End the generations with Triton's `request_id`; returns when the engine has been told."""
    _send(model, request_id, None)


def stop_handle(model: str, handle: int) -> None:
    """End the generation whose handle came in a trailer; returns when the engine has been told."""
    _send(model, "", handle)


def _send(model: str, request_id: str, handle: int | None) -> None:
    import triton_python_backend_utils as pb_utils

    inputs = [
        pb_utils.Tensor("input_lengths", np.array([[1]], np.int32)),
        pb_utils.Tensor("request_output_len", np.array([[1]], np.int32)),
        pb_utils.Tensor("stop", np.array([[True]])),
    ]
    if handle is not None:
        inputs.append(pb_utils.Tensor("prompt_table_extra_ids", stop_ids(handle).reshape(1, -1)))
    request = pb_utils.InferenceRequest(
        request_id=request_id,
        model_name=model,
        requested_output_names=["output_ids", "sequence_length"],
        inputs=inputs,
    )
    # Iterating takes the answer of a model that is not decoupled as well: one response instead of none.
    responses = request.exec(decoupled=True)
    for _ in responses:
        pass  # an iterator that is not drained blocks the unloading of the model
    KEPT.keep(responses)

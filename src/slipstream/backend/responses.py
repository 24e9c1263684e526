"""A piece of output as the tensors of a response; shapes have Triton's batch dimension of one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.stream import Piece, Stream
from slipstream.backend.trailer import Trailer


def response_tensors(stream: Stream, piece: Piece, requested: Collection[str]) -> dict[str, NDArray[Any]]:
    """The outputs that `stream`'s request asks for, of those in `requested`.

    `output_ids` [1, 1, tokens] and `sequence_length` [1, 1] hold the tokens of this response: a stream's new ones, or
    the whole output, with the prompt before it if it is wanted.
    """
    wishes = stream.request.wishes
    ids = [*stream.request.prompt_ids, *piece.ids] if wishes.echo_prompt else piece.ids
    tensors: dict[str, NDArray[Any]] = {"sequence_length": np.array([[len(ids)]], np.int32)}
    if wishes.trailer:
        trailer = Trailer(handle=stream.handle, tokens_before=piece.tokens_before, is_last=piece.is_last)
        tensors["output_ids"] = np.array([[[*ids, *trailer.as_ids()]]], np.int32)
    else:
        tensors["output_ids"] = np.array([[ids]], np.int32)
    if wishes.log_probs:
        tensors["output_log_probs"] = np.array([[piece.log_probs]], np.float32)
        tensors["cum_log_probs"] = np.array([[piece.cumulative_log_prob]], np.float32)
    if wishes.num_input_tokens:
        tensors["num_input_tokens"] = np.array([[len(stream.request.prompt_ids)]], np.int32)
    if wishes.num_output_tokens:
        tensors["num_output_tokens"] = np.array([[len(ids)]], np.int32)
    if wishes.perf_metrics and piece.is_last:
        tensors |= _perf_tensors(stream)
    return {name: tensor for name, tensor in tensors.items() if name in requested}


def _perf_tensors(stream: Stream) -> dict[str, NDArray[Any]]:
    """Times on the steady clock, and what became of draft tokens."""
    timings, drafts = stream.timings, stream.draft_counts
    return {
        "acceptance_rate": np.array([[drafts.acceptance_rate]], np.float32),
        "total_accepted_draft_tokens": np.array([[drafts.accepted]], np.int32),
        "total_draft_tokens": np.array([[drafts.proposed]], np.int32),
        "arrival_time_ns": np.array([[timings.arrival_ns]], np.int64),
        "first_token_time_ns": np.array([[timings.first_token_ns]], np.int64),
        "last_token_time_ns": np.array([[timings.last_token_ns]], np.int64),
    }

"""A piece of output as the tensors of a response; shapes have Triton's batch dimension of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.beams import Beam
from slipstream.backend.requests import ALONE, Place
from slipstream.backend.stream import Piece, Stream
from slipstream.backend.trailer import Trailer


def response_tensors(stream: Stream, piece: Piece, requested: Collection[str]) -> dict[str, NDArray[Any]]:
    """The outputs that `stream`'s request asks for, of those in `requested`.

    `output_ids` [1, beams, tokens] and `sequence_length` [1, beams] hold the tokens of this response: a stream's new
    ones, or the whole output, with the prompt before it if it is wanted. There is one beam without beam search. Behind
    the tokens and log-probs of shorter beams stands -1.
    """
    wishes = stream.request.wishes
    beams: Sequence[Beam | Piece] = piece.beams or (piece,)
    outputs = [[*stream.request.prompt_ids, *beam.ids] if wishes.echo_prompt else beam.ids for beam in beams]
    lengths = [len(ids) for ids in outputs]
    if wishes.trailer:
        trailer = Trailer(
            handle=stream.handle,
            tokens_before=piece.tokens_before,
            is_last=piece.is_last,
            only_special_before=piece.only_special_before,
        ).as_ids()
        outputs = [[*ids, *trailer] for ids in outputs]
    tensors: dict[str, NDArray[Any]] = {
        "sequence_length": np.array([lengths], np.int32),
        "output_ids": np.array([_filled(outputs)], np.int32),
    }
    if wishes.log_probs:
        tensors["output_log_probs"] = np.array([_filled([beam.log_probs for beam in beams])], np.float32)
        tensors["cum_log_probs"] = np.array([[beam.cumulative_log_prob for beam in beams]], np.float32)
    if wishes.num_input_tokens:
        tensors["num_input_tokens"] = np.array([[len(stream.request.prompt_ids)]], np.int32)
    if wishes.num_output_tokens:
        tensors["num_output_tokens"] = np.array([[sum(lengths)]], np.int32)
    if wishes.perf_metrics and piece.is_last:
        tensors |= _perf_tensors(stream)
    if stream.logits is not None and piece.is_last:
        tensors |= stream.logits.tensors()
    if stream.request.place is not ALONE:
        tensors |= place_tensors(stream.request.place)
    return {name: tensor for name, tensor in tensors.items() if name in requested}


def _filled(rows: Sequence[list[Any]]) -> list[list[Any]]:
    if len(rows) == 1:
        return [rows[0]]
    longest = max(map(len, rows))
    return [[*row, *[-1] * (longest - len(row))] for row in rows]


def place_tensors(place: Place) -> dict[str, NDArray[Any]]:
    """`batch_index` and `sequence_index` [1, 1], where there are several of them."""
    indices = {"batch_index": place.batch_index, "sequence_index": place.sequence_index}
    return {name: np.array([[index]], np.int32) for name, index in indices.items() if index is not None}


def _perf_tensors(stream: Stream) -> dict[str, NDArray[Any]]:
    """Times on the steady clock, KV blocks of the prompt, and what became of draft tokens."""
    timings, start, drafts = stream.timings, stream.start, stream.draft_counts
    return {
        "acceptance_rate": np.array([[drafts.acceptance_rate]], np.float32),
        "total_accepted_draft_tokens": np.array([[drafts.accepted]], np.int32),
        "total_draft_tokens": np.array([[drafts.proposed]], np.int32),
        "kv_cache_alloc_new_blocks": np.array([[start.new_blocks]], np.int32),
        "kv_cache_reused_blocks": np.array([[start.reused_blocks]], np.int32),
        "kv_cache_alloc_total_blocks": np.array([[start.taken_blocks]], np.int32),
        "arrival_time_ns": np.array([[timings.arrival_ns]], np.int64),
        "first_scheduled_time_ns": np.array([[timings.first_scheduled_ns]], np.int64),
        "first_token_time_ns": np.array([[timings.first_token_ns]], np.int64),
        "last_token_time_ns": np.array([[timings.last_token_ns]], np.int64),
    }

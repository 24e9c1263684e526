"""How the ensemble tells the engine that a client has gone away.

Triton 2.51 does not cancel a step of an ensemble that is running, but it does mark every *later* step as cancelled.
So after a client has left, the postprocessing of the next token learns of it, and it must be able to name the
generation. Request ids cannot: they may be empty or used twice. Therefore

1. preprocessing marks the request: `prompt_table_extra_ids` = [`MARK`, an id of its own];
2. the engine, for marked requests only, appends a trailer to `output_ids`, *behind* the `sequence_length` tokens that
   count: the generation's handle, how many tokens went before these, whether these are the last, and whether only
   special tokens went before;
3. postprocessing reads the trailer, and once its request is cancelled it sends the engine a `stop` request whose
   `prompt_table_extra_ids` is [`STOP`, handle].

The second value of the trailer, and where it leaves special tokens out the fourth, tell postprocessing, which has no
state, whether a text begins here.
The third is for the BLS model, which marks its calls with [`CALL`]: Triton 2.51 loses an error that follows other
responses of a BLS call, and the caller's process then hangs when it is unloaded. So such a call just ends, and an end
without a last piece is how the failure shows.
Before the first token, and without streaming, there is no later step: then the watch makes one, see presence.py.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given

MARK = 0x534C4950_454E5301  # any client's own prompt table ids are refused, so nothing else can mean this
STOP = 0x534C4950_454E5302
CALL = 0x534C4950_454E5303  # instead of MARK: the request is a call of the BLS model
TRAILER_TOKENS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """What the engine tells postprocessing beside the tokens."""

    handle: int
    tokens_before: int  # tokens of this stream in earlier responses
    is_last: bool
    only_special_before: bool  # or nothing at all

    def as_ids(self) -> list[int]:
        """The values as negative numbers, which no token id is."""
        return [-1 - self.handle, -1 - self.tokens_before, -1 - self.is_last, -1 - self.only_special_before]


def ensemble_marker() -> NDArray[np.uint64]:
    """`prompt_table_extra_ids` [2] of a request that comes through the ensemble, with an id that no other has."""
    return np.array([MARK, secrets.randbits(63)], np.uint64)


def call_marker() -> NDArray[np.uint64]:
    """`prompt_table_extra_ids` [1] of a BLS call."""
    return np.array([CALL], np.uint64)


def read_mark(tensors: Tensors) -> int | None:
    """`MARK`, `CALL`, or none for a client's own request; other uses of `prompt_table_extra_ids` are refused."""
    if not is_given(tensors, "prompt_table_extra_ids"):
        return None
    marks = _extra_ids(tensors)
    if marks != [CALL] and not _is_ensembles(marks):
        raise RequestRefusedError(
            "prompt_table_extra_ids: prompt embeddings are not available on this engine; leave it out"
        )
    return marks[0]


def read_presence_id(tensors: Tensors) -> int | None:
    """The id that preprocessing gave the ensemble's request, none in any other."""
    marks = _extra_ids(tensors)
    return marks[1] if _is_ensembles(marks) else None


def is_watch(tensors: Tensors) -> bool:
    """The request is the watch of one that comes through the ensemble: it alone has no end id. See presence.py."""
    return "end_id" not in tensors and _is_ensembles(_extra_ids(tensors))


def read_trailer(ids: list[int], length: int) -> Trailer | None:
    """The trailer behind the first `length` of `ids`, none in a request that did not come through the ensemble."""
    trailer = ids[length : length + TRAILER_TOKENS]
    if len(trailer) < TRAILER_TOKENS or trailer[0] >= -1:  # -1 fills shorter beams up; handles begin at 1
        return None
    handle, tokens_before, is_last, only_special = (-1 - value for value in trailer)
    return Trailer(
        handle=handle, tokens_before=tokens_before, is_last=bool(is_last), only_special_before=bool(only_special)
    )


def stop_ids(handle: int) -> NDArray[np.uint64]:
    """`prompt_table_extra_ids` [2] of the `stop` request for `handle`."""
    return np.array([STOP, handle], np.uint64)


def read_stop_handle(tensors: Tensors) -> int | None:
    """The handle in a `stop` request of postprocessing, none in one of a client."""
    if not is_given(tensors, "prompt_table_extra_ids"):
        return None
    ids = _extra_ids(tensors)
    return ids[1] if len(ids) == 2 and ids[0] == STOP else None


def _extra_ids(tensors: Tensors) -> list[int]:
    ids: list[int] = []
    if is_given(tensors, "prompt_table_extra_ids"):
        # All rows of a request have the same.
        ids = np.atleast_2d(tensors["prompt_table_extra_ids"])[0].tolist()
    return ids


def _is_ensembles(ids: list[int]) -> bool:
    return len(ids) == 2 and ids[0] == MARK

"""How the ensemble tells the engine that a client has gone away.

Triton 2.51 does not cancel a step of an ensemble that is running, but it does mark every *later* step as cancelled.
So after a client has left, the postprocessing of the next token learns of it, and it must be able to name the
generation. Request ids cannot: they may be empty or used twice. Therefore

1. preprocessing marks the request: `prompt_table_extra_ids` = [`MARK`];
2. the engine, for marked requests only, appends a trailer to `output_ids`, *behind* the `sequence_length` tokens that
   count: the generation's handle, and how many tokens went before these;
3. postprocessing reads the trailer, and once its request is cancelled it sends the engine a `stop` request whose
   `prompt_table_extra_ids` is [`STOP`, handle].

The second value of the trailer tells postprocessing, which has no state, whether a text begins here.
Limit: before the first token, and without streaming, there is no later step that could learn of the cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.tensors import RequestRefused, Tensors, is_given

MARK = 0x534C4950_454E5301  # any client's own prompt table ids are refused, so nothing else can mean this
STOP = 0x534C4950_454E5302
TRAILER_TOKENS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """What the engine tells postprocessing beside the tokens."""

    handle: int
    tokens_before: int  # tokens of this stream in earlier responses

    def as_ids(self) -> list[int]:
        """Both values as negative numbers, which no token id is."""
        return [-1 - self.handle, -1 - self.tokens_before]


def marker() -> NDArray[np.uint64]:
    """`prompt_table_extra_ids` [1] of a request that comes through the ensemble."""
    return np.array([MARK], np.uint64)


def is_marked(tensors: Tensors) -> bool:
    """The request comes through the ensemble; other uses of `prompt_table_extra_ids` are refused."""
    if not is_given(tensors, "prompt_table_extra_ids"):
        return False
    if tensors["prompt_table_extra_ids"].reshape(-1).tolist() != [MARK]:
        raise RequestRefused("prompt_table_extra_ids: prompt embeddings are not available on this engine; leave it out")
    return True


def read_trailer(ids: list[int], length: int) -> Trailer | None:
    """The trailer behind the first `length` of `ids`, none in a request that did not come through the ensemble."""
    if len(ids) != length + TRAILER_TOKENS or ids[length] >= 0:
        return None
    return Trailer(handle=-1 - ids[length], tokens_before=-1 - ids[length + 1])


def stop_ids(handle: int) -> NDArray[np.uint64]:
    """`prompt_table_extra_ids` [2] of the `stop` request for `handle`."""
    return np.array([STOP, handle], np.uint64)


def read_stop_handle(tensors: Tensors) -> int | None:
    """The handle in a `stop` request of postprocessing, none in one of a client."""
    if not is_given(tensors, "prompt_table_extra_ids"):
        return None
    ids: list[Any] = tensors["prompt_table_extra_ids"].reshape(-1).tolist()
    return int(ids[1]) if len(ids) == 2 and ids[0] == STOP else None

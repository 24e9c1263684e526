"""Lists of words in one tensor, as TensorRT-LLM lays them out.

A list is int32 [2, n]: row 0 holds the ids of all words one after the other, row 1 the end of each word in row 0,
filled up with -1. Requests carry it with a batch dimension of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.tensors import RequestRefusedError, Tensors, is_given

Word = tuple[int, ...]


def pack(words: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """The [2, n] layout of `words`; empty words are left out, no words give [2, 0]."""
    kept = [list(word) for word in words if word]
    flat = [token for word in kept for token in word]
    ends = np.full(len(flat), -1, np.int32)
    ends[: len(kept)] = np.cumsum([len(word) for word in kept], dtype=np.int32)
    return np.stack([np.array(flat, np.int32), ends])


def unpack(tensors: Tensors, name: str) -> tuple[Word, ...]:
    """The words in tensor `name`, none if it is absent."""
    if not is_given(tensors, name):
        return ()
    tensor = tensors[name]
    if tensor.ndim not in (2, 3) or tensor.shape[-2] != 2 or tensor.size != 2 * tensor.shape[-1]:
        raise RequestRefusedError(f"{name} has shape {list(tensor.shape)}, it must be [2, n] for one request")
    ids, ends = tensor.reshape(2, -1).tolist()
    return tuple(_cut(name, ids, [end for end in ends if end != -1]))


def _cut(name: str, ids: list[int], ends: list[int]) -> list[Word]:
    words: list[Word] = []
    start = 0
    for end in ends:
        if not start < end <= len(ids):
            raise RequestRefusedError(f"{name}: the word ends {ends} do not rise from 1 to at most {len(ids)}")
        words.append(tuple(ids[start:end]))
        start = end
    return words


def padded(rows: Sequence[NDArray[Any]]) -> NDArray[np.int32]:
    """Stack [2, n] layouts of a batch to [batch, 2, longest]."""
    longest = max(row.shape[1] for row in rows)
    stacked = np.zeros((len(rows), 2, longest), np.int32)
    stacked[:, 1, :] = -1
    for index, row in enumerate(rows):
        stacked[index, :, : row.shape[1]] = row
    return stacked

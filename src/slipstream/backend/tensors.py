"""Reading single values out of a request's input tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[Any]]


class RequestRefusedError(Exception):
    """A request that cannot be served as it is; the text is what its client reads."""


def is_given(tensors: Tensors, name: str) -> bool:
    """The tensor is there and holds something; an ensemble passes absent lists on as empty tensors."""
    return name in tensors and tensors[name].size > 0


def integer(tensors: Tensors, name: str) -> int | None:
    """The only element of an integer tensor."""
    value = _only(tensors, name)
    return None if value is None else int(value)


def number(tensors: Tensors, name: str) -> float | None:
    """The only element of a float tensor; NaN and infinities are refused."""
    value = _only(tensors, name)
    if value is None:
        return None
    if not np.isfinite(value):
        raise RequestRefusedError(f"{name} is {value}, it must be a finite number")
    return float(value)


def flag(tensors: Tensors, name: str) -> bool | None:
    """The only element of a boolean tensor."""
    value = _only(tensors, name)
    return None if value is None else bool(value)


def first_flag(tensors: Tensors, name: str) -> bool:
    """What a boolean tensor says of the whole request: its first element, as TensorRT-LLM's backend reads it."""
    return is_given(tensors, name) and bool(tensors[name].reshape(-1)[0])


def text(value: bytes | str, name: str) -> str:
    """One element of string tensor `name`; bytes that are no UTF-8 are refused rather than replaced."""
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestRefusedError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _only(tensors: Tensors, name: str) -> Any:
    if not is_given(tensors, name):
        return None
    tensor = tensors[name]
    if tensor.size != 1:
        raise RequestRefusedError(f"{name} has {tensor.size} elements, it takes one: send requests one by one")
    return tensor.reshape(-1)[0]

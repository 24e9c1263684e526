"""One rank's safetensors file, mapped into memory.

Its own reader: the safetensors package copies what numpy only needs to look at, and dies of a damaged header.
bfloat16 and float8 are the NumPy types of the package ml_dtypes.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from slipstream.errors import SlipstreamError

Array = npt.NDArray[Any]  # one of DTYPES
Float32Array = npt.NDArray[np.float32]

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I64": np.dtype(np.int64),
}
HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit


def as_float32(values: Array) -> Float32Array:
    """Widen to float32, exactly."""
    return values.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where a tensor lies in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    end: int


class Shard:
    """The tensors of one rank, read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = _read_entries(path)
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def tensor(self, name: str) -> Array:
        """The tensor `name` as a view on the file."""
        entry = self.entries.get(name)
        if entry is None:
            raise SlipstreamError(f"{self.path}: tensor {name} is missing", mend="quantize the model again")
        if entry.dtype not in DTYPES:
            raise SlipstreamError(
                f"{self.path}: tensor {name} is {entry.dtype}, a checkpoint holds {', '.join(DTYPES)}",
                mend="quantize the model again",
            )
        return np.frombuffer(self._bytes[entry.start : entry.end], dtype=DTYPES[entry.dtype]).reshape(entry.shape)


def _read_entries(path: Path) -> dict[str, TensorEntry]:
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= header_bytes <= min(HEADER_LIMIT_BYTES, file_bytes - 8):
                raise _corrupt(path, f"{file_bytes} bytes cannot hold a header of {header_bytes}")
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        raise SlipstreamError(f"{path}: cannot be read ({error.strerror})", mend="quantize the model again") from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    return {name: _entry(path, name, fields, 8 + header_bytes, file_bytes) for name, fields in header.items()}


def _entry(path: Path, name: str, fields: object, data_start: int, file_bytes: int) -> TensorEntry:
    match fields:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if _are_sizes(shape):
            entry = TensorEntry(dtype=dtype, shape=tuple(shape), start=data_start + start, end=data_start + end)
        case _:
            raise _corrupt(path, f"the header entry of tensor {name} is {fields!r}")
    if not data_start <= entry.start <= entry.end <= file_bytes:
        raise _corrupt(path, f"tensor {name} ends at byte {entry.end}, the file at {file_bytes}")
    if dtype in DTYPES and math.prod(entry.shape) * DTYPES[dtype].itemsize != entry.end - entry.start:
        raise _corrupt(path, f"tensor {name} of shape {list(entry.shape)} holds {entry.end - entry.start} bytes")
    return entry


def _are_sizes(shape: list[object]) -> bool:
    return all(isinstance(size, int) and size >= 0 for size in shape)


def _corrupt(path: Path, found: str) -> SlipstreamError:
    return SlipstreamError(f"{path}: is damaged: {found}", mend="delete the checkpoint and quantize the model again")

"""Safetensors weights on disk: which files a checkpoint has, whether they are whole, and writing them from numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from slipstream.errors import SlipstreamError
from slipstream.text.tokenizer import read_json

Dtype = Literal["float16", "bfloat16", "float32"]
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
FETCH_AGAIN = "copy or download that file again"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The weight files of one checkpoint, all of them read far enough to know that they are whole."""

    paths: tuple[Path, ...]
    parameters: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredType:
    name: str  # as a safetensors header writes it
    itemsize: int  # bytes


_DTYPES = {
    "float16": _StoredType(name="F16", itemsize=2),
    "bfloat16": _StoredType(name="BF16", itemsize=2),
    "float32": _StoredType(name="F32", itemsize=4),
}


def check_weights(directory: Path) -> WeightFiles:
    """Find and check the weights in `directory`: the header of each file, its length, and the index."""
    paths = _weight_paths(directory)
    shapes = {path: tensor_shapes(path) for path in paths}
    _check_index(directory, shapes)
    return WeightFiles(
        paths=paths,
        parameters=sum(math.prod(shape) for by_name in shapes.values() for shape in by_name.values()),
        total_bytes=sum(path.stat().st_size for path in paths),
    )


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in `path`, whose length is checked against its header."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise SlipstreamError(f"{path}: is not a whole safetensors file ({error})", mend=FETCH_AGAIN) from error


def write_weights(path: Path, tensors: Mapping[str, NDArray[np.float32]], dtype: Dtype) -> None:
    """Write `tensors` rounded to `dtype`; the same tensors give the same bytes.

    The library's own writer takes no bfloat16 from numpy, and its lower interface changed with version 0.8.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        begin, end = end, end + tensor.size * _DTYPES[dtype].itemsize
        header[name] = {"dtype": _DTYPES[dtype].name, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            file.write(_rounded(tensor, dtype).tobytes())


def _weight_paths(directory: Path) -> tuple[Path, ...]:
    """The files that transformers would load; others beside them, such as consolidated.safetensors, are not needed."""
    if (directory / SINGLE_NAME).is_file():
        return (directory / SINGLE_NAME,)
    index = directory / INDEX_NAME
    if index.is_file():
        named = sorted(set(_weight_map(index).values()))
        missing = [name for name in named if not (directory / name).is_file()]
        if missing:
            raise SlipstreamError(
                f"{index}: names {len(named)} weight files, missing: {', '.join(missing)}",
                mend="copy or download the missing files",
            )
        return tuple(directory / name for name in named)
    raise SlipstreamError(
        f"{directory}: has neither {SINGLE_NAME} nor {INDEX_NAME}", mend=_mend_for_no_weights(directory)
    )


def _mend_for_no_weights(directory: Path) -> str:
    if any(directory.glob("pytorch_model*.bin")):
        return (
            "pickled pytorch_model.bin weights can run code and are not read; convert them once with transformers:"
            " AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    if any(directory.glob("*.gguf")):
        return "a GGUF is no Hugging Face checkpoint; give the path of the .gguf file itself"
    return "give a directory that holds the model's safetensors files"


def _check_index(directory: Path, shapes: Mapping[Path, Mapping[str, tuple[int, ...]]]) -> None:
    index = directory / INDEX_NAME
    if directory / SINGLE_NAME in shapes:
        return
    lost = [name for name, file in _weight_map(index).items() if name not in shapes[directory / file]]
    if lost:
        raise SlipstreamError(
            f"{index}: {len(lost)} tensors are not in the files that it names, first {lost[0]}",
            mend="index and files come from different downloads: fetch all of them again",
        )


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SlipstreamError(f"{index}: has no weight_map", mend=FETCH_AGAIN)
    outside = [name for name in weight_map.values() if Path(name).name != name]
    if outside:
        raise SlipstreamError(f"{index}: names a file outside its directory: {outside[0]}", mend=FETCH_AGAIN)
    return weight_map


def _rounded(tensor: NDArray[np.float32], dtype: Dtype) -> NDArray[np.generic]:
    if dtype == "bfloat16":  # numpy has none: the upper half of a float32, rounded to nearest even
        bits = np.ascontiguousarray(tensor, dtype=np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return tensor.astype(np.float16 if dtype == "float16" else np.float32)

"""The `1/model.py` of each Python model: all of it is an import, the code lives in `slipstream.backend`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """The class that Triton's Python backend creates for a model."""

    module: str
    class_name: str
    does: str


ENTRY_POINTS: Mapping[str, EntryPoint] = {
    "preprocessing": EntryPoint(
        module="slipstream.backend.preprocessing",
        class_name="Preprocessing",
        does="Text in, token ids out.",
    ),
    "tensorrt_llm": EntryPoint(
        module="slipstream.backend.engine_model",
        class_name="EngineModel",
        does="The embedded CPU engine behind the tensors of TensorRT-LLM's C++ backend.",
    ),
    "tensorrt_llm_draft": EntryPoint(
        module="slipstream.backend.engine_model",
        class_name="EngineModel",
        does="The draft model of speculation, on the embedded CPU engine.",
    ),
    "postprocessing": EntryPoint(
        module="slipstream.backend.postprocessing",
        class_name="Postprocessing",
        does="Token ids in, text out.",
    ),
    "tensorrt_llm_bls": EntryPoint(
        module="slipstream.backend.bls",
        class_name="BusinessLogic",
        does="Text in, text out: the three other models called from Python instead of an ensemble.",
    ),
}


def model_py(model_name: str) -> str:
    """The source of `model_name`'s `model.py`."""
    return model_py_of(ENTRY_POINTS[model_name])


def model_py_of(entry: EntryPoint) -> str:
    """The source of a `model.py` that imports `entry`."""
    return (
        f'"""{entry.does}\n\nRendered by `slipstream render`; the code is in `{entry.module}`.\n"""\n'
        "\n"
        f"from {entry.module} import {entry.class_name} as TritonPythonModel\n"
        "\n"
        '__all__ = ["TritonPythonModel"]\n'
    )

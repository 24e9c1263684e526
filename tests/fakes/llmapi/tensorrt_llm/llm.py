"""`LLM`: takes its arguments as strictly as the real one, and answers as `prompts.py` says."""

from __future__ import annotations

import ctypes
from typing import Any

from tensorrt_llm.executor import GenerationResult
from tensorrt_llm.llmapi.llm_args import check_arguments
from tensorrt_llm.prompts import pieces
from tensorrt_llm.sampling_params import SamplingParams


class LLM:
    """The toy model behind the real one's interface."""

    def __init__(self, **arguments: Any) -> None:
        check_arguments(arguments)
        if arguments["model"] == "/hangs":
            ctypes.PyDLL(None).sleep(600)  # with Python's lock in its hands
        self._arguments = arguments
        self._aborted = 0

    def generate_async(
        self, inputs: str, sampling_params: SamplingParams | None = None, streaming: bool = False
    ) -> GenerationResult:
        assert isinstance(inputs, str), type(inputs)
        sampling = sampling_params or SamplingParams()
        word = inputs.partition(" ")[0]
        return GenerationResult(
            pieces(inputs, sampling, self._arguments, self._aborted),
            sampling,
            streaming=streaming,
            pause_s=0.01,
            is_deaf=word == "deaf",
            finds_stops=word != "leak",
            on_abort=self._note_abort,
        )

    def shutdown(self) -> None:
        """The real one ends its processes here."""

    def _note_abort(self) -> None:
        self._aborted += 1

"""A decoupled model that answers with `count` responses, as the engine shapes them: one token each, counted up."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np


class TritonPythonModel:
    """What Triton calls; the responses come from one thread, as the engine's do."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Start the thread."""
        self._asked: queue.SimpleQueue[tuple[Any, int]] = queue.SimpleQueue()
        threading.Thread(target=self._answer, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        """Hand every request to the thread."""
        for request in requests:
            count = int(request.inputs()[0].as_numpy().item())
            self._asked.put((request.get_response_sender(), count))

    def _answer(self) -> None:
        import triton_python_backend_utils as pb_utils

        while True:
            sender, count = self._asked.get()
            for token in range(count):
                ids = pb_utils.Tensor("output_ids", np.array([[[token]]], np.int32))
                length = pb_utils.Tensor("sequence_length", np.array([[1]], np.int32))
                sender.send(pb_utils.InferenceResponse([ids, length]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

"""A model that makes many BLS calls, one after the other, beside a thread that keeps Python busy.

It is decoupled; its one response holds the number of calls that were answered whole.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

from slipstream.backend.bls_call import EngineCall
from slipstream.backend.kept_responses import KEPT
from slipstream.backend.triton import ResponseSender, input_tensors, response

CALLS_BETWEEN_RELEASES = 50


class TritonPythonModel:
    """What Triton calls."""

    def execute(self, requests: list[Any]) -> None:
        """Begin every request on a thread of its own."""
        for request in requests:
            calls = int(input_tensors(request)["calls"].item())
            threading.Thread(target=serve, args=(calls, ResponseSender(request)), daemon=True).start()


def serve(calls: int, sender: ResponseSender) -> None:
    """Make `calls` calls and answer."""
    sys.setswitchinterval(1e-4)  # else each call waits several times for the busy thread to let go
    is_done = threading.Event()
    busy = threading.Thread(target=keep_busy, args=(is_done,))
    busy.start()
    whole = sum(one_call(number, sender) for number in range(calls))
    is_done.set()
    busy.join()
    sender.end(response({"whole": np.array([whole], np.int32)}))


def one_call(number: int, sender: ResponseSender) -> bool:
    call = EngineCall("echo", request_id=str(number), is_abandoned=lambda: False)
    parts = list(call.parts({"count": np.array([3], np.int32)}, frozenset()))
    if number % CALLS_BETWEEN_RELEASES == 0:
        KEPT.release(sender.is_answered)
    return [part.ids for part in parts] == [[0], [1], [2]]


def keep_busy(is_done: threading.Event) -> None:
    """Make and drop arrays, lists and strings."""
    while not is_done.wait(0.0005):
        for _ in range(5):
            [np.arange(5, dtype=np.int32).reshape(1, 1, 5).tolist() for _ in range(20)]
            {str(number): np.array([[number]], np.int32) for number in range(20)}

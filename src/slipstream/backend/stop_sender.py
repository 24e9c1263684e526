"""Tells the engine, from postprocessing, that a generation's client has gone away."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from slipstream.backend.stop_request import stop_handle

# Asking whether a request is cancelled takes a round trip to the server: once in this time is enough for each stream.
_PERIOD_S = 0.045
_MOST_STREAMS = 4096
# The model behind every trailer that postprocessing sees: the ensemble's step has this name in TensorRT-LLM's contract,
# and postprocessing has no parameter that could name another.
_ENGINE_MODEL = "tensorrt_llm"


class StopSender:
    """Sends `stop` requests to the engine's model from a thread, so that decoding does not wait for them."""

    def __init__(self) -> None:
        self._asked_s: dict[int, float] = {}
        self._stopped: set[int] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stop")

    def is_due(self, handle: int) -> bool:
        """It is time to ask Triton again whether this stream's request is cancelled."""
        now = time.monotonic()
        if now < self._asked_s.get(handle, 0.0) + _PERIOD_S:
            return False
        if len(self._asked_s) >= _MOST_STREAMS:
            self._forget_before(now - 10 * _PERIOD_S)
        self._asked_s[handle] = now
        return True

    def stop(self, handle: int) -> None:
        """End generation `handle`, once."""
        if handle not in self._stopped:
            self._stopped.add(handle)
            self._thread.submit(stop_handle, _ENGINE_MODEL, handle)

    def close(self) -> None:
        """Wait for what is on its way."""
        self._thread.shutdown()

    def _forget_before(self, then_s: float) -> None:
        self._asked_s = {handle: asked for handle, asked in self._asked_s.items() if asked > then_s}
        self._stopped.intersection_update(self._asked_s)
